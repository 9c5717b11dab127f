"""Weighted draws of training images: an epoch of as many rows, with repeats, by the rarity of what they show.

| sampler | an image's weight |
|---|---|
| natural | every image once |
| class-balanced | 1 / n of its rarest finding, n being the training images that have it |
| sqrt | the square root of that |
| progressive | from natural in the first epoch to class-balanced in the last (Kang et al. 2020) |

Images without a positive finding count as one more class: 1 / (their number). (The mean of all findings' weights, which
also goes around, is nearly that of the rarest finding.) Draws are a pure function of rows, seed and epoch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cxrdali.data.order import DRAWS, stream
from shards.errors import UserError
from shards.randomness import raw_words, unit_floats

SAMPLERS = ("natural", "class-balanced", "sqrt", "progressive")


def rarest_count(targets: np.ndarray) -> np.ndarray:
    """Images that share an image's rarest positive finding, or its having none: int64 [n].

    targets: float32 [n, F] of the images that are drawn from; 1 is positive, 0 and NaN are not.
    """
    none = len(targets) + 1
    rarest = np.full(len(targets), none)
    for finding in targets.T:  # one at a time: all at once takes 8 bytes for each
        positive = finding == 1
        rarest[positive] = np.minimum(rarest[positive], positive.sum())
    without = rarest == none
    rarest[without] = without.sum()
    return rarest


@dataclass(frozen=True)
class Sampler:
    """rows: int64 [n], catalog rows; balanced: float64 [n], their chances by rarity, which add up to 1; epochs: of the
    whole run, which a progressive sampler needs."""

    name: str
    rows: np.ndarray
    balanced: np.ndarray
    seed: int
    epochs: int

    @classmethod
    def make(cls, name: str, rows: np.ndarray, targets: np.ndarray, seed: int, epochs: int) -> "Sampler | None":
        """None for natural. targets: float32 [all rows, F]."""
        if name not in SAMPLERS:
            raise UserError(f"sampler {name!r}: choose one of {', '.join(SAMPLERS)}")
        if name == "natural":
            return None
        weights = rarest_count(targets[rows]) ** (-0.5 if name == "sqrt" else -1.0)
        return cls(name, rows, weights / weights.sum(), seed, epochs)

    def chances(self, epoch: int) -> np.ndarray:
        """Of each row to be a draw of an epoch (from 0): float64 [n]."""
        if self.name != "progressive":
            return self.balanced
        share = epoch / max(1, self.epochs - 1)
        return (1 - share) / len(self.rows) + share * self.balanced

    def __call__(self, epoch: int) -> np.ndarray:
        """The rows of an epoch: int64 [n], as many as there are, drawn independently and with repeats."""
        reach = np.cumsum(self.chances(epoch))
        draws = unit_floats(raw_words(self.seed, stream(DRAWS, epoch), 0, len(self.rows)))
        places = np.searchsorted(reach, draws * reach[-1], side="right")
        return self.rows[np.minimum(places, len(self.rows) - 1)]  # rounding may lead past the last one


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
