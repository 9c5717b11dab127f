"""The registry of releases: which reader knows a folder."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from shards.errors import UserError
from shards.releases.checks import check_paths
from shards.releases.release import LabelTable, Reader, Release
from shards.storage.remote import has_folder

TABLE = "table"  # the release of any one table, which is not recognised but named (`shards.releases.table`)


def _readers() -> dict[str, Reader]:
    from shards.releases import mimic, nih, padchest  # here, because the readers import this file

    return {reader.NAME: reader for reader in (mimic, nih, padchest)}


def open_release(root: Path, label_folders: Sequence[Path] = ()) -> Release:
    """Read the release in `root`, with the label releases found in it and in `label_folders`."""
    if not has_folder(root):
        raise UserError(f"{root}: no such folder; give the release's folder with --source")
    for reader in _readers().values():
        if reader.recognises(root):
            release = reader.read(root, label_folders)
            check_paths(release)
            return release
    from shards.releases import mimic, nih, padchest

    raise UserError(
        f"{root}: not a release that cxrdali reads; a MIMIC-CXR-JPG release has {mimic.METADATA} and files/ at its "
        f"top, CXR-LT 2026 {padchest.EXPECTED}, ChestX-ray14 {nih.EXPECTED}; for any other give --table FILE"
    )


def read_labels(release: str, folder: Path, images: pd.DataFrame) -> list[LabelTable]:
    """The label releases in `folder` for the images of a release by its name, restricted to those images.

    Raises UserError if the folder holds none, or one of other images.
    """
    return [table.restricted_to(images["image_id"]) for table in find_labels(release, folder, images)]


def find_labels(release: str, folder: Path, images: pd.DataFrame | None) -> list[LabelTable]:
    """The same with the images that the release does not have, for readers that take their images from labels."""
    if not has_folder(folder):
        raise UserError(f"{folder}: no such folder; give a label release's folder with --labels")
    if release == TABLE:
        raise UserError(
            f"{folder}: the images were packed from a table of their own, so no label release fits them; give the "
            "labels as --table FILE --id-column COLUMN --findings LIST"
        )
    reader = _readers()[release]
    found = reader.label_tables(folder, images)
    if not found:
        raise UserError(f"{folder}: no label table; give a folder that holds {reader.LABEL_FILES}")
    return found
