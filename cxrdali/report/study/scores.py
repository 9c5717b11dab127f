"""A loss-design study's tables of scores: a row per table of predictions, a table per split."""

from collections.abc import Mapping, Sequence

from cxrdali.metrics.longtail import GROUPS
from cxrdali.report.kit.numbers import count
from cxrdali.report.kit.tables import Table, with_fitted
from cxrdali.report.study.folder import Study
from cxrdali.report.training.sources import Sources
from cxrdali.report.training.steps import SPLIT_NAMES

HALF, POOLED = "F1 at 0.5", "pooled ECE"  # of all images and findings as one table, as Sulake (2026) has it
# of a table of scores, in which none is marked as the best: the pairs' own intervals are in the comparisons
COLUMNS = ("mAP", *GROUPS, "AUROC", "F1", HALF, "ECE", POOLED)
ENDS = ("mAP_low", "mAP_high")
HEADS = {"F1": "F1, fitted", **{name: f"mAP, {name}" for name in GROUPS}}


def group_sizes(study: Study) -> dict[str, int] | None:
    """How many findings each of GROUPS has; None while no evaluation says."""
    known = [each.content["all"]["groups"] for each in study.evaluations.values() if each.content["all"].get("groups")]
    return {name: len(known[0][name]["findings"]) for name in GROUPS} if known else None


def scores_of(study: Study, name: str, split: str) -> dict[str, float | None] | None:
    """COLUMNS and the mAP of GROUPS of a table on a split; None if it was not evaluated.

    On validation, where thresholds were fitted, F1 is the cross-fitted one.
    """
    if (name, split) not in study.evaluations:
        return None
    content, rules = study.evaluations[name, split].content, study.thresholds.get(name)
    whole = content["all"]
    if split == "val" and rules:
        f1, half = rules.macros["macro_F1"], rules.macros["macro_F1_half"]
    else:
        fitted = (content.get("thresholds") or {}).get("predictions")  # None: 0.5 for all, which nothing was fitted for
        f1, half = whole.get("macro_F1") if fitted else None, whole.get("macro_F1_half")
    cells = {"mAP": whole["mAP"], "AUROC": whole["macro_AUROC"], "F1": f1, HALF: half}
    cells |= {"ECE": whole.get("macro_ECE"), POOLED: whole.get("pooled_ECE")}
    return cells | {name: (whole.get("groups") or {}).get(name, {}).get("mAP") for name in GROUPS}


def images_of(study: Study) -> dict[str, int]:
    """How many images every evaluated split has, by its name in words, the most telling first."""
    counts = {split: each.content["images"] for (_, split), each in study.evaluations.items()}
    return {SPLIT_NAMES[split]: counts[split] for split in study.splits}


def score_tables(
    sources: Sources, caption: str, rows: Mapping[str, Sequence[object]], more: Sequence[tuple[str, str]]
) -> dict:
    """A table per split, the most telling first, for the template's `by_split`.

    Args:
        rows: by table of predictions, the cells before the scores.
        more: columns of these cells, the first that of the row's name.
    """
    study = sources.study
    shown = [split for split in study.splits if any((name, split) in study.evaluations for name in rows)]
    tables = [_score_table(study, caption, split, rows, more) for split in shown]
    return {"splits": [SPLIT_NAMES[split] for split in shown], "tables": tables}


def _score_table(study: Study, caption: str, split: str, rows: Mapping, more: Sequence[tuple[str, str]]) -> Table:
    found = {name: cells for name in rows if (cells := scores_of(study, name, split))}
    grouped = group_sizes(study)
    contents = [study.evaluations[name, split].content for name in found]
    images = " or ".join(map(count, sorted({content["images"] for content in contents})))
    shown = [name for name in COLUMNS if grouped or name not in GROUPS]
    if all(cells[POOLED] is None for cells in found.values()):  # of an older version
        shown.remove(POOLED)
    level = next(iter(study.evaluations.values())).content.get("level", 0.95)
    columns = [(HEADS.get(name, name), "small" if name in ("ECE", POOLED) else "score") for name in shown]
    return Table(
        f"{caption}, {SPLIT_NAMES[split]}, {images} images",
        *with_fitted(
            [*more, *columns, (f"{level * 100:g} % interval of mAP", "bounds")],
            [
                (name, *rows[name], *(cells[column] for column in shown), [whole.get(end) for end in ENDS])
                for (name, cells), whole in zip(found.items(), (each["all"] for each in contents), strict=True)
            ],
            contents,
        ),
    )
