"""One shard compared with what the dataset says of it: counts, sha256, then the tar against index and catalog.

Imports no pandas, as a worker of `shards.packing.verify` would take longer for that than for a gigabyte.
"""

import io
import mmap
from pathlib import Path

import numpy as np
import simplejpeg

from shards.dataset.content import content, image_hash
from shards.packing.tarshard import members, read_index
from shards.storage.files import sha256_file


def check_shard(
    paths: tuple[Path, Path], size: dict, entry: dict, expected: list[tuple[str, int, int]], deep: bool
) -> list[str]:
    """What is wrong with a shard, each with its file.

    Args:
        paths: Of the shard and its index.
        size: Its size's entry in dataset.json, and `entry` its own.
        expected: The catalog's view of the shard: (key, offset, length) in order.
        deep: Whether to decode every rendition, and to hash each alone for the shard's `content`.
    """
    path, index = paths
    if not path.exists():
        return [f"{path}: missing"]
    bytes_found = path.stat().st_size
    if bytes_found != entry["bytes"]:
        return [f"{path}: {bytes_found} bytes, dataset.json says {entry['bytes']}"]
    if sha256_file(path) != entry["sha256"]:
        return [f"{path}: its sha256 differs from dataset.json"]
    problems = _check_index(index, entry, expected)
    extension = "npy" if size["encoding"] == "raw" else "jpg"
    if len(expected) != entry["samples"]:
        problems.append(f"{path}: the catalog has {len(expected)} samples, dataset.json {entry['samples']}")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
        view = memoryview(data)
        try:
            found = [m for m in members(view) if not m[0].endswith(".json")]
            wanted = [(f"{key}.{extension}", offset, length) for key, offset, length in expected]
            if found != wanted:
                problems.append(f"{path}: its members are not the catalog's")
            elif deep:  # its content says no more of its bytes than the sha256 does, and takes as long to compute
                problems += _decode(path, view, found, size)
                hashes = (image_hash(key, view[offset : offset + length]) for key, offset, length in expected)
                if not problems and entry.get("content") not in (None, content(hashes)):
                    problems.append(f"{path}: the hash of its images is not the content in dataset.json")
        except ValueError as error:
            problems.append(f"{path}: {error}")
        finally:
            view.release()
    return problems


def _check_index(path: Path, entry: dict, expected: list[tuple[str, int, int]]) -> list[str]:
    if not path.exists():
        return [f"{path}: missing"]
    if sha256_file(path) != entry["index_sha256"]:
        return [f"{path}: its sha256 differs from dataset.json"]
    try:
        found = [(key, *parts[0][1:]) for key, parts in read_index(path.read_bytes().decode())]
    except ValueError as error:
        return [f"{path}: {error}"]
    return [] if found == expected else [f"{path}: its samples are not the catalog's"]


def _decode(path: Path, view: memoryview, found: list[tuple[str, int, int]], size: dict) -> list[str]:
    side, problems = size["pixels"], []
    for name, offset, length in found:
        data = view[offset : offset + length]
        if size["encoding"] == "raw":
            problem = _raw_problem(bytes(data), side)
        else:
            try:
                shape = simplejpeg.decode_jpeg(data, "GRAY", strict=True).shape
                problem = None if shape == (side, side, 1) else f"{shape[0]} x {shape[1]} pixels"
            except ValueError as error:
                problem = str(error)
        if problem:
            problems.append(f"{path}: {name}: {problem}")
        data.release()
    return problems


def _raw_problem(data: bytes, side: int) -> str | None:
    try:
        image = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError) as error:  # numpy parses the header as an expression
        return f"not a .npy ({error})"
    right = image.dtype == np.uint8 and image.shape == (side, side) and len(data) == 128 + side * side
    return None if right else f"{image.dtype} {image.shape}, not uint8 ({side}, {side})"
