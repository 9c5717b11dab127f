"""Records of the shards that are made."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from shards.packing.make_shard import WORK, fingerprint, record_path
from shards.packing.plan import Plan
from shards.releases.release import Release
from shards.storage.remote import entries, is_remote, reaching

AT_A_TIME = 256  # records that are fetched together from a store


def _recorded(out: Path) -> set[int]:
    """The finished shards, from one listing: a look at each record is a round trip where it lies in a bucket."""
    folder = out / WORK / "records"
    names = [name for name, _, _ in entries(folder)] if is_remote(out) else [path.name for path in folder.iterdir()]
    return {int(name.removesuffix(".json")) for name in names if name[:1].isdigit()}


def _records(out: Path, shards: Sequence[int]) -> Iterator[dict]:
    """The records of finished shards, in this order; out of a store, where each is a round trip, many at a time."""
    for start in range(0, len(shards), AT_A_TIME):
        paths = [record_path(out, shard) for shard in shards[start : start + AT_A_TIME]]
        if is_remote(out):
            with reaching(out):
                found = out.fs.cat([path.path for path in paths])
            yield from (json.loads(found[path.path]) for path in paths)
        else:
            yield from (json.loads(path.read_bytes()) for path in paths)


def _held(folder: Path) -> dict[str, int]:
    """Finished files of a folder and their bytes."""
    if is_remote(folder):
        return {name: size for name, _, size in entries(folder)}
    return {path.name: path.stat().st_size for path in folder.glob("[0-9]*")}


def _is_made(release: Release, record: dict, planned: Plan, held: dict[str, dict[str, int]]) -> bool:
    """Whether a finished shard is there in all sizes, and the files that it rejected are still as they were."""
    name = f"{record['shard']:06d}"
    for folder, size in record["sizes"].items():
        there = held[folder].get(f"{name}.tar"), f"{name}.idx" in held[folder]
        if size["samples"] and there != (size["bytes"], True):
            return False
    return all(fingerprint(release.root / planned.path(row)) == seen for row, _, seen in record["rejects"])
