"""One synthetic chest radiograph: a patient's thorax and findings, posed, exposed and marked.

An image is a sum of attenuations, as a radiograph is a sum of line integrals: 0 is air, about 0.7 the
mediastinum. Thorax and findings are drawn on a canvas in the patient's own coordinates; a single warp turns,
shifts, scales and enlarges its coarse grid to the picture. Tone curve, enlargement and noise come last.
"""

import math
from functools import lru_cache

import cv2
import numpy as np

from shards.synthetic.canvas import GRID, MARGIN, PLANES, Canvas
from shards.synthetic.patient import Anatomy, Sign, altered
from shards.synthetic.signs import draw_signs, strengths
from shards.synthetic.thorax import draw_frontal, draw_lateral

DETAIL = 1024  # longest side at which lines are drawn; larger pictures are enlarged from it
NOISE = 2.15  # standard deviation of the noise in grey levels: 45 KB at 512 x 512, 1.6 MB at 3056 x 2544


def draw(
    shape: tuple[int, int], lateral: bool, portable: bool, anatomy: Anatomy, signs: list[Sign], rng: np.random.Generator
) -> np.ndarray:
    """One radiograph, uint8 (height, width), air black.

    `portable` is the bedside AP picture: a larger heart, shoulder blades over the lungs, less contrast, more
    tilt. `rng` gives only what differs between two exposures of the same patient: pose, exposure and noise.
    """
    picture, noise = exposed(shape, lateral, portable, anatomy, signs, rng)
    picture += noise
    return cv2.convertScaleAbs(np.maximum(picture, 0, out=picture))


def exposed(
    shape: tuple[int, int], lateral: bool, portable: bool, anatomy: Anatomy, signs: list[Sign], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The picture that `draw` rounds, and its noise: two float32 (height, width), in gray levels.

    With the same `rng` and other signs, only what the signs change differs.
    """
    height, width = shape
    scale = min(1.0, DETAIL / max(shape))
    strength = strengths(signs, lateral)
    anatomy = altered(anatomy, strength, portable)
    canvas = Canvas((round(height * scale), round(width * scale)), lateral, anatomy, _pose(rng, lateral, portable))
    if lateral:
        draw_lateral(canvas)
    else:
        draw_frontal(canvas, portable)
    draw_signs(canvas, signs, strength)
    _marker(canvas, portable, rng)
    return _expose(canvas, shape, portable, rng)


def _pose(rng: np.random.Generator, lateral: bool, portable: bool) -> np.ndarray:
    """float64 (2, 3): patient coordinates to picture coordinates, both relative."""
    spread = 1.6 if portable else 1.0
    angle = math.radians(1.6 * spread) * rng.standard_normal()
    zoom = 1.0 + 0.05 * spread * (rng.random() - 0.5)
    shift = 0.014 * spread * rng.standard_normal(2)
    turn = zoom * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    centre = np.array([0.5, 0.5])
    return np.column_stack([turn, centre + shift - turn @ centre])


def _marker(c: Canvas, portable: bool, rng: np.random.Generator) -> None:
    """The lead letter beside the patient, and the word that bedside pictures carry."""
    height, width = c.shape
    across, down = rng.uniform((0.86, 0.06), (0.93, 0.14))
    texts = [("L", across, down, 0.0032), *([("PORTABLE", 0.04, 0.05, 0.0011)] if portable and not c.lateral else [])]
    for text, x, y, scale in texts:
        place = (round(x * width), round(y * height))
        cv2.putText(c.plane("metal"), text, place, 0, scale * width, 240, max(1, width // 256), cv2.LINE_AA)


def _expose(
    c: Canvas, shape: tuple[int, int], portable: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Warp, add the planes, apply the tone curve, enlarge: float32 of `shape`, and the noise to add."""
    gain, black, grain = rng.uniform((1.15, -0.02, 0.85), (1.45, 0.05, 1.15))
    offset = rng.integers(0, 64, 2)
    picture = _warp(c)
    for name, plane in c.planes.items():
        blur = 0.0016 * c.shape[1]
        if name == "bone" and blur > 0.3:
            plane = cv2.GaussianBlur(plane, (0, 0), blur)
        cv2.scaleAdd(plane.astype(np.float32), PLANES[name] / 255, picture, picture)
    picture -= black
    picture *= gain * (0.88 if portable else 1.0)
    np.clip(picture, 0, 1.25, out=picture)
    # Rises to its maximum at 1.25 with a soft shoulder, so that bone over bone still shows.
    picture *= 246 * (1.28 - 0.4096 * picture)
    if c.shape != shape:
        picture = cv2.resize(picture, shape[::-1], interpolation=cv2.INTER_CUBIC)
    # A reduced picture has averaged its noise away, in part: real ones keep fine structure that acts as
    # noise.
    noise = NOISE * grain * (max(shape) / 3056) ** 0.2
    window = _noise(*shape)[offset[0] : offset[0] + shape[0], offset[1] : offset[1] + shape[1]]
    return picture, noise * window


def _warp(c: Canvas) -> np.ndarray:
    """The coarse field in picture coordinates, float32 of the canvas's shape.

    Doubled first, then warped linearly: as smooth to the eye as one cubic warp, in half its time.
    """
    height, width = c.shape
    doubled = cv2.resize(c.field, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    cells = 2 * (GRID - 1) / (1 + 2 * MARGIN)
    first = cells * MARGIN + 0.5  # the cell of coordinate 0; doubling moves centres by half a cell
    to_picture = np.vstack([c.pose, [0, 0, 1]])
    to_pixels = np.array([[width, 0, -0.5], [0, height, -0.5], [0, 0, 1]])
    to_grid = np.array([[cells, 0, first], [0, cells, first], [0, 0, 1]])
    back = to_grid @ np.linalg.inv(to_pixels @ to_picture)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(doubled, back[:2], (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)


@lru_cache(maxsize=4)
def _noise(height: int, width: int) -> np.ndarray:
    """Detector noise, float32 (height + 64, width + 64), unit deviation; a picture takes a window of it."""
    rng = np.random.Generator(np.random.Philox(key=[0, 2]))
    noise = cv2.GaussianBlur(rng.standard_normal((height + 64, width + 64), dtype=np.float32), (3, 3), 0.5)
    return noise / noise.std()
