"""A challenge's submission: predictions in the form of its template, zipped with the code; checked by reading it back.

The template is a CSV: first the image id (dicom_id, ImageID ...), then findings. Other columns are copied unchanged. Of
a challenge whose form is known (`forms`) none is needed; one that is given says which images, and in which order.
"""

import csv
import io
import os
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from cxrdali import predictions as tables
from cxrdali.postprocess.forms import PREDICTIONS, Form
from cxrdali.postprocess.template import Template, filled_in, in_form, read_template
from cxrdali.predictions import Kind, Predictions, first_of
from shards.errors import UserError
from shards.storage.files import write_bytes

SUFFIXES = (".jpg", ".jpeg", ".png", ".dcm")
SKIPPED = ("__pycache__", ".git")


@dataclass(frozen=True)
class Submission:
    """What was written. name: of the table in the zip; left_out: findings of the predictions that are not asked for;
    copied: columns copied unchanged; code: the zip's files under code/; skipped: what of the code's folder is not in
    it."""

    name: str
    images: int
    findings: tuple[str, ...]
    left_out: tuple[str, ...]
    copied: tuple[str, ...]
    code: tuple[str, ...]
    skipped: tuple[str, ...]


def submit(
    path: Path,
    template: Path | None,
    out: Path,
    code: Path | None = None,
    name: str | None = None,
    form: Form | None = None,
) -> Submission:
    """Write the zip `out`: a CSV `name` of probabilities in the template's header and row order, and `code` as code/.

    With a form its header alone is written, in the template's row order or without one in that of the predictions.

    Logits become probabilities in float64, written with all their digits, so that the order of the images stays what
    it was. Images are matched by id, also where the template has a folder or a suffix to it. Raises UserError if an
    image or a finding is missing, or an image is left over; equal input gives equal bytes.
    """
    if name is None:
        name = form.file if form else PREDICTIONS
    _check_out(out, name, code)
    table = tables.read(path)
    asked, rows, places = match(template, path, table.ids["image_id"], table.findings, form)
    values = _probabilities(table, path)[rows][:, places]
    files, skipped = _code(code) if code else ({}, ())
    data = _csv(asked, values)
    write_bytes(out, _zip({name: data, **files}))
    verify(out, name, asked, values, tuple(files))
    left_out = tuple(finding for finding in table.findings if finding not in asked.findings)
    return Submission(name, len(rows), asked.findings, left_out, asked.copied, tuple(files), skipped)


def match(
    template: Path | None, path: Path, images: Iterable[str], findings: Sequence[str], wanted: Form | None = None
) -> tuple[Template, np.ndarray, list[int]]:
    """The template, and which of `images` and `findings`, those of `path`, its rows (int64 [n]) and columns are.

    wanted: the form whose findings they are to be; without a template the images are those of `path`.

    Raises UserError if they are not one another's.
    """
    if wanted:
        wanted.check(findings, path)
    if template is None:
        if wanted is None:
            raise UserError(f"{path}: neither a template nor a form says what the challenge asks for; give one of them")
        form, template = filled_in(wanted, list(images)), path
    else:
        form = in_form(template, wanted) if wanted else read_template(template)
    missing = [finding for finding in form.findings if finding not in findings]
    if missing:
        raise UserError(
            f"{path}: {template} asks for {first_of(missing)}, which the predictions do not have; "
            "predict with a model of these findings, or remove the column if it is none"
        )
    return form, _rows(form.ids, images, path, template), [findings.index(finding) for finding in form.findings]


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
        raise UserError(f"name {name!r}: give a plain file name such as {PREDICTIONS}")
    if code and not code.is_dir():
        raise UserError(f"{code}: no such folder; --code is the folder whose files go into the zip")
    if code and out.resolve().is_relative_to(code.resolve()):
        raise UserError(f"{out}: lies in {code}, so it would go into itself; write it elsewhere")


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
