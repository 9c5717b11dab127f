"""What every release's images must hold: safe paths, unique ids, one split a subject."""

import os

import numpy as np
import pandas as pd

from shards.errors import UserError
from shards.releases.release import LabelTable, Release
from shards.releases.values import rows_of
from shards.storage.places import storage_of

LOOKED_AT = 100  # images that may be links
_A_FEW = 0.05  # of them


def check_paths(release: Release) -> None:
    """Paths come from a table; none may leave the release's folder, name no file, or be that of two images."""
    paths, file = release.images["path"], next(iter(release.inputs), release.root)
    bad = paths.str.contains(r"^/|^[A-Za-z]:[/\\]|(?:^|/)\.{0,2}(?:/|$)|[\x00-\x1f]", regex=True)
    if bad.any():
        path = paths[bad].iloc[0]
        raise UserError(
            f"{file}: the path {path!r} leaves the release's folder {release.root}, or names no file; write paths "
            "with / and relative to --source, or give as --source a folder that all images are in"
        )
    if (doubled := paths.duplicated()).any():
        path = paths[doubled].iloc[0]
        one, two = release.images["image_id"][paths == path].iloc[:2]
        raise UserError(f"{file}: images {one!r} and {two!r} are the same file, {path!r}; keep one of them")


def check_links(release: Release, allowed: float = 0.0) -> None:
    """Refuse links to another place before any image is read, where people put them.

    That is folders at the two upper levels, and images: of 100 that are spread over the release, more than a few, and
    than the share `allowed`. The rest is looked at when it is read: 400,000 looks take minutes. A store has no links.
    """
    inside = storage_of(release.root).real_path()
    if inside is None:
        return
    paths = release.images["path"]
    parts = [folder.split("/") for folder in paths.str.rpartition("/")[0].unique() if folder]
    for folder in sorted({part[0] for part in parts} | {"/".join(part[:2]) for part in parts}):
        real = storage_of(release.root / folder).real_path()
        if real is None or not real.startswith(f"{inside}{os.sep}"):
            raise UserError(
                f"{release.root / folder}: a link out of the release, to {real}; "
                "give --allow-links if that is where your images are"
            )
    some = paths.iloc[np.unique(np.linspace(0, len(paths) - 1, LOOKED_AT).astype(int))]
    real_paths = [(path, storage_of(release.root / path).real_path() or "") for path in some]
    outside = [(path, real) for path, real in real_paths if not real.startswith(f"{inside}{os.sep}")]
    if len(outside) > max(_A_FEW, allowed) * len(some):
        path, real = outside[0]
        raise UserError(
            f"{release.root / path}: a link out of the release, to {real}, as are {len(outside):,} of {len(some):,} "
            "images that were looked at; give --allow-links if that is where your images are"
        )


def check_subjects(table: LabelTable, images: pd.DataFrame) -> None:
    """Refuse a label release in which a subject has images in two splits: its scores would be of known patients."""
    rows = rows_of(table.table.index, images["image_id"])
    subject = images["subject_id"].iloc[rows].set_axis(table.table.index).where(rows >= 0)
    splits = table.table["split"].groupby(subject.to_numpy()).nunique()
    doubled = splits.index[splits > 1]
    if not len(doubled):
        return
    split = table.table["split"][(subject == doubled[0]).to_numpy()].dropna()
    # by two of its images: patients are not named where others may read along
    where = " and ".join(f"{images[0]!r} ({name})" for name, images in sorted(split.index.groupby(split).items()))
    raise UserError(
        f"{table.source}: subjects in more than one split of labels {table.name!r}: {len(doubled):,}, such as that "
        f"of the images {where}; correct the table, or go on with --allow-subject-overlap"
    )
