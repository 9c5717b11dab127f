"""What every release's images must hold: safe paths, unique ids, one split a subject."""

import os

import pandas as pd

from shards.errors import UserError
from shards.releases.release import LabelTable, Release
from shards.releases.values import rows_of
from shards.storage.places import storage_of


def check_paths(release: Release) -> None:
    """Paths come from a table; none may leave the release's folder or hide in its listing."""
    paths = release.images["path"]
    bad = paths.str.contains(r"^/|(?:^|/)\.{0,2}(?:/|$)|[\x00-\x1f]", regex=True)
    if bad.any():
        raise UserError(
            f"{release.inputs[0]}: the path {paths[bad].iloc[0]!r} leaves the release's folder or is no plain path; "
            "correct the table"
        )


def check_links(release: Release) -> None:
    """Refuse folders that are links to another place, at the two levels where people put them.

    A link further down is looked at when its image is read: 400,000 looks would take minutes on a network disk.
    A store has no links.
    """
    inside = storage_of(release.root).real_path()
    if inside is None:
        return
    parts = [folder.split("/") for folder in release.images["path"].str.rpartition("/")[0].unique() if folder]
    for folder in sorted({part[0] for part in parts} | {"/".join(part[:2]) for part in parts}):
        real = storage_of(release.root / folder).real_path()
        if real is None or not real.startswith(f"{inside}{os.sep}"):
            raise UserError(
                f"{release.root / folder}: a link out of the release, to {real}; "
                "give --allow-links if that is where your images are"
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
        f"{table.inputs[0]}: subjects in more than one split of labels {table.name!r}: {len(doubled):,}, such as that "
        f"of the images {where}; correct the table, or go on with --allow-subject-overlap"
    )
