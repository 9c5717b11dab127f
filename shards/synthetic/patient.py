"""A made-up patient: the anatomy all pictures of a subject share, and the signs all pictures of a study share."""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Anatomy:
    """What stays the same between a subject's pictures; lengths relative to the picture's side."""

    width: float  # half the width of the thorax, midline to pleura
    apex: float  # y of the lung apices
    base: float  # y of the right dome
    heart: float  # half the heart's width
    pedicle: float  # half the width of the upper mediastinum
    knob: float  # radius of the aortic arch
    aorta: float  # how far the descending aorta bulges to the left
    air: float  # darkness of aerated lung
    fat: float  # thickness of the soft tissue, 0 to 1
    breast: float  # contrast of the breast shadows, 0 for none
    tilt: float  # slope of the ribs
    spacing: float  # distance between ribs
    clavicle: float  # rise of the clavicles' outer ends
    flat: float  # height of the domes
    texture: int  # which piece of the vessel noise the subject has


@dataclass(frozen=True)
class Sign:
    """One finding as it looks in one study; every picture of the study shares it."""

    finding: str
    strength: float  # 1 is usual
    side: int  # -1 the patient's right, 1 the left
    across: float  # 0 the midline to 1 the chest wall
    height: float  # 0 the apex to 1 the base
    depth: float  # 0 the sternum to 1 the spine
    dice: np.ndarray  # (48,) float64 in [0, 1), for the pattern's own choices


def sample_anatomy(rng: np.random.Generator) -> Anatomy:
    """A subject's thorax."""
    n = rng.standard_normal(12).clip(-2, 2)
    return Anatomy(
        width=0.375 + 0.016 * n[0],
        apex=0.13 + 0.015 * n[1],
        base=0.755 + 0.022 * n[2],
        heart=0.128 + 0.008 * n[3],
        pedicle=0.062 + 0.005 * n[4],
        knob=0.034 + 0.003 * n[5],
        aorta=0.0,
        air=0.40 + 0.02 * n[6],
        fat=float(np.clip(0.4 + 0.22 * n[7], 0, 1)),
        breast=float(rng.random() < 0.5) * (0.05 + 0.03 * rng.random()),
        tilt=0.11 + 0.02 * n[8],
        spacing=0.062 + 0.003 * n[9],
        clavicle=0.05 + 0.015 * n[10],
        flat=0.062 + 0.008 * n[11],
        texture=int(rng.integers(1 << 16)),
    )


def sample_sign(finding: str, rng: np.random.Generator) -> Sign:
    """Where and how strongly one study shows `finding`."""
    side = 1 if rng.random() < 0.45 else -1
    across, height, depth = rng.uniform((0.3, 0.25, 0.3), (0.8, 0.8, 0.75))
    strength = float(np.exp(0.45 * rng.standard_normal()).clip(0.25, 1.8))
    return Sign(finding, strength, side, across, height, depth, rng.random(48))


def altered(a: Anatomy, k: dict[str, float], portable: bool) -> Anatomy:
    """The thorax after the findings that change shapes instead of adding one; `k` holds the strengths."""
    emphysema, tortuous = k.get("Emphysema", 0.0), k.get("Tortuous Aorta", 0.0)
    heart = a.heart * (1.07 if portable else 1.0) * (1 + 0.30 * k.get("Cardiomegaly", 0.0))
    return replace(
        a,
        heart=heart * (1 - 0.14 * emphysema),
        pedicle=a.pedicle * (1.05 if portable else 1.0) * (1 + 0.42 * k.get("Enlarged Cardiomediastinum", 0.0)),
        knob=a.knob * (1 + 0.25 * tortuous),
        aorta=0.045 * tortuous,
        air=a.air + 0.025 * emphysema,
        base=a.base + 0.035 * emphysema - (0.03 if portable else 0.0),
        flat=a.flat * max(0.1, 1 - 0.6 * emphysema),
    )
