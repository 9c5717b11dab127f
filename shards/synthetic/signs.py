"""The findings as they look: a pattern per finding, and how strongly each shows.

Cardiomegaly, Enlarged Cardiomediastinum, Emphysema and Tortuous Aorta have no pattern: they change the anatomy
(shards.synthetic.patient.altered).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from shards.synthetic.canvas import PLANES, Canvas, step
from shards.synthetic.patient import Sign


class Look(NamedTuple):
    """How a finding shows.

    contrast: set so that a small network finds the common findings best. The rare ones are small or thin by their
    drawing, and some cannot be resolved at 128 or 224 pixels; pattern: draws it, at the sign's place with a strength;
    lateral: share of the contrast that is left in a lateral picture.
    """

    contrast: float
    pattern: Callable[[Canvas, Sign, float], None] | None = None
    lateral: float = 1.0


def strengths(signs: list[Sign], lateral: bool) -> dict[str, float]:
    """How strongly each finding shows in a frontal or a lateral picture."""
    looks = ((sign, LOOKS[sign.finding]) for sign in signs)
    return {s.finding: s.strength * look.contrast * (look.lateral if lateral else 1.0) for s, look in looks}


def draw_signs(canvas: Canvas, signs: list[Sign], strength: dict[str, float]) -> None:
    """The pattern of every sign that has one, over a thorax; `strength` by finding."""
    for sign in signs:
        if pattern := LOOKS[sign.finding].pattern:
            pattern(canvas, sign, strength[sign.finding])


def _edged(c: Canvas, points: np.ndarray, beside: tuple[float, float], level: float) -> None:
    """A bright hairline with a dark one `beside` it (dx, dy): shrunk to a pixel, the two cancel."""
    c.line("metal", points, 0.002, level)
    c.line("air", points + np.array(beside), 0.002, level * PLANES["metal"] / -PLANES["air"])


def _lung_opacity(c: Canvas, s: Sign, k: float) -> None:
    x, y = c.spot(s)
    c.haze(x, y, 0.06 + 0.03 * s.dice[0], 0.08 + 0.04 * s.dice[1], 0.22 * k)


def _effusion(c: Canvas, s: Sign, k: float) -> None:
    """Fluid that climbs the chest wall: a meniscus over one or both domes."""
    sides = (-1, 1) if s.dice[0] < 0.35 else (s.side,)
    level = 0.01 + (0.01 + 0.10 * s.dice[1]) * k
    for side in sides:
        if c.lateral:
            climb = np.clip((c.x - 0.35) / 0.4, 0, 1.1) ** 2
            half = c.lung
        else:
            climb = np.clip(side * (c.x - 0.5) / c.anatomy.width, 0, 1.1) ** 3
            half = c.lung * (side * (c.x - 0.5) > 0)
        surface = c.dome(c.x, side) - level * (0.3 + 1.5 * climb)
        c.fill(min(0.9, 0.2 + 0.6 * k) * half * step(c.y - surface, 0.04), 0.62)


def _atelectasis(c: Canvas, s: Sign, k: float) -> None:
    """Plate-like bands over the base."""
    x, _ = c.spot(s)
    low = c.anatomy.base - c.anatomy.flat
    for i in range(1 + int(3 * s.dice[0])):
        length, slope = 0.05 + 0.05 * s.dice[3 * i + 1], 0.06 * (s.dice[3 * i + 2] - 0.5)
        y = low - 0.02 - 0.10 * s.dice[3 * i + 3]
        c.line("soft", [(x - length, y - slope), (x, y - 0.006), (x + length, y + slope)], 0.011, 75 * k)
    c.haze(x, low, 0.08, 0.035, 0.08 * k)


def _pneumonia(c: Canvas, s: Sign, k: float) -> None:
    """A cluster of small clouds that run into each other."""
    x, y = c.spot(s)
    for i in range(9):
        dx, dy, r = s.dice[3 * i : 3 * i + 3]
        c.haze(x + 0.13 * (dx - 0.5), y + 0.15 * (dy - 0.5), 0.012 + 0.012 * r, 0.012 + 0.012 * r, 0.14 * k)


def _edema(c: Canvas, s: Sign, k: float) -> None:
    """Haze around both hila, and short septal lines at the wall."""
    for side in (-1, 1):
        x = 0.53 if c.lateral else 0.5 + side * 0.15
        c.haze(x, 0.50, 0.065, 0.10, 0.16 * k * (0.75 + 0.5 * s.dice[0]))
        for i, t in enumerate(np.linspace(0.62, 0.9, 6) + 0.02 * s.dice[1]):
            ((x1, y1),) = c.wall(side, np.array([t]))
            reach = 0.02 + 0.012 * s.dice[2 + i]
            inward = (1 if side < 0 else -1) * reach
            c.line("soft", [(x1, y1), (x1 + inward, y1)], 0.0022, 110 * k)


def _consolidation(c: Canvas, s: Sign, k: float) -> None:
    """A dense part of a lobe with a straight upper border and dark bronchi in it."""
    x, y = c.spot(s)
    rx, ry = 0.07 + 0.03 * s.dice[0], 0.07 + 0.04 * s.dice[1]
    c.field += 0.24 * k * c.ellipse(x, y, rx, ry, 0.35) * step(c.y - (y - 0.35 * ry), 0.015) * c.lung
    for i in range(4):
        u, v, w = s.dice[3 * i + 2 : 3 * i + 5] - 0.5
        start = np.array([x + 0.8 * rx * u, y + 0.3 * ry + 0.6 * ry * v])
        c.line("air", [start, start + (0.03 * (0.5 + w), 0.02)], 0.0035, 70 * k)


def _pneumothorax(c: Canvas, s: Sign, k: float) -> None:
    """Black, empty pleural space over the apex and down the side, behind a hair-thin line."""
    inset = (0.02 + 0.045 * s.dice[0]) * (0.6 + 0.4 * k)
    inner, outer = c.walls(c.y)
    fall = inset * (1.6 - np.clip((c.y - c.anatomy.apex) / 0.5, 0, 1))
    off = (c.x - 0.5) * s.side if not c.lateral else c.x
    space = c.lung * step(off - (outer - fall), 0.012) * (off > 0)
    c.field -= 0.11 * k * space
    t = np.linspace(0.0, 0.75, 10)
    edge = c.wall(s.side, t)
    depth = inset * (1.6 - np.clip(t * (c.anatomy.base - c.anatomy.apex) / 0.5, 0, 1))
    edge[:, 0] -= s.side * depth
    _edged(c, edge, (0.002 * s.side, 0.0), 95 * k)


def _fracture(c: Canvas, s: Sign, k: float) -> None:
    """Hairline gaps across two to four ribs, mostly in a row, each between the bright ends of the broken bone."""
    first, count = int((len(c.ribs) - 4) * s.dice[0]), 2 + int(3 * s.dice[1])
    for i in range(count):
        rib = c.ribs[first + i]
        at = 4 + int(3 * s.dice[2]) - i % 2
        here, along = rib[at], rib[at + 1] - rib[at - 1]
        along = along / np.hypot(*along)
        across = np.array([-along[1], along[0]])
        gap = np.stack([here - 0.022 * across, here + 0.022 * across + 0.004 * along])
        c.line("air", gap, 0.0022, 200 * k)
        c.line("metal", np.stack([gap - 0.0026 * along, gap + 0.0026 * along]), 0.002, 95 * k)


def _infiltration(c: Canvas, s: Sign, k: float) -> None:
    """Many faint specks over a middle-sized patch."""
    x, y = c.spot(s)
    for i in range(24):
        dx, dy = s.dice[2 * i : 2 * i + 2] - 0.5
        c.disc("soft", x + 0.17 * dx, y + 0.17 * dy, 0.006 + 0.004 * s.dice[i], 42 * k)


def _nodule(c: Canvas, s: Sign, k: float) -> None:
    x, y = c.spot(s)
    c.disc("soft", x, y, 0.010 + 0.006 * s.dice[0], 130 * k)


def _mass(c: Canvas, s: Sign, k: float) -> None:
    """A large round shadow with a sharp rim."""
    x, y = c.spot(s)
    r = 0.036 + 0.022 * s.dice[0]
    c.field += 0.26 * k * c.ellipse(x, y, r, r * (0.9 + 0.2 * s.dice[1]), 0.22)


def _aortic_calcification(c: Canvas, s: Sign, k: float) -> None:
    """A broken bright shell around the aortic arch and down the aorta: flecks no wider than a pixel or two."""
    a = c.anatomy
    turn = np.linspace(-1.9, 1.3, 14) + 0.06 * s.dice[:14]
    x, y, r = (0.55, 0.36, 1.5 * a.knob) if c.lateral else (0.5 + a.pedicle - 0.3 * a.knob, 0.375, 0.92 * a.knob)
    for i, angle in enumerate(turn[s.dice[:14] < 0.8]):
        arc = angle + np.array([0.0, 0.09])
        reach = r * (1 + 0.07 * (s.dice[20 + i] - 0.5))
        c.line("metal", np.column_stack([x + reach * np.cos(arc), y + reach * np.sin(arc)]), 0.0025, 190 * k)
    for u, v in s.dice[:48].reshape(24, 2):
        down = y + r + 0.22 * u
        fleck = x + (0.085 if c.lateral else 0.018) * (1 if v < 0.5 else -0.6) + 0.004 * v
        _edged(c, np.array([(fleck, down), (fleck + 0.002, down + 0.009)]), (0.0022, 0.0), 130 * k)


def _hernia(c: Canvas, s: Sign, k: float) -> None:
    """A pouch behind the heart with air over a fluid level."""
    x, y = (0.60, c.anatomy.base - 0.05) if c.lateral else (0.52 + 0.05 * s.dice[0], c.anatomy.base - 0.05)
    r = 0.055 + 0.02 * s.dice[1]
    pouch = c.ellipse(x, y, r, 0.85 * r, 0.25)
    c.field += 0.10 * k * pouch
    c.field -= 0.24 * k * c.ellipse(x, y, 0.8 * r, 0.66 * r, 0.25) * step(y + 0.1 * r - c.y, 0.012)


def _pleural_thickening(c: Canvas, s: Sign, k: float) -> None:
    t = np.linspace(0.1 + 0.15 * s.dice[0], 0.55 + 0.3 * s.dice[1], 9)
    c.line("soft", c.wall(s.side, t, 0.010), 0.016, 95 * k)


def _lung_lesion(c: Canvas, s: Sign, k: float) -> None:
    """A small knot with spicules."""
    x, y = c.spot(s)
    angle = np.linspace(0, 2 * np.pi, 9, endpoint=False)
    reach = (0.024 + 0.018 * s.dice[:9])[:, None]
    centre = np.tile((x, y), (9, 1))
    tips = centre + reach * np.column_stack([np.cos(angle), np.sin(angle)])
    c.line("soft", np.stack([centre, tips], axis=1), 0.0035, 80 * k)
    c.disc("soft", x, y, 0.016, 95 * k)


def _subcutaneous_emphysema(c: Canvas, s: Sign, k: float) -> None:
    """Dark streaks in the soft tissue beside the chest."""
    for i in range(11):
        u, v, w = s.dice[3 * i : 3 * i + 3]
        ((x, y),) = c.wall(s.side, np.array([0.1 + 0.75 * u]), -0.025 - 0.045 * v)
        c.line("air", [(x, y), (x + 0.012 * s.side * (w - 0.3), y + 0.035 + 0.03 * w)], 0.005, 95 * k)


def _fibrosis(c: Canvas, s: Sign, k: float) -> None:
    """A fine net over both bases: honeycomb of bright walls around dark cells."""
    low = c.anatomy.base - c.anatomy.flat
    for i in range(24):
        u, v = s.dice[2 * i : 2 * i + 2]
        side = -1 if i % 2 else 1
        y = low + 0.015 - 0.15 * v
        near, far = c.walls(y)
        x = near + u * (far - near) if c.lateral else 0.5 + side * (near + (0.35 + 0.6 * u) * (far - near))
        slant = 0.016 if i % 4 < 2 else -0.016
        _edged(c, np.array([(x - 0.016, y - slant), (x + 0.016, y + slant)]), (0.0025, 0.0), 85 * k)


def _pleural_other(c: Canvas, s: Sign, k: float) -> None:
    """Calcified plaques: flecks on the diaphragm and the wall."""
    for i in range(8):
        u, v = s.dice[2 * i : 2 * i + 2]
        side = s.side if i % 3 else -s.side
        if i < 5:
            x = (0.35 + 0.35 * u) if c.lateral else 0.5 + side * (0.10 + 0.18 * u)
            y = c.dome(x, side) - 0.004 - 0.02 * v
            c.line("metal", [(x - 0.007 - 0.008 * v, y), (x + 0.007, y + 0.002)], 0.002, 190 * k)
        else:
            c.line("metal", c.wall(side, np.array([0.5 + 0.3 * u, 0.54 + 0.3 * u]), 0.005), 0.002, 190 * k)


def _pneumomediastinum(c: Canvas, s: Sign, k: float) -> None:
    """Thin dark lines along both borders of the mediastinum, up into the neck, each beside a lifted bright pleura."""
    y = np.linspace(0.08, 0.58 + 0.1 * s.dice[0], 11)
    for side in (-1, 1):
        border = 0.5 + side * (c.anatomy.pedicle + 0.006 * np.sin(18 * y + 6 * s.dice[1]) - 0.008)
        points = np.column_stack([border + (0.03 if c.lateral else 0.0), y])
        _edged(c, points, (-0.0026 * side, 0.0), 80 * k)


def _pneumoperitoneum(c: Canvas, s: Sign, k: float) -> None:
    """A thin dark crescent under the right dome, which shows as a bright line."""
    centre, reach = (0.45, 0.12) if c.lateral else (0.33, 0.10 + 0.03 * s.dice[0])
    x = np.linspace(centre - reach, centre + reach, 11)
    y = c.dome(x, -1) + 0.006
    depth = (0.004 + 0.006 * s.dice[1]) * (1 - ((x - centre) / reach) ** 2)
    _edged(c, np.column_stack([x, y]), (0.0, 0.0025), 110 * k)
    c.line("air", np.column_stack([x, y + 0.004 + depth]), 0.004, 60 * k)


def _devices(c: Canvas, s: Sign, k: float) -> None:
    """Some of: a breathing tube, a central line, a pacemaker, a feeding tube, monitor leads."""
    chosen = s.dice[:5] < (0.45, 0.5, 0.25, 0.35, 0.5)
    chosen[int(5 * s.dice[5])] = True
    (_devices_lateral if c.lateral else _devices_frontal)(c, s, k, chosen)


def _devices_lateral(c: Canvas, s: Sign, k: float, chosen: np.ndarray) -> None:
    """Monitor leads do not show from the side."""
    if chosen[0] or chosen[3]:
        c.line("metal", [(0.49, 0.03), (0.51, 0.2), (0.545, 0.4), (0.56, 0.95 if chosen[3] else 0.42)], 0.006, 110 * k)
    if chosen[1]:
        c.line("metal", [(0.36, 0.2), (0.47, 0.33), (0.45, 0.52)], 0.005, 110 * k)
    if chosen[2]:
        c.disc("metal", 0.27, 0.29, 0.024, 130 * k)
        c.line("metal", [(0.27, 0.29), (0.43, 0.33), (0.45, 0.55), (0.36, 0.68)], 0.005, 130 * k)


def _devices_frontal(c: Canvas, s: Sign, k: float, chosen: np.ndarray) -> None:
    if chosen[0]:
        c.line("metal", [(0.50, 0.0), (0.497, 0.2), (0.497, 0.33)], 0.009, 95 * k)
    if chosen[1]:
        t = np.linspace(0, 1, 9)
        reach = 0.40 * (1 - t) ** 1.5 * s.side
        c.line("metal", np.column_stack([0.465 + reach, 0.27 - 0.10 * (1 - t) + 0.27 * t**2.5]), 0.005, 120 * k)
    if chosen[2]:
        x, y = 0.5 + 0.25 * s.side, 0.27
        c.disc("metal", x, y, 0.036, 150 * k)
        c.line("metal", [(x, y), (0.45, 0.34), (0.46, 0.6), (0.57, 0.68)], 0.005, 150 * k)
    if chosen[3]:
        c.line("metal", [(0.51, 0.0), (0.505, 0.4), (0.52, 0.74), (0.60, 0.84), (0.63, 0.88)], 0.006, 100 * k)
    if chosen[4]:
        for i in range(3):
            x, y = 0.2 + 0.6 * s.dice[6 + 2 * i], 0.25 + 0.45 * s.dice[7 + 2 * i]
            end = x + 0.5 * (s.dice[12 + i] - 0.5)
            c.line("metal", [(x, y), ((x + end) / 2 + 0.03, (y + 1) / 2), (end, 1.0)], 0.0035, 80 * k)
            c.disc("metal", x, y, 0.011, 120 * k)


LOOKS = {
    "Support Devices": Look(0.7, _devices),
    "Lung Opacity": Look(0.6, _lung_opacity, lateral=0.8),
    "Cardiomegaly": Look(0.65),
    "Pleural Effusion": Look(0.55, _effusion),
    "Atelectasis": Look(0.9, _atelectasis),
    "Pneumonia": Look(0.8, _pneumonia),
    "Edema": Look(0.65, _edema, lateral=0.7),
    "Enlarged Cardiomediastinum": Look(0.75, lateral=0.2),
    "Consolidation": Look(0.9, _consolidation),
    "Pneumothorax": Look(1.4, _pneumothorax, lateral=0.15),
    "Fracture": Look(1.8, _fracture, lateral=0.3),
    "Infiltration": Look(1.1, _infiltration),
    "Nodule": Look(1.5, _nodule),
    "Mass": Look(1.4, _mass),
    "Calcification of the Aorta": Look(1.8, _aortic_calcification),
    "Emphysema": Look(1.1),
    "Hernia": Look(1.6, _hernia),
    "Pleural Thickening": Look(1.4, _pleural_thickening, lateral=0.3),
    "Tortuous Aorta": Look(1.4),
    "Lung Lesion": Look(1.2, _lung_lesion),
    "Subcutaneous Emphysema": Look(1.3, _subcutaneous_emphysema, lateral=0.4),
    "Fibrosis": Look(1.6, _fibrosis),
    "Pleural Other": Look(1.3, _pleural_other, lateral=0.4),
    "Pneumomediastinum": Look(1.8, _pneumomediastinum, lateral=0.3),
    "Pneumoperitoneum": Look(1.7, _pneumoperitoneum),
}
