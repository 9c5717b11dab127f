"""Every image once an epoch, and those of rare findings more often (Gupta et al. 2019, "LVIS")."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cxrdali.data.order import DRAWS, stream
from cxrdali.data.sampler import Sampler
from cxrdali.setting import CAP, above, one_of, setting
from shards.randomness import WORDS_PER_COUNT, permutation, raw_words, unit_floats


@dataclass(frozen=True)
class RepeatFactor(Sampler):
    """A finding's factor is max(1, sqrt(threshold / f)), an image's the largest of its findings'; 1 without any. The
    2026 winner: threshold 0.01, cap 10, `fixed`, `labels`. Gupta et al.: threshold 0.001, no cap, `stochastic`,
    `images`."""

    name: ClassVar[str] = "repeat-factor"

    repeat_threshold: float = setting(
        0.01, "frequency f of a finding below which its images are repeated.", above(0, at_most=1)
    )
    repeat_cap: float = setting(10.0, "how often an image comes at most; 0: any number.", CAP)
    repeat_rounding: str = setting(
        "stochastic",
        "an image of factor 2.3 comes three times in 30 % of the epochs and else twice; or fixed: twice in all.",
        one_of(("stochastic", "fixed")),
    )
    repeat_share: str = setting(
        "images",
        "what f is a share of: the training images, or labels, all positive labels of all findings.",
        one_of(("images", "labels")),
    )

    def weights(self, targets):
        positives = np.array([np.count_nonzero(finding == 1) for finding in targets.T])
        whole = len(targets) if self.repeat_share == "images" else max(1, positives.sum())
        factors = np.maximum(1, np.sqrt(self.repeat_threshold * whole / np.maximum(positives, 1)))
        found = np.ones(len(targets))
        for finding, factor in zip(targets.T, factors, strict=True):
            np.maximum(found, factor, out=found, where=finding == 1)
        return np.minimum(found, self.repeat_cap) if self.repeat_cap else found

    def over(self, rows, targets, seed, epochs):
        times = self.weights(targets[rows])
        whole = (np.rint if self.repeat_rounding == "fixed" else np.floor)(times)
        rest = np.zeros(len(times)) if self.repeat_rounding == "fixed" else times - whole
        return RepeatedRows(self, rows, whole.astype(np.int64), rest, seed, epochs)


@dataclass(frozen=True)
class RepeatedRows:
    """Rows of every epoch. whole: int64 [n], how often each of `rows` comes at least; rest: float64 [n], its chance to
    come once more, 0 to below 1."""

    sampler: RepeatFactor
    rows: np.ndarray
    whole: np.ndarray
    rest: np.ndarray
    seed: int
    epochs: int

    def __len__(self) -> int:
        """Samples of an epoch: as many in each, so that steps and rates are known beforehand."""
        return int(self.whole.sum()) + int(self.rest.sum())

    def chances(self, epoch: int) -> np.ndarray:
        """Of each row to be one sample of an epoch: float64 [n]."""
        return (self.whole + self.rest) / len(self)

    def __call__(self, epoch: int) -> np.ndarray:
        """The rows of an epoch (from 0): int64 [len(self)].

        Those that come once more are found along the sum of `rest` in a random order, from a random point on in steps
        of 1: each with its own chance, none twice, and the same number of them in every epoch.
        """
        count, of_epoch = len(self.rows), stream(DRAWS, epoch)
        order = permutation(count, self.seed, of_epoch)
        behind = -(-count // WORDS_PER_COUNT) * WORDS_PER_COUNT  # the permutation's words
        first = unit_floats(raw_words(self.seed, of_epoch, behind, 1))
        reach = np.cumsum(self.rest[order])
        more = np.searchsorted(reach, first + np.arange(int(self.rest.sum())), side="right")
        times = self.whole.copy()
        times[order[np.minimum(more, count - 1)]] += 1  # rounding may lead past the last one
        return np.repeat(self.rows, times)
