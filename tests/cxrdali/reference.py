"""The augmentation in plain NumPy: what DALI's output is compared with, pixel for pixel."""

import numpy as np


def augmented(image: np.ndarray, decisions, place: int) -> np.ndarray:
    """uint8 [S, S] with the `place`-th decisions carried out: squares, then flips."""
    image = image.copy()
    anchors = decisions["anchor"][place].reshape(-1, 2).astype(int)
    shapes = decisions["shape"][place].reshape(-1, 2).astype(int)
    for (top, left), (height, width) in zip(anchors, shapes, strict=True):
        image[top : top + height, left : left + width] = 0
    if decisions["horizontal"][place]:
        image = image[:, ::-1]
    if decisions["vertical"][place]:
        image = image[::-1]
    return image
