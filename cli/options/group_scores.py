"""Scores of groups of images as text, for `evaluate` and `compare`."""

import click

from cli.options.scores import aligned, number
from shards.words import counted

SHORT = {
    "mAP": "mAP", "macro_AUROC": "AUROC", "macro_recall": "sensitivity", "macro_specificity": "specificity",
    "macro_ECE": "ECE", "underdiagnosis": "underdiagnosis",
}  # fmt: skip


def _p(gap: dict) -> str:
    from cxrdali.report.kit.numbers import probability

    return "" if gap["p"] is None else f"{probability(gap['p'])} ({probability(gap['p_holm'])})"


def _gap(gap: dict) -> str:
    ends = "" if gap["low"] is None else f" [{gap['low']:+.3f}, {gap['high']:+.3f}]"
    return "-" if gap["difference"] is None else f"{gap['difference']:+.3f}{ends}"


def print_groups(result: dict) -> None:
    """Of an evaluation."""
    block = result["groups_by"]
    for text in block["missing"]:
        click.echo(text)
    shown = [name for name in SHORT if any(
        row[name] is not None for part in block["dimensions"] for row in part["groups"]
    )] or ["mAP"]  # fmt: skip
    for part in block["dimensions"]:
        heads = [SHORT[name] for name in shown] or [""]  # where all are too small, a column that says so
        rows = [(f"by {part['by']}", "images", "patients", "findings", *heads, "AUROC less the rest's", "p")]
        for row in part["groups"]:
            counts = (f"{row['images']:,}", f"{row['patients']:,}", f"{len(row['scored'])}")
            gap = row["gaps"]["macro_AUROC"]
            scores = [number(row[name]) for name in shown] or ["-"]
            cells = ("too small", *[""] * (len(heads) - 1)) if row["too_small"] else scores
            rows.append((row["group"], *counts, *cells, _gap(gap), _p(gap)))
        click.echo(aligned(rows))
        for gap in part["gaps"]:
            if gap["metric"] in ("mAP", "macro_AUROC", "underdiagnosis"):
                p = f", p {_p(gap)}" if gap["p"] is not None else ""
                click.echo(f"{SHORT[gap['metric']]}, {gap['best']} less {gap['worst']}: {_gap(gap)}{p}")
    for row in block["worst"]["means"]:
        p = f", p {_p(row)}" if row["p"] is not None else ""
        click.echo(f"furthest behind its rest, {SHORT[row['metric']]}: {row['group']} ({row['by']}): {_gap(row)}{p}")
    _notes(block)
    if block["comparisons"]["means"]:
        compared = counted(block["comparisons"]["means"], "gap")
        click.echo(
            f"p: in brackets adjusted (Holm) for all {compared} of means; with enough groups one differs by chance"
        )


def _notes(block: dict) -> None:
    click.echo(
        f"too small: fewer than {block['min_group']} patients; a finding that fewer have, or do not have, is in no "
        "mean of a group. AP rises with how frequent findings are in a group, AUROC does not"
    )
    none = block["underdiagnosis"]
    of = f"whose {none} is 0, the share that is called {none}" if none else "with any finding, the share without a call"
    click.echo(f"underdiagnosis: of the images {of} (with --thresholds)")


def print_compared(result: dict) -> None:
    """Of a comparison."""
    block, names = result["groups_by"], [row["name"] for row in result["runs"]]
    for text in block["missing"]:
        click.echo(text)
    others = [name for name in names if name != result["baseline"]]
    rows = [("gap to the rest", "", "", *names, *(f"{name} less {result['baseline']}" for name in others))]
    for row in block["rows"]:
        if any(row["runs"][name]["value"] is not None for name in names):
            gaps = [_gap(row["runs"][name]) for name in names]
            cells = [f"{_gap(found)} {_p(found)}".strip() for found in map(row["differences"].__getitem__, others)]
            rows.append((row["by"], row["group"], SHORT[row["metric"]], *gaps, *cells))
    click.echo(aligned(rows, left=(0, 1, 2)))
    _notes(block)
