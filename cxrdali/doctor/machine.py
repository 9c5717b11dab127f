"""Checks of cores, memory, disk, and of a packed dataset on it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cxrdali.doctor.check import Check, note, ok, wrong
from cxrdali.report.kit.numbers import storage
from shards.errors import UserError
from shards.storage.files import only_one, write_bytes
from shards.storage.places import storage_of
from shards.words import counted


def cores_check(usable: int, total: int | None) -> Check:
    """usable: by this process's affinity and its container's quota, which every command keeps to."""
    return ok("cores", f"{usable} of {total} usable")


def memory_check(available: int, limit: int | None) -> Check:
    within = f" (cgroup limit {storage(limit)})" if limit is not None else ""
    return ok("memory", f"{storage(available)} available{within}")


def _existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(one for one in (path, *path.parents) if os.path.lexists(one))


def folder_check(runs: Path) -> Check:
    """Publishes and locks a file where runs go, as every run does, and removes it."""
    place, name = _existing(runs), "run folders"
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".cxrdali-doctor-") as scratch:
            write_bytes(Path(scratch) / "file", b"x")
            with only_one(Path(scratch) / "lock", "looking"):
                pass
    except OSError as error:
        return wrong(
            name,
            f"{place}: cannot be written to ({error.strerror or error})",
            "work in another folder, or give `cxrdali train --out`",
        )
    return ok(name, f"{place}: can be written to, {storage(shutil.disk_usage(place).free)} free")


def disk_check(data: Path) -> Check:
    place = _existing(data)
    usage = shutil.disk_usage(place)
    return ok("disk of the data", f"{place}: {storage(usage.free)} of {storage(usage.total)} free")


def dataset_checks(root: Path, required: bool, memory: int) -> Iterator[Check]:
    """memory: bytes that the page cache may take."""
    try:
        from shards.dataset.cache import Cache
        from shards.dataset.packed import PackedDataset

        with tempfile.TemporaryDirectory(prefix="cxrdali-doctor-") as scratch:  # of one in a bucket, nothing is kept
            dataset = PackedDataset.open(root, Cache(Path(scratch)))
            sizes = {pixels: dataset.info["sizes"][str(pixels)]["shards"] for pixels in dataset.sizes}
        labels = dataset.label_names
    except (UserError, OSError, ImportError) as error:
        unreadable = isinstance(error, OSError) and error.strerror
        found, _, fix = (f"{root}: {error.strerror}" if unreadable else str(error)).partition("; ")
        absent = not required and storage_of(root).local and not os.path.lexists(root)
        yield (note if absent else wrong)("packed dataset", found, fix or "give another --data")
        return
    count = dataset.info["counts"]["packed"]
    if labels:
        yield ok("packed dataset", f"{root}: {counted(count, 'image')}, labels {', '.join(labels)}")
    else:
        yield note("packed dataset", f"{root}: {count:,} images, no labels", "pack with --labels DIR to train on it")
    for pixels, shards in sizes.items():
        yield size_check(pixels, sum(shard["bytes"] for shard in shards), memory)


def size_check(pixels: int, stored: int, memory: int) -> Check:
    """Whether the page cache can hold a stored size: then only the first epoch waits for the disk."""
    if stored <= memory:
        return ok(f"{pixels} px", f"{storage(stored)}, fits in memory")
    return note(f"{pixels} px", f"{storage(stored)}, larger than memory", "`--order windowed` on slow disks")
