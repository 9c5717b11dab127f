"""What the headers of DICOM files say of images where a release's tables say nothing."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from shards.decoding.decoded import RejectedImage
from shards.decoding.tags import Tags, read_tags
from shards.errors import UserError
from shards.progress import progress_bar
from shards.releases.ids import ids
from shards.storage.location import Location
from shards.words import are, counted

THREADS = 16  # they wait for the disk or the store
NO_DICOM = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
IDS = ("study_id", "subject_id")


def with_tags(images: pd.DataFrame, root: Location, fields: Sequence[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Images with some text columns filled from their files' headers where they are blank or absent.

    A header is read only of an image that lacks something. What the tables say stays; how often a header says another
    thing is counted. A study or patient that neither tells is the image's own.

    Args:
        images: A release's, with `path`; sex and age as `shards.releases.people` writes them.
        root: The release's folder.
        fields: study_id, subject_id, view_position, sex, age, manufacturer, model or year.

    Returns:
        The images, and notes for the user.
    """
    images = images.assign(**{name: "" for name in fields if name not in images})
    lacking = (images[list(fields)] == "").any(axis=1) & ~images["path"].str.lower().str.endswith(NO_DICOM)
    rows = images.index[lacking]
    if not len(rows):
        return _without_blank(images, fields)
    headers = _headers(root, images["path"][rows].tolist())
    unread = sum(header is None for header in headers)
    notes, filled = [], []
    for name in fields:
        found = pd.Series([getattr(header, name) if header else "" for header in headers], rows, dtype="str")
        found = _checked(found, name) if name in IDS else found
        before = images[name][rows]
        differ = int(((before != "") & (found != "") & (before.str.casefold() != found.str.casefold())).sum())
        if differ:
            notes.append(f"{name}: the headers of {counted(differ, 'file')} say another than the tables, which count")
        images[name] = images[name].where(images[name] != "", found.reindex(images.index, fill_value=""))
        filled.append(f"{name} {int(((before == '') & (found != '')).sum()):,}")
    said = f"headers of {counted(len(rows) - unread, 'DICOM file')} read, which give {', '.join(filled)}"
    unread_note = [f"{are(unread, 'file')} without a header that can be read"] if unread else []
    images, own = _without_blank(images, fields)
    return images, (said, *unread_note, *notes, *own)


def _headers(root: Location, paths: list[str]) -> list[Tags | None]:
    """The tags of each file; None for one that has none, or is not there."""

    def tags(path: str) -> Tags | None:
        try:
            return read_tags(root / path)
        except RejectedImage:  # absent, or no DICOM
            return None

    with ThreadPoolExecutor(THREADS) as pool, progress_bar("reading headers", len(paths), " files") as bar:
        found: list[Tags | None] = []
        for each in pool.map(tags, paths):
            found.append(each)
            bar.update()
        return found


def _checked(column: pd.Series, name: str) -> pd.Series:
    """Ids of headers; what is no id, as a word for a missing one, is blank."""

    def checked(values: pd.Series) -> pd.Series:
        return ids(values.to_frame(name), name, Path("headers"))

    given = column[column != ""]
    try:
        made = checked(given)
    except UserError:
        known = {}
        for text in given.unique():
            try:
                known[text] = checked(pd.Series([text], dtype="str")).iloc[0]
            except UserError:
                known[text] = ""
        made = given.map(known)
    return made.reindex(column.index, fill_value="")


def _without_blank(images: pd.DataFrame, fields: Sequence[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Studies and patients that are not known become the image's own; a column without any is left out."""
    notes = []
    for name, own in (("study_id", "image_id"), ("subject_id", "study_id")):
        if name not in images:
            continue
        if (blank := images[name] == "").all():
            images = images.drop(columns=name)
        elif blank.any():
            owns = images[own if own in images else "image_id"]
            if owns[blank].isin(images[name][~blank]).any():  # somebody else's
                owns = "image-" + owns
            images[name] = images[name].where(~blank, owns)
            notes.append(f"{name} of {counted(blank.sum(), 'image')} is not known: each has its own")
    return images, tuple(notes)
