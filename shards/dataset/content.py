"""What a size of a dataset holds, in whichever shards: a hash of every image, summed, since a sum has no order."""

import hashlib
from collections.abc import Iterable


def image_hash(key: str, data: bytes | memoryview) -> int:
    """Of one image: its key, and the bytes of its KEY.jpg or KEY.npy."""
    made = hashlib.sha256(f"{key}\0".encode())  # not blake2b: processors have instructions for sha256
    made.update(data)
    return int.from_bytes(made.digest()[:8])


def content(hashes: Iterable[int]) -> int:
    """The content of a shard, of its images' hashes; or that of a size, of its shards' contents."""
    return sum(hashes) % 2**62  # dataset.json holds numbers of 64 bits
