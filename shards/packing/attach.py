"""Attaching a label release to a packed dataset: a new table beside the others, no shard is touched.

The new file is complete before dataset.json lists it, and is no longer listed before it is removed: a kill leaves
the old state or the new one, and perhaps a file that nothing lists, which the next call removes. The dataset's
identity is over catalog and shards, so runs stay valid.
"""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from shards.dataset.description import DATASET, check_label_name, description_bytes, labels_name
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.make_shard import WORK
from shards.packing.publish import labels_parquet
from shards.releases.checks import check_subjects
from shards.releases.open import read_labels
from shards.releases.release import LabelTable, first_of_each_name
from shards.storage.files import cannot_write, only_one, remove_parts, sha256_bytes, write_bytes
from shards.storage.location import Location
from shards.storage.places import storage_of


def attach(
    root: Location, folders: Sequence[Location], allow_subject_overlap: bool = False, tables: Sequence[LabelTable] = ()
) -> list[tuple[LabelTable, bool]]:
    """Attach label releases to a packed dataset.

    Args:
        root: The dataset, on this machine.
        folders: Folders of label releases; all that each holds are attached.
        allow_subject_overlap: Whether a subject may be in two splits.
        tables: Further label releases, which were read already.

    Returns:
        Each label release, and whether it is new (False: it was attached already).

    Raises:
        UserError: A folder holds none, a table matches no image, a subject is in two splits, or labels of that name
            with other content are attached. Nothing has changed then.
    """
    root = _on_this_machine(root)
    dataset = PackedDataset.open(root)
    catalog = dataset.catalog
    found = [table for folder in folders for table in read_labels(dataset.info["release"], folder, catalog)]
    found += [table.restricted_to(catalog["image_id"]) for table in tables]
    if not allow_subject_overlap:
        for table in found:
            check_subjects(table, catalog)
    given = {table.name: table for table in first_of_each_name(found)}
    contents = {
        name: labels_parquet(table, catalog, {path.name: storage_of(path).sha256() for path in table.inputs})
        for name, table in given.items()
    }
    with _writing(root) as info:
        attached = info["labels"]
        for name, data in contents.items():
            if attached.get(name, sha256_bytes(data)) != sha256_bytes(data):
                raise UserError(
                    f"{root}: labels {name!r} are attached with other content; "
                    f"remove them first: cxrdali label {root} --remove {name}"
                )
        new = {name: data for name, data in contents.items() if name not in attached}
        for name in new:
            check_label_name(name, given[name].inputs[0], attached)
        for name, data in new.items():
            write_bytes(root / labels_name(name), data)
            attached[name] = sha256_bytes(data)
        if new:
            info["default_labels"] = info["default_labels"] or next(iter(new))
            write_bytes(root / DATASET, description_bytes(root / DATASET, info))
    return [(table, name in new) for name, table in given.items()]


def _on_this_machine(root: Location) -> Path:
    """A bucket has no lock, and dataset.json is read, changed and written."""
    if isinstance(root, Path):
        return root
    raise UserError(
        f"{root}: labels are attached to a dataset on this machine; copy it here, attach them, and copy "
        f"labels/ back and {DATASET} last (train then with --data {root})"
    )


@contextlib.contextmanager
def _writing(root: Path) -> Iterator[dict]:
    """The dataset's description, while nobody else writes; what killed writers left is removed first."""
    work = root / WORK
    try:
        work.mkdir(exist_ok=True)
        with only_one(work / "lock", "writing to it"):
            try:
                info = PackedDataset.open(root).info
                remove_parts(root)
                (root / "labels").mkdir(exist_ok=True)
                remove_parts(root / "labels")
                for path in (root / "labels").glob("*.parquet"):
                    if path.stem not in info["labels"]:
                        path.unlink()
                yield info
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise cannot_write(root, error) from error


def detach(root: Location, name: str) -> None:
    """Remove a label release. Raises UserError if it is not attached. The default becomes the first of the others."""
    root = _on_this_machine(root)
    with _writing(root) as info:
        if name not in info["labels"]:
            attached = ", ".join(sorted(info["labels"])) or "none"
            raise UserError(f"{root}: no labels {name!r} to remove; attached are {attached}")
        del info["labels"][name]
        if info["default_labels"] == name:
            info["default_labels"] = min(info["labels"], default=None)
        write_bytes(root / DATASET, description_bytes(root / DATASET, info))
        (root / labels_name(name)).unlink(missing_ok=True)
