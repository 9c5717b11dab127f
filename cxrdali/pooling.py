"""The logit of a mean probability, from logits: what TTA, ensembles and the view postprocess pool with.

Through probabilities it would be lost: a float32 sigmoid is 1 from logit 17 on, and everything above would tie.
"""

from collections.abc import Sequence

import numpy as np

from shards.errors import DataError


def mean_logit(logits: np.ndarray, weights: Sequence[float] | None = None) -> np.ndarray:
    """logits [K, ...], finite; weights [K], positive, normalised here (None: equal). Returns float32 [...].

    With p_k = sigmoid(x_k): log(sum w_k p_k) - log(sum w_k (1 - p_k)), both sums as logsumexp of log-sigmoids.
    """
    count = len(logits)
    shares = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    if shares.shape != (count,) or not np.isfinite(shares).all() or (shares <= 0).any():
        raise DataError(f"weights {list(weights)}: give {count}, one per table, each above 0")
    log_shares = np.log(shares / shares.sum())
    positive = negative = np.full(np.shape(logits)[1:], -np.inf)
    for share, values in zip(log_shares, logits, strict=True):
        values = np.asarray(values, dtype=np.float64)
        positive = np.logaddexp(positive, share - np.logaddexp(0, -values))
        negative = np.logaddexp(negative, share - np.logaddexp(0, values))
    return (positive - negative).astype(np.float32)
