"""A loss-design study's tables of scores: a row per table of predictions, a table per split."""

from collections.abc import Mapping, Sequence

import numpy as np

from cxrdali.metrics.longtail import GROUPS, groups
from cxrdali.metrics.ranking import macro
from cxrdali.report.kit.tables import Table, best
from cxrdali.report.study.folder import Study
from cxrdali.report.training.sources import Sources
from cxrdali.report.training.steps import SPLIT_NAMES

HALF = "F1 at 0.5"
# of a table of scores: column, and whether the highest is the best
COLUMNS = {"mAP": True, **dict.fromkeys(GROUPS, True), "AUROC": True, "F1": True, HALF: True, "ECE": False}
HEADS = {"F1": "F1, fitted", **{name: f"mAP, {name}" for name in GROUPS}}


def how_to_read(sources: Sources) -> dict:
    """What explains the columns of the tables of scores: the thresholds' strategy, how many findings a group has."""
    group = finding_groups(sources)
    sizes = {name: sum(its == name for its in group.values()) for name in GROUPS}
    return {"strategy": sources.study.strategy, "group_sizes": sizes if group else None}


def finding_groups(sources: Sources) -> dict[str, str]:
    """Group of each finding by its share of the training images; empty where no run tells its counts."""
    for run in sources.runs:
        positives = run.config.get("train_positives")
        images = run.config.get("selection", {}).get("train_images")
        if positives and images:
            return dict(zip(run.config["findings"], groups(positives, images), strict=True))
    return {}


def scores_of(study: Study, name: str, split: str, group: Mapping[str, str]) -> dict[str, float | None] | None:
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
    cells = {"mAP": whole["mAP"], "AUROC": whole["macro_AUROC"], "F1": f1, HALF: half, "ECE": whole.get("macro_ECE")}
    return cells | _group_means(whole, group)


def _group_means(whole: Mapping, group: Mapping[str, str]) -> dict[str, float | None]:
    """mAP of GROUPS, as the evaluation has it; of an older one that has none, by `group` of each finding."""
    if "groups" in whole:
        return {name: whole["groups"].get(name, {}).get("mAP") for name in GROUPS}
    ap = {row["finding"]: np.nan if row["AP"] is None else row["AP"] for row in whole["findings"]}
    means = {name: macro(np.array([ap[each] for each in ap if group.get(each) == name])) for name in GROUPS}
    return {name: None if np.isnan(mean) else mean for name, mean in means.items()}


def score_tables(
    sources: Sources, caption: str, rows: Mapping[str, Sequence[object]], more: Sequence[tuple[str, str]]
) -> dict:
    """A table per split, the most telling first, for the template's `by_split`.

    Args:
        rows: by table of predictions, the cells before the scores.
        more: columns of these cells, the first that of the row's name.
    """
    study, group = sources.study, finding_groups(sources)
    shown = [split for split in study.splits if any((name, split) in study.evaluations for name in rows)]
    tables = [_score_table(study, caption, split, rows, group, more) for split in shown]
    return {"splits": [SPLIT_NAMES[split] for split in shown], "tables": tables}


def _score_table(
    study: Study, caption: str, split: str, rows: Mapping, group: Mapping[str, str], more: Sequence[tuple[str, str]]
) -> Table:
    found = {name: scores_of(study, name, split, group) for name in rows}
    found = {name: cells for name, cells in found.items() if cells}
    shown = [
        name
        for name in COLUMNS
        if group or name not in GROUPS or any(cells[name] is not None for cells in found.values())
    ]
    level = next(iter(study.evaluations.values())).content.get("level", 0.95)
    columns = [(HEADS.get(name, name), "small" if name == "ECE" else "score") for name in shown]
    return Table(
        f"{caption}, {SPLIT_NAMES[split]}",
        [*more, *columns, (f"{level * 100:g} % interval of mAP", "bounds")],
        [
            (name, *rows[name], *(cells[column] for column in shown), _bounds(study.evaluations[name, split].content))
            for name, cells in found.items()
        ],
        best=[
            (row, place + len(more))
            for place, column in enumerate(shown)
            for row in best([cells[column] for cells in found.values()], COLUMNS[column])
        ],
    )


def _bounds(content: Mapping) -> tuple[float | None, float | None]:
    return content["all"].get("mAP_low"), content["all"].get("mAP_high")
