"""That a baseline delivers the work that it is timed for: the stored pixels, flipped and cut as often as ours."""

import cv2
import numpy as np

from benchmarks.peers.work import Work
from cxrdali.data.augment import SQUARES, AugmentOptions
from shards.dataset.mapped import MappedSize
from shards.dataset.packed import PackedDataset

GRID = 8  # places a side by which an image is found among the stored ones
FAR = 40  # gray levels: a place that was cut is to outweigh no others
DEVIATIONS = 5  # by how many standard deviations a share of the images seen may be from its probability


def stored_images(work: Work, raw: bool) -> np.ndarray:
    """uint8 [N, S, S]: every packed image, JPEGs by OpenCV."""
    dataset = PackedDataset.open(work.data.raw if raw else work.data.jpeg)
    mapped, shape = MappedSize(dataset.stored(work.size)), (work.size, work.size)
    rows = np.flatnonzero(dataset.packed)
    if raw:
        return np.stack([mapped[row][-(work.size**2) :].reshape(shape) for row in rows])  # an .npy's pixels are its end
    return np.stack([cv2.imdecode(mapped[row], cv2.IMREAD_GRAYSCALE) for row in rows])


def difference(seen: np.ndarray, stored: np.ndarray, augment: AugmentOptions, levels: int) -> str | None:
    """What is wrong with images that a baseline gave, None if nothing is.

    Args:
        seen: uint8 [N, S, S], in any order.
        stored: uint8 [M, S, S], what they are of.
        augment: With which probabilities they were to be flipped and cut.
        levels: By how many gray levels a pixel may differ from the stored one's.
    """
    size = stored.shape[1]
    if seen.dtype != np.uint8 or seen.shape[1:] != (size, size):
        return f"its images are {seen.dtype} {seen.shape[1:]}, not uint8 {(size, size)}"
    which, flips = _found(seen, stored)
    other = abs(seen.astype(np.int16) - _flipped(stored[which], flips)) > levels
    if (seen[other] != 0).any():
        worst = abs(seen.astype(np.int16) - _flipped(stored[which], flips))[other & (seen != 0)].max()
        return f"its pixels are up to {worst} gray levels from the stored ones"
    cut = other.sum(axis=(1, 2))
    if cut.max() > SQUARES * (int(augment.side * size) + 1) ** 2:
        return f"it cut {cut.max()} pixels of an image"
    shares = {"flipped horizontally": flips % 2, "flipped vertically": flips // 2, "cut": cut > 0}
    wanted = (augment.hflip, augment.vflip, augment.cutout_probability)
    for (what, images), probability in zip(shares.items(), wanted, strict=True):
        if abs(images.mean() - probability) > DEVIATIONS * (probability * (1 - probability) / len(images)) ** 0.5:
            return f"{images.mean():.0%} of its images are {what}, not {probability:.0%}"
    return None


def _found(seen: np.ndarray, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each image the stored one and the flip (horizontal + 2 * vertical) that are closest to it."""
    places = np.linspace(0, seen.shape[1] / 2, GRID // 2, endpoint=False).astype(int)
    places = np.concatenate([places, seen.shape[1] - 1 - places[::-1]])  # flips of them are themselves
    few = stored[:, places][:, :, places].astype(np.int16)
    candidates = np.stack([_flipped(few, np.full(len(few), flip)) for flip in range(4)])  # [4, M, GRID, GRID]
    best = []
    for image in seen[:, places][:, :, places].astype(np.int16):
        apart = np.minimum(abs(candidates - image), FAR).sum(axis=(2, 3))
        best.append(np.unravel_index(apart.argmin(), apart.shape))
    flips, which = np.array(best).T
    return which, flips


def _flipped(images: np.ndarray, flips: np.ndarray) -> np.ndarray:
    images = np.where((flips % 2 == 1)[:, None, None], images[:, :, ::-1], images)
    return np.where((flips >= 2)[:, None, None], images[:, ::-1], images)
