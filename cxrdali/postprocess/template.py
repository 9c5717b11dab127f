"""What a challenge asks for, as a table: its template, or its form with the images of one."""

import contextlib
import csv
import gzip
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cxrdali.data.splits import released_rows
from cxrdali.postprocess.forms import Form, form_of
from cxrdali.predictions import first_of
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.storage.csv import is_unnamed, read_table
from shards.storage.files import open_regular

# Columns of the CXR-LT releases that are no findings
COPIED = (
    "subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning", "path", "fpath", "StudyDate_DICOM",
    "PatientID", "split",
)  # fmt: skip
MOST_HEADER = 2**20  # bytes of a template's first line


@dataclass(frozen=True)
class Template:
    """header as it is in the file; table: text, columns by their stripped names; findings: what is asked for."""

    header: tuple[str, ...]
    table: pd.DataFrame
    findings: tuple[str, ...]
    copied: tuple[str, ...]

    @property
    def ids(self) -> list[str]:
        return self.table.iloc[:, 0].tolist()

    @property
    def columns(self) -> list[int]:
        """Where the findings stand."""
        return [self.table.columns.get_loc(finding) for finding in self.findings]


def read_template(path: Path, unnamed: bool = False) -> Template:
    """unnamed: accept columns without a name, which are no findings then."""
    header = _header(path)
    nameless = sum(is_unnamed(name.strip()) for name in header)
    if nameless and not unnamed:  # CXR-LT 2026's list of development images has 30
        raise UserError(
            f"{path}: {nameless} column(s) without a name; write the findings' names into the header, or give the "
            "challenge's form with --form"
        )
    table = read_table(path, again="give the challenge's template", unnamed=unnamed)
    names, read = ([name.strip() for name in each if not is_unnamed(name.strip())] for each in (header, table.columns))
    if names != read:  # what is read in other spellings is written in this
        raise UserError(f"{path}: no CSV with commas in UTF-8, as a submission is; give the challenge's template")
    if not len(table):
        raise UserError(f"{path}: a header and no image; give the challenge's template")
    ids = table.iloc[:, 0]
    doubled = ids[ids.duplicated()]
    if len(doubled):
        raise UserError(f"{path}: image {first_of(doubled)} is in more than one row; remove the doubled row")
    copied = tuple(name for name in table.columns[1:] if name in COPIED)
    findings = tuple(name for name in table.columns[1:] if name not in COPIED and not is_unnamed(name))
    if not findings and not unnamed:
        raise UserError(f"{path}: no column of a finding after {table.columns[0]!r}; give the challenge's template")
    return Template(header, table, findings, copied)


def in_form(path: Path, form: Form) -> Template:
    """The form with the images of a template. Raises UserError if that is of another form: what it has besides the
    images may only be the form's findings, each once, or columns without a name."""
    there = read_template(path, unnamed=True)
    nameless = sum(is_unnamed(name) for name in there.table.columns)
    if there.table.columns[0] != form.image:
        raise UserError(
            f"{path}: its images are in column {there.table.columns[0]!r}, in form {form.name} they are in "
            f"{form.image!r}; give the template of this challenge, or leave --form out"
        )
    for place, (mine, its) in enumerate(zip(form.findings, there.findings, strict=False), 1):
        if mine != its:
            raise UserError(
                f"{path}: finding {place} is {its!r}, of form {form.name} it is {mine!r}; give the template of this "
                "challenge, or leave --form out to write it as it stands"
            )
    if len(there.findings) + nameless not in (0, len(form.findings)):
        raise UserError(
            f"{path}: {len(there.findings) + nameless} columns of findings, form {form.name} has "
            f"{len(form.findings)}; give the template of this challenge, or leave --form out"
        )
    return filled_in(form, there.ids)


def filled_in(form: Form, images: Sequence[str]) -> Template:
    """A template of these images in the form's columns alone."""
    table = pd.DataFrame({form.image: images, **dict.fromkeys(form.findings, "")}, dtype=object)
    return Template(form.header, table, form.findings, ())


def template_of(dataset: PackedDataset, labels: Labels, split: str) -> bytes:
    """A template where there is no official one: dicom_id (the challenge's own name for it) and the labels' findings, a
    row per packed image of a released split ("train", "dev", "test") in catalog order, values empty."""
    rows = released_rows(dataset, labels, split)
    if not len(rows):
        raise UserError(f"{dataset.root}: labels {labels.name!r} have no packed image in split {split!r}")
    images = dataset.catalog["image_id"].iloc[rows].tolist()
    made = filled_in(form_of(labels.name, labels.findings), images)
    return made.table.to_csv(index=False, lineterminator="\n").encode()


def _header(path: Path) -> tuple[str, ...]:
    """The names as they stand in the file, spaces too; empty if it cannot be read, for read_table to say why."""
    with contextlib.suppress(OSError, EOFError, csv.Error, zlib.error), open_regular(path) as file:
        start = (gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file).read(MOST_HEADER)
        return tuple(next(csv.reader(io.StringIO(start.decode("utf-8-sig", "replace"), newline="")), ()))
    return ()
