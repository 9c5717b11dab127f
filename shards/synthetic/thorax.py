"""A healthy thorax on a canvas, seen from front or side: body, lungs, heart, vessels and bones."""

from functools import lru_cache

import cv2
import numpy as np

from shards.synthetic.canvas import GRID, Canvas, step


def draw_frontal(c: Canvas, portable: bool) -> None:
    """Body, lungs, mediastinum, heart and bones of a frontal picture."""
    a, x, y = c.anatomy, c.x, c.y
    off = np.abs(x - 0.5)
    inner, outer = c.walls(y)
    shoulder = 0.10 + 0.42 * step(y - 0.115, 0.17) + 0.05 * a.fat
    trunk = np.minimum(shoulder, outer + 0.06 + 0.13 * a.fat + 0.20 * step(0.30 - y, 0.3))
    body = np.sqrt(np.clip(1 - (off / trunk) ** 4, 0, 1)) * step(trunk - off - 0.015, 0.03)
    right = step(outer - (0.5 - x), 0.02) * step((0.5 - x) - inner, 0.02) * step(c.dome(x, -1) - y, 0.014)
    left = step(outer - (x - 0.5), 0.02) * step((x - 0.5) - inner, 0.02) * step(c.dome(x, 1) - y, 0.014)
    lungs = (right + left) * step(y - a.apex, 0.03)
    heart = np.maximum(
        c.ellipse(0.5 + 0.40 * a.heart, a.base - 0.085, 1.15 * a.heart, 0.105, 0.16, 0.62),
        c.ellipse(0.5 - 0.22 * a.heart, a.base - 0.10, 0.66 * a.heart, 0.125, 0.2),
    )
    trunk_of_artery = c.ellipse(0.5 + 0.35 * a.heart, 0.49, 0.55 * a.heart, 0.10, 0.3, 0.25)
    heart = np.maximum(heart, trunk_of_artery)
    arch = c.ellipse(0.5 + a.pedicle - 0.3 * a.knob + 0.3 * a.aorta, 0.375, a.knob, a.knob, 0.35)
    course = 0.5 + a.pedicle * 0.6 + a.aorta * np.sin(np.clip((y - 0.36) / 0.36, 0, 1) * np.pi)
    aorta = step(0.022 - np.abs(x - course), 0.012) * step(y - 0.36, 0.04) * step(0.72 - y, 0.08)
    c.lung = lungs * (1 - np.maximum(np.maximum(heart, arch), aorta))
    c.field += (0.53 + 0.10 * a.fat) * body - a.air * c.lung * (0.85 + 0.25 * off / a.width)
    c.field += 0.05 * aorta - 0.05 * lungs * heart
    c.field += 0.12 * step(y - np.minimum(c.dome(x, -1), c.dome(x, 1)), 0.02) * body
    spine = step(0.034 - off, 0.02) * (0.85 + 0.15 * np.cos(y * (2 * np.pi / 0.052)))
    c.field += 0.10 * spine * body + 0.07 * step(a.pedicle - off, 0.04) * body
    c.field -= 0.10 * step(0.017 - np.abs(x - 0.497), 0.012) * step(0.40 - y, 0.05)
    gas = a.texture % 8 / 8
    c.field -= 0.2 * gas * c.ellipse(0.64 + 0.05 * gas, a.base + 0.07, 0.05, 0.03, 0.8)
    for side in (-1, 1):
        breast = c.ellipse(0.5 + side * 0.21, a.base - 0.10, 0.15, 0.13, 0.12)
        c.field += a.breast * breast
    _mottle(c)
    _vessels(c)
    _ribs(c)
    _shoulders(c, portable)


def draw_lateral(c: Canvas) -> None:
    """Body, lungs, heart, spine and sternum of a lateral picture."""
    a, x, y = c.anatomy, c.x, c.y
    front, back = c.walls(y)
    raised = step(0.16 - y, 0.22)
    breast = 1.2 * a.breast * np.exp(-0.5 * ((y - 0.62) / 0.10) ** 2)
    chest = np.minimum(front, 0.27) - 0.05 - 0.07 * a.fat - 0.10 * raised - breast
    rear = np.maximum(back, 0.76) + 0.08 + 0.06 * a.fat + 0.05 * raised
    depth = np.abs(2 * x - chest - rear) / (rear - chest)
    body = np.sqrt(np.clip(1 - depth**6, 0, 1)) * step(1 - depth - 0.02, 0.04)
    floor = np.maximum(c.dome(x, -1), c.dome(x, 1))
    roof = np.minimum(c.dome(x, -1), c.dome(x, 1))
    lungs = step(x - front, 0.02) * step(back - x, 0.03) * step(y - a.apex - 0.01, 0.05)
    lungs = lungs * (0.55 * step(roof - y, 0.014) + 0.45 * step(floor - y, 0.014))
    heart = c.ellipse(0.26 + 0.85 * a.heart, a.base - 0.10, 1.25 * a.heart, 0.115, 0.25, 0.75)
    great = c.ellipse(0.47, 0.44, 0.075, 0.13, 0.8, -0.35)
    arch = c.ellipse(0.55, 0.36, 1.7 * a.knob, 1.5 * a.knob, 0.5)
    course = 0.615 + 0.7 * a.aorta * np.sin(np.clip((y - 0.36) / 0.4, 0, 1) * np.pi)
    aorta = step(0.02 - np.abs(x - course), 0.02) * step(y - 0.36, 0.04)
    c.lung = lungs * (1 - 0.85 * heart) * (1 - 0.15 * arch) * (1 - 0.3 * great) * (1 - (0.15 + 4 * a.aorta) * aorta)
    c.field += (0.60 + 0.10 * a.fat) * body - a.air * c.lung * 0.95
    c.field += 0.10 * step(y - roof, 0.02) * body + 0.14 * raised * body
    column = 0.735 + 0.05 * np.sin(np.clip((y - a.apex) / 0.75, 0, 1.3) * np.pi)
    blocks = 0.7 + 0.3 * np.clip(2 * np.cos((y + 0.12 * (x - 0.7)) * (2 * np.pi / 0.058)), -1, 1)
    c.field += 0.12 * step(0.034 - np.abs(x - column), 0.012) * blocks * body
    windpipe = 0.485 + 0.14 * (y - 0.15)
    c.field -= 0.12 * step(0.017 - np.abs(x - windpipe), 0.014) * step(0.42 - y, 0.05) * body
    _mottle(c)
    _vessels(c)
    _lateral_bones(c)


@lru_cache(maxsize=1)
def _texture() -> np.ndarray:
    """Mottled lung at the coarse grid's scale: float32 (512, 512), zero mean, unit deviation."""
    rng = np.random.Generator(np.random.Philox(key=[0, 1]))
    tile = sum(
        2**octave * cv2.GaussianBlur(rng.standard_normal((512, 512)).astype(np.float32), (0, 0), 1.2 * 2**octave)
        for octave in range(3)
    )
    return (tile - tile.mean()) / tile.std()


def _mottle(c: Canvas) -> None:
    """The fine vessels of the lung, as noise."""
    i, j = divmod(c.anatomy.texture, 256)
    c.field += 0.022 * c.lung * _texture()[i : i + GRID, j : j + GRID]


def _vessels(c: Canvas) -> None:
    """Branches that fan out from each hilum and thin out."""
    rng = np.random.Generator(np.random.Philox(key=[c.anatomy.texture, 3]))
    level = 14 if c.lateral else 24
    for side in (-1, 1):
        x, y = (0.53 + 0.02 * side, 0.46) if c.lateral else (0.5 + side * 0.095, 0.465 - 0.012 * side)
        c.field += 0.09 * c.ellipse(x, y, 0.035, 0.06, 1.2)
        angle = (np.linspace(-1.25, 1.25, 8) + 0.12 * rng.standard_normal(8))[:, None]  # (branches, points)
        reach = 0.20 * rng.uniform(0.7, 1.2, (8, 1))
        for width, bend in ((0.007, 0.0), (0.004, 0.35), (0.004, -0.35)):
            t = np.linspace(0.35 if bend else 0.0, 1, 4)
            turn = angle + bend * np.clip(t - 0.35, 0, 1)
            points = np.stack([x + side * reach * t * np.cos(turn), y + 1.2 * reach * t * np.sin(turn)], axis=-1)
            c.line("soft", points, width, 0.6 * level if bend else level)


def _ribs(c: Canvas) -> None:
    """Ten pairs of ribs: a bright band behind, brighter along its edges, and a fainter one in front."""
    a = c.anatomy
    t = np.linspace(0, 1, 9)
    y = (a.apex + 0.015 + a.spacing * np.arange(10))[:, None]  # (ribs, points)
    reach = c.walls(y + 0.5 * a.tilt)[1] + 0.008
    back_y = y - 0.05 * t * (1 - t) + a.tilt * t**3
    front_y = y + a.tilt + 0.09 * t**1.5
    sides = np.array([-1, 1])[:, None, None]  # (sides, ribs, points)
    back = np.stack(np.broadcast_arrays(0.5 + sides * (0.035 + (reach - 0.035) * t), back_y), axis=-1)
    front = np.stack(np.broadcast_arrays(0.5 + sides * (reach - (reach - 0.16) * t), front_y), axis=-1)
    c.ribs = back.reshape(20, 9, 2)
    c.line("bone", front.reshape(20, 9, 2), 0.017, 30)
    c.line("bone", c.ribs, 0.019, 84)
    c.line("bone", c.ribs, 0.010, 58)


def _shoulders(c: Canvas, portable: bool) -> None:
    """Clavicles, shoulder blades and arms; at the bedside the blades lie over the lungs."""
    a = c.anatomy
    t = np.linspace(0, 1, 7)
    for side in (-1, 1):
        rise = a.clavicle if not portable else 0.6 * a.clavicle
        collar = np.column_stack([0.5 + side * (0.045 + 0.33 * t), 0.215 - rise * t - 0.018 * np.sin(2 * np.pi * t)])
        c.line("bone", collar, 0.026, 120)
        c.line("bone", collar, 0.014, 92)
        shift = 0.0 if portable else 0.07
        blade = ((0.27, 0.19), (0.25, 0.32), (0.30, 0.45), (0.36, 0.36), (0.42, 0.22))
        c.line("bone", [(0.5 + side * (u + shift), v) for u, v in blade], 0.012, 48, closed=True)
        arm = [(0.43 + 0.02 * side, 0.19), (0.52, 0.45)] if portable else [(0.45, 0.17), (0.58, 0.30)]
        c.line("bone", [(0.5 + side * u, v) for u, v in arm], 0.055, 95)


def _lateral_bones(c: Canvas) -> None:
    """Sternum, both rows of ribs running down and forwards, and the shoulder blades."""
    a = c.anatomy
    t = np.linspace(0, 1, 8)
    c.line("bone", c.wall(-1, np.linspace(0.15, 0.75, 7), -0.012), 0.02, 110)
    y = (a.apex + a.spacing * np.arange(10))[:, None]  # (ribs, points)
    start, end = c.walls(y)[1], c.walls(y + 0.18)[0]
    path_y = y + (0.10 + a.tilt) * t**0.8
    c.ribs = np.stack([start + (end - start) * t, path_y], axis=-1)
    c.line("bone", c.ribs, 0.014, 30)
    c.line("bone", c.ribs + (0.01, 0.022), 0.014, 24)
    c.line("bone", [(0.66, 0.16), (0.74, 0.42), (0.79, 0.18)], 0.012, 55)
