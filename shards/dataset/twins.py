"""Whether two pictures are one image: their pixels compared place by place, whatever was done to the gray values.

In windows of WINDOW pixels the two are correlated, which no brightness, contrast or gamma changes much; three quarters
of the windows must agree. Windows without structure, or white or black in one of them, say nothing. Pictures of one
patient, taken twice, agree in a place or two. What was cropped is laid over the other first, by moving and scaling its
sides, never by turning it: two pictures of one patient are turned, copies are not.
"""

import cv2
import numpy as np

from shards.dataset.likeness import LEAST, equalised, framed

WINDOW = 9  # pixels
GLANCE, GLANCE_WINDOW, PROMISING = 64, 7, 0.75  # pixels; pixels; median correlation from which more is compared
STRUCTURE = 16.0  # gray levels squared: variance in a window that says something
WHITE, BLACK = 250, 5  # gray levels: what may have been cut off
SHARE = 0.25  # of the windows, which may agree less
FEW, LESS = 0.05, 0.2  # of the windows, which may agree less by another such correlation
SAME, SAME_SMALL = 0.90, 0.93  # correlation from which it is one image; of pictures below SMALL pixels
SMALL = 96
# less is enough where signatures differ in few bits: the nearest candidates among 322 real films differ in 63 of 256,
# among 10,000 synthetic pictures in 13
ALIKE, SAME_ALIKE = 8, 0.80
WELL = 0.98  # correlation that no moving would raise much
STRETCH = 0.13  # most that a side may be scaled
FEWEST = 0.05  # share of a picture's windows that must say something


def is_same(correlation: float, side: int, distance: float) -> bool:
    """side: in pixels, of the smaller picture; distance: bits in which the signatures differ."""
    if distance <= ALIKE:
        return correlation >= SAME_ALIKE
    return correlation >= (SAME if side >= SMALL else SAME_SMALL)


def agreement(a: np.ndarray, b: np.ndarray, negative: bool = False, inner: tuple[bool, bool] = (False, False)) -> float:
    """How much two pictures agree, uint8 [S, S] each: a correlation, -1 to 1; 0 where too little can be compared.

    negative: compare with the negative of b; inner: of which only that is compared which its border frames.
    """
    side = min(LEAST, len(a), len(b))
    both = [framed(each) if part else each for each, part in zip((a, b), inner, strict=True)]
    first, second = (_scaled(each, side) for each in both)
    if negative:
        second = 255 - second
    small = _scaled(first, GLANCE), _scaled(second, GLANCE)
    glance = _agreement(*small, np.ones((GLANCE, GLANCE), dtype=bool), GLANCE_WINDOW)
    if glance is not None and glance[0] < PROMISING:  # nearly all pairs end here, in a tenth of the time
        return glance[1]
    found = _low(_agreement(first, second, np.ones((side, side), dtype=bool)))
    if found >= WELL or (warp := _laid_over(*small)) is None:
        return found
    warp[:, 2] *= side / GLANCE
    how, everything = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, np.full((side, side), 255, np.uint8)
    there = np.asarray(cv2.warpAffine(everything, warp, (side, side), flags=how)) == 255
    moved = cv2.warpAffine(second, warp, (side, side), flags=how, borderMode=cv2.BORDER_REPLICATE)
    return max(found, _low(_agreement(first, np.asarray(moved), there)))


def _scaled(image: np.ndarray | None, side: int) -> np.ndarray:
    assert image is not None  # its signature was of what is inside
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)


def _agreement(a: np.ndarray, b: np.ndarray, known: np.ndarray, window: int = WINDOW) -> tuple[float, float] | None:
    """The median correlation of windows, and that of SHARE of them; None if too few windows say something.

    known: bool [S, S], where b is there.
    """

    def mean(image: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(image, -1, (window, window), borderType=cv2.BORDER_REFLECT)

    cut = (a >= WHITE) | (a <= BLACK) | (b >= WHITE) | (b <= BLACK) | ~known
    first, second = a.astype(np.float32), b.astype(np.float32)
    mean_a, mean_b = mean(first), mean(second)
    vary_a, vary_b = mean(first * first) - mean_a**2, mean(second * second) - mean_b**2
    useful = (vary_a > STRUCTURE) & (vary_b > STRUCTURE) & (mean(cut.astype(np.float32)) < 0.02)
    margin = window // 2
    useful[:margin] = useful[-margin:] = useful[:, :margin] = useful[:, -margin:] = False
    if useful.sum() < FEWEST * useful.size:
        return None
    both = (mean(first * second) - mean_a * mean_b)[useful]
    middle, low, lowest = np.quantile(both / np.sqrt(vary_a[useful] * vary_b[useful]), (0.5, SHARE, FEW))
    return float(middle), float(min(low, lowest + LESS))


def _low(found: tuple[float, float] | None) -> float:
    return 0.0 if found is None else found[1]


def _laid_over(a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """How b is moved and scaled so that it lies on a, float32 [2, 3]; None if it cannot be."""
    exposed = ((b > BLACK) & (b < WHITE)).astype(np.uint8)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 1e-4)
    ranks = equalised(a) * 255, equalised(b) * 255
    try:
        _, found = cv2.findTransformECC(*ranks, np.eye(2, 3, dtype=np.float32), cv2.MOTION_AFFINE, criteria, exposed, 3)
    except cv2.error:  # they have nothing in common
        return None
    warp = np.array(found, dtype=np.float32)
    warp[0, 1] = warp[1, 0] = 0
    return warp if (np.abs(warp[[0, 1], [0, 1]] - 1) < STRETCH).all() else None
