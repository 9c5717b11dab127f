"""A challenge's submission: predictions in the form of its template, zipped with the code; checked by reading it back.

The template is a CSV: first the image id (dicom_id, ImageID ...), then findings. Other columns are copied unchanged.
"""

import contextlib
import csv
import gzip
import io
import os
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from cxrdali import predictions as tables
from cxrdali.data.splits import released_rows
from cxrdali.predictions import Kind, Predictions, first_of
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.storage.csv import read_table
from shards.storage.files import open_regular, write_bytes

NAME = "predictions.csv"
# Columns of the CXR-LT releases that are no findings
COPIED = (
    "subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning", "path", "fpath", "StudyDate_DICOM",
    "PatientID", "split",
)  # fmt: skip
SUFFIXES = (".jpg", ".jpeg", ".png", ".dcm")
SKIPPED = ("__pycache__", ".git")
MOST_HEADER = 2**20  # bytes of a template's first line


@dataclass(frozen=True)
class Submission:
    """What was written. left_out: findings of the predictions that the template does not ask for; copied: columns
    copied unchanged; code: the zip's files under code/; skipped: what of the code's folder is not in it."""

    images: int
    findings: tuple[str, ...]
    left_out: tuple[str, ...]
    copied: tuple[str, ...]
    code: tuple[str, ...]
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Template:
    """header as it stands in the file; table: text, columns by their stripped names; findings: what is asked for."""

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


def submit(path: Path, template: Path, out: Path, code: Path | None = None, name: str = NAME) -> Submission:
    """Write the zip `out`: a CSV `name` of probabilities in the template's header and row order, and `code` as code/.

    Logits become probabilities in float64, written with all their digits, so that the order of the images stays what
    it was. Images are matched by id, also where the template has a folder or a suffix to it. Raises UserError if an
    image or a finding is missing, or an image is left over; equal input gives equal bytes.
    """
    _check_out(out, name, code)
    table = tables.read(path)
    form, rows, places = match(template, path, table.ids["image_id"], table.findings)
    values = _probabilities(table, path)[rows][:, places]
    files, skipped = _code(code) if code else ({}, ())
    data = _csv(form, values)
    write_bytes(out, _zip({name: data, **files}))
    verify(out, name, form, values, tuple(files))
    left_out = tuple(finding for finding in table.findings if finding not in form.findings)
    return Submission(len(rows), form.findings, left_out, form.copied, tuple(files), skipped)


def match(
    template: Path, path: Path, images: Iterable[str], findings: Sequence[str]
) -> tuple[Template, np.ndarray, list[int]]:
    """The template, and which of `images` and `findings`, those of `path`, its rows (int64 [n]) and columns are.

    Raises UserError if they are not one another's.
    """
    form = read_template(template)
    missing = [finding for finding in form.findings if finding not in findings]
    if missing:
        raise UserError(
            f"{path}: {template} asks for {first_of(missing)}, which the predictions do not have; "
            "predict with a model of these findings, or remove the column if it is none"
        )
    return form, _rows(form.ids, images, path, template), [findings.index(finding) for finding in form.findings]


def read_template(path: Path) -> Template:
    header = _header(path)
    unnamed = sum(not name.strip() for name in header)
    if unnamed:  # the list of CXR-LT 2026's test images has 30
        raise UserError(f"{path}: {unnamed} column(s) without a name; write the findings' names into the header")
    table = read_table(path, again="give the challenge's template")
    if [name.strip() for name in header] != list(table.columns):  # what is read in other spellings is written in this
        raise UserError(f"{path}: no CSV with commas in UTF-8, as a submission is; give the challenge's template")
    if not len(table):
        raise UserError(f"{path}: a header and no image; give the challenge's template")
    ids = table.iloc[:, 0]
    doubled = ids[ids.duplicated()]
    if len(doubled):
        raise UserError(f"{path}: image {first_of(doubled)} is in more than one row; remove the doubled row")
    copied = tuple(name for name in table.columns[1:] if name in COPIED)
    findings = tuple(name for name in table.columns[1:] if name not in COPIED)
    if not findings:
        raise UserError(f"{path}: no column of a finding after {table.columns[0]!r}; give the challenge's template")
    return Template(header, table, findings, copied)


def template_of(dataset: PackedDataset, labels: Labels, split: str) -> bytes:
    """A template where there is no official one: dicom_id and the labels' findings, a row per packed image of a
    released split ("train", "dev", "test") in catalog order, values empty."""
    rows = released_rows(dataset, labels, split)
    if not len(rows):
        raise UserError(f"{dataset.root}: labels {labels.name!r} have no packed image in split {split!r}")
    columns = {"dicom_id": dataset.catalog["image_id"].iloc[rows], **dict.fromkeys(labels.findings, "")}
    return pd.DataFrame(columns).to_csv(index=False, lineterminator="\n").encode()


def verify(out: Path, name: str, form: Template, values: np.ndarray, code: Sequence[str] = ()) -> None:
    """Read the zip back: its files, the CSV's header and ids, and every value exactly; UserError if one differs.

    values: float [n, F], in the template's rows and of its findings; code: the files beside the CSV.
    """

    def wrong(what: str) -> UserError:
        return UserError(f"{out}: {what}; it was damaged while it was written, check the disk and submit again")

    try:
        with zipfile.ZipFile(out) as file:
            damaged = file.testzip()
            if damaged is not None:
                raise wrong(f"{damaged} is damaged")
            if file.namelist() != [name, *code]:
                raise wrong("does not hold the files that were put in")
            rows = csv.reader(io.StringIO(file.read(name).decode("utf-8"), newline=""))
            found = next(rows, [])
            written = list(rows)
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise wrong(f"cannot be read back ({error})") from error
    if tuple(found) != form.header or [row[:1] for row in written] != [[image] for image in form.ids]:
        raise wrong("its header or its images are not the template's")
    columns = form.columns
    for row, expected in zip(written, values, strict=True):
        if len(row) != len(form.header):
            raise wrong(f"the row of {row[0]!r} is cut")
        try:
            numbers = np.array([row[column] for column in columns], dtype=values.dtype)
        except ValueError as error:
            raise wrong(f"the row of {row[0]!r} holds what is no number") from error
        if not ((numbers == expected) & (numbers >= 0) & (numbers <= 1)).all():
            raise wrong(f"the row of {row[0]!r} holds other values")


def _check_out(out: Path, name: str, code: Path | None) -> None:
    if out.suffix != ".zip":
        raise UserError(f"{out}: a submission is a .zip; change the file's suffix")
    tables.check_writable(out)
    if name in ("", ".", "..", "code") or "/" in name or "\\" in name:
        raise UserError(f"name {name!r}: give a plain file name such as {NAME}")
    if code and not code.is_dir():
        raise UserError(f"{code}: no such folder; --code is the folder whose files go into the zip")
    if code and out.resolve().is_relative_to(code.resolve()):
        raise UserError(f"{out}: lies in {code}, so it would go into itself; write it elsewhere")


def _header(path: Path) -> tuple[str, ...]:
    """The names as they stand in the file, spaces too; empty if it cannot be read, for read_table to say why."""
    with contextlib.suppress(OSError, EOFError, csv.Error, zlib.error), open_regular(path) as file:
        start = (gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file).read(MOST_HEADER)
        return tuple(next(csv.reader(io.StringIO(start.decode("utf-8-sig", "replace"), newline="")), ()))
    return ()


def _rows(ids: list[str], images: Iterable[str], path: Path, template: Path) -> np.ndarray:
    """The place among `images` of each of the template's ids, every row once: int64 [n]."""
    known = {image: row for row, image in enumerate(images)}
    rows, missing, taken = [], [], {}
    for text in ids:
        found = [text] if text in known else [image for image in _bare(text) if image in known]
        if len(found) > 1:
            raise UserError(f"{template}: {text!r} may be image {found[0]!r} or {found[1]!r}; write the image's own id")
        if not found:
            missing.append(text)
            continue
        if found[0] in taken:
            raise UserError(
                f"{template}: {taken[found[0]]!r} and {text!r} are both image {found[0]!r}; remove one of them"
            )
        taken[found[0]] = text
        rows.append(known[found[0]])
    if missing:
        raise UserError(
            f"{path}: image {first_of(missing)} of {template} is not in the predictions; predict the template's split"
        )
    left = [image for image in known if image not in taken]
    if left:
        raise UserError(f"{path}: image {first_of(left)} is not in {template}; predict the template's split alone")
    return np.array(rows, dtype=np.int64)


def _bare(text: str) -> list[str]:
    """An id without its folders, and without an image's suffix too: files/p10/a.b.jpg -> a.b.jpg, a.b."""
    name = PurePosixPath(text).name
    bare = PurePosixPath(name).stem if PurePosixPath(name).suffix.lower() in SUFFIXES else name
    return list(dict.fromkeys((name, bare)))


def _probabilities(table: Predictions, path: Path) -> np.ndarray:
    """float64 [n, F] from logits; a table of probabilities as it is, float32."""
    if table.provenance.kind in (Kind.LOGIT, Kind.CALIBRATED, Kind.RANK):
        return tables.sigmoid(table.values)
    outside = np.argwhere(~((table.values >= 0) & (table.values <= 1)))
    if len(outside):
        row, column = outside[0]
        fix = (
            "a CSV does not say whether it holds logits, so give the .parquet that `cxrdali predict` writes"
            if table.provenance.kind is None
            else "predict again"
        )
        raise UserError(
            f"{path}: finding {table.findings[column]!r} is {table.values[row, column]!s} for image "
            f"{table.ids['image_id'].iloc[row]!r}, no probability of 0..1; {fix}"
        )
    return table.values


def _csv(form: Template, values: np.ndarray) -> bytes:
    """The template with its findings' values; the fewest digits that bring back the same float."""
    table = form.table.astype(object)
    table.iloc[:, form.columns] = values.astype(str)
    return table.to_csv(index=False, header=list(form.header), lineterminator="\n").encode()


def _code(folder: Path) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The folder's files as code/... -> bytes, by name, and what was skipped. Raises UserError for a link."""
    files, skipped = {}, []
    for root, folders, names in os.walk(folder):
        for name in sorted([*folders, *names]):
            path = Path(root, name)
            inside = path.relative_to(folder).as_posix()
            if name in SKIPPED or name.endswith(".pyc"):
                skipped.append(inside)
            elif path.is_symlink():
                raise UserError(f"{path}: is a link; put the file itself there, or give another --code")
            elif path.is_file():
                files[f"code/{inside}"] = _bytes(path)
            elif not path.is_dir():
                raise UserError(f"{path}: is neither a file nor a folder; remove it, or give another --code")
        folders[:] = [name for name in folders if name not in SKIPPED]
    if not files:
        raise UserError(f"{folder}: no file to put into the zip; give another --code")
    return dict(sorted(files.items())), tuple(sorted(skipped))


def _bytes(path: Path) -> bytes:
    try:
        str(path).encode()  # a zip's names are text
        return path.read_bytes()
    except (OSError, UnicodeEncodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its name is not UTF-8"
        raise UserError(f"{path}: cannot be read ({reason}); make it readable, or give another --code") from error


def _zip(files: dict[str, bytes]) -> bytes:
    """One date and one mode for all files: equal files make equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o100644 << 16  # as on Unix, on every system
            file.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
