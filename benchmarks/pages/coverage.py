"""The table of docs/statistics.md: how often intervals held the truth (`benchmarks.statistics.coverage`)."""

from benchmarks import results
from benchmarks.pages.markdown import table, where

SHOWN = (
    ("mAP", "mean AP", "ours", "coverage"),
    ("mAP, difference of two models", "mean AP, B less A", "ours", "coverage"),
    ("AP of a finding", "AP", "ours", "coverage"),
    ("AP of a finding, difference", "AP, B less A", "ours", "coverage"),
    ("mean AUROC", "mean AUROC", "ours", "coverage"),
    ("AUROC of a finding", "AUROC", "ours", "coverage"),
    ("mean F1", "mean F1", "ours", "coverage"),
    ("F1 of a finding", "F1", "ours", "coverage"),
    ("mean ECE", "mean ECE", "ours", "coverage"),
    ("mAP by percentiles (not used)", "mean AP", "percentile", "coverage"),
    ("mAP reflected (not used)", "mean AP", "basic", "coverage"),
    ("two equal models: p at most 0.05, mAP", "mean AP, equal models", "ours", "p_small"),
    ("the same, AP of a finding", "AP, equal models", "ours", "p_small"),
)


def section() -> str:
    """A line per measure, a column per number of images and of studies a patient, in percent."""
    rows = results.newest("coverage", gpu=False)
    if not rows:
        return "Not measured yet.\n"
    found = {(row["measure"], row["method"], row["studies"], row["images"]): row for row in rows}
    columns = sorted({key[2:] for key in found})
    head = " | ".join(
        ["95 % intervals that hold the truth, %"] + [f"{images:,}; {studies:g}" for studies, images in columns]
    )
    lines = []
    for title, measure, method, field in SHOWN:
        values = [found.get((measure, method, *column)) for column in columns]
        lines.append((title, *("-" if row is None else f"{100 * row[field]:.1f}" for row in values)))
    repeated = sorted({(row["images"], row["repetitions"]) for row in rows})
    more = "; repetitions " + ", ".join(f"{count:,} of {images:,} images" for images, count in repeated)
    return f"{table(head, lines)}\nColumns: images; studies a patient, on average. {where('coverage', rows, more)}"
