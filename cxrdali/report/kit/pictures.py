"""Images of a page as one JPEG."""

import cv2
import numpy as np
import simplejpeg


def contact_sheet(images: np.ndarray, columns: int = 4, cell: int = 256, gap: int = 6) -> bytes:
    """Training images uint8 [B, 1, S, S] as one grayscale JPEG, each at most (or enlarged to about) `cell` pixels."""
    tiles = [resized(image[0], cell) for image in images]
    side = tiles[0].shape[0]
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * (side + gap) - gap, columns * (side + gap) - gap, 1), 255, dtype=np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * (side + gap), number % columns * (side + gap)
        sheet[top : top + side, left : left + side, 0] = tile
    return simplejpeg.encode_jpeg(sheet, quality=88, colorspace="GRAY")


def resized(image: np.ndarray, cell: int) -> np.ndarray:
    """[S, S] reduced to `cell`, or repeated a whole number of times: small pixels stay pixels."""
    if image.shape[0] > cell:
        return cv2.resize(image, (cell, cell), interpolation=cv2.INTER_AREA)
    times = cell // image.shape[0]
    return image.repeat(times, axis=0).repeat(times, axis=1)
