"""One picture in the making: a coarse field for big smooth shapes, and planes for lines and small shapes.

Coordinates are relative: x and y run from 0 to 1 over the picture, y downwards, the patient's right side at
small x (frontal) and the sternum at small x (lateral). So the same patient appears at every size, and a line
thinner than a pixel becomes fainter instead of wider.

The field lies on a grid in the patient's own coordinates. Lines are drawn at the picture's resolution on 8-bit
planes, because OpenCV antialiases nothing else.
"""

import math
from functools import lru_cache

import cv2
import numpy as np

from shards.synthetic.patient import Anatomy, Sign

GRID = 144  # side of the coarse grid, in cells
MARGIN = 0.1  # how far the coarse grid reaches beyond the picture, in picture sides
SUBPIXEL = 4  # fractional bits of the coordinates that OpenCV's lines take
PLANES = {"bone": 0.20, "soft": 0.30, "metal": 0.40, "air": -0.30}  # attenuation at level 255


def step(distance: np.ndarray, width: float) -> np.ndarray:
    """0 to 1 with a soft edge: 0.5 where `distance` is 0, the change spread over `width`."""
    u = np.clip(distance * (1 / width) + 0.5, 0, 1)
    return u * u * (3 - 2 * u)


@lru_cache(maxsize=1)
def _axes() -> tuple[np.ndarray, np.ndarray]:
    """Patient coordinates of the coarse grid: x float32 (1, GRID), y float32 (GRID, 1)."""
    axis = np.linspace(-MARGIN, 1 + MARGIN, GRID, dtype=np.float32)
    return axis[None, :], axis[:, None]


class Canvas:
    """One picture in the making: the coarse field, the planes of lines, and the outline of the lungs."""

    def __init__(self, shape: tuple[int, int], lateral: bool, anatomy: Anatomy, pose: np.ndarray):
        self.shape, self.lateral, self.anatomy, self.pose = shape, lateral, anatomy, pose
        self.x, self.y = _axes()
        self.field = np.zeros((GRID, GRID), np.float32)
        self.lung = np.zeros((GRID, GRID), np.float32)  # 0 to 1, aerated lung
        self.planes: dict[str, np.ndarray] = {}
        self.ribs = np.zeros((0, 0, 2))  # the paths of the ribs at the back: (ribs, points, 2)

    def walls(self, y):
        """The inner and the outer border of a lung at height `y`, as distances from the midline.

        In a lateral picture: x of the front and of the back.
        """
        a = self.anatomy
        t = np.clip((y - a.apex) / (a.base - a.apex), 0, 1)
        bulge = np.sqrt(1 - (1 - t) ** 2)
        if self.lateral:
            return 0.40 - 0.20 * bulge + 0.03 * t, 0.60 + 0.19 * bulge + 0.045 * np.sin(np.pi * t)
        inner = 0.115 - (0.115 - a.pedicle) * bulge
        return inner, 0.125 + (a.width - 0.125) * bulge**0.85

    def dome(self, x: np.ndarray, side: int) -> np.ndarray:
        """y of the diaphragm at `x`; `side` -1 is the right dome, the higher one."""
        a = self.anatomy
        if self.lateral:
            slope = np.clip((x - 0.3) / 0.5, -0.4, 1.2)
            return a.base - 0.02 + (0.02 if side > 0 else 0.0) + a.flat * (1.9 * slope**2 - 0.5 * slope)
        centre = 0.5 + side * 0.17
        return a.base + (0.022 if side > 0 else 0.0) + a.flat * (((x - centre) / 0.19) ** 2)

    def spot(self, sign: Sign) -> tuple[float, float]:
        """Where a lesion inside the lung lies in this view."""
        a = self.anatomy
        y = a.apex + sign.height * (a.base - a.flat - a.apex)
        near, far = self.walls(y)
        if self.lateral:
            return float(near + sign.depth * (far - near)), y
        return float(0.5 + sign.side * (near + sign.across * (far - near))), y

    def wall(self, side: int, t: np.ndarray, inset: float = 0.0) -> np.ndarray:
        """Points (n, 2) along the chest wall, from the apex (t = 0) to the base (t = 1)."""
        y = self.anatomy.apex + t * (self.anatomy.base - self.anatomy.apex)
        near, far = self.walls(y)
        if self.lateral:
            return np.column_stack([far - inset if side > 0 else near + inset, y])
        return np.column_stack([0.5 + side * (far - inset), y])

    def ellipse(self, x: float, y: float, rx: float, ry: float, edge: float = 0.3, turn: float = 0.0) -> np.ndarray:
        """float32 (GRID, GRID) in [0, 1]: an ellipse with a soft rim, turned clockwise by `turn` radians."""
        dx, dy = self.x - x, self.y - y
        if turn:
            cos, sin = math.cos(turn), math.sin(turn)
            dx, dy = cos * dx + sin * dy, cos * dy - sin * dx
        return step(1 - np.sqrt((dx * (1 / rx)) ** 2 + (dy * (1 / ry)) ** 2), edge)

    def haze(self, x: float, y: float, rx: float, ry: float, level: float) -> None:
        """A cloud that fades outwards, inside the lung only."""
        cloud = np.exp(-0.5 * ((self.x - x) / rx) ** 2) * np.exp(-0.5 * ((self.y - y) / ry) ** 2)
        self.field += level * cloud * self.lung

    def fill(self, mask: np.ndarray, target: float) -> None:
        """Replace what is there by fluid or tissue of attenuation `target` where `mask` (0 to 1) says so."""
        self.field += mask * (target - self.field)

    def _pixels(self, points: np.ndarray) -> np.ndarray:
        """Patient coordinates (..., 2) to OpenCV's fixed-point pixels, int32."""
        picture = points @ self.pose[:, :2].T + self.pose[:, 2]
        pixels = picture * (self.shape[1], self.shape[0]) - 0.5
        return np.rint(pixels * (1 << SUBPIXEL)).astype(np.int32)

    def plane(self, name: str) -> np.ndarray:
        """uint8 of the canvas's shape, empty when first asked for."""
        if name not in self.planes:
            self.planes[name] = np.zeros(self.shape, np.uint8)
        return self.planes[name]

    def line(self, plane: str, points: np.ndarray | list, width: float, level: float, closed: bool = False) -> None:
        """One line (points, 2) or several (lines, points, 2), `width` thick at `level` (0 to 255).

        Below one pixel of width the level falls instead.
        """
        points = np.asarray(points, np.float64)
        pixels = width * self.shape[1]
        lines = self._pixels(points.reshape(-1, *points.shape[-2:]))
        level = min(255.0, level * min(1.0, pixels))
        cv2.polylines(self.plane(plane), list(lines), closed, level, max(1, round(pixels)), cv2.LINE_AA, SUBPIXEL)

    def disc(self, plane: str, x: float, y: float, radius: float, level: float) -> None:
        """A filled disc; smaller than a pixel, its level falls with its area."""
        area = math.pi * (radius * self.shape[1]) ** 2
        turn = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        points = np.column_stack([x + radius * np.cos(turn), y + radius * np.sin(turn)])
        cv2.fillPoly(
            self.plane(plane), [self._pixels(points)], min(255.0, level * min(1.0, area)), cv2.LINE_AA, SUBPIXEL
        )
