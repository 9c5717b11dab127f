"""What a sampler is: how often each training image comes in an epoch. Each is a file in `cxrdali.data.samplers`.

| sampler | an image's weight |
|---|---|
| natural | every image once |
| class-balanced | 1 / n of its rarest finding, n being the training images that have it |
| sqrt | the square root of that |
| progressive | from natural in the first epoch to class-balanced in the last (Kang et al. 2020) |
| repeat-factor | how often it comes: max(1, sqrt(t / f)) of its rarest finding, f being the finding's frequency |

An epoch has as many samples as there are images, with replacement, and images without a positive finding count as one
more class: 1 / (their number); with repeat-factor it has more, and they come once. (The mean of all findings' weights,
which others use, is nearly that of the rarest finding.) Samples are a pure function of rows, seed and epoch.
"""

from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cxrdali.data.order import DRAWS, stream
from cxrdali.registry import Named, Registry
from shards.errors import UserError
from shards.randomness import raw_words, unit_floats

if TYPE_CHECKING:
    from cxrdali.data.targets import Targets


@dataclass(frozen=True)
class Sampler(Named):
    """Base of a sampler: a frozen dataclass of its parameters, with `weights`."""

    def weights(self, targets: np.ndarray) -> np.ndarray | None:
        """How often each training image comes, relative to the others.

        Args:
            targets: float32 [n, F]; 1 is positive, 0 and NaN are not.

        Returns:
            float64 [n], above 0; None if every image comes once.
        """
        raise UserError(f"the sampler {self.name!r} is not installed; give the file that defines it with --plugins")

    def weighted_share(self, epoch: int, epochs: int) -> float:
        """How much of an epoch (from 0, of `epochs`) follows the weights, 0 to 1; the rest is uniform."""
        return 1.0

    def over(
        self, rows: np.ndarray, targets: "np.ndarray | Targets", seed: int, epochs: int
    ) -> Callable[[int], np.ndarray] | None:
        """What gives the rows of an epoch (from 0), as many in each; None if every image comes once.

        Args:
            rows: int64 [n], catalog rows to sample from.
            targets: float32 [all rows, F], or what makes them by row.
            seed: The run's sampling seed.
            epochs: Of the whole run.
        """
        weights = self.weights(targets[rows])
        return None if weights is None else SampledRows(self, rows, weights / weights.sum(), seed, epochs)


@dataclass(frozen=True)
class SampledRows:
    """Rows of every epoch, sampled with replacement. weighted: float64 [n], chances by the weights, adding up to 1;
    uniform: those without the weights (None: all the same)."""

    sampler: Sampler
    rows: np.ndarray
    weighted: np.ndarray
    seed: int
    epochs: int
    uniform: np.ndarray | None = None

    def chances(self, epoch: int) -> np.ndarray:
        """Of each row to be one sample of an epoch (from 0): float64 [n]."""
        share = self.sampler.weighted_share(epoch, self.epochs)
        if share == 1:
            return self.weighted
        uniform = (1 - share) / len(self.rows) if self.uniform is None else (1 - share) * self.uniform
        return uniform + share * self.weighted

    def __call__(self, epoch: int) -> np.ndarray:
        """The rows of an epoch: int64 [n], as many as there are, sampled independently and with replacement."""
        reach = np.cumsum(self.chances(epoch))
        points = unit_floats(raw_words(self.seed, stream(DRAWS, epoch), 0, len(self.rows)))
        ascending = np.argsort(points)  # found one after the other: a sixth of the time for millions
        places = np.empty(len(points), dtype=np.int64)
        places[ascending] = np.searchsorted(reach, points[ascending] * reach[-1], side="right")
        return self.rows[np.minimum(places, len(self.rows) - 1)]  # rounding may lead past the last one


def rarest_count(targets: np.ndarray) -> np.ndarray:
    """Images that share an image's rarest positive finding, or its having none: int64 [n].

    targets: float32 [n, F] of the images that are sampled from; 1 is positive, 0 and NaN are not.
    """
    none = len(targets) + 1
    rarest = np.full(len(targets), none)
    for finding in targets.T:  # one at a time: all at once takes 8 bytes for each
        positive = finding == 1
        rarest[positive] = np.minimum(rarest[positive], positive.sum())
    without = rarest == none
    rarest[without] = without.sum()
    return rarest


def epoch_samples(sampler: Callable[[int], np.ndarray] | None, rows: np.ndarray) -> int:
    """Samples in an epoch of `rows`: what the sampler says itself, or one for each row."""
    return len(sampler) if isinstance(sampler, Sized) else len(rows)


SAMPLERS = Registry("sampler", "cxrdali.data.samplers", Sampler)
