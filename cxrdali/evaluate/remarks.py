"""What a reader has to know beside scores and differences, so that an interval is not taken for what it is not."""

from collections.abc import Mapping, Sequence

from cxrdali.metrics.longtail import GROUPS
from shards.words import counted

TOO_FEW = "too few for an interval"
MEANS = "a mean has one if at least a third of its findings have"  # cxrdali.metrics.intervals.MOST
OFF_CENTRE = (
    "AP of few positives is too high by chance; an interval is of the population and centred without that, so a value "
    "can lie near the end of its own interval or outside it"
)


def too_few(row: Mapping, fewest: int | None) -> bool:
    """Whether a finding, a row of an evaluation or comparison, is in too few patients (or absent in too few)."""
    counts = [row.get("positive_patients"), row.get("negative_patients")]
    return fewest is not None and None not in counts and 0 < min(counts) < fewest


def off_centre(value: float | None, low: float | None, high: float | None) -> bool:
    """Whether a value is in the outer tenth of its interval, at either end, or outside it."""
    if value is None or low is None or high is None or value in (low, high):  # 1, of 0.8 to 1, surprises nobody
        return False
    return abs(value - (low + high) / 2) > 0.4 * (high - low)


def off_centre_in(part: Mapping) -> list[str]:
    """Which mAP and AP of a part of an evaluation are `off_centre`, as words."""
    groups = {f"mAP of {group} findings": (part.get("groups") or {}).get(group, {}) for group in GROUPS}
    means = {name: [row.get(f"mAP{end}") for end in ("", "_low", "_high")] for name, row in groups.items()}
    means = {"mAP": [part.get(f"mAP{end}") for end in ("", "_low", "_high")], **means}
    findings = {row["finding"]: [row.get(f"AP{end}") for end in ("", "_low", "_high")] for row in part["findings"]}
    return [name for name, values in {**means, **findings}.items() if off_centre(*values)]


def of_differences(rows: Sequence[Mapping], baseline: str) -> list[str]:
    """Sentences on the differences of means that one finding carries, and on those that are `off_centre`."""
    carried: dict[str, list[str]] = {}
    for row in rows:
        if row["carried_by"]:
            carried.setdefault(row["run"], []).append(f"{_words(row)} ({' or '.join(row['carried_by'])})")
    said = [
        f"{run}: one finding carries its difference to {baseline} in {', '.join(means)}: without that finding alone "
        "its interval does not leave out 0"
        for run, means in carried.items()
    ]
    beside = [f"{row['run']}, {_words(row)}" for row in rows if off_centre(row["difference"], row["low"], row["high"])]
    if beside:
        said.append(f"Near the end of its own interval, or outside: {'; '.join(beside)}. {OFF_CENTRE}")
    return said


def _words(row: Mapping) -> str:
    return row["metric"].replace("_", " ")


def resampled(result: Mapping) -> str:
    """How the intervals of an evaluation or comparison were made: "95 % intervals: 1,000 samples of the patients"."""
    unit = result["unit"]
    said = f"{result['level'] * 100:g} % intervals: {counted(result['draws'], 'sample')} of the {counted(2, unit)[2:]}"
    return said if unit == "patient" else f"{said}, as no patients are known"


def sampled_from(result: Mapping) -> str:
    """Studies, and patients where they are known: "180 studies of 90 patients"."""
    patients = result.get("patients", result.get("subjects"))
    of = f" of {counted(patients, 'patient')}" if patients and result.get("unit") == "patient" else ""
    return counted(result["studies"], "study") + of
