"""Images that have the same pixels, by a hash of what was packed of each."""

import hashlib

import numpy as np

LARGE_PATIENT = 0.05  # share of the images above which a patient is probably none


def pixels_hash(image: np.ndarray) -> str:
    """16 hex digits, which two different ones of a million images share with a chance below one in ten million."""
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8).hexdigest()


def same_pixels(hashes: np.ndarray, patient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Who has the same pixels as somebody else.

    Args:
        hashes: str [n], "" of an image that is not compared (a reject).
        patient: int64 [n], a code per patient.

    Returns:
        int64 [n], a number per set of images with the same pixels, -1 of an image that is alone with its own, and
        bool [n], whether an image of another patient is in its set.
    """
    _, first, group, members = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
    alone = (members[group] < 2) | (hashes == "")
    other = np.zeros(len(first), dtype=bool)
    np.logical_or.at(other, group, patient != patient[first][group])
    return np.where(alone, -1, first[group]), other[group] & ~alone


def is_constant(hashes: np.ndarray, side: int) -> np.ndarray:
    """bool [n]: whether a hash is that of an image [side, side] of a single gray, such as an all black one."""
    return np.isin(hashes, constant_hashes(side))


def constant_hashes(side: int) -> list[str]:
    """The hashes of all images [side, side] of a single gray."""
    return [pixels_hash(np.full((side, side), value, dtype=np.uint8)) for value in range(256)]
