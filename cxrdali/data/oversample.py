"""Doubling the images of chosen findings, as Yamagishi & Hanaoka 2023 do: an array of rows, no copied bytes."""

from collections.abc import Mapping, Sequence

import numpy as np


def choose(ap: Mapping[str, float | None], below: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Findings with an AP under `below` (0 to 1), and those without an AP (None or NaN), both in the order of `ap`."""
    known = {name: value for name, value in ap.items() if value is not None and value == value}
    return tuple(name for name, value in known.items() if value < below), tuple(
        name for name in ap if name not in known
    )


def oversampled(rows: np.ndarray, targets: np.ndarray, findings: Sequence[str], chosen: Sequence[str]) -> np.ndarray:
    """`rows` (int64 [n], ascending) with those twice that are positive (1) for a chosen finding: int64 [m], ascending.

    targets: float32 [all rows, F] in the order of `findings`.
    """
    places = np.array([list(findings).index(name) for name in chosen], dtype=np.int64)
    doubled = rows[(targets[np.ix_(rows, places)] == 1).any(axis=1)]
    return np.sort(np.concatenate([rows, doubled]))
