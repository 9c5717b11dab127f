"""Weights and margins of each finding, from the training split's class counts: int [F] in, float64 [F] out."""

import numpy as np

POSITIVE_WEIGHTS = ("none", "sqrt", "ratio")


def positive_weights(positives: np.ndarray, negatives: np.ndarray, kind: str) -> np.ndarray:
    """negatives / positives of each finding ("ratio"), its square root ("sqrt"), or 1 ("none"): float64 [F].

    1 for a finding without positives, whose weight no term has, or without negatives, which would weigh nothing.
    """
    ratio = np.where((positives > 0) & (negatives > 0), negatives / np.maximum(positives, 1), 1.0)
    return {"none": np.ones(len(positives)), "sqrt": np.sqrt(ratio), "ratio": ratio}[kind]


def class_balanced_weights(positives: np.ndarray, beta: float) -> np.ndarray:
    """(1 - beta) / (1 - beta^n), divided by its mean over the findings that have positives: float64 [F].

    The inverse of the effective number of n images (Cui et al. 2019). 1 for a finding without positives.
    """
    present = positives > 0
    if not present.any():
        return np.ones(len(positives))
    counts = np.where(present, positives, 1).astype(np.float64)
    # expm1 and log1p: 1 - beta^n would lose digits where beta is close to 1
    effective = -np.expm1(counts * np.log1p(-(1 - beta))) if beta > 0 else np.ones(len(counts))
    weights = (1 - beta) / effective
    return np.where(present, weights / weights[present].mean(), 1.0)


def margins(positives: np.ndarray, largest: float) -> np.ndarray:
    """`largest` for the rarest finding, n^(-1/4) times a constant for the others: float64 [F] (Cao et al. 2019).

    0 for a finding without positives: only positives have a margin.
    """
    present = positives > 0
    if not present.any():
        return np.zeros(len(positives))
    falling = np.where(present, positives, 1).astype(np.float64) ** -0.25
    return np.where(present, largest * falling / falling[present].max(), 0.0)
