"""Whom a model fails: scores of groups of images, and how far each is from the rest, paired on samples of the patients.

A group's means are over the findings that enough of its patients have (and do not have); those of others are too small,
shown and in no mean. A gap is the mean over findings of (group - rest), so it is over the findings that both have, and
does not confuse the groups' findings with the groups.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from cxrdali.evaluate.differences import adjusted, as_difference
from cxrdali.evaluate.groups import UNKNOWN, Dimension
from cxrdali.evaluate.options import ByOptions
from cxrdali.metrics.bootstrap import Images, resample
from cxrdali.metrics.intervals import Estimate, Sampled
from cxrdali.metrics.ranking import score
from cxrdali.runtime.limits import cores

UNDER = "underdiagnosis"
# what groups are measured by: a score of each finding, by the name of its mean, and whether more of it is better
MEASURES = {
    "mAP": ("AP", True),
    "macro_AUROC": ("AUROC", True),
    "macro_recall": ("recall", True),
    "macro_specificity": ("specificity", True),
    "macro_ECE": ("ECE", False),
    UNDER: (UNDER, False),
}
OF_FINDINGS = ("AP", "AUROC")  # whose gaps are given finding by finding
_NO_FINDING = ("no finding", "no findings", "normal")


@dataclass(frozen=True, eq=False)
class Measured:
    """A group. enough: bool [F], the findings that enough of its patients have, and do not have (none of a group with
    too few patients); sampled, gaps: by score, its own and its difference to all other images."""

    by: str
    name: str
    images: Images
    enough: np.ndarray
    sampled: dict[str, Sampled]
    gaps: dict[str, Sampled]

    def gap(self, measure: str, level: float) -> Estimate:
        """Of one of MEASURES."""
        found = self.gaps.get(MEASURES[measure][0])
        return Estimate(None) if found is None else mean_of(measure, found, level)

    def own(self, measure: str, level: float) -> Estimate:
        found = self.sampled.get(MEASURES[measure][0])
        return Estimate(None) if found is None else mean_of(measure, found, level)


def no_finding(findings: Sequence[str]) -> int | None:
    """The place of the finding that says that there is none, as No Finding or Normal."""
    names = [name.casefold().replace("_", " ") for name in findings]
    return next((names.index(name) for name in _NO_FINDING if name in names), None)


def measured(
    images: Images, dimension: Dimension, none: int | None, options: ByOptions, progress: Callable[[int], object]
) -> list[Measured]:
    """The groups of a dimension.

    Args:
        images: All that are scored.
        none: `no_finding` of their findings.
        options: How they are sampled, and when a group is too small.
        progress: Called with 1 when a group is done.
    """
    images = replace(images, among=np.unique(images.patient))

    def measure(place: int) -> Measured:
        mask = dimension.mask(place)
        part, rest = images.where(mask), images.where(~mask)
        enough = np.minimum(part.patients(1), part.patients(0)) >= options.min_group
        own: dict[str, Sampled] = {}
        others: dict[str, Sampled] = {}
        if len(np.unique(part.patient)) < options.min_group:
            enough[:] = False
        else:
            own = _sampled(part, enough, none, options)
            others = _sampled(rest, enough, none, options) if len(rest.truth) else {}
        progress(1)
        gaps = {each: own[each] - others[each] for each in own if each in others}
        return Measured(dimension.by, dimension.names[place], part, enough, own, gaps)

    with ThreadPoolExecutor(cores()) as threads:  # NumPy and SciPy let go of Python's lock
        return list(threads.map(measure, range(len(dimension.names))))


def _sampled(images: Images, enough: np.ndarray, none: int | None, options: ByOptions) -> dict[str, Sampled]:
    """By score, NaN of the findings that are not `enough`."""
    columns = np.flatnonzero(enough)
    given = (images.probabilities, images.called)
    chances, called = (each if each is None else each[:, columns] for each in given)
    kept = Images(
        images.truth[:, columns], images.values[:, columns], images.patient, chances, called, among=images.among
    )
    found = {}
    if len(columns):
        scores = score(tuple(map(str, columns)), kept.truth, kept.values)
        also = ("recall", "specificity")
        found = resample(kept, scores, options.draws, options.seed, also=also)
    names = [name for name, _ in MEASURES.values()]
    whole = {name: _spread(sampled, columns, len(enough)) for name, sampled in found.items() if name in names}
    under = _underdiagnosis(images, none)
    if under is not None and len(np.unique(under.patient)) >= options.min_group:
        scores = score(("",), under.truth, under.values)
        share = resample(under, scores, options.draws, options.seed, also=("recall",))["recall"]
        fewest = np.array([len(np.unique(under.patient))])
        whole[UNDER] = Sampled(1 - share.value, 1 - share.statistic, 1 - share.samples, fewest)
    return whole


def _spread(sampled: Sampled, columns: np.ndarray, count: int) -> Sampled:
    """Of some findings as of all."""

    def spread(values: np.ndarray, fill: float) -> np.ndarray:
        wide = np.full((*values.shape[:-1], count), fill, dtype=values.dtype)
        wide[..., columns] = values
        return wide

    parts = (spread(each, np.nan) for each in (sampled.value, sampled.statistic, sampled.samples))
    return Sampled(*parts, spread(sampled.patients, 0), sampled.kind)


def _underdiagnosis(images: Images, none: int | None) -> Images | None:
    """The images with any finding, as of one finding that all of them have and that is called where a finding is; None
    without decisions. With a finding that says that there is none (`none`), those of which it is a known 0, called
    where it is not (None: it has no threshold); else those with any finding, called where any is."""
    if images.called is None or (none is not None and np.isnan(images.called[:, none]).any()):
        return None
    if none is None:
        ill, called = (images.truth == 1).any(axis=1), (images.called == 1).any(axis=1)
    else:
        ill, called = images.truth[:, none] == 0, images.called[:, none] != 1
    if not ill.any():
        return None
    ones = np.ones((int(ill.sum()), 1))
    return Images(ones, ones, images.patient[ill], None, called[ill][:, None], among=images.among)


def mean_of(measure: str, found: Sampled, level: float) -> Estimate:
    """Of one of MEASURES, over the findings that have it."""
    return found.finding(0, level) if measure == UNDER else found.mean(None, level)


def between(groups: Sequence[Measured], measure: str, level: float) -> dict | None:
    """The best group less the worst by one of MEASURES, which are those with the largest and smallest gap to their
    rest; None of fewer than two. Images of which nothing is known are no group here.

    The two are chosen by what is tested: of k groups, p is multiplied by the k (k - 1) / 2 pairs that there are, and
    the interval is as wide as all of these would need to hold the truth together (Bonferroni).
    """
    name, more = MEASURES[measure]
    named = [(place, each) for place, each in enumerate(groups) if UNKNOWN not in each.name.split(", ")]
    gaps = [(each.gap(measure, level).value, place) for place, each in named]
    known = [(value * (1 if more else -1), place) for value, place in gaps if value is not None]
    if len(known) < 2:
        return None
    best, worst = (groups[pick(known)[1]] for pick in (max, min))
    pairs = len(known) * (len(known) - 1) // 2
    found = mean_of(measure, best.sampled[name] - worst.sampled[name], 1 - (1 - level) / pairs)
    p = None if found.p is None else min(1.0, found.p * pairs)
    return {
        "metric": measure, "best": best.name, "worst": worst.name, "pairs": pairs, **as_difference(found), "p": p,
    }  # fmt: skip


def as_row(group: Measured, findings: Sequence[str], options: ByOptions) -> dict:
    """For JSON: counts, means with their gaps, and findings."""
    row: dict = {
        "group": group.name,
        "images": len(group.images.truth),
        "patients": len(np.unique(group.images.patient)),
        "too_small": not group.enough.any(),
        "scored": [findings[place] for place in np.flatnonzero(group.enough)],
    }
    for measure in MEASURES:
        row |= group.own(measure, options.level).as_json(measure)
    row["gaps"] = {measure: as_difference(group.gap(measure, options.level)) for measure in MEASURES}
    counts = {
        name: [int((group.images.truth[:, place] == label).sum()) for place in range(len(findings))]
        for name, label in (("positives", 1), ("negatives", 0))
    }
    counts |= {"positive_patients": group.images.patients(1), "negative_patients": group.images.patients(0)}
    row["findings"] = [
        {"finding": finding, **{name: values[place] for name, values in counts.items()},
         "too_small": not group.enough[place], **_of_finding(group, place, options.level)}
        for place, finding in enumerate(findings)
    ]  # fmt: skip
    return row


def _of_finding(group: Measured, place: int, level: float) -> dict:
    found: dict = {}
    for name in (name for name, _ in MEASURES.values() if name != UNDER):
        sampled = group.sampled.get(name)
        found |= (Estimate(None) if sampled is None else sampled.finding(place, level)).as_json(name)
    gaps = {name: group.gaps.get(name) for name in OF_FINDINGS}
    found["gaps"] = {
        name: as_difference(Estimate(None) if each is None else each.finding(place, level))
        for name, each in gaps.items()
    }
    return found


def adjust(parts: Sequence[dict]) -> dict[str, int]:
    """Holm's adjustment, in place, of all gaps of means as one family and of all gaps of findings as another; how many
    of each have a p."""
    means = [gap for part in parts for row in part["groups"] for gap in row["gaps"].values()]
    means += [gap for part in parts for gap in part["gaps"]]
    findings = [gap for part in parts for row in part["groups"] for each in row["findings"]
                for gap in each["gaps"].values()]  # fmt: skip
    families = {"means": means, "findings": findings}
    return {name: sum(gap["p"] is not None for gap in adjusted(gaps)) for name, gaps in families.items()}


def worst(parts: Sequence[dict], findings: Sequence[str]) -> dict[str, list[dict]]:
    """By mean, and by finding and score, the group that is furthest behind its rest, of all dimensions; none
    where no group is behind."""
    rows = [(part["by"], row) for part in parts for row in part["groups"]]
    means = [
        {"metric": measure, **found}
        for measure, (_, more) in MEASURES.items()
        if (found := _worst([(by, row["group"], row[measure], row["gaps"][measure]) for by, row in rows], more))
    ]
    of_findings = [
        {"finding": finding, "metric": name, **found}
        for place, finding in enumerate(findings)
        for name in OF_FINDINGS
        if (found := _worst([
            (by, row["group"], row["findings"][place][name], row["findings"][place]["gaps"][name]) for by, row in rows
        ], True))
    ]  # fmt: skip
    return {"means": means, "findings": of_findings}


def _worst(rows: Sequence[tuple[str, str, float | None, dict]], more: bool) -> dict | None:
    sign = 1 if more else -1
    behind = [row for row in rows if row[3]["difference"] is not None and sign * row[3]["difference"] < 0]
    if not behind:
        return None
    by, group, value, gap = min(behind, key=lambda row: sign * row[3]["difference"])
    return {"by": by, "group": group, "value": value, **gap}
