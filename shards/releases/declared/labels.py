"""The label releases of a declared release: columns, long tables, lists, texts and masks, as one row an image."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from shards.errors import UserError
from shards.releases.declared.fields import Fields, one_value
from shards.releases.declared.images import ImageRows
from shards.releases.declared.schema import ALL, OTHERS, Labels
from shards.releases.declared.tables import Stack, Tables, items
from shards.releases.join import Rows
from shards.releases.release import LabelTable
from shards.releases.values import BLANK_WORDS, finding_values, rows_of, splits
from shards.storage.csv import is_unnamed
from shards.words import choices, counted

BLANK = 9  # of a finding, among 1, 0 and -1


@dataclass(frozen=True)
class _Said:
    """What a table says: Int8 [units, findings] and the key of each unit (a row, or a reader's rows of one image).

    first: int64 [units], a row of each; unlabelled: keys whose images have no labels.
    """

    values: pd.DataFrame
    key: pd.Series
    first: np.ndarray
    unlabelled: frozenset[str] = frozenset()


def label_table(labels: Labels, tables: Tables, images: ImageRows, join_rows: str | None) -> LabelTable | None:
    """One label release, of the images that are in the release; None if its optional tables are absent.

    Raises UserError naming file, column, value and line.
    """
    stack = tables.stack(labels.table)
    if stack is None:
        return None
    name, given = "image_id", tables.schema.images.given
    if labels.key:
        name, given = labels.key.images, {labels.key.images: labels.key.here}
    key = Fields(stack, given).text(name)
    if (blank := (key == "").to_numpy()).any():
        raise stack.refuse(int(blank.argmax()), "the key of labels is blank")
    said = _said(labels, stack, key, tables)
    values, split, notes = _joined(labels, stack, said, key, join_rows)
    declared = labels.readers.join if labels.readers else None
    called = f"{labels.name}-{join_rows}" if join_rows not in (None, declared) else labels.name
    inputs = tables.inputs(labels.table)
    of_table = () if labels.table == "images" else stack.notes
    whole = LabelTable(called, tuple(values), values.assign(split=split), inputs, notes=(*of_table, *notes))
    return _of_images(labels, whole.restricted_to(images.text(name)), images, said.unlabelled)


def _of_images(labels: Labels, found: LabelTable, images: ImageRows, unlabelled: frozenset[str]) -> LabelTable:
    """The labels of keys as those of images, with their splits."""
    key, notes = images.text(labels.key.images if labels.key else "image_id"), list(found.notes)
    place = rows_of(key, found.table.index)
    if labels.key and "subject_id" in images.frame:
        patients = images.frame["subject_id"][place >= 0].groupby(key[place >= 0]).nunique()
        if (patients > 1).any():
            raise UserError(
                f"{found.source}: labels {labels.name!r} are joined by {labels.key.images}, and {patients.idxmax()!r} "
                'is of two patients; make it of both here and there, { template = "{PATIENT}_{STUDY}" }'
            )
    none = key.isin(unlabelled).to_numpy()
    if none.any():
        notes.append(f"{counted(none.sum(), 'image')} without labels: {' or '.join(labels.unlabelled)}")
    if labels.needs:
        lacking = (images.text(labels.needs) == "").to_numpy() & ~none
        if lacking.any():
            notes.append(f"{counted(lacking.sum(), 'image')} without labels: {labels.needs} is blank")
        none = none | lacking
    by_image = labels.split is None and "split" in images.frame
    keep = ~none if by_image else ~none & (place >= 0)
    index = pd.Index(images.frame["image_id"][keep], name="image_id")
    taken = {name: found.table[name].array.take(place[keep], allow_fill=True) for name in (*found.findings, "split")}
    split = taken.pop("split")
    if by_image:
        split = images.frame["split"][keep].to_numpy()
    elif labels.split is None:
        notes.append("no split: every image is in the split train")
    table = pd.DataFrame({"split": split, **taken}).set_axis(index)
    return LabelTable(found.name, found.findings, table, found.inputs, found.elsewhere, tuple(notes))


def _joined(
    labels: Labels, stack: Stack, said: _Said, key: pd.Series, join_rows: str | None
) -> tuple[pd.DataFrame, Any, list[str]]:
    """Values by key, the split of each, and notes."""
    rows, values, notes = Rows.by(said.key, stack.files[0][0]), said.values, []
    names = said.key.iloc[rows.first]
    if rows.are_joined:
        how = join_rows or (labels.readers.join if labels.readers else "any" if labels.kind == "rle" else None)
        if how is None:
            two = int(said.first[rows.second()[1]])
            raise stack.refuse(
                two, f"{key[two]!r} is there again; keep one row of each, declare `readers`, or give --join-rows. It is"
            )
        if labels.kind != "rle":
            differ, several = rows.differing(values), int((np.bincount(rows.image) > 1).sum())
            notes.append(
                f"{counted(several, 'image')} with several readings: they differ on {differ:,} "
                f"({differ / several:.1%}), and are joined by {how} (--join-rows)"
            )
        values = rows.joined(values, how)
    elif join_rows is not None:
        notes.append(f"--join-rows {join_rows}: no image has several rows")
    split: Any = "train"
    if labels.split is not None:
        asked = Fields(stack, {"split": labels.split}).text("split")
        by_row = stack.each_file(asked, lambda part, path: splits(part, path))
        of_key = Rows.by(key, stack.files[0][0])
        found = one_value(stack, of_key, by_row, key, "split")
        split = found.to_numpy()[rows_of(names, key.iloc[of_key.first])]
    return values.set_axis(pd.Index(names, name="image_id")), split, notes


def _said(labels: Labels, stack: Stack, key: pd.Series, tables: Tables) -> _Said:
    if labels.kind in ("long", "list", "text"):
        return _named(labels, stack, key)
    each = np.arange(len(key))
    if labels.kind == "rle":
        return _Said(_masks(labels, stack), key, each)
    columns = list(labels.findings)
    if labels.findings == OTHERS:
        known = tables.schema.columns()
        columns = [name for name in stack.frame if name not in known and not is_unnamed(name)]
    renamed = [labels.rename.get(name, name) for name in columns]
    if double := next((name for name in renamed if renamed.count(name) > 1), None):
        raise UserError(f"{stack.files[0][0]}: two columns are the finding {double!r}; correct findings or rename")
    values = pd.DataFrame(
        {name: _numbers(labels, stack, column) for name, column in zip(renamed, columns, strict=True)}, key.index
    )
    return _Said(values, key, each)


def _numbers(labels: Labels, stack: Stack, column: str) -> pd.Series:
    """Int8 [rows] of a column of values."""
    stack.column(column)
    found = stack.each_file(
        stack.frame[[column]], lambda part, path: finding_values(part, column, path, {**WORDS, **labels.words})
    )
    return found.fillna(0) if labels.blank == "negative" else found


WORDS = {"true": 1, "yes": 1, "false": 0, "no": 0}  # that a declared release's findings may be written in


def _masks(labels: Labels, stack: Stack) -> pd.DataFrame:
    """A mask as run lengths says that the finding is there."""
    if len(labels.findings) != 1:
        raise UserError(f"labels {labels.name!r}: kind 'rle' is of one finding; give its name as findings")
    texts = _column(labels, stack)
    none, blank = texts.isin(labels.none), texts == ""
    odd = ~(none | blank | texts.str.fullmatch(r"[0-9]+(?:\s+[0-9]+)*")).to_numpy()
    if odd.any():
        at = int(odd.argmax())
        raise stack.refuse(at, f"column {texts.name!r} holds {texts[at][:40]!r}, which is no run-length mask,")
    value = np.where(none, 0, np.where(blank, 0 if labels.blank == "negative" else BLANK, 1))
    return _int8({labels.findings[0]: value})


def _int8(columns: dict[str, np.ndarray]) -> pd.DataFrame:
    """Int8 columns of numbers; BLANK becomes missing."""
    arrays = {name: (values.astype(np.int8), values == BLANK) for name, values in columns.items()}
    return pd.DataFrame({name: pd.arrays.IntegerArray(*array) for name, array in arrays.items()})


def _named(labels: Labels, stack: Stack, key: pd.Series) -> _Said:
    """Of rows that name findings: one each, or a list."""
    texts = stack.column(labels.finding) if labels.kind == "long" else _column(labels, stack)
    codes, uniques = pd.factorize(texts)
    split = [_parts(labels, text) for text in uniques]
    if None in split:
        at = int((codes == split.index(None)).argmax())
        raise stack.refuse(at, f"column {texts.name!r} holds {texts[at][:80]!r}, which is no list,")
    lists = [parts for parts in split if parts is not None]
    silent = {code for code, parts in enumerate(lists) if set(parts) & set(labels.unlabelled)}
    names = [[] if code in silent else _names(labels, parts) for code, parts in enumerate(lists)]
    findings = labels.findings
    if findings == ALL:
        findings = tuple(sorted({name for each in names for name in each if name.lower() not in BLANK_WORDS}))
    place = {name: number for number, name in enumerate(findings)}
    for code, each in enumerate(names):
        if (other := next((name for name in each if name not in place), None)) is not None:
            at = int((codes == code).argmax())
            raise stack.refuse(
                at, f"the finding {other!r} is not declared; {choices(other, place, 'known are')}; it is"
            )
    unit = first = np.arange(len(key))
    if labels.kind != "text":
        reader = stack.column(labels.readers.column) if labels.readers and labels.readers.column else ""
        rows = Rows.by(key + "\0" + reader, stack.files[0][0])
        unit, first = rows.image, rows.first
    said = np.full((len(first), len(findings)), 0 if labels.absent == "negative" else BLANK, dtype=np.int8)
    if labels.blank == "unknown":
        speaks = np.array([bool(parts) or text.strip() != "" for text, parts in zip(uniques, lists, strict=True)], bool)
        said[np.bincount(unit[speaks[codes]], minlength=len(first)) == 0] = BLANK
    counts = np.array([len(each) for each in names], dtype=np.int64)[codes]
    row = np.repeat(np.arange(len(key)), counts)
    column = np.array([place[name] for code in codes for name in names[code]], dtype=np.int64)
    value = _numbers(labels, stack, labels.value).fillna(BLANK).to_numpy(np.int8) if labels.value else np.int8(1)
    value = np.broadcast_to(value, len(key))[row]
    for number in (BLANK, 0, -1, 1):  # the last one stays
        said[unit[row[value == number]], column[value == number]] = number
    unlabelled = frozenset(key[np.isin(codes, list(silent))]) if silent else frozenset()
    return _Said(_int8({name: said[:, at] for name, at in place.items()}), key.iloc[first], first, unlabelled)


def _column(labels: Labels, stack: Stack) -> pd.Series:
    assert labels.column is not None
    called = labels.column.column or labels.name
    return Fields(stack, {}).made(labels.column, called).rename(called)


def _parts(labels: Labels, text: str) -> list[str] | None:
    """The names that a value holds, as they are written."""
    if labels.kind != "list":
        return [text] if text else []
    found = items(text) if labels.separator == "list" else text.split(labels.separator)
    return None if found is None else [re.sub(r"\s+", " ", part.strip()) for part in found if part.strip()]


def _names(labels: Labels, parts: list[str]) -> list[str]:
    """The findings that the names of a value stand for."""
    found: list[str] = []
    for part in parts:
        means = labels.words.get(part, part) if labels.kind != "long" else part
        found += [labels.rename.get(name, name) for name in ([means] if isinstance(means, str) else means)]
    declared = labels.findings if labels.findings != ALL else ()
    return [name for name in dict.fromkeys(found) if name not in labels.none or name in declared]
