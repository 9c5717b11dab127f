"""Doubling the images of chosen findings, as Yamagishi & Hanaoka 2023 do: an array of rows, no copied bytes."""

from collections.abc import Mapping, Sequence

import numpy as np


def choose(ap: Mapping[str, float | None], below: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Findings with an AP under `below` (0 to 1), and those without an AP (None or NaN), both in the order of `ap`."""
    without = tuple(name for name, value in ap.items() if value is None or value != value)
    return tuple(name for name, value in ap.items() if name not in without and value < below), without


def oversampled(rows: np.ndarray, targets: np.ndarray, findings: Sequence[str], chosen: Sequence[str]) -> np.ndarray:
    """`rows` (int64 [n], ascending) with those twice that are positive (1) for a chosen finding: int64 [m], ascending.

    targets: float32 [all rows, F] in the order of `findings`.
    """
    places = [list(findings).index(name) for name in chosen]
    doubled = rows[(targets[np.ix_(rows, places)] == 1).any(axis=1)]
    return np.sort(np.concatenate([rows, doubled]))
