"""Which epoch of a metrics.csv is the best, and by which scores. Tables are pandas', which is not imported here."""

from collections.abc import Sequence
from typing import Any

from cxrdali.data.schedule import Segment, at
from cxrdali.runs.layout import EMA, candidate


def reached(metrics: Any, column: str) -> Any:
    """metrics, in which each epoch has the scores of its better candidate by `column`: its weights, or their moving
    average."""
    averages = [name for name in metrics if name.startswith(EMA)]
    better = [candidate(row, column)[1] for row in metrics.to_dict("records")] if averages else []
    found = metrics.copy()
    for name in averages:
        plain = name.removeprefix(EMA)
        found[plain] = metrics[plain].mask(better, metrics[name])
    return found


def best_place(values: Any, segments: Sequence[Segment]) -> int:
    """The place of the largest, of a schedule among those of the size that it has reached; the last one if all are
    undefined."""
    values = values.mask(values.index < at(segments, len(values) - 1).start)
    return len(values) - 1 if values.isna().all() else int(values.argmax())


def scored_again(metrics: Any, findings: Any) -> Any:
    """metrics.csv of an older version, with mAP over the findings that have an AP today.

    A finding without a negative had an AP of 1.0, in every epoch alike, so the best epoch stays the best.
    """
    known = findings["AP"].mask(findings["negatives"] == 0)
    if known.equals(findings["AP"]):
        return metrics
    means = metrics["epoch"].map(known.groupby(findings["epoch"]).mean())
    return metrics.assign(mAP=means.where(metrics["epoch"].isin(findings["epoch"]), metrics["mAP"]))
