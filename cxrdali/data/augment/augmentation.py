"""What an augmentation is: decisions that depend on a sample's position alone, carried out by NumPy or torch.

Each is a file of this folder, or of a plugin, found by its name.
"""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cxrdali.data.order import AUGMENT, stream
from cxrdali.registry import Named, Registry
from shards.errors import UserError
from shards.randomness import raw_words, unit_floats

Decisions = dict[str, np.ndarray]
WORDS = 20  # of the stream that flips and cutout share: 0 hflip, 1 vflip, 2-18 cutout, 19 unused


@dataclass(frozen=True)
class Augmentation(Named):
    """One augmentation. A subclass is a frozen dataclass of its parameters, with a `name`.

    order: augmentations with a smaller one are applied first. decides: the arrays that `decide` returns, float32 or
    int32, by names that no other augmentation uses.
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

    def on_device(self, images: Any, decided: Mapping[str, Any]) -> Any:
        """The same to the pixel for a whole batch of tensors: images uint8 [B, 1, S, S], which stay as they are.

        decided: what `decide` returned, on the images' device; nothing may wait for a GPU.
        """
        raise UserError(f"augmentation {self.name}: has no on_device, so it runs on the CPU only; use --device cpu")


AUGMENTATIONS = Registry("augmentation", "cxrdali.data.augment", Augmentation)


def in_order(augment: Iterable[Augmentation] | None) -> tuple[Augmentation, ...]:
    """Augmentations in the order in which they are applied."""
    return tuple(sorted(augment or (), key=lambda each: each.order))


def shared_numbers(seed: int, epoch: int, start: int, count: int) -> np.ndarray:
    """float64 [count, WORDS] in [0, 1): the numbers of flips and cutout, at fixed places of one stream."""
    return _numbers(seed, stream(AUGMENT, epoch), start, count, WORDS)


def own_numbers(name: str, words: int, seed: int, epoch: int, start: int, count: int) -> np.ndarray:
    """float64 [count, words] in [0, 1) for the augmentation `name`, of a stream of its own; words: a multiple of 4."""
    return _numbers(seed, stream(2**31 | zlib.crc32(name.encode()) >> 1, epoch), start, count, words)


def _numbers(seed: int, of: int, start: int, count: int, words: int) -> np.ndarray:
    return unit_floats(raw_words(seed, of, start * words, count * words)).reshape(count, words)


def check_fractions(of: object, *names: str) -> None:
    """Raises UserError if an attribute is not within 0 to 1."""
    for name in names:
        if not 0 <= getattr(of, name) <= 1:
            raise UserError(f"{name} {getattr(of, name)}: 0 to 1")
