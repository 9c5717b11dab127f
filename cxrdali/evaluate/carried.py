"""Thresholds and calibration that are fitted at home, carried over to another hospital, and fitted again there."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from cxrdali.postprocess.calibration import fit_maps
from cxrdali.postprocess.calibration_maps import Map
from cxrdali.postprocess.crossfit import Parts, cross_fit
from cxrdali.postprocess.options import Strategy
from cxrdali.postprocess.thresholds import decide, fit_columns
from cxrdali.predictions import sigmoid


@dataclass(frozen=True)
class Carried:
    """Platt's calibration and thresholds, both of raw logits: of each finding the map, why it is none ("": it is one),
    and the threshold (None: no image is called positive)."""

    rules: tuple[tuple[Map, str, float | None], ...]

    @classmethod
    def fit(
        cls, truth: np.ndarray, logits: np.ndarray, strategy: Strategy, otherwise: "Carried | None" = None
    ) -> "Carried":
        """truth, logits: float [n, F]; otherwise: what stays where these images are too few for a fit."""
        with threadpool_limits(1):  # as `cxrdali.postprocess.calibration.fit`
            maps = fit_maps(["platt"] * truth.shape[1], truth, logits)
        limits = [limit for limit, _ in fit_columns(truth, logits, strategy)]
        made = [(*each, limit) for each, limit in zip(maps, limits, strict=True)]
        if otherwise is not None:
            made = [
                (*(was[:2] if now[1] else now[:2]), was[2] if now[2] is None else now[2])
                for now, was in zip(made, otherwise.rules, strict=True)
            ]
        return cls(tuple(made))

    def at(self, places: Sequence[int]) -> "Carried":
        """Of the findings at these places alone."""
        return Carried(tuple(self.rules[place] for place in places))

    def use(self, logits: np.ndarray) -> np.ndarray:
        """float64 [n, 2 F]: calibrated probabilities, and 1 where an image is called positive, else 0."""
        columns = [made(values) for (made, *_), values in zip(self.rules, logits.T, strict=True)]
        called = decide(logits, [limit for *_, limit in self.rules])
        return np.concatenate([sigmoid(np.stack(columns, axis=1)), called], axis=1)


def cross_fitted(data: Parts, strategy: Strategy) -> np.ndarray:
    """As `Carried.use`: each part of home's own images is judged by a fit to the others."""
    return cross_fit(data, lambda *others: Carried.fit(*others, strategy), Carried.use)


def refitted(data: Parts, strategy: Strategy, carried: Carried) -> np.ndarray:
    """As `Carried.use`: each part is judged by a fit to one other part alone, as small as it is itself."""
    return cross_fit(data, lambda *other: Carried.fit(*other, strategy, carried), Carried.use, to_one=True)
