"""Plain measures of an image's pixels, and where they lie among those of a run's validation images."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

SIDE = 64  # pixels of the images that are compared with the mean training image
BLACK = 8  # mean of a row or column, of 255, that is border
WHITE = 250  # of 255
BETTER = 0.2  # of correlation: by so much a turned image must resemble the mean one more, to be called turned
DISTANCE = "distance"  # the one measure that is the network's


@dataclass(frozen=True)
class Kind:
    """A measure. words: for people; low, high: which of its ends is unusual; least: from the middle, never unusual."""

    words: str
    low: bool
    high: bool
    least: float


KINDS = {
    "brightness": Kind("Mean brightness, from 0 (black) to 1 (white)", True, True, 0.05),
    "contrast": Kind("Contrast (spread of brightness)", True, True, 0.03),
    "border": Kind("Share of the picture that is black border", False, True, 0.05),
    "white": Kind("Share of the picture that is pure white", False, True, 0.02),
    "detail": Kind("Differences between neighbouring pixels, relative to contrast", True, True, 0.02),
    "shape": Kind("Height of the file relative to its width", True, True, 0.1),
    "resemblance": Kind("Resemblance to the mean training image, from -1 to 1", True, False, 0.1),
    "upright": Kind("Resemblance as it is, less that turned by 90 or 180 degrees, or as a negative", True, False, 0.05),
    "mirror": Kind("Left and right differ as in the mean training image, from -1 (mirrored) to 1", True, False, 0.05),
    DISTANCE: Kind("Distance to the nearest training images, as the network sees them", False, True, 0.01),
}
TURNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as a negative, with black and white exchanged": lambda image: -image,
    "turned by 90 degrees to the left": lambda image: np.rot90(image, 1),
    "turned by 90 degrees to the right": lambda image: np.rot90(image, 3),
    "turned upside down": lambda image: np.rot90(image, 2),
}


@dataclass(frozen=True)
class Range:
    """Of a measure on validation images: its median, and the ends of what 98 % of them have."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Range":
        return cls(*map(float, np.quantile(values, (0.5, 0.01, 0.99))))

    def excess(self, kind: Kind, values: np.ndarray) -> np.ndarray:
        """How far values lie from the middle, where 1 is the end of the range (1 % beyond it): float64, as values."""
        down = (self.middle - values) / max(self.middle - self.low, kind.least)
        up = (values - self.middle) / max(self.high - self.middle, kind.least)
        return np.maximum(down if kind.low else -np.inf, up if kind.high else -np.inf)


@dataclass(frozen=True)
class Measure:
    """One measure of a new image. low, high: of 98 % of the validation images (None: no limit at this end); unusual:
    far enough beyond for a warning."""

    name: str
    words: str
    value: float
    low: float | None
    high: float | None
    unusual: bool


@dataclass(frozen=True)
class Likeness:
    """Whether an image looks like what a run was trained on. view: what is known of it, in words; score: the largest
    excess (`Range.excess`) of its measures; limit: above which there is a warning."""

    view: str
    measures: tuple[Measure, ...]
    score: float
    limit: float
    warnings: tuple[str, ...]


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """uint8 [S, S] at SIDE, of mean 0 and length 1, whatever its brightness and contrast: float32; all 0 if uniform."""
    small = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    return normed(small)


def normed(image: np.ndarray) -> np.ndarray:
    centred = image - image.mean()
    return centred / max(float(np.linalg.norm(centred)), 1e-6)


def pixel_measures(pixels: np.ndarray, height: int, width: int, means: np.ndarray) -> dict[str, float]:
    """All of KINDS but the network's.

    pixels: uint8 [S, S]; height, width: of the file; means: float32 [V, SIDE, SIDE], mean training images (`normed`).
    """
    small = thumbnail(pixels)
    fits = _resemblances(small, means)
    turned = max(_resemblances(turn(small), means).max() for turn in TURNS.values())
    spread = float(pixels.std())
    edges = cv2.Laplacian(pixels, cv2.CV_32F)
    return {
        "brightness": float(pixels.mean()) / 255,
        "contrast": spread / 255,
        "border": _border(pixels),
        "white": float((pixels >= WHITE).mean()),
        "detail": float(np.abs(edges).mean()) / max(spread, 1.0),
        "shape": height / width,
        "resemblance": float(fits.max()),
        "upright": float(fits.max() - turned),
        "mirror": float((_sides(small) * _sides(means[fits.argmax()])).sum()),
    }


def better_turned(pixels: np.ndarray, means: np.ndarray, least: float = BETTER) -> str:
    """How the image would resemble a mean training image more than it does, in words; "" if none does by `least`."""
    small = thumbnail(pixels)
    found = {words: _resemblances(turn(small), means).max() for words, turn in TURNS.items()}
    best = max(found, key=lambda words: found[words])
    return best if found[best] > _resemblances(small, means).max() + least else ""


def _sides(small: np.ndarray) -> np.ndarray:
    """What differs between the left and the right of [SIDE, SIDE], of length 1. Of the image and its mirror image, the
    whole correlation with a mean image hardly differs: chests are nearly symmetric."""
    return normed(small - small[:, ::-1])


def _resemblances(small: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Correlation with each mean image: float64 [V]."""
    return np.einsum("vij,ij->v", means, small, dtype=np.float64)


def _border(pixels: np.ndarray) -> float:
    """Share outside of the smallest rectangle that holds all rows and columns that are not black."""
    rows, columns = (np.flatnonzero(pixels.mean(axis=axis) >= BLACK) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return 1.0
    return 1 - (np.ptp(rows) + 1) * (np.ptp(columns) + 1) / pixels.size
