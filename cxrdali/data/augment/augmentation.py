"""What an augmentation is: decisions that depend on a sample's position alone, carried out by NumPy or torch.

Each is a file of this folder, or of a plugin, found by its name.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cxrdali.data.order import AUGMENT, stream
from cxrdali.registry import Named, Registry
from cxrdali.setting import Legal, setting
from shards.errors import UserError
from shards.randomness import raw_words, unit_floats

Decisions = dict[str, np.ndarray]
PART = setting(0.5, "share of the images, 0 to 1.", Legal(lambda value: 0 <= value <= 1, "0 to 1"))
WORDS = 20  # of the stream that flips and cutout share: 0 hflip, 1 vflip, 2-18 cutout, 19 unused


@dataclass(frozen=True)
class Augmentation(Named):
    """One augmentation. A subclass is a frozen dataclass of its parameters, with a `name`.

    order: augmentations with a smaller one are applied first. decides: the arrays that `decide` returns, float32,
    int32 or uint8, by names that no other augmentation uses.
    """

    order: ClassVar[int]
    decides: ClassVar[Mapping[str, type[np.generic]]]

    def decide(self, seed: int, epoch: int, start: int, count: int, size: int) -> Decisions:
        """What happens to the samples at positions [start, start + count) of an epoch.

        It must not depend on anything else: not on the batch size, threads, ranks or where a run was continued.

        Returns: the arrays of `decides`, [count, ...] each; `size` is the side of the images in pixels.
        """
        raise NotImplementedError

    def steps(self, decided: Decisions, size: int) -> list[Any]:
        """For every sample of the batch what `apply` needs; None if nothing happens to it."""
        raise NotImplementedError

    def apply(self, image: np.ndarray, step: Any, out: np.ndarray) -> None:
        """Write the augmented `image` to `out`, both uint8 [S, S, 1]; they may be the same array."""
        raise NotImplementedError

    def touched(self, decided: Decisions) -> np.ndarray | None:
        """The places, int64 [n], of those images of a batch that `on_device` is to get; None for all of them."""
        return None

    def on_device(self, images: Any, decided: Mapping[str, Any]) -> Any:
        """The same to the pixel for a whole batch of tensors: images uint8 [B, 1, S, S], which stay as they are.

        decided: what `decide` returned, on the images' device; nothing may wait for a GPU. Those of `Sometimes` that
        round in another place than OpenCV say by how much they differ.
        """
        raise UserError(f"augmentation {self.name}: has no on_device, so it runs on the CPU only; use --device cpu")


AUGMENTATIONS = Registry("augmentation", "cxrdali.data.augment", Augmentation)


@dataclass(frozen=True)
class Sometimes(Augmentation):
    """An augmentation of some of the images, each with probability `p`; the others are not touched.

    A subclass says by `how` what is done to those, and by `step` what `apply` needs. words: numbers that an image has,
    a multiple of 4. said_by: the decision that says, by 1, which images are touched.
    """

    words: ClassVar[int] = 4

    p: float = PART

    @property
    def title(self) -> str:
        return self.name

    @property
    def said_by(self) -> str:
        return self.name

    def how(self, numbers: np.ndarray, touched: np.ndarray, size: int) -> Decisions:
        """Further decisions, [n, ...], of uniform numbers, float64 [n, words - 1] in [0, 1); touched: bool [n]."""
        raise NotImplementedError

    def step(self, decided: Decisions, place: int, size: int) -> Any:
        """What `apply` needs for the image at `place`, which is touched."""
        raise NotImplementedError

    def decide(self, seed: int, epoch: int, start: int, count: int, size: int) -> Decisions:
        numbers = own_numbers(self.name, self.words, seed, epoch, start, count)
        touched = numbers[:, 0] < self.p
        return {self.said_by: touched.astype(np.int32), **self.how(numbers[:, 1:], touched, size)}

    def touched(self, decided: Decisions) -> np.ndarray:
        return np.flatnonzero(decided[self.said_by])

    def steps(self, decided: Decisions, size: int) -> list[Any]:
        steps: list[Any] = [None] * len(decided[self.said_by])
        for place in self.touched(decided).tolist():
            steps[place] = self.step(decided, place, size)
        return steps


def shared_numbers(seed: int, epoch: int, start: int, count: int) -> np.ndarray:
    """float64 [count, WORDS] in [0, 1): the numbers of flips and cutout, at fixed places of one stream."""
    return _numbers(seed, stream(AUGMENT, epoch), start, count, WORDS)


def own_numbers(name: str, words: int, seed: int, epoch: int, start: int, count: int) -> np.ndarray:
    """float64 [count, words] in [0, 1) for the augmentation `name`, of a stream of its own; words: a multiple of 4."""
    return _numbers(seed, stream(2**31 | zlib.crc32(name.encode()) >> 1, epoch), start, count, words)


def _numbers(seed: int, of: int, start: int, count: int, words: int) -> np.ndarray:
    return unit_floats(raw_words(seed, of, start * words, count * words)).reshape(count, words)


def spread(numbers: np.ndarray, most: float) -> np.ndarray:
    """Uniform numbers in [0, 1) -> in [-most, most)."""
    return (2 * numbers - 1) * most


def check_fractions(of: object, *names: str) -> None:
    """Raises UserError if an attribute is not within 0 to 1."""
    for name in names:
        if not 0 <= getattr(of, name) <= 1:
            raise UserError(f"{name} {getattr(of, name)}: 0 to 1")
