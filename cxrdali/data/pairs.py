"""Mixup and CutMix: neighbours of a batch are blended, or exchange a square, and their targets are blended alike.

Zhang et al. 2018 and Yun et al. 2019, for many findings: each finding's target is blended by itself. Neighbours are
pairs by their positions in the epoch, so what a batch becomes does not depend on ranks and micro-batches, which take
whole pairs. Images are in random order, so neighbours are random, too.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cxrdali.data import gpu
from cxrdali.data.augment.augmentation import own_numbers


@dataclass(frozen=True)
class Pairs:
    """mixup, cutmix: parameter of the Beta distribution of the shares, 0 for none; with both, half of the pairs each.

    seed: as the loader's.
    """

    mixup: float
    cutmix: float
    seed: int = 0

    def __bool__(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def decide(self, epoch: int, start: int, count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """For the pairs of positions [start, start + count) of an epoch, an even number.

        Returns: how much of an image stays, float32 [count / 2]; the square that is exchanged, int32 [count / 2, 4], by
        its top, left, bottom and right in pixels, all 0 for pairs that are blended.
        """
        numbers = own_numbers("pairs", 4, self.seed, epoch, start, count)[::2]
        cut = numbers[:, 0] < (0.5 if self.mixup and self.cutmix else float(self.cutmix > 0))
        alpha = np.where(cut, self.cutmix, self.mixup)
        from scipy.special import betaincinv  # here: a run without mixup does not wait for it

        stays = betaincinv(alpha, alpha, numbers[:, 1])
        side = np.sqrt(1 - stays) * size
        first = np.rint(numbers[:, 2:4] * size - side[:, None] / 2)  # its centre is anywhere: part may lie outside
        square = np.concatenate([first, first + np.rint(side)[:, None]], axis=1).clip(0, size) * cut[:, None]
        area = (square[:, 2] - square[:, 0]) * (square[:, 3] - square[:, 1])
        return np.where(cut, 1 - area / size**2, stays).astype(np.float32), square.astype(np.int32)

    def __call__(self, images: torch.Tensor, epoch: int, start: int, *values: torch.Tensor | None) -> list[Any]:
        """Mixed images uint8 [B, 1, S, S], and by the same shares their values: targets float [B, F], weights [B].

        None stays None. What is unknown (NaN) of one is of both. start: position of the first in the epoch. B is even.
        """
        count, size = len(images), images.shape[-1]
        decided = self.decide(epoch, start, count, size)
        stays, square = (gpu.sent(each, images.device) for each in decided)
        part = stays
        if self.cutmix:
            place = torch.arange(size, device=images.device)
            inside = (place >= square[:, :2, None]) & (place < square[:, 2:, None])  # [B / 2, (y, x), S]
            outside = ~(inside[:, 0, None, :, None] & inside[:, 1, None, None, :])
            part = torch.where(square.any(1)[:, None, None, None], outside.float(), stays[:, None, None, None])
        return [_blended(images, part), *(None if each is None else _blended(each, stays) for each in values)]


def _blended(values: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """Of neighbours a and b of `values`, [B, ...]: part * a + (1 - part) * b, and the other way round."""
    one, other = values[::2], values[1::2]
    part = part.view(*part.shape, *[1] * (one.dim() - part.dim()))
    pairs = torch.stack([one * part + other * (1 - part), other * part + one * (1 - part)], dim=1).flatten(0, 1)
    return pairs if values.is_floating_point() else pairs.round().to(values.dtype)
