"""Options that name the columns of one table, for the commands that take one (--table)."""

from pathlib import Path

import click

from cli.options.folders import Place
from shards.errors import UserError
from shards.releases.columns import JOINS, check_join

_COLUMNS = (
    ("--id-column", "id_column", "Image id, unique; needed with --table."),
    ("--findings", "findings", 'Findings (1, 0, -1 uncertain, blank): "A,B,C", or "all others"; needed with --table.'),
    ("--split-column", "split_column", "train, dev or test (also validation, val, ...).  [default: all train]"),
)
_IMAGE_COLUMNS = (
    ("--path-column", "path_column", "Image file, relative to --source; needed with --table."),
    ("--subject-column", "subject_column", "Patient; without it folds cannot keep patients together."),
    ("--study-column", "study_column", "Study.  [default: every image its own]"),
    ("--view-column", "view_column", "AP, PA, frontal, lateral, ...; others count as other.  [default: all other]"),
)


class JoinRows(click.ParamType):
    """How several rows of one image are joined."""

    name = "how"

    def convert(self, value, param, context):
        try:
            check_join(value)
        except UserError as error:
            self.fail(str(error), param, context)
        return value


def release_option(command):
    """--release, for what is not to be detected, and for a declaration of one's own."""
    return click.option(
        "--release",
        metavar="FILE",
        help="A TOML that describes the release (docs/releases.md), or the name of one that `cxrdali releases` lists.  "
        "[default: detected]",
    )(command)


def table_options(images: bool):
    """--table and its columns; `images`: those of images too, not only those of labels."""
    columns = (*_COLUMNS, *(_IMAGE_COLUMNS if images else ()))

    def add(command):
        for option, name, text in reversed(columns):
            command = click.option(option, name, metavar="LIST" if name == "findings" else "NAME", help=text)(command)
        command = click.option(
            "--join-rows",
            type=JoinRows(),
            metavar="|".join((*JOINS, "N")),
            help="Make one image of several rows, as of several readers: a finding is positive if any row says so, the "
            "majority (a tie is uncertain), half of them (mean), or N of them.  [default: as the release is described; of "
            "a table, refuse them]",
        )(command)
        return click.option(
            "--table",
            type=Place(folder=False),
            metavar="FILE",
            help="A CSV or parquet (docs/releases.md) of any release, of which the options below name the columns.",
        )(command)

    return add


def read_columns(table: Path | None, given: dict, needed: tuple[str, ...]):
    """The columns that were named among the options of a command, as `columns.Columns`; None without --table.

    Raises click.UsageError if one that is needed is missing, or one is named without --table.
    """
    from shards.releases.columns import Columns

    known = {name for _, name, _ in (*_COLUMNS, *_IMAGE_COLUMNS)}
    named = [f"--{name.replace('_', '-')}" for name, value in given.items() if name in known and value is not None]
    if table is None:
        if named:
            raise click.UsageError(f"{named[0]} names a column of a table; give --table FILE too")
        return None
    given = {name: value for name, value in given.items() if name in {*known, "join_rows"}}
    if missing := [f"--{name.replace('_', '-')}" for name in needed if given[name] is None]:
        raise click.UsageError(f"--table needs {' and '.join(missing)} too")
    fields = {"id_column": "image_id", "findings": "findings"}
    return Columns(**{fields.get(name, name.removesuffix("_column")): value for name, value in given.items()})
