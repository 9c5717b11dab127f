"""What an X-ray machine makes of a picture: its contrast, brightness, noise, sharpness and black borders."""

from dataclasses import dataclass

import cv2
import numpy as np

from shards.errors import UserError
from shards.synthetic.canvas import step

MIDDLE = 120  # gray level that contrast leaves as it is
EDGE = 0.006  # width of a border's edge, in picture sides


@dataclass(frozen=True)
class Scanner:
    """One machine of a hospital; its defaults leave a picture as it is.

    share: of the studies; gamma: above 1 darkens; contrast: stretches gray levels around MIDDLE; brightness: gray
    levels added; noise: times the usual; blur: deviation, and collimation: widest black border, in picture sides.
    """

    manufacturer: str
    model: str
    share: float = 1.0
    gamma: float = 1.0
    contrast: float = 1.0
    brightness: float = 0.0
    noise: float = 1.0
    blur: float = 0.0
    collimation: float = 0.0

    def __post_init__(self) -> None:
        for name in ("share", "gamma", "contrast", "noise", "blur", "collimation"):
            if not 0 <= getattr(self, name) < np.inf:
                raise UserError(f"scanners: {name} is {getattr(self, name)}; give 0 or more")
        if not np.isfinite(self.brightness):
            raise UserError(f"scanners: brightness is {self.brightness}; give gray levels")

    def film(self, picture: np.ndarray, noise: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """uint8 (height, width) of a picture and its noise (`shards.synthetic.radiograph.exposed`)."""
        picture = 255 * np.clip(picture / 255, 0, 1) ** self.gamma
        picture = (picture - MIDDLE) * self.contrast + MIDDLE + self.brightness
        if self.blur:
            picture = cv2.GaussianBlur(picture, (0, 0), self.blur * max(picture.shape))
        picture += self.noise * noise
        for axis, length in enumerate(picture.shape if self.collimation else ()):
            first, last = rng.uniform(-EDGE, self.collimation, 2)
            place = (np.arange(length) + 0.5) / length
            light = step(place - first, EDGE) * step(1 - last - place, EDGE)
            picture *= light if axis else light[:, None]
        return np.rint(np.clip(picture, 0, 255)).astype(np.uint8)
