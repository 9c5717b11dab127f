"""The registry of releases: which reader knows a folder.

Every file of this folder that defines READER adds one. They are imported only when a release is opened.
"""

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from shards import releases
from shards.errors import UserError
from shards.releases.checks import check_paths
from shards.releases.locate import folders_in, not_read
from shards.releases.release import TABLE, LabelTable, Reader, Release
from shards.storage.location import Location
from shards.storage.places import storage_of

MOST_FOLDERS = 100  # that are looked into for a release


def readers() -> list[Reader]:
    """All kinds of releases, in the order in which they are asked whether they know a folder."""
    names = (each.name for each in pkgutil.iter_modules(releases.__path__, f"{releases.__name__}."))
    modules = map(importlib.import_module, names)
    return sorted((each.READER for each in modules if hasattr(each, "READER")), key=lambda reader: reader.order)


def open_release(root: Location, label_folders: Sequence[Location] = ()) -> Release:
    """Read the release in `root`, with the label releases found in it and in `label_folders`."""
    if not storage_of(root).has_folder():
        raise UserError(f"{root}: no such folder; give the release's folder with --source")
    for reader in readers():
        if reader.recognises(root):
            release = reader.read(root, label_folders)
            check_paths(release)
            read = dict.fromkeys([*release.inputs, *(path for table in release.labels for path in table.inputs)])
            return replace(release, notes=(*release.notes, *(note for path in read for note in not_read(path))))
    known = ", ".join(reader.folders for reader in readers())
    below = folders_in(root)[:MOST_FOLDERS] if storage_of(root).local else []
    inside = next((folder for folder in below if any(reader.recognises(folder) for reader in readers())), None)
    fix = f"{inside} in it is one, give that with --source" if inside else "for any other give --table FILE"
    raise UserError(f"{root}: not a release that cxrdali reads; {known}; {fix}")


def read_labels(release: str, folder: Location, images: pd.DataFrame) -> list[LabelTable]:
    """The label releases in `folder` for the images of a release by its name, restricted to those images.

    Raises UserError if the folder holds none, or one of other images.
    """
    if release == TABLE:
        raise UserError(
            f"{folder}: the images were packed from a table of their own, so no label release fits them; give the "
            "labels as --table FILE --id-column COLUMN --findings LIST"
        )
    reader = next(reader for reader in readers() if reader.name == release)
    return [table.restricted_to(images["image_id"]) for table in reader.labels_in(folder, images)]
