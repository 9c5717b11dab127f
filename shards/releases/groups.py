"""Studies, subjects and views of images as tables have them, and what is said where they are not known."""

import re
from collections.abc import Sequence

import pandas as pd

from shards.releases.ids import twins
from shards.words import counted

_DATE = r"[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{4}|[0-9]{1,2}/[0-9]{1,2}/[0-9]{4}|[0-9]{4}-[0-9]{2}-[0-9]{2}"

FRONTAL = (
    *("frontal", "ap", "pa", "ap supine", "ap horizontal", "ap erect", "antero-posterior", "postero-anterior"),
    *("ap portable", "portable ap", "frontal ap", "frontal pa"),
)
LATERAL = ("lateral", "lat", "l", "ll", "rl", "left lateral", "right lateral", "lateral left", "lateral right")


def with_groups(
    image: pd.Series, study: pd.Series | None, subject: pd.Series | None, names: tuple[str, str]
) -> tuple[pd.Series, pd.Series, tuple[str, ...]]:
    """Subject and study of every image, and what is said of those that are not known.

    names: what the user gives for studies and subjects, for the notes.
    """
    notes = []
    if subject is None:
        what = "study" if study is not None else "image"
        notes.append(
            f"no {names[1]}: every {what} counts as a patient of its own, so folds and splits cannot keep a "
            "patient's images on one side, and scores may be of known patients"
        )
    else:
        if (dates := subject.str.fullmatch(_DATE)).any():
            notes.append(
                f"column {subject.name!r} holds dates, of {counted(dates.sum(), 'image')}: one patient for each date"
            )
        if found := twins(subject):
            one, two, count = found
            notes.append(
                f"column {subject.name!r} holds {ascii(one)} and {ascii(two)}, which count as two patients, as do "
                f"{count:,} that differ only in upper and lower case, width or leading zeros from another"
            )
    own = image if study is None else study
    subject = own if subject is None else subject
    if study is None:
        notes.append(f"no {names[0]}: every image counts as a study of its own")
    elif (subject.groupby(study.to_numpy()).nunique() > 1).any():
        own = subject + "_" + study
        notes.append(f"column {study.name!r} has studies of the same id in two patients: theirs are PATIENT_STUDY")
    return subject, own, tuple(notes)


def views(position: pd.Series, frontal: Sequence[str] = (), lateral: Sequence[str] = ()) -> pd.Series:
    """frontal, lateral or other of every view position; words that are given win over those built in."""
    lists = (("frontal", FRONTAL), ("lateral", LATERAL), ("frontal", frontal), ("lateral", lateral))
    known = {_plain(name): view for view, names in lists for name in names}
    return position.map({text: known.get(_plain(text), "other") for text in position.unique()}).astype("str")


def _plain(word: str) -> str:
    return re.sub(r"[\s_-]+", "", word.casefold())


def odd_views(position: pd.Series, view: pd.Series) -> tuple[str, ...]:
    """For the user: the view positions that are neither frontal nor lateral."""
    odd = position[view == "other"].value_counts()
    words = ", ".join(f"{value!r} ({count:,})" for value, count in odd.head(5).items())
    return (f"view other: {counted(odd.sum(), 'image')}, {words}",) if len(odd) else ()
