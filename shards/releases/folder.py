"""A folder of images without any table: no labels, ids from the files' names, and from headers what DICOMs say."""

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import PurePosixPath

import pandas as pd

from shards.decoding.decoded import RejectedImage
from shards.decoding.magic import image_kind
from shards.errors import UserError
from shards.releases.declared.schema import TAGS
from shards.releases.groups import odd_views, views, with_groups
from shards.releases.locate import IMAGES
from shards.releases.release import Reader, Release
from shards.releases.tags import with_tags
from shards.storage.files import sha256_bytes
from shards.storage.location import Location
from shards.storage.places import storage_of
from shards.words import counted

NAME = "folder"
TABLES = re.compile(r".*\.(csv|tsv|parquet|jsonl?|xlsx?|ods|feather)(\.(gz|bz2|xz|zst|zip))?", re.IGNORECASE)
UNWRITTEN = re.compile(r"[\x00-\x1f\ud800-\udfff]")  # what no catalog holds, or nobody reads in it
DEEPEST = 12  # folders
LOOKED_AT = 100  # files without a suffix, of which one must be a DICOM
START = 4096  # bytes of a file that say what it is


def recognises(root: Location) -> bool:
    """Whether there are images and no table in a folder and below it."""
    files = []
    for path in _files(root):
        if TABLES.fullmatch(path.rpartition("/")[2]):
            return False
        files.append(path)
    named = any(path.lower().endswith(IMAGES) for path in files)
    return named or any(_is_dicom(root, path) for path in islice(filter(_is_bare, files), LOOKED_AT))


def read(root: Location, label_folders: Sequence[Location]) -> Release:
    if label_folders:
        raise UserError(f"{label_folders[0]}: labels fit no folder of bare images; give a table of both with --table")
    files = sorted(_files(root))
    paths = [path for path in files if path.lower().endswith(IMAGES) or (_is_bare(path) and _is_dicom(root, path))]
    if not paths:
        raise UserError(
            f"{root}: no image (JPEG, PNG or DICOM) in it or below; give the folder of images with --source"
        )
    for path in paths:
        if UNWRITTEN.search(path):
            raise UserError(f"{root}: {path!r}: a line break, a control or what is no UTF-8 is in it; rename the file")
    images, notes = pd.DataFrame({"image_id": _ids(paths), "path": paths}, dtype="str"), []
    if len(paths) < len(files):
        other = min(set(files) - set(paths))
        notes.append(f"no image by their names, and not read: {counted(len(files) - len(paths), 'file')}, as {other!r}")
    images, said = with_tags(images, root, TAGS)
    notes += ["no table: ids are from the files' names, and there are no labels", *said]
    subject, study, of_groups = with_groups(
        images["image_id"], images.get("study_id"), images.get("subject_id"), ("study", "patient")
    )
    images = images.assign(study_id=study, subject_id=subject)
    images = images.assign(view=views(images["view_position"]))
    reading = {"files": sha256_bytes("\n".join(paths).encode())[:16]}
    notes += [*of_groups, *odd_views(images["view_position"], images["view"])]
    return Release(NAME, root, images, (), (), reading, tuple(notes))


def _files(root: Location) -> Iterator[str]:
    folders, seen = [("", 0)], set()
    for folder, depth in folders:  # grows while it is walked
        real = storage_of(root / folder if folder else root).real_path() or folder
        if real in seen:  # a link back
            continue
        seen.add(real)
        for name, is_folder, _ in storage_of(root / folder if folder else root).entries():
            if name.startswith("."):
                continue
            if not is_folder():
                yield folder + name
            elif depth < DEEPEST:
                folders.append((f"{folder}{name}/", depth + 1))


def _is_bare(path: str) -> bool:
    """Whether a name has no suffix, as those of DICOMs by their UIDs; a UID ends in digits after a dot."""
    return re.fullmatch(r"\.[0-9]*|", PurePosixPath(path).suffix) is not None and path.rpartition("/")[2] != "DICOMDIR"


def _is_dicom(root: Location, path: str) -> bool:
    try:
        return image_kind(storage_of(root / path).read_bytes(stop=START)) == "DICOM"
    except RejectedImage:
        return False


def _ids(paths: Sequence[str]) -> list[str]:
    """Names without folders and suffixes if each is there once, else paths, with a suffix only where it is needed."""
    bare = [path if _is_bare(path) else path.rpartition(".")[0] for path in paths]
    for made in ([path.rpartition("/")[2] for path in bare], [path.replace("/", "_") for path in bare], bare):
        if len(set(made)) == len(made):
            return made
    return list(paths)


READER = Reader(
    name=NAME,
    order=1000,
    folders="a folder of JPEG, PNG or DICOM files and no table",
    label_files="labels by image id (--table)",
    recognises=recognises,
    read=read,
    label_tables=lambda folder, images: [],
    title="A folder of images",
    needs="JPEG, PNG or DICOM files, in folders or not, and no table",
)
