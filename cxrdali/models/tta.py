"""Test-time augmentation: what each pass does to an image before the model sees it.

Everything happens on the device, from the bytes the loader yields, and ends as bytes again: the model gets what it
always gets, and a pass costs its forward and little else.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.nn import functional

from shards.errors import UserError


@dataclass(frozen=True)
class Pass:
    """One look at an image: first flipped, then rotated, magnified and moved about its centre.

    flip: axes of [B, 1, S, S] to turn round, -1 left to right and -2 upside down; degrees: counter-clockwise as seen;
    scale: 1.1 shows the image a tenth larger; right, down: by how much of its side the image moves; reflected: where
    the moved image has no pixel, it goes on mirrored at its border, instead of repeating the nearest pixel.
    """

    flip: tuple[int, ...] = ()
    degrees: float = 0.0
    scale: float = 1.0
    right: float = 0.0
    down: float = 0.0
    reflected: bool = False

    def __post_init__(self):
        if not self.scale > 0:
            raise UserError(f"scale {self.scale}: above 0")
        if not set(self.flip) <= {-1, -2}:
            raise UserError(f"flip {self.flip}: axes -1 and -2")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [B, 1, S, S] to the same, on the same device.

        Bilinear in float32, rounded. Where the moved image has no pixel it repeats or mirrors its border: black would
        be an edge that no radiograph has.
        """
        if self.flip:
            images = images.flip(self.flip)
        if (self.degrees, self.scale, self.right, self.down) == (0, 1, 0, 0):
            return images
        grid = _grid(self, images.shape[-1], str(images.device)).expand(len(images), -1, -1, -1)
        border = "reflection" if self.reflected else "border"
        moved = functional.grid_sample(images.float(), grid, mode="bilinear", padding_mode=border, align_corners=False)
        return moved.round().to(torch.uint8)


@lru_cache(maxsize=32)
def _grid(each: Pass, side: int, device: str) -> torch.Tensor:
    """Where each pixel of the result lies in the image: float32 [1, S, S, 2], x and y, -1 to 1 from edge to edge.

    Computed on the CPU in float64: a GPU may multiply with ten bits, a tenth of a pixel at 224.
    """
    angle = torch.deg2rad(torch.tensor(each.degrees, dtype=torch.float64))
    # back from the result to the image; y points down, so counter-clockwise as seen is clockwise in its numbers
    back = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])]) / each.scale
    moved = back @ torch.tensor([[2 * each.right], [2 * each.down]], dtype=torch.float64)
    theta = torch.cat([back, -moved], dim=1)[None]
    return functional.affine_grid(theta, [1, 1, side, side], align_corners=False).float().to(device)


_LIGHT = (Pass(), Pass(flip=(-1,)), Pass(degrees=5), Pass(degrees=-5))
_MEDIUM = (
    Pass(scale=0.9), Pass(scale=1.1), Pass(right=0.025), Pass(right=-0.025), Pass(down=0.025), Pass(down=-0.025),
)  # fmt: skip

_SULAKE = (Pass(), Pass(flip=(-1,)), Pass(degrees=5, reflected=True), Pass(degrees=-5, reflected=True))

# hflip is that of Yamagishi & Hanaoka (2023), sulake-light and sulake-medium are light and medium of Sulake (2026)
# with reflected borders; light and medium here repeat borders, and medium moves the image too. The scaled image is not
# mirrored, nor the rotated one: a pass more for every combination would multiply the cost.
TTA = {
    "none": (Pass(),),
    "hflip": (Pass(), Pass(flip=(-1,))),
    "flips": (Pass(), Pass(flip=(-1,)), Pass(flip=(-2,)), Pass(flip=(-2, -1))),
    "light": _LIGHT,
    "medium": (*_LIGHT, *_MEDIUM),
    "sulake-light": _SULAKE,
    "sulake-medium": (*_SULAKE, Pass(scale=1.1), Pass(scale=0.9, reflected=True)),
}
