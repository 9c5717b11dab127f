"""Records of the finished shards."""

import json
from collections.abc import Iterator, Sequence

from shards.packing.make_shard import record_path
from shards.packing.plan import Plan
from shards.releases.release import Release
from shards.storage.location import Location
from shards.storage.places import storage_of

AT_A_TIME = 256  # records that are read together


def recorded(out: Location) -> set[int]:
    """The finished shards, from one listing: a look at each record is a round trip where it lies in a bucket."""
    names = (entry.name for entry in storage_of(record_path(out, 0).parent).entries())
    return {int(name.removesuffix(".json")) for name in names if name[:1].isdigit()}


def read_records(out: Location, shards: Sequence[int]) -> Iterator[dict]:
    """The records of finished shards, in this order."""
    for start in range(0, len(shards), AT_A_TIME):
        paths = [record_path(out, shard) for shard in shards[start : start + AT_A_TIME]]
        yield from map(json.loads, storage_of(paths[0].parent).read_each([path.name for path in paths]))


def held(folder: Location) -> dict[str, int]:
    """Finished files of a size's folder and their bytes."""
    return {entry.name: entry.num_bytes() for entry in storage_of(folder).entries() if entry.name[:1].isdigit()}


def is_made(release: Release, record: dict, planned: Plan, held: dict[str, dict[str, int]]) -> bool:
    """Whether a finished shard is there in all sizes, and the files that it rejected are still as they were."""
    name = f"{record['shard']:06d}"
    for folder, size in record["sizes"].items():
        there = held[folder].get(f"{name}.tar"), f"{name}.idx" in held[folder]
        if size["samples"] and there != (size["bytes"], True):
            return False
    rejects = ((release.root / planned.path(row), seen) for row, _, seen in record["rejects"])
    return all(storage_of(path).fingerprint() == seen for path, seen in rejects)
