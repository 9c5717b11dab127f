"""Maps from a finding's logit to a calibrated logit, and how each is fitted to targets.

Every map rises strictly, so calibration never reorders images. What cannot be fitted stays as it is, with the reason.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

LEAST = 10  # positives, and negatives, that a fit needs; below, the finding stays as it is
ENOUGH = 1000  # positives, and negatives, for isotonic; below, Platt is better (benchmarks/results/calibration.jsonl)
TEMPERATURES = (1e-3, 1e3)  # the range in which one is looked for
CLIP = 1e-4  # isotonic probabilities stay within CLIP..1 - CLIP: its lowest and highest steps are often exactly 0 and 1
TILT = 0.1  # logits that isotonic steps rise from the lowest to the highest logit of the fit, so that nothing ties
CHANCE = "its logits rank the images no better than chance (AUROC {:.3f})"
OUTLIERS = "for outlying logits, its positives' mean logit is no higher, though most rank higher (AUROC {:.3f})"
SHIFTED = "its logits are shifted as a whole (AUROC {:.3f}), which no temperature corrects"


@dataclass(frozen=True)
class Affine:
    """slope * logit + offset, slope above 0: a temperature (1 / slope, no offset), Platt's scaling, or the identity."""

    slope: float = 1.0
    offset: float = 0.0

    def __post_init__(self):
        if not (np.isfinite(self.slope) and self.slope > 0 and np.isfinite(self.offset)):
            raise ValueError(f"slope {self.slope!r}, offset {self.offset!r}: finite, and the slope above 0")

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """float64, of the shape of `logits`."""
        return self.slope * logits.astype(np.float64) + self.offset


@dataclass(frozen=True)
class Isotonic:
    """Isotonic regression: probability by linear interpolation between knots (level outside), plus a tilt.

    Steps would tie all images of a step, and AP with them. So a straight line of `tilt` per logit, 0 at `centre` (the
    mean logit of the fit), is added to the result's logit: at most TILT in the range of the fit.
    """

    logits: tuple[float, ...]
    probabilities: tuple[float, ...]
    tilt: float
    centre: float

    def __post_init__(self):
        knots, values = np.array(self.logits, dtype=np.float64), np.array(self.probabilities, dtype=np.float64)
        if knots.shape != values.shape or not len(knots) or not (np.diff(knots) > 0).all():
            raise ValueError("isotonic knots: as many logits as probabilities, each logit above the one before")
        if not ((values >= CLIP) & (values <= 1 - CLIP)).all() or not (np.diff(values) >= 0).all():
            raise ValueError(f"isotonic probabilities: within {CLIP:g}..{1 - CLIP:g}, none below the one before")
        if not (np.isfinite(self.tilt) and self.tilt > 0 and np.isfinite(self.centre)):
            raise ValueError(f"tilt {self.tilt!r}, centre {self.centre!r}: finite, and the tilt above 0")

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """float64, of the shape of `logits`."""
        logits = logits.astype(np.float64)
        return logit(np.interp(logits, self.logits, self.probabilities)) + self.tilt * (logits - self.centre)


Map = Affine | Isotonic
IDENTITY = Affine()


def fit_temperature(truth: np.ndarray, logits: np.ndarray) -> tuple[Map, str]:
    """logit / T with the T > 0 that maximises the likelihood (Guo et al. 2017), over all values that are known.

    truth, logits: float [...] of equal shape. Returns the map, and why it is the identity ("" if it was fitted).
    """
    target, values, reason = _known(truth, logits)
    if reason:
        return IDENTITY, reason

    def gradient(slope: float) -> float:
        """Of the mean negative log-likelihood, which is convex in slope = 1 / T: it has one zero at most."""
        return float(np.mean(values * (expit(slope * values) - target)))

    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    if gradient(0) >= 0:
        return IDENTITY, _unsuited(target, values)
    if values[target == 1].min() >= 0 >= values[target == 0].max():
        return IDENTITY, "its logits separate the classes, no temperature is best"
    if gradient(low) >= 0 or gradient(high) <= 0:
        side = f"above {TEMPERATURES[1]:g}" if gradient(low) >= 0 else f"below {TEMPERATURES[0]:g}"
        return IDENTITY, f"its best temperature is {side}"
    return Affine(float(brentq(gradient, low, high, xtol=1e-12))), ""


def fit_platt(truth: np.ndarray, logits: np.ndarray) -> tuple[Map, str]:
    """a * logit + b of the greatest likelihood: logistic regression without a penalty (Platt 1999); arguments and
    result as in `fit_temperature`."""
    target, values, reason = _known(truth, logits)
    if reason:
        return IDENTITY, reason
    if values[target == 1].min() >= values[target == 0].max():
        return IDENTITY, "its logits separate the classes, no slope is best"
    if not _higher(target, values):  # then, and only then, the best slope is 0 or below
        return IDENTITY, _unsuited(target, values)
    mean, spread = values.mean(), values.std()  # the solver's steps are made for values of about 1
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000, solver="newton-cholesky")
    model.fit(((values - mean) / spread)[:, None], target)
    slope = float(model.coef_[0, 0] / spread)
    return Affine(slope, float(model.intercept_[0] - slope * mean)), ""


def fit_isotonic(truth: np.ndarray, logits: np.ndarray) -> tuple[Map, str]:
    """scikit-learn's isotonic regression of the targets on the logits; arguments and result as in `fit_temperature`."""
    target, values, reason = _known(truth, logits)
    if reason:
        return IDENTITY, reason
    model = IsotonicRegression(y_min=CLIP, y_max=1 - CLIP).fit(values, target)
    if model.y_thresholds_[0] == model.y_thresholds_[-1]:  # a single step, which says of every image the same
        return IDENTITY, CHANCE.format(roc_auc_score(target, values))
    tilt = TILT / float(values.max() - values.min())
    knots = zip(model.X_thresholds_.tolist(), model.y_thresholds_.tolist(), strict=True)
    return Isotonic(*zip(*knots, strict=True), tilt, float(values.mean())), ""


MAPS = {"affine": Affine, "isotonic": Isotonic}
PER_FINDING = {"per-finding-temperature": fit_temperature, "platt": fit_platt, "isotonic": fit_isotonic}


def _higher(target: np.ndarray, values: np.ndarray) -> bool:
    """Whether the mean logit of the positives is above that of the negatives, by more than rounding."""
    return bool(values[target == 1].mean() - values[target == 0].mean() > 1e-9 * values.std())


def _unsuited(target: np.ndarray, values: np.ndarray) -> str:
    """Why no temperature above 0, or no slope above 0, has the greatest likelihood."""
    found = roc_auc_score(target, values)
    reason = CHANCE if found <= 0.5 else SHIFTED if _higher(target, values) else OUTLIERS
    overlap = reason == SHIFTED and values[target == 1].min() < values[target == 0].max()
    return reason.format(found) + (", and Platt's method can" if overlap else "")


def _known(truth: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Targets and logits that are known, float64 [m], and why they are too few or too equal ("" if they are not)."""
    known = ~np.isnan(truth)
    target, values = truth[known].astype(np.float64), logits[known].astype(np.float64)
    for name, count in (("positive", int((target == 1).sum())), ("negative", int((target == 0).sum()))):
        if count < LEAST:
            return target, values, f"{count} {name} of at least {LEAST}"
    reason = "all its logits are equal" if values.min() == values.max() else ""
    return target, values, reason
