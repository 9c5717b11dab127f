"""Precision-recall and ROC curves as counts: how many positives and negatives score at least a threshold.

From the counts both curves follow, and whoever has a few of them knows the curve exactly at these thresholds.
"""

import numpy as np
from sklearn.metrics import roc_curve

POINTS = 50  # stretches of a curve; each keeps the thresholds at its two ends


def counts(truth: np.ndarray, scores: np.ndarray) -> dict[str, list[int]] | None:
    """One finding's "true_positives" and "false_positives", int, at falling thresholds: from none to all images.

    Never more than 2 x POINTS thresholds: those of equal steps on the way along both curves, and the one before each,
    so that the jump at a rare positive is kept whole.

    Args:
        truth: float [n] with 1, 0 and NaN (ignored).
        scores: float [n]; only their order counts.

    Returns:
        None without a positive or a negative.
    """
    known = ~np.isnan(truth)
    positives, negatives = int((truth == 1).sum()), int((truth == 0).sum())
    if not positives or not negatives:
        return None
    alarm_rate, recall, _ = roc_curve(truth[known], scores[known], drop_intermediate=False)
    true, false = (np.rint(rate * of).astype(int) for rate, of in ((recall, positives), (alarm_rate, negatives)))
    # precision changes with the logarithm of the false positives
    way = recall + alarm_rate + np.log1p(false) / np.log1p(negatives)
    steps = np.searchsorted(way, np.linspace(0, way[-1], POINTS))
    kept = np.unique([0, *steps, *np.maximum(steps - 1, 0)])
    return {"true_positives": true[kept].tolist(), "false_positives": false[kept].tolist()}


def precision_recall(true: np.ndarray, false: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 [points - 1] each, of `counts`: nothing is called positive at the first, so it has no precision."""
    return true[1:] / (true[1:] + false[1:]), true[1:] / true[-1]
