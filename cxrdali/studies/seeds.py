"""Differences over seeds, and whether a claim holds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from cxrdali.evaluate.compare import compare
from cxrdali.evaluate.differences import TESTED, separable
from cxrdali.evaluate.evaluate import evaluate
from cxrdali.evaluate.options import CompareOptions, EvaluateOptions
from cxrdali.studies.ground import Base
from cxrdali.studies.schema import Claim

LEVEL = 0.95


def over_seeds(
    cells: Mapping[str, Mapping[str, str]], paths: Mapping[str, Path], bases: Mapping[str, Base], split: str
) -> dict:
    """Plain JSON values: by cell its scores, their mean, standard deviation and number; and the paired differences of
    every cell to the first, with t intervals, where both have the same images and labels.

    Args:
        cells: By cell its tables, by seed (and fold).
        paths, bases: Of the tables.
    """
    found = {table: scores(path, bases[table]) for table, path in paths.items()}
    metrics = [metric for metric in TESTED if any(metric in each for each in found.values())]
    first = next(iter(cells))
    rows, differences = [], []
    for metric in metrics:
        values = {
            cell: {repeat: found[table].get(metric) for repeat, table in each.items()} for cell, each in cells.items()
        }
        rows += [
            {"run": cell, "metric": metric, "values": each, **spread(_known(each))} for cell, each in values.items()
        ]
        for cell, each in values.items():
            both = [repeat for repeat in each if repeat in values[first]]
            pairs = [(each[repeat], values[first][repeat]) for repeat in both]
            paired = [one - other for one, other in pairs if one is not None and other is not None]
            if cell != first and paired and len({bases[cells[of][both[0]]].judged_on for of in (cell, first)}) == 1:
                differences.append({"run": cell, "against": first, "metric": metric, **spread(paired)})
    return {"by": "seed", "split": split, "level": LEVEL, "baseline": first, "scores": rows, "differences": differences}


def scores(path: Path, base: Base) -> dict[str, float | None]:
    """A table's means over findings."""
    options = EvaluateOptions(draws=0, uncertain=base.uncertain, allow_leak=True)
    return means(evaluate(path, base.dataset, base.labels, options)["all"])


def means(result: Mapping) -> dict[str, float | None]:
    """Those of TESTED that stand in a part of an evaluation, such as its "all"."""
    groups = result.get("groups") or {}
    of_groups = {name: groups[group].get("mAP") for name, (_, group, _) in TESTED.items() if group in groups}
    return {metric: result[metric] for metric in TESTED if metric in result} | of_groups


def spread(values: Sequence[float]) -> dict:
    """Mean, standard deviation, number, and the mean's t interval; None where there are too few."""
    n = len(values)
    mean = float(np.mean(values)) if n else None
    sd = float(np.std(values, ddof=1)) if n > 1 else None
    reach = None if sd is None else sd / n**0.5 * float(stats.t.ppf((1 + LEVEL) / 2, n - 1))
    low, high = (None, None) if reach is None else (mean - reach, mean + reach)
    return {"mean": mean, "sd": sd, "n": n, "low": low, "high": high}


def tested(differences: Sequence[float]) -> dict:
    """`spread` of paired differences, and p of the t test that their mean is 0; None below two, or if all are equal."""
    found = spread(differences)
    error = (found["sd"] or 0) / max(found["n"], 1) ** 0.5
    return {**found, "p": 2 * float(stats.t.sf(abs(found["mean"]) / error, found["n"] - 1)) if error else None}


def judged(claim: Claim, higher: Sequence[Path], lower: Sequence[Path], base: Base, draws: int) -> dict:
    """The claim with both scores, their difference, its interval (over seeds where both sides have several, else of
    samples of patients) and a verdict: it holds, does not hold, or the two are not separable."""
    found = [[scores(path, base).get(claim.metric) for path in side] for side in (higher, lower)]
    unit = "seed" if len(higher) > 1 else "patient"
    if unit == "seed":
        pairs = [pair for pair in zip(*found, strict=True) if None not in pair]
        known = spread([one - other for one, other in pairs])
        difference, low, high = (known[key] for key in ("mean", "low", "high"))
    else:
        options = CompareOptions(draws=draws, folds=max(2, base.folds), uncertain=base.uncertain, allow_leak=True)
        rows = compare([lower[0], higher[0]], base.dataset, options, base.labels.name)["differences"]
        row = next((row for row in rows if row["metric"] == claim.metric), {})
        difference, low, high = (row.get(key) for key in ("difference", "low", "high"))
    means = [spread(_known(dict(enumerate(side))))["mean"] for side in found]
    about = {key: getattr(claim, key) for key in ("says", "higher", "than", "metric", "split")}
    return {
        **about, "scores": means, "difference": difference, "low": low, "high": high, "unit": unit,
        "n": len(higher), "printed": list(claim.printed), "verdict": verdict(claim.metric, difference, low, high),
    }  # fmt: skip


def verdict(metric: str, difference: float | None, low: float | None, high: float | None) -> str:
    """Whether a claim holds, by the interval of its difference: the higher one's score less the other's."""
    if difference is None or not separable(low, high):
        return "not separable"
    sign = 1 if TESTED[metric][2] else -1
    return "holds" if difference * sign > 0 else "does not hold"


def _known(values: Mapping) -> list[float]:
    return [value for value in values.values() if value is not None]
