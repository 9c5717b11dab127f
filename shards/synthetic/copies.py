"""Images of one synthetic release that another one holds too, changed as hospitals and curators change them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import simplejpeg

from shards.errors import UserError
from shards.synthetic.hospital import structured

if TYPE_CHECKING:
    from shards.synthetic.plan import Study, SyntheticOptions

OPTIONS = "synthetic.json"  # beside a hospital's tables: what it was made with; no reader reads it
UNCHANGED = 4  # of so many copies one is the same picture


@dataclass(frozen=True)
class Copy:
    """Which images of another release's study a study holds."""

    study: "Study"
    options: "SyntheticOptions"
    images: tuple[int, ...]

    def changed(self, picture: np.ndarray, shape: tuple[int, int], number: int, rng: np.random.Generator) -> np.ndarray:
        """uint8 of `shape`, of a picture of that study: resized and, but of every UNCHANGED-th `number`, with another
        gamma and brightness and JPEG in between."""
        if picture.shape != shape:
            picture = cv2.resize(picture, shape[::-1], interpolation=cv2.INTER_AREA)
        if number % UNCHANGED == 0:
            return picture
        gamma, brightness = np.exp(rng.uniform((-0.25, -0.3), (0.25, 0.15)))
        levels = np.clip(255 * (np.arange(256) / 255) ** gamma * brightness, 0, 255)
        picture, quality = np.rint(levels).astype(np.uint8)[picture], int(rng.integers(50, 96))
        data = simplejpeg.encode_jpeg(picture[..., None], quality=quality, colorspace="GRAY", fastdct=False)
        return simplejpeg.decode_jpeg(data, colorspace="GRAY")[..., 0]


def write_options(out: Path, options: "SyntheticOptions") -> None:
    """Of a hospital, so that others can hold copies of its images; in the order in which all is drawn."""
    (out / OPTIONS).write_text(json.dumps(asdict(options), indent=1))


def read_options(root: Path) -> "SyntheticOptions":
    """The options of a hospital's release. Raises UserError if its folder does not say them."""
    from shards.synthetic.plan import SyntheticOptions

    try:
        return structured(json.loads((root / OPTIONS).read_text()), SyntheticOptions)
    except (OSError, ValueError) as error:
        raise UserError(f"{root}: not what `cxrdali synth --hospital` wrote ({error}); give such a folder") from error
