"""Finding what a packed dataset lost or changed: counts, sizes, hashes, then tars against index and catalog."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np

from shards.dataset.description import (
    ASIDE,
    DATASET,
    FORMAT,
    content_of,
    dataset_identity,
    labels_name,
    read_description,
    subjects_name,
)
from shards.dataset.key import sample_key
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.check_shard import check_shard
from shards.packing.make_shard import WORK
from shards.packing.tarshard import index_name
from shards.progress import progress_bar
from shards.storage.files import sha256_file
from shards.storage.location import Location
from shards.words import choices
from shards.workers import run


@dataclass(frozen=True)
class VerifyReport:
    """`problems` names each file and what is wrong with it; empty if the dataset is whole. shards, samples, num_bytes:
    of the sizes that were checked; absent: sizes that are not on this disk, as a whole, and were not asked for."""

    shards: int
    samples: int
    num_bytes: int
    problems: tuple[str, ...]
    deep: bool
    absent: tuple[str, ...] = ()


def verify(root: Location, deep: bool = False, jobs: int = 1, sizes: Sequence[str] | None = None) -> VerifyReport:
    """Check every file of the dataset; with `deep`, decode every rendition strictly and hash each alone too.

    sizes: check only these, which must be here; by default all that are here.

    Raises UserError only if there is no readable dataset.json to compare with, or if it lies in a bucket.
    """
    if not isinstance(root, Path):
        raise UserError(
            f"{root}: verify reads every byte from this machine's disk; copy the dataset here and verify the copy, or "
            f"train with --data {root}, which compares every shard that it copies with its sha256"
        )
    path = root / DATASET
    if not path.exists():
        raise UserError(f"{path}: no such file, so there is nothing to compare with; run `cxrdali shard` first")
    info, sealed = read_description(root)
    dataset = PackedDataset(root, info)
    if not sealed:  # nothing in it can be relied on
        return VerifyReport(0, 0, 0, (f"{root / DATASET}: its checksum does not match its content",), deep)
    if info.get("format") != FORMAT:
        raise UserError(f"{path}: format {info.get('format')!r}, this cxrdali reads {FORMAT}; pack again")
    problems = _check_description(dataset)
    try:
        catalog = dataset.catalog  # its hash is checked before it is parsed
        keys = [
            sample_key(*names)
            for names in zip(catalog["subject_id"], catalog["study_id"], catalog["image_id"], strict=True)
        ]
    except UserError as error:
        return VerifyReport(0, 0, 0, tuple(dict.fromkeys([*problems, str(error)])), deep)
    chosen = _chosen(dataset, sizes)
    going = {name.partition("/")[0] for name in info.get("dropped", ())}
    known = {DATASET, "catalog.parquet", "rejects.csv", "labels", "subjects", WORK, ASIDE, *info["sizes"], *going}
    problems += _strangers(root, known)
    problems += _strangers(root / "labels", {Path(labels_name(name)).name for name in info["labels"]})
    problems += _strangers(root / "subjects", {Path(subjects_name(name)).name for name in info.get("subjects", {})})
    folders = [path for path in (root / "labels", root / "subjects", root / WORK) if path.is_symlink()]  # not of sizes
    problems += [f"{path}: is a link, so no command writes or removes anything there" for path in folders]
    tasks: list[tuple] = []
    for name, size in chosen.items():
        if not dataset.has_folder(name):
            problems.append(f"{root / name}: the folder is missing")
            continue
        tasks += _shard_checks(dataset, name, keys, deep)
        known = {Path(entry["name"]).name for entry in size["shards"]}
        problems += _strangers(root / name, known | {index_name(name) for name in known})
    results = run(tasks, jobs, str(root))
    with progress_bar("verifying", len(tasks), " shards") as bar:
        for found in results:
            problems += found
            bar.update()
    entries = [entry for size in chosen.values() for entry in size["shards"]]
    return VerifyReport(
        shards=len(entries),
        samples=sum(entry["samples"] for entry in entries),
        num_bytes=sum(entry["bytes"] for entry in entries),
        problems=tuple(sorted(problems)),
        deep=deep,
        absent=() if sizes else tuple(name for name in info["sizes"] if name not in chosen),
    )


def _chosen(dataset: PackedDataset, asked: Sequence[str] | None) -> dict[str, dict]:
    """The sizes to check. Raises UserError for one that the dataset has not."""
    sizes = dataset.info["sizes"]
    for name in asked or ():
        if name not in sizes:
            has = choices(name, sorted(sizes, key=int), "it has")
            raise UserError(f"{dataset.folder}: no size {name!r}; {has}")
    return {name: size for name, size in sizes.items() if (name in asked if asked else dataset.has_folder(name))}


def _shard_checks(dataset: PackedDataset, name: str, keys: list[str], deep: bool) -> Iterator[tuple]:
    """A task per shard of a size, with the rows that the catalog has in it."""
    catalog, size = dataset.catalog, dataset.info["sizes"][name]
    shard_column = catalog["shard"].fillna(-1).to_numpy(dtype=np.int64)
    for entry in size["shards"]:
        rows = np.flatnonzero(shard_column == int(Path(entry["name"]).stem))
        columns = catalog.iloc[rows][[f"offset_{name}", f"length_{name}"]].to_numpy(dtype=np.int64)
        expected = [(keys[row], *span) for row, span in zip(rows, columns.tolist(), strict=True)]
        paths = (dataset.place(entry["name"]), dataset.place(index_name(entry["name"])))
        yield joblib.delayed(check_shard)(paths, size, entry, expected, deep)


def _check_description(dataset: PackedDataset) -> list[str]:
    root, info = dataset.folder, dataset.info
    problems = []
    if content_of(info) != dataset_identity(info):
        problems.append(f"{root / DATASET}: its id is not the hash of its catalog and shards")
    files = {dataset.place("catalog.parquet"): info["catalog_sha256"]}
    files |= {dataset.place("rejects.csv"): info["rejects_sha256"]}
    files |= {root / labels_name(name): sha256 for name, sha256 in info["labels"].items()}
    files |= {root / subjects_name(name): sha256 for name, sha256 in info.get("subjects", {}).items()}
    for path, sha256 in files.items():
        if not path.exists():
            problems.append(f"{path}: missing")
        elif sha256_file(path) != sha256:
            problems.append(f"{path}: its sha256 differs from dataset.json")
    return problems


def _strangers(folder: Path, known: set[str]) -> list[str]:
    """Files that nothing describes."""
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return [f"{folder / stranger}: not in dataset.json" for stranger in sorted(found - known)]
