"""How often do the intervals hold the population's value, and how often is p at most 0.05 for two equal models?

    python -m benchmarks.statistics.coverage [--save]

A population is known in full: 26 findings with the frequencies of CXR-LT 2023, scores of positives and negatives normal
and apart by what makes the AP of a good model. Each repetition samples patients from it, with one study each or with
--studies on average (geometric; labels of a patient correlate by 0.7 on the scale of a normal variable, scores by 0.5),
scores model A, a better one B and one as good as A, and makes the intervals and p values of the product. Beside them,
from the same samples, stand the intervals that it does not make: percentile and basic (reflected).
"""

import json
import multiprocessing
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import expit, logit, ndtr, ndtri
from scipy.stats import norm

from benchmarks import results
from benchmarks.options import Options, listed, option, parse
from cxrdali.metrics.bootstrap import Images, resample
from cxrdali.metrics.calibration_error import equal_width
from cxrdali.metrics.intervals import ENOUGH, Estimate, Sampled
from cxrdali.metrics.longtail import GROUPS, groups
from cxrdali.metrics.ranking import Scores

SHARES = np.array(
    [.337, .302, .290, .261, .255, .182, .158, .146, .114, .061, .057, .045, .039, .029, .021, .016, .016, .015, .013,
     .013, .010, .009, .004, .003, .003, .002]
)  # fmt: skip
APART = np.array(
    [2.3, 1.2, 1.5, 2.1, 1.4, 0.8, 1.4, 1.7, 0.7, 1.2, 1.9, 1.1, 0.8, 1.3, 1.7, 1.6, 2.2, 2.6, 1.3, 1.3, 1.2, 2.7, 1.8,
     1.5, 1.8, 1.8]
)  # fmt: skip
BETTER = 0.15  # by which B's positives are further from its negatives
SAME_LABEL, SAME_SCORE, SAME_IMAGE = 0.7, 0.5, 0.7  # correlations: of a patient's labels and scores, of two models
FINDINGS = tuple(f"finding {place}" for place in range(len(SHARES)))
GROUP = np.array(groups((SHARES * 100_000).round().astype(int).tolist(), 100_000))
GRID = np.linspace(-8, 12, 20_001)


@dataclass(frozen=True)
class Coverage(Options):
    """What is simulated."""

    images: tuple[int, ...] = option("560,1621,5000,20000", "images of a sample", listed(int))
    studies: tuple[float, ...] = option("1,3.5", "studies of a patient, on average", listed(float))
    repetitions: int = option(1000, "samples from the population, at most")
    work: int = option(1_250_000, "images in all repetitions: fewer repetitions of many images")
    samples: int = option(150, "samples of the patients for an interval")
    processes: int = option(2, "at a time")


@cache
def population(better: float) -> dict[str, np.ndarray]:
    """The scores of model A, or one better by so much, in the whole population: float64 [F] each."""
    found = defaultdict(list)
    for share, distance in zip(SHARES, APART + better, strict=True):
        positive, negative = share * norm.pdf(GRID - distance), (1 - share) * norm.pdf(GRID)
        hit, alarm = share * ndtr(distance - GRID), (1 - share) * ndtr(-GRID)
        found["AP"].append(np.trapezoid(positive / share * hit / (hit + alarm), GRID))
        found["AUROC"].append(ndtr(distance / np.sqrt(2)))
        p = _probability(GRID, distance, share)
        error, place = positive - p * (positive + negative), equal_width(p)
        found["ECE"].append(np.abs(np.bincount(place, error)).sum() * (GRID[1] - GRID[0]))
        found["Brier"].append(np.trapezoid(positive * (1 - p) ** 2 + negative * p**2, GRID))
        called = ndtr(-distance) * (1 - share)  # at the threshold that half of the positives reach
        found["F1"].append(share / (share + called + share / 2))
    return {name: np.array(values) for name, values in found.items()}


def sample(rng: np.random.Generator, images: int, studies: float) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """truth [n, F], patient [n], and the values [n, F] of models A, B and one as good as A."""
    patients = round(images / studies)
    patient = np.repeat(np.arange(patients), rng.geometric(1 / studies, patients))

    def normal(same: float) -> np.ndarray:
        shared, own = (rng.standard_normal((n, len(SHARES))) for n in (patients, len(patient)))
        return np.sqrt(same) * shared[patient] + np.sqrt(1 - same) * own

    truth = (normal(SAME_LABEL) < ndtri(SHARES)).astype(np.float32)
    noise = normal(SAME_SCORE)
    return truth, patient, [
        apart * truth + np.sqrt(SAME_IMAGE) * noise + np.sqrt(1 - SAME_IMAGE) * normal(SAME_SCORE)
        for apart in (APART, APART + BETTER, APART)
    ]  # fmt: skip


def repetition(task: tuple[int, int, float, int]) -> list[tuple]:
    """(measure, method, below, above, width, p at most 0.05) of every interval of one sample."""
    seed, images, studies, count = task
    truth, patient, models = sample(np.random.default_rng([seed, images, int(10 * studies)]), images, studies)
    counts = [(truth == label).sum(axis=0) for label in (1, 0)]
    there = np.where(np.minimum(*counts) > 0, 0.0, np.nan)  # which scores there are: intervals need no more
    scored, made = Scores(FINDINGS, there, there, *counts, np.nan), []
    for place, values in enumerate(models):
        more = _probability(values, APART, SHARES), None if place else values >= APART
        table = Images(truth, values, patient, *more)
        made.append(resample(table, scored, count, seed))
    true = [population(better) for better in (0, BETTER, 0)]
    found = []
    for name, sampled in made[0].items():
        found += _intervals(name, sampled, true[0][name])
    for name in ("AP", "AUROC", "ECE"):
        if name != "ECE":  # a better ranking is another calibration, too
            found += _intervals(f"{name}, B less A", made[1][name] - made[0][name], true[1][name] - true[0][name])
        found += _intervals(f"{name}, equal models", made[2][name] - made[0][name], true[2][name] - true[0][name])
    return found


def _intervals(name: str, sampled: Sampled, true: np.ndarray) -> list[tuple]:
    """Of every finding with enough patients, and of the means."""
    known, found = ~np.isnan(sampled.value), []
    for place in np.flatnonzero(known & (sampled.patients >= ENOUGH)):
        column = sampled.samples[~np.isnan(sampled.samples[:, place]), place]
        found += _methods(name, sampled.finding(place), true[place], sampled.statistic[place], column)
    filled = np.where(np.isnan(sampled.samples), sampled.statistic, sampled.samples)
    for group in ("", *GROUPS):
        kept = known & (group == GROUP) if group else known
        if (estimate := sampled.mean(kept)).low is not None:
            what, mean = f"mean {name}{f', {group}' if group else ''}", filled[:, kept].mean(axis=1)
            found += _methods(what, estimate, true[kept].mean(), sampled.statistic[kept].mean(), mean)
    return found


def _methods(name: str, ours: Estimate, true: float, observed: float, column: np.ndarray) -> list[tuple]:
    low, high = np.percentile(column, [2.5, 97.5])
    basic = 2 * observed - high, 2 * observed - low
    ends = {"ours": (ours.low, ours.high), "percentile": (low, high), "basic": basic}
    return [
        (name, method, bool(true < low), bool(true > high), high - low, ours.p is not None and ours.p <= 0.05)
        for method, (low, high) in ends.items()
        if low is not None
    ]


def _probability(values: np.ndarray, apart: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Of a model whose logits are a little too small and too high."""
    return expit(0.8 * (apart * values - apart**2 / 2 + logit(share)) + 0.2)


def rows(options: Coverage, images: int, studies: float) -> list[dict]:
    """A row per measure and method."""
    repetitions, started = min(options.repetitions, max(100, options.work // images)), time.perf_counter()
    tasks = [(seed, images, studies, options.samples) for seed in range(repetitions)]
    gathered = defaultdict(list)
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for found in pool.imap_unordered(repetition, tasks, chunksize=2):
            for name, method, *rest in found:
                gathered[name, method].append(rest)
    about = {"images": images, "studies": studies, "repetitions": repetitions, "samples": options.samples}
    seconds = round(time.perf_counter() - started, 1)
    made = []
    for (name, method), values in gathered.items():
        below, above, width, small = np.array(values, dtype=np.float64).mean(axis=0)
        ends = {"below": below, "above": above, "width": width}
        small = {"p_small": small} if "models" in name or "less" in name else {}
        counted = {"intervals": len(values), "coverage": 1 - below - above}
        made.append({"measure": name, "method": method, **about, **counted, **ends, **small, "seconds": seconds})
    return made


def main() -> None:
    options = parse(Coverage, "benchmarks.statistics.coverage", __doc__.splitlines()[0])
    environment = results.environment("benchmarks.statistics.coverage")
    for studies in options.studies:
        for images in options.images:
            made = rows(options, images, studies)
            for row in made:
                if row["method"] == "ours":
                    print(json.dumps({key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()}))
            results.save([{"data": "simulated", **row} for row in made], environment, options.save, "coverage")


if __name__ == "__main__":
    main()
