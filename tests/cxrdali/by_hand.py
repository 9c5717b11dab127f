"""Intervals and p values of samples of patients, written out with NumPy and SciPy, sample by sample."""

import numpy as np
from scipy.stats import norm, t


def less_half(truth, values) -> float:
    """AP in which a positive counts half among those at its own rank, and among the images there."""
    chosen = values[truth == 1]
    found = (chosen[:, None] <= chosen).sum(axis=1)
    ranked = (chosen[:, None] <= values).sum(axis=1)
    return np.mean((found - 0.5) / (ranked - 0.5))


def sampled(truth, tables, subjects, draws, seed, score):
    """float [samples, tables, F]: `score` on the images of patients taken with replacement; NaN without both labels."""
    generator, order = np.random.default_rng(seed), sorted(set(subjects))
    rows_of = [np.flatnonzero(subjects == each) for each in order]
    found = np.full((draws, len(tables), truth.shape[1]), np.nan)
    for sample in range(draws):
        rows = np.concatenate([rows_of[each] for each in generator.integers(0, len(order), len(order))])
        for f in range(truth.shape[1]):
            if 0 < truth[rows, f].sum() < len(rows):
                found[sample, :, f] = [score(truth[rows, f], each[rows, f]) for each in tables]
    return found


def patients(truth, subjects):
    """int [F]: with an image that has the finding or with one that has not, whichever are fewer."""
    return np.array([min(len(set(subjects[column == label])) for label in (0, 1)) for column in truth.T])


def of_finding(statistic, samples, count, level=0.95):
    """Low, high, p of a difference."""
    centre = 2 * statistic - samples.mean()
    spread = np.sqrt(samples.var() * count / (count - 1))
    half = t.ppf((1 + level) / 2, count - 1) * spread
    return centre - half, centre + half, 2 * t.sf(abs(centre) / spread, count - 1)


def of_mean(statistic, samples, counts, level=0.95):
    """Low, high, p of a mean of differences; all findings are in two patients at least."""
    filled = np.where(np.isnan(samples), statistic, samples)
    means, missing = filled.mean(axis=1), (filled.var(axis=0) / (counts - 1)).sum() / len(counts) ** 2
    spread = np.sqrt(means.var() + missing)
    centre = 2 * statistic.mean() - means.mean()
    half = norm.ppf((1 + level) / 2) * spread
    return centre - half, centre + half, 2 * norm.sf(abs(centre) / spread)
