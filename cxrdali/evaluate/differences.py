"""Differences of runs and tables, paired on the same samples of patients: of means over findings and of findings, with
intervals, p values adjusted for their number, and the findings that carry one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cxrdali.evaluate.same_images import Side
from cxrdali.metrics.intervals import Estimate, Sampled, holm, without_one
from cxrdali.metrics.longtail import GROUPS
from cxrdali.metrics.ranking import Scores

# what runs are compared by: a mean over findings, of which group ("": all), and whether more of it is better
TESTED = {
    "mAP": ("AP", "", True),
    **{f"mAP_{group}": ("AP", group, True) for group in GROUPS},
    "macro_AUROC": ("AUROC", "", True),
    "macro_F1": ("F1", "", True),
    "macro_ECE": ("ECE", "", False),
    "macro_Brier": ("Brier", "", False),
}


@dataclass(frozen=True)
class Scored:
    """A table, or a run's best epoch. sampled: by measure, for all of them on the same samples of the patients."""

    side: Side
    scores: Scores
    sampled: dict[str, Sampled]


@dataclass(frozen=True)
class Ground:
    """group, train_positives: of each finding ("": no training images); level: of intervals."""

    findings: Sequence[str]
    group: np.ndarray
    train_positives: Sequence[int]
    level: float

    def columns(self, group: str) -> np.ndarray:
        """bool [F]: the findings of a group ("": all)."""
        return self.group == group if group else np.ones(len(self.group), dtype=bool)

    def mean(self, name: str, one: Scored, other: Scored | None = None, without: int | None = None) -> Estimate:
        """One of TESTED, or its difference to `other`, if it was measured. without: place of a finding to leave out."""
        measure, group, _ = TESTED[name]
        sampled = [each.sampled.get(measure) for each in (one, other) if each is not None]
        if None in sampled:
            return Estimate(None)
        whole = sampled[0] if other is None else sampled[0] - sampled[1]
        columns = self.columns(group)
        columns[[] if without is None else without] = False
        return whole.mean(columns, self.level)


def of_means(scored: Sequence[Scored], base: Scored, ground: Ground) -> list[dict]:
    """Of every run and mean to the baseline; one family of comparisons."""
    rows = []
    for each in scored:
        for name, (measure, group, _) in TESTED.items():
            if each is base or measure not in each.sampled or measure not in base.sampled:
                continue
            parts = each.sampled[measure].value - base.sampled[measure].value
            alone = without_one(np.where(ground.columns(group), parts, np.nan), ground.findings)
            found = as_difference(ground.mean(name, each, base))
            carried = _carried_by(name, each, base, ground) if alone else []
            rows.append({"run": each.side.name, "metric": name, **found, "without_one": alone, "carried_by": carried})
    return adjusted(rows)


def _carried_by(name: str, one: Scored, other: Scored, ground: Ground) -> list[str]:
    """Findings without any one of which the interval of a difference, which leaves out zero with all, would hold it."""
    whole = ground.mean(name, one, other)
    if not separable(whole.low, whole.high):
        return []
    places = np.flatnonzero(ground.columns(TESTED[name][1]))
    rest = [ground.mean(name, one, other, place) for place in places]
    kept = [separable(each.low, each.high) and each.value * whole.value > 0 for each in rest]
    return [ground.findings[place] for place, alike in zip(places, kept, strict=True) if not alike]


def separable(low: float | None, high: float | None) -> bool:
    """Whether an interval leaves out zero."""
    return low is not None and high is not None and (low > 0 or high < 0)


def tested(means: Sequence[dict], findings: Sequence[dict]) -> dict[str, int]:
    """How many of each family have a p: those that `holm` adjusts for."""
    of_findings = [each for row in findings for each in row["differences"].values()]
    families = {"means": means, "findings": of_findings}
    return {name: sum(row["p"] is not None for row in rows) for name, rows in families.items()}


def as_difference(found: Estimate) -> dict[str, float | None]:
    return {"difference": found.value, "low": found.low, "high": found.high, "p": found.p}


def adjusted(rows: list[dict]) -> list[dict]:
    """With "p_holm": adjusted for how many of these rows have a p."""
    for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = p
    return rows


def best(name: str, scored: Sequence[Scored], ground: Ground) -> dict | None:
    """The best and the second by one of TESTED, and their difference; separable: its interval leaves out zero."""
    sign = 1 if TESTED[name][2] else -1
    means = [(ground.mean(name, each).value, each) for each in scored]
    known = sorted((-sign * value, place) for place, (value, _) in enumerate(means) if value is not None)
    if len(known) < 2:
        return None
    first, second = (scored[place] for _, place in known[:2])
    found = as_difference(ground.mean(name, first, second))
    runs = {"run": first.side.name, "second": second.side.name}
    return {**runs, **found, "separable": separable(found["low"], found["high"])}
