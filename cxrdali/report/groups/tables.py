"""Scores of groups of images as tables and a figure, of an evaluation or a comparison."""

from collections.abc import Mapping, Sequence

import pandas as pd

from cxrdali.report.comparison import plots
from cxrdali.report.kit.numbers import interval, sentence
from cxrdali.report.kit.page import Figure
from cxrdali.report.kit.tables import Table
from shards.storage.sealed import maybe

MEASURES = {
    "mAP": ("mAP", "interval"), "macro_AUROC": ("AUROC", "interval"), "macro_recall": ("Sensitivity", "interval"),
    "macro_specificity": ("Specificity", "interval"), "macro_ECE": ("ECE", "small_interval"),
    "underdiagnosis": ("Underdiagnosis", "interval"),
}  # fmt: skip
SHOWN = ["difference", "low", "high", "p_holm"]
# what `check_kinds` takes of a block
GAP = {name: maybe(float) for name in ("difference", "low", "high", "p", "p_holm")}
VALUES = {f"{name}{end}?": maybe(float) for name in MEASURES for end in ("", "_low", "_high")}
_ABOUT = {
    "min_group": int, "underdiagnosis": maybe(str), "missing": [str], "age_bins": [int], "comparisons": {str: int},
}  # fmt: skip
_WORST = {"metric": str, "by": str, "group": str, "value": maybe(float), **GAP}
GROUPS_BY = _ABOUT | {
    "dimensions": [{
        "by": str,
        "groups": [{
            "group": str, "images": int, "patients": int, "too_small": bool, "scored": [str], "gaps": {str: GAP},
            **VALUES,
        }],
        "gaps": [{"metric": str, "best": str, "worst": str, "pairs": int, **GAP}],
    }],
    "worst": {"means": [_WORST], "findings": [{"finding": str, **_WORST}]},
}  # fmt: skip


def groups(block: Mapping, level: float, name: str) -> dict:
    """Of an evaluation's block, for `groups/groups.html.j2`. level: of its intervals; name: of the figure."""
    below = 1 - level
    parts = block["dimensions"]
    measured = [each for each in MEASURES if any(
        row[each] is not None for part in parts for row in part["groups"]
    )]  # fmt: skip
    rows = [(part["by"], row) for part in parts for row in part["groups"]]
    drawn = [(by, row) for by, row in rows if row["gaps"]["macro_AUROC"]["difference"] is not None]
    return {
        "block": block,
        "below": below,
        "known": [part["by"] for part in parts],
        "figure": _figure(name, drawn, below) if drawn else None,
        "tables": [(_scores(part, measured), _gaps(part, measured, below)) for part in parts],
        "between": _between(parts, below),
        "worst": _worst(block["worst"]["means"], below),
        "findings": _worst_findings(block["worst"]["findings"], below),
    }


def _figure(name: str, rows: Sequence[tuple[str, Mapping]], below: float) -> Figure:
    table = pd.DataFrame([row["gaps"]["macro_AUROC"] for _, row in rows], columns=SHOWN, dtype=float)
    names = [row["group"] if row["group"] != "unknown" else f"{by} unknown" for by, row in rows]
    return Figure(name, plots.differences, (table, names, "AUROC less that of all other images", below))


def _scores(part: Mapping, measured: Sequence[str]) -> Table:
    columns = [("Group", "text"), ("Images", "count"), ("Patients", "count"), ("Findings", "count")]
    columns += [MEASURES[each] for each in measured]
    rows = [
        (
            row["group"], row["images"], row["patients"], "too small" if row["too_small"] else len(row["scored"]),
            *((row[each], row[f"{each}_low"], row[f"{each}_high"]) for each in measured),
        )
        for row in part["groups"]
    ]  # fmt: skip
    return Table(f"By {part['by']}", columns, rows)


def _gaps(part: Mapping, measured: Sequence[str], below: float) -> Table | None:
    rows = [row for row in part["groups"] if any(gap["difference"] is not None for gap in row["gaps"].values())]
    cells = [[row["gaps"][each] for each in measured] for row in rows]
    columns = [("Group", "text"), *((MEASURES[each][0], "difference") for each in measured)]
    names = [row["group"] for row in rows]
    caption = f"By {part['by']}: the group less all other images"
    return _table(caption, columns, names, cells, below) if rows else None


def _table(
    caption: str, columns: Sequence, names: Sequence[object], cells: Sequence[Sequence[Mapping]], below: float
) -> Table:
    """Bold where the adjusted p is small. names: what stands before the differences, in one column or several."""
    heads = [name if isinstance(name, tuple) else (name,) for name in names]
    best = [
        (place, len(head) + column)
        for place, (head, row) in enumerate(zip(heads, cells, strict=True))
        for column, cell in enumerate(row)
        if cell["p_holm"] is not None and cell["p_holm"] < below
    ]
    rows = [(*head, *row) for head, row in zip(heads, cells, strict=True)]
    return Table(f"{caption}, bold where the adjusted p is below {below:.2g}", columns, rows, "text", best)


def _between(parts: Sequence[Mapping], below: float) -> Table | None:
    rows = [(part["by"], gap) for part in parts for gap in part["gaps"]]
    names = [(by, MEASURES[gap["metric"]][0], gap["best"], gap["worst"]) for by, gap in rows]
    columns = [(title, "text") for title in ("By", "Score", "Best", "Worst")] + [("Best less worst", "difference")]
    cells = [[gap] for _, gap in rows]
    return _table("Best group less the worst", columns, names, cells, below) if rows else None


def _worst(rows: Sequence[Mapping], below: float) -> Table | None:
    names = [(MEASURES[row["metric"]][0], row["by"], row["group"], _value(row)) for row in rows]
    columns = [(title, "text") for title in ("Score", "By", "Group", "Its score")]
    columns += [("Less all others", "difference")]
    caption = "The group that is furthest behind all other images"
    return _table(caption, columns, names, [[row] for row in rows], below) if rows else None


def _worst_findings(rows: Sequence[Mapping], below: float) -> Table | None:
    names = [(row["finding"], row["metric"], row["by"], row["group"], _value(row)) for row in rows]
    columns = [(title, "text") for title in ("Finding", "Score", "By", "Group", "Its score")]
    columns += [("Less all others", "difference")]
    caption = "The group that is furthest behind, finding by finding"
    return _table(caption, columns, names, [[row] for row in rows], below) if rows else None


def _value(row: Mapping) -> str:
    return interval((row["value"], None, None))


def compared(block: Mapping, names: Sequence[str], baseline: str, level: float) -> dict:
    """Of a comparison's block: a table by score. names: of the runs."""
    below, tables = 1 - level, []
    others = [name for name in names if name != baseline]
    for measure, (title, _) in MEASURES.items():
        rows = [row for row in block["rows"] if row["metric"] == measure
                and any(each["difference"] is not None for each in row["runs"].values())]  # fmt: skip
        if not rows:
            continue
        columns = [("By", "text"), ("Group", "text"), *((name, "difference") for name in names)]
        columns += [(f"{name} less {baseline}", "difference") for name in others]
        cells = [[*(row["runs"][name] for name in names), *(row["differences"][name] for name in others)]
                 for row in rows]  # fmt: skip
        heads = [(row["by"], row["group"]) for row in rows]
        caption = f"{title}: each group less all other images, and the difference of these gaps to {baseline}"
        tables.append(_table(caption, columns, heads, cells, below))
    return {"block": block, "tables": tables, "known": sentence([*dict.fromkeys(row["by"] for row in block["rows"])])
            if block["rows"] else ""}  # fmt: skip
