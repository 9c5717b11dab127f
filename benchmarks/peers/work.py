"""What every baseline is given, and what most of them share: the same images, batch and augmentation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np

from cxrdali.data.augment import AugmentOptions
from cxrdali.data.order import global_order

SEED = 0
AUGMENT = AugmentOptions()  # the stage-training paper's
STILL = AugmentOptions(hflip=0, vflip=0, cutout_probability=0)  # the same work, of which nothing is to be seen


@dataclass(frozen=True)
class Data:
    """The same images thrice: packed as JPEG, packed raw, and as loose files by row (a rejected row's is not there);
    and files of native size."""

    jpeg: Path
    raw: Path
    resized: dict[int, tuple[Path, ...]]
    native: tuple[Path, ...]


@dataclass(frozen=True)
class Work:
    """size: side in pixels; batch: images; device and decode: as in LoaderOptions; folder: for what a peer writes."""

    data: Data
    size: int
    batch: int
    device: str
    decode: str
    folder: Path

    @property
    def pin(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def step(self) -> int:
        """Images in whole rounds of twice as many workers as cores."""
        return self.batch * joblib.cpu_count() * 2

    @property
    def files(self) -> tuple[Path, ...]:
        """The resized JPEGs that are there."""
        return tuple(path for path in self.data.resized[self.size] if path.exists())

    def order(self, images: int) -> list[Path]:
        """The files over and over until there are `images`, shuffled."""
        files = self.files
        return [files[place] for place in global_order(np.resize(np.arange(len(files)), images), SEED, 0).tolist()]

    def batches(self, images: int) -> list[list[Path]]:
        """`order` in batches."""
        order = self.order(images)
        return [order[start : start + self.batch] for start in range(0, len(order), self.batch)]


def file_bytes(files: Sequence[Path]) -> float:
    """The mean size of files."""
    return float(np.mean([path.stat().st_size for path in files]))


def read(path: Path) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123 - half the cost of Path.open
        return file.read()
