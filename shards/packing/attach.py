"""Attaching label releases and people to a packed dataset: a new table beside the others, no shard is touched.

The new file is complete before dataset.json lists it, and is no longer listed before it is removed: a kill leaves
the old state or the new one, and perhaps a file that nothing lists. What is being attached or removed is noted before
that in `.packing/`, so the next call removes that file, and no other. The dataset's identity is over catalog and
shards, so runs stay valid.
"""

import contextlib
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from shards.dataset.catalog import Subjects
from shards.dataset.description import (
    DATASET,
    LARGEST,
    check_label_name,
    labels_name,
    stored_otherwise,
    subjects_name,
    write_description,
)
from shards.dataset.labels import PSEUDO_KEY
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.make_shard import WORK
from shards.packing.publish import labels_parquet, subjects_parquet
from shards.releases.checks import check_subjects
from shards.releases.open import read_labels
from shards.releases.release import LabelTable, first_of_each_name
from shards.releases.subjects import SubjectTable, merged
from shards.storage.files import (
    cannot_write,
    check_inside,
    json_bytes,
    only_one,
    open_regular,
    remove_parts,
    sha256_bytes,
    write_bytes,
)
from shards.storage.location import Location
from shards.storage.places import storage_of
from shards.storage.sealed import parse_json

log = logging.getLogger(__name__)

OTHER_NAME = "give another --name"  # to pseudo-labels, which are not named after their file
# In .packing/, of each kind of table: names of those that are being attached or removed.
NOTES = {"labels": "labels.json", "subjects": "subjects.json"}


def attach(
    root: Location, folders: Sequence[Location], allow_subject_overlap: bool = False, tables: Sequence[LabelTable] = ()
) -> list[tuple[LabelTable, bool]]:
    """Attach label releases to a packed dataset.

    Args:
        root: The dataset, on this machine.
        folders: Folders of label releases; all that each holds are attached. And tables that belong to these.
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
    found = read_labels(dataset.info["release"], folders, catalog) if folders else []
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
                fix = f"{OTHER_NAME}, or " if given[name].pseudo else ""
                raise UserError(
                    f"{root}: labels {name!r} are attached with other content; {fix}"
                    f"remove them first: cxrdali label {root} --remove {name}"
                )
        new = {name: data for name, data in contents.items() if name not in attached}
        for name in new:
            fix = {"fix": OTHER_NAME} if given[name].pseudo else {}
            check_label_name(name, given[name].source, attached, **fix)
        _note(root, "labels", new)
        for name, data in new.items():
            write_bytes(root / labels_name(name), data)
            attached[name] = sha256_bytes(data)
        if new:
            real = (name for name in new if not given[name].pseudo)  # what a run predicted is asked for by name
            info["default_labels"] = info["default_labels"] or next(real, None)
            write_description(root, info)
        _say(info, new)
    return [(table, name in new) for name, table in given.items()]


def _on_this_machine(root: Location) -> Path:
    """A bucket has no lock, and dataset.json is read, changed and written."""
    if isinstance(root, Path):
        return root
    raise UserError(
        f"{root}: labels and people are attached to a dataset on this machine; copy it here, attach them, and copy "
        f"labels/ or subjects/ back and {DATASET} last (train then with --data {root})"
    )


@contextlib.contextmanager
def _writing(root: Path) -> Iterator[dict]:
    """The dataset's description, while nobody else writes; what killed writers left is removed first."""
    work, folders = root / WORK, [root / kind for kind in NOTES]
    check_inside(root, work, *folders)
    try:
        work.mkdir(exist_ok=True)
        with only_one(work / "lock", "writing to it"):
            try:
                info = PackedDataset.open(root).info
                remove_parts(root)
                for folder in folders:
                    folder.mkdir(exist_ok=True)
                    remove_parts(folder)
                    noted = _noted(work / NOTES[folder.name])
                    for path in folder.glob("*.parquet"):
                        if path.stem in noted and path.stem not in info.get(folder.name, {}):
                            path.unlink()
                yield info
            finally:
                with contextlib.suppress(OSError):
                    for note in NOTES.values():
                        (work / note).unlink(missing_ok=True)
                    (root / "subjects").rmdir()  # if nothing is in it
                if not (work / "options.json").exists():  # nor is a packing under way that the next call continues
                    shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise cannot_write(root, error) from error


def _note(root: Path, kind: str, names: Iterable[str]) -> None:
    write_bytes(root / WORK / NOTES[kind], json_bytes(sorted(names)))


def _noted(note: Path) -> list:
    """What a killed call was attaching or removing."""
    try:
        with open_regular(note) as file:
            names = parse_json(file.read(LARGEST))
    except (OSError, ValueError):
        return []
    return names if isinstance(names, list) else []


def _say(info: dict, names: Iterable[str]) -> None:
    """What attaching or removing a label release leaves in the shards."""
    otherwise, unknown = stored_otherwise(info), "stored_labels" not in info
    for name in names:
        if unknown:
            log.info(
                f"labels {name}: the .json in the shards may hold other findings of them, as they were packed (by an "
                "earlier version, which did not note it): who reads the shards with webdataset sees those"
            )
        elif name in otherwise:
            log.info(otherwise[name])


def detach(root: Location, name: str) -> None:
    """Remove a label release. Raises UserError if it is not attached. The default becomes the first of the others that
    no run predicted."""
    root = _on_this_machine(root)
    with _writing(root) as info:
        if name not in info["labels"]:
            attached = ", ".join(sorted(info["labels"])) or "none"
            raise UserError(f"{root}: no labels {name!r} to remove; attached are {attached}")
        opened, others = PackedDataset.open(root), info["labels"].keys() - {name}
        if was_default := info["default_labels"] == name:
            real = (each for each in others if PSEUDO_KEY not in opened.label_file(each).metadata())
            info["default_labels"] = min(real, default=None)
        _note(root, "labels", [name])
        del info["labels"][name]
        write_description(root, info)
        (root / labels_name(name)).unlink(missing_ok=True)
        _say(info, [name])
        if was_default and (now := info["default_labels"]):
            log.info(
                f"labels {now}: are the default now, also when {name} is attached again; choose by --labels {name}"
            )


def attach_subjects(root: Location, name: str, given: SubjectTable) -> tuple[bool, tuple[str, ...]]:
    """Attach what a table says of the images' people, by this name; what packing wrote of them stays.

    Returns:
        Whether it is new (False: it was attached already), and notes for the user.

    Raises:
        UserError: It says nothing of these images, another table has a column of it, or one of that name has other
            content. Nothing has changed then.
    """
    root = _on_this_machine(root)
    dataset = PackedDataset.open(root)
    known = [column for column in given.table if column in dataset.catalog]
    own = {column: _texts(dataset.catalog[column]) for column in known}
    table, notes = merged(own, given)
    if table.empty:
        raise UserError(f"{given.inputs[0]}: says nothing that is understood of the images of {root}; see its columns")
    inputs = {path.name: storage_of(path).sha256() for path in given.inputs}
    data = subjects_parquet(name, table, inputs)
    with _writing(root) as info:
        attached = info.setdefault("subjects", {})
        if attached.get(name) == sha256_bytes(data):
            return False, notes
        if name in attached:
            raise UserError(
                f"{root}: people {name!r} are attached with other content; remove them first: cxrdali subjects {root} "
                f"--remove {name}"
            )
        check_label_name(name, given.inputs[0] if given.inputs else root, attached, "people")
        for other in attached:
            stored = Subjects(root / subjects_name(other), attached[other], info["counts"]["planned"])
            if both := [column for column in stored.columns() if column in table]:
                raise UserError(
                    f"{root}: {', '.join(both)} are attached already, by {other!r}; remove that first (cxrdali "
                    f"subjects {root} --remove {other}), or leave these columns out of the table"
                )
        _note(root, "subjects", [name])
        write_bytes(root / subjects_name(name), data)
        attached[name] = sha256_bytes(data)
        write_description(root, info)
    return True, notes


def _texts(column: pd.Series) -> pd.Series:
    """As the tables of people have it; whole numbers without a point."""
    numbers = pd.api.types.is_numeric_dtype(column)
    words = column.map(lambda value: f"{value:.6g}" if numbers else str(value), na_action="ignore")
    return words.fillna("").astype("str")


def detach_subjects(root: Location, name: str) -> None:
    """Remove what was attached by this name. Raises UserError if nothing was."""
    root = _on_this_machine(root)
    with _writing(root) as info:
        if name not in info.get("subjects", {}):
            attached = ", ".join(sorted(info.get("subjects", {}))) or "none"
            raise UserError(f"{root}: no people {name!r} to remove; attached are {attached}")
        _note(root, "subjects", [name])
        del info["subjects"][name]
        if not info["subjects"]:
            del info["subjects"]
        write_description(root, info)
        (root / subjects_name(name)).unlink(missing_ok=True)
