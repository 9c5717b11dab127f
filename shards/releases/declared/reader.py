"""A `Reader` of each declared release: of the TOML files beside this one, and of a user's own."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.resources import files

from shards.errors import UserError
from shards.releases.declared.images import ImageRows, finished, read_images
from shards.releases.declared.labels import label_table
from shards.releases.declared.schema import Recognise, Schema, read_schema
from shards.releases.declared.tables import Files, Tables
from shards.releases.release import LabelTable, Reader, Release, first_of_each_name
from shards.storage.csv import column_names
from shards.storage.files import sha256_bytes
from shards.storage.location import Location


def shipped() -> list[Schema]:
    """The declarations that come with the package."""
    found = sorted((each for each in files(__package__).iterdir() if each.name.endswith(".toml")), key=lambda e: e.name)
    return [read_schema(each, each.read_text("utf-8")) for each in found]  # type: ignore[arg-type]


def reader_of(schema: Schema, listed: dict[Location, Files] | None = None, join_rows: str | None = None) -> Reader:
    """listed: what was seen in folders, for the readers that are asked together; join_rows: instead of what is declared
    of several readers of an image (`shards.releases.columns.check_join`)."""
    listed = {} if listed is None else listed
    return Reader(
        name=schema.name,
        order=schema.order,
        folders=f"{schema.title} ({schema.needs or 'see its TOML'})",
        label_files=" or ".join(table.file[0] for table in schema.tables),
        recognises=lambda root: any(_holds(each, listed.setdefault(root, Files(root))) for each in schema.recognise),
        read=partial(_read, schema, join_rows),
        label_tables=lambda folder, images: _given(schema, join_rows, folder, ImageRows(images)),
        title=schema.title,
        needs=schema.needs,
        declaration=schema.text,
    )


def _holds(sign: Recognise, folder: Files) -> bool:
    """Whether a folder has files with these names, and tables with these columns."""
    if not all(folder.named(pattern) for pattern in sign.files):
        return False
    for pattern, columns in sign.columns.items():
        found = [path for paths in folder.named(pattern) for path in paths]
        if not any(set(columns) <= set(column_names(path)) for path in found):
            return False
    return True


def _read(schema: Schema, join_rows: str | None, root: Location, label_folders: Sequence[Location]) -> Release:
    tables = Tables(schema, Files(root))
    stack = tables.stack("images")
    if stack is None:
        raise UserError(f"{root}: none of {', '.join(tables.missing())} is there; {schema.name} needs {schema.needs}")
    rows, fields, notes = read_images(schema, stack)
    images, said = finished(schema, rows, fields, root)
    found = {labels.name: label_table(labels, tables, rows, join_rows) for labels in schema.labels}
    reader = replace(
        reader_of(schema, None, join_rows), label_tables=lambda folder, _: _given(schema, join_rows, folder, rows)
    )
    given = reader.labels_at(label_folders, images)
    notes = [*schema.notes, *notes, *said, *(f"no {name}" for name in tables.missing())]
    labelled = {name: table for name, table in found.items() if table and table.findings and len(table.table)}
    if absent := [name for name, table in found.items() if table is None]:
        notes.append(f"labels left out, as their tables are not there: {', '.join(absent)}")
    if bare := [name for name in found if name not in labelled and name not in absent]:
        notes.append(f"labels left out, as no image has any: {', '.join(bare)}")
    inputs = tables.inputs("images")
    _check_names(inputs)
    reading = {"declaration": schema.digest, **({"--join-rows": join_rows} if join_rows else {})}
    if tables.images():
        reading["files"] = sha256_bytes("\n".join(map(str, images["path"])).encode())[:16]
    every = first_of_each_name([*given, *labelled.values()])
    return Release(schema.name, root, images, every, inputs, reading, tuple(dict.fromkeys(notes)))


def _given(schema: Schema, join_rows: str | None, folder: Location, rows: ImageRows) -> list[LabelTable]:
    """The label releases in a folder, which may hold the tables of the images too."""
    tables = Tables(schema, Files(folder))
    if tables.has("images"):
        stack = tables.stack("images")
        assert stack is not None
        rows, _, _ = read_images(schema, stack)
    here = [labels for labels in schema.labels if tables.has(labels.table)]
    return [found for labels in here if (found := label_table(labels, tables, rows, join_rows))]


def _check_names(inputs: Sequence[Location]) -> None:
    """Two tables of one name would be one in dataset.json."""
    names = [path.name for path in inputs]
    if double := next((path for path in inputs if names.count(path.name) > 1), None):
        raise UserError(f"{double}: two tables of this release have this name; rename one of them")
