"""Which part a group is in, one group at a time: what the rules of folds are compared with."""

from hashlib import blake2b

import numpy as np


def hash_of(group: str, seed: int = 0) -> int:
    """64 bits, as every version and machine has them."""
    made = blake2b(group.encode(), digest_size=8, key=seed.to_bytes(8, "little"), person=b"ids").digest()
    return int.from_bytes(made, "little")


def folds_by_hand(groups, folds: int, seed: int = 0) -> np.ndarray:
    """The fold of each image by its group's id alone: the upper half of the hash says how far round it is."""
    return np.array([(hash_of(group, seed) >> 32) * folds // 2**32 for group in groups])


def parts_by_hand(groups, folds: int, seed: int = 0) -> np.ndarray:
    """Parts of as many images: the largest group first, each to the emptiest part."""
    groups = np.asarray(groups)
    sizes = {group: int((groups == group).sum()) for group in groups}
    filled, part = [0] * folds, {}
    for group in sorted(sizes, key=lambda each: (-sizes[each], hash_of(each, seed))):
        first = hash_of(group, seed) % folds
        part[group] = min(((first + step) % folds for step in range(folds)), key=filled.__getitem__)
        filled[part[group]] += sizes[group]
    return np.array([part[group] for group in groups])
