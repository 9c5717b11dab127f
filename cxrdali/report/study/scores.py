"""A loss-design study's tables of scores: a row per table of predictions, a table per split."""

from collections.abc import Mapping, Sequence

import numpy as np

from cxrdali.metrics.longtail import GROUPS, groups
from cxrdali.metrics.ranking import macro
from cxrdali.report.kit import html as page
from cxrdali.report.kit.html import Html, bold, join, missing, paragraph, score
from cxrdali.report.study.folder import Study
from cxrdali.report.training.sources import Sources
from cxrdali.report.training.steps import SPLIT_NAMES

HALF = "F1 at 0.5"
# of a table of scores: column, and whether the highest is the best
COLUMNS = {"mAP": True, **dict.fromkeys(GROUPS, True), "AUROC": True, "F1": True, HALF: True, "ECE": False}
HEADS = {"F1": "F1, fitted", **{name: f"mAP, {name}" for name in GROUPS}}


def how_to_read(sources: Sources) -> Html:
    """What the columns of the tables of scores are."""
    study, group = sources.study, finding_groups(sources)
    sizes = [f"{name} {sum(its == name for its in group.values())}" for name in GROUPS]
    return join(
        paragraph(
            "mAP, AUROC, F1 and ECE (expected calibration error; lower is better) are means over findings. "
            f"F1, fitted: with a threshold per finding ({study.strategy}) fitted on validation; on validation itself, "
            "cross-fitted over subjects. F1 at 0.5: every image with a probability of at least 0.5 counts as positive. "
            "A mean leaves out findings without a positive image, but not that of ECE. The best of a column is bold. "
            "Intervals are from resampling whole studies; draws repeat positives, which lifts AP a little, so they lie "
            "somewhat high.",
            "soft",
        ),
        paragraph(
            f"Head, medium and tail: findings of at least 10 %, 1 to 10 %, and under 1 % of the training images "
            f"({', '.join(sizes)}).",
            "soft",
        )
        if group
        else None,
    )


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
        learnt = (content.get("thresholds") or {}).get("predictions")  # None: 0.5 for all, which nothing taught
        f1, half = whole.get("macro_F1") if learnt else None, whole.get("macro_F1_half")
    cells = {"mAP": whole["mAP"], "AUROC": whole["macro_AUROC"], "F1": f1, HALF: half, "ECE": whole.get("macro_ECE")}
    ap = {row["finding"]: np.nan if row["AP"] is None else row["AP"] for row in whole["findings"]}
    for wanted in GROUPS:
        value = macro(np.array([ap[finding] for finding in ap if group.get(finding) == wanted]))
        cells[wanted] = None if np.isnan(value) else value
    return cells


def score_tables(sources: Sources, caption: str, rows: Mapping[str, Sequence[str]], more: Sequence[str]) -> Html:
    """A table per split, the first open. rows: by table of predictions, the cells that stand before the scores; more:
    their columns' names, the first that of the row."""
    study, group = sources.study, finding_groups(sources)
    shown = [split for split in study.splits if any((name, split) in study.evaluations for name in rows)]
    if not shown:
        return missing("Not evaluated yet.")
    tables = [
        page.table(f"{caption}, {SPLIT_NAMES[split]}", *_score_table(study, rows, split, group, more))
        for split in shown
    ]
    first, *others = tables
    return join(
        first, *(page.details(f"The same on the {SPLIT_NAMES[split]}", table)
                 for split, table in zip(shown[1:], others, strict=True)),
    )  # fmt: skip


def _score_table(
    study: Study, rows: Mapping[str, Sequence[str]], split: str, group: Mapping[str, str], more: Sequence[str]
) -> tuple[tuple, list[tuple]]:
    found = {name: scores_of(study, name, split, group) for name in rows}
    found = {name: cells for name, cells in found.items() if cells}
    columns = {name: highest for name, highest in COLUMNS.items() if group or name not in GROUPS}
    best = {name: _best_of([cells[name] for cells in found.values()], highest) for name, highest in columns.items()}
    table = []
    for name, cells in found.items():
        texts = {column: _cell(column, cells[column]) for column in columns}
        shown = [
            bold(text) if text != page.NOTHING and cells[column] == best[column] else text
            for column, text in texts.items()
        ]
        table.append((name, *rows[name], *shown, _bounds(study.evaluations[name, split].content)))
    level = next(iter(study.evaluations.values())).content.get("level", 0.95)
    return (*more, *(HEADS.get(name, name) for name in columns), f"{level * 100:g} % interval of mAP"), table


def _bounds(content: Mapping) -> str:
    low, high = (content["all"].get(f"mAP_{end}") for end in ("low", "high"))
    return page.NOTHING if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _cell(column: str, value: float | None) -> str:
    if value is None:
        return page.NOTHING
    return f"{value:.4f}" if column == "ECE" else score(value)


def _best_of(values: Sequence[float | None], highest: bool) -> float | None:
    """Before rounding; nothing to compare, nothing best."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    return max(known) if highest else min(known)
