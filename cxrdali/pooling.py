"""How tables of logits are pooled: mean probability (TTA, ensembles, the view postprocess), geometric mean, mean rank.

Through float32 probabilities they would be lost: a sigmoid is 1 from logit 17 on, and everything above would tie.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import logit
from scipy.stats import rankdata

from shards.errors import DataError


def mean_logit(logits: np.ndarray, weights: Sequence[float] | None = None) -> np.ndarray:
    """The logit of the mean probability. logits [K, ...], finite; weights [K], positive, normalised here (None:
    equal). Returns float32 [...].

    With p_k = sigmoid(x_k): log(sum w_k p_k) - log(sum w_k (1 - p_k)), both sums as logsumexp of log-sigmoids.
    """
    log_shares = np.log(_shares(len(logits), weights))
    positive = negative = np.full(np.shape(logits)[1:], -np.inf)
    for share, values in zip(log_shares, logits, strict=True):
        values = np.asarray(values, dtype=np.float64)
        positive = np.logaddexp(positive, share - np.logaddexp(0, -values))
        negative = np.logaddexp(negative, share - np.logaddexp(0, values))
    return (positive - negative).astype(np.float32)


def geometric_logit(logits: np.ndarray, weights: Sequence[float] | None = None) -> np.ndarray:
    """The mean of the logits, as `mean_logit` takes and returns them.

    It is the logit of the geometric mean of the probabilities, prod p_k^w_k, divided by that plus the geometric mean
    of their complements, so that the two sum to 1 (the logarithmic opinion pool of Bernoulli distributions).
    """
    shares = _shares(len(logits), weights)
    total = np.zeros(np.shape(logits)[1:])
    for share, values in zip(shares, logits, strict=True):
        total += share * np.asarray(values, dtype=np.float64)
    return total.astype(np.float32)


def ranks(values: np.ndarray) -> np.ndarray:
    """Each column's ranks: float64 [n, F] for values [n, F]. 1 is the lowest value, ties share their mean rank."""
    return rankdata(values, axis=0)


def mean_rank_logit(logits: np.ndarray, weights: Sequence[float] | None = None) -> np.ndarray:
    """The mean rank of an image within each table, as `mean_logit` takes and returns them; logits [K, n, F].

    The logit of (mean rank - 1/2) / n, which lies between 0 and 1, so it is finite. It says where an image stands
    among these n, not how probable the finding is. Images of equal mean rank stay equal.
    """
    _shares(len(logits), weights)
    mean = np.average([ranks(values) for values in logits], axis=0, weights=weights)
    return logit((mean - 0.5) / logits.shape[1]).astype(np.float32)


METHODS: dict[str, Callable[..., np.ndarray]] = {
    "mean": mean_logit,
    "geometric": geometric_logit,
    "rank": mean_rank_logit,
}


def _shares(count: int, weights: Sequence[float] | None) -> np.ndarray:
    """Weights of sum 1: float64 [count]."""
    shares = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    if shares.shape != (count,) or not np.isfinite(shares).all() or (shares <= 0).any():
        raise DataError(f"weights {list(weights)}: give {count}, one per table, each above 0")
    return shares / shares.sum()
