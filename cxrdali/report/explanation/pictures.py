"""Heat maps laid over the images that they are of."""

import cv2
import matplotlib
import numpy as np
import simplejpeg

from cxrdali.predict.explain import Example
from cxrdali.report.kit.pictures import resized

PANEL, GAP = 320, 6  # pixels: side of a picture at most, white between the two
COLOURS = "inferno"  # even steps of lightness, and distinct for the colour-blind
EMPTY = "no place raises this score"  # why there is nothing to colour
STRONGEST = 0.65  # opacity of the strongest place; the weakest have none, so that the radiograph stays to be seen


def pair(example: Example) -> bytes:
    """The image and the same under its heat map, or EMPTY, side by side, as a JPEG in colour."""
    gray = resized(example.pixels, PANEL)
    plain = np.repeat(gray[:, :, None], 3, axis=2)
    gap = np.full((len(gray), GAP, 3), 255, dtype=np.uint8)
    covered = overlay(plain, example.heat) if example.heat.any() else _written(plain)
    both = np.concatenate([plain, gap, covered], axis=1)
    return simplejpeg.encode_jpeg(np.ascontiguousarray(both), quality=85, colorspace="RGB")


def _written(image: np.ndarray) -> np.ndarray:
    """EMPTY in white on a black strip at the foot of the image."""
    made, side, font = image.copy(), len(image), cv2.FONT_HERSHEY_SIMPLEX
    scale = 0.9 * side / cv2.getTextSize(EMPTY, font, 1, 1)[0][0]
    made[-side // 9 :] = 0
    return cv2.putText(made, EMPTY, (side // 20, side - side // 32), font, scale, (255, 255, 255), 1, cv2.LINE_AA)


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """uint8 [S, S, 3] under the heat map [h, w] stretched over it; an image whose map is all zero stays as it is."""
    most = heat.max()
    if not most > 0:
        return image
    part = cv2.resize(heat / most, image.shape[:2], interpolation=cv2.INTER_LINEAR)[:, :, None]
    colour = colours(part[:, :, 0]) * 255
    return np.rint(image + STRONGEST * part * (colour - image)).astype(np.uint8)


def colours(part: np.ndarray) -> np.ndarray:
    """float64 [..., 3], 0 to 1, for 0 to 1; without the black and the white end, which tissue has too."""
    return matplotlib.colormaps[COLOURS](0.3 + 0.6 * part)[..., :3]
