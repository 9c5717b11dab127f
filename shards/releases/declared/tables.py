"""The tables of a declared release: found in its folder, read as text, and stacked, exploded and joined."""

import ast
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from shards.errors import UserError
from shards.releases.declared.schema import OTHERS, Schema, Table
from shards.releases.ids import line
from shards.releases.locate import the_same
from shards.releases.values import rows_of
from shards.storage.csv import GUESSED, NAMES, no_column, read_table
from shards.storage.location import Location
from shards.storage.places import storage_of
from shards.words import counted

_PACKED = r"\.(?:gz|bz2|xz|zst|zip)$"
_SIDE_BY_SIDE = r"""['"]\s+u?['"]"""  # NumPy writes lists without commas, and Python reads two such texts as one


@dataclass(frozen=True)
class Stack:
    """Rows of one or several files, one file after the other.

    Attributes:
        frame: Text columns; its index counts from 0.
        files: The files, and how many rows are of each.
        row: int64 [rows], where in its file each row stands, from 0.
        names: All columns of the files, of which `frame` has those that are asked for.
        guessed: Files whose encoding was guessed.
        notes: What was left out or guessed, for the user.
    """

    frame: pd.DataFrame
    files: tuple[tuple[Location, int], ...]
    row: np.ndarray
    names: tuple[str, ...]
    guessed: tuple[Location, ...] = ()
    notes: tuple[str, ...] = ()

    def place(self, at: int) -> tuple[Location, str]:
        """The file of a row, and where in it."""
        ends = np.cumsum([count for _, count in self.files])
        path = self.files[int(np.searchsorted(ends, at, side="right"))][0]
        return path, line(path, int(self.row[at]))

    def each_file(self, values: Any, read: Callable[[Any, Location], pd.Series]) -> pd.Series:
        """What `read` makes of the values (a series or frame of these rows) of each file, whose messages name it. The
        index of what it gets are the rows of the file."""
        parts, start = [], 0
        for path, count in self.files:
            if count:
                part = values.iloc[start : start + count]
                parts.append(read(part.set_axis(self.row[start : start + count]), path))
            start += count
        return pd.concat(parts).set_axis(values.index) if parts else pd.Series(dtype="str")

    def column(self, name: str) -> pd.Series:
        """A column without blanks around its values. Raises UserError if no file has it."""
        if name not in self.frame:
            raise no_column(self.files[0][0], name, pd.DataFrame(columns=list(self.names)))
        return self.frame[name].str.strip()

    def refuse(self, at: int, words: str) -> UserError:
        path, where = self.place(at)
        return UserError(f"{path}: {words} in {where}")


class Files:
    """What is in the folders of a release: each is listed once."""

    def __init__(self, root: Location):
        self.root = root
        self._names: dict[str, list[str]] = {}

    def named(self, pattern: str) -> list[list[Location]]:
        """The files of a pattern, in upper or lower case, by name; those of one name, packed or not, together."""
        *parts, last = pattern.split("/")
        folders = [""]
        for part in parts:
            inside = [(folder, name) for folder in folders for name in self._in(folder)]
            folders = [f"{folder}{name}/" for folder, name in inside if fnmatchcase(name.casefold(), part.casefold())]
        found: dict[str, list[Location]] = {}
        for folder in folders:
            for name in self._in(folder):
                if fnmatchcase(_bare(name), _bare(last)):
                    found.setdefault(folder + _bare(name), []).append(self.root / (folder + name))
        return [found[name] for name in sorted(found)]

    def _in(self, folder: str) -> list[str]:
        if folder not in self._names:
            try:
                found = storage_of(self.root / folder if folder else self.root).entries()
                self._names[folder] = sorted(entry.name for entry in found if not entry.name.startswith("."))
            except (OSError, UserError):  # a file, or a server that lists nothing
                self._names[folder] = []
        return self._names[folder]


class Tables:
    """The tables of a declared release in a folder, each read when it is asked for."""

    def __init__(self, schema: Schema, files: Files):
        self.schema, self._files = schema, files
        self._stacks: dict[str, Stack | None] = {}
        self._paths: dict[tuple[str, ...], list[Location]] = {}

    def stack(self, name: str) -> Stack | None:
        """The tables of one name, with what is joined to them; None if they are optional, and none is there."""
        if name not in self._stacks:
            own = [table for table in self.schema.tables if table.as_ == name and table.join is None]
            stack = self._stacked(own)
            joined = [table for table in self.schema.tables if table.join and table.join.to == name]
            for table in joined:
                if stack is not None and (other := self._stacked([table])):
                    stack = _joined(stack, other, table)
            if stack is not None and any(not self._found(table) for table in joined):
                blank = [column for column in self.schema.columns() if column not in stack.frame]
                stack = replace(stack, frame=stack.frame.assign(**dict.fromkeys(blank, "")))
            self._stacks[name] = stack
        return self._stacks[name]

    def missing(self) -> list[str]:
        """The patterns of the optional tables that are not there."""
        optional = [table for table in self.schema.tables if table.optional]
        return [" or ".join(table.file) for table in optional if not self._found(table)]

    def _found(self, table: Table) -> list[Location]:
        if table.file not in self._paths:
            self._paths[table.file] = self._look_for(table)
        return self._paths[table.file]

    def _look_for(self, table: Table) -> list[Location]:
        if table.paths:
            return [path for pattern in table.file for same in self._files.named(pattern) for path in same]
        for pattern in table.file:
            if found := self._files.named(pattern):
                if len(found) > 1:
                    names = ", ".join(paths[0].name for paths in found[:5])
                    raise UserError(
                        f"{self._files.root}: {pattern} is any of {names}; keep one, or write [[tables]] for each"
                    )
                return [the_same(found[0], declared=True)]
        return []

    def has(self, name: str) -> bool:
        """Whether the tables of a name are there, as far as they are needed."""
        own = [table for table in self.schema.tables if table.as_ == name and table.join is None]
        there = [bool(self._found(table)) for table in own]
        return any(there) and all(there[place] or table.optional for place, table in enumerate(own))

    def _stacked(self, tables: Sequence[Table]) -> Stack | None:
        for table in tables:
            if not table.optional and not self._found(table):
                needs = f"; {self.schema.name} needs {self.schema.needs}" if self.schema.needs else ""
                raise UserError(f"{self._files.root}: no {' or '.join(table.file)}{needs}")
        stacks: list[Stack] = []
        for table in tables:
            found = self._found(table)
            if found and table.paths:
                stacks.append(self._listed(found, table))
            else:
                stacks += [self._read(path, table) for path in found]
        if len(stacks) < 2:
            return stacks[0] if stacks else None
        frame = pd.concat([stack.frame for stack in stacks], ignore_index=True)
        notes = [note for stack in stacks for note in stack.notes]
        for stack in stacks:
            if lacking := [name for name in frame if name not in stack.frame]:
                more = ", ..." if len(lacking) > 5 else ""
                notes.append(f"{stack.files[0][0].name} has no {', '.join(lacking[:5])}{more}: blank there")
        return Stack(
            frame.fillna(""),
            tuple(chain.from_iterable(stack.files for stack in stacks)),
            np.concatenate([stack.row for stack in stacks]),
            tuple(dict.fromkeys(chain.from_iterable(stack.names for stack in stacks))),
            tuple(chain.from_iterable(stack.guessed for stack in stacks)),
            tuple(notes),
        )

    def _listed(self, paths: list[Location], table: Table) -> Stack:
        """Images themselves, by their paths."""
        texts = [str(path).removeprefix(f"{self._files.root}/") for path in paths]
        frame = pd.DataFrame({"path": texts}, dtype="str").assign(**table.constants)
        files = ((self._files.root / table.file[0], len(frame)),)
        return Stack(frame, files, np.arange(len(frame)), ("path", *table.constants))

    def _read(self, path: Location, table: Table) -> Stack:
        asked = self._asked(table)
        frame = read_table(path, unnamed=True, declared=True, only=asked)
        guessed, notes = frame.attrs.get(GUESSED), []
        own = table.keep or frame.attrs[NAMES]
        if absent := next((name for name in own if name not in frame.attrs[NAMES]), None):
            raise no_column(path, absent, pd.DataFrame(columns=frame.attrs[NAMES]))
        names = [table.rename.get(name, name) for name in own]
        if double := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"{path}: two columns are called {double!r} after `rename`; rename one of them otherwise")
        frame.attrs = {}
        frame = frame[[name for name in own if name in frame and (asked is None or name in asked)]]
        frame = frame.rename(columns=table.rename).assign(**table.constants)
        if guessed:
            notes.append(_of_guess(path, frame, guessed))
        files, row = ((path, len(frame)),), np.arange(len(frame))
        stack = Stack(frame, files, row, (*names, *table.constants), (path,) if guessed else (), tuple(notes))
        for column, values in table.where.items():
            keep = stack.column(column).isin(values).to_numpy()
            words = (
                f"{path.name}: {counted((~keep).sum(), 'row')} left out, whose {column} is not {' or '.join(values)}"
            )
            stack = _taken(stack, np.flatnonzero(keep), () if keep.all() else (words,))
        return _exploded(stack, table.explode) if table.explode else stack

    def _asked(self, table: Table) -> set[str] | None:
        """The columns of a file that are asked for, None for all: texts of reports take no memory."""
        labels = [each for each in self.schema.labels if each.table == (table.join.to if table.join else table.as_)]
        if any(each.findings == OTHERS for each in labels):
            return None
        asked = self.schema.columns().union(*(each.findings for each in labels), *(each.rename for each in labels))
        return asked | {name for name, new in table.rename.items() if new in asked}

    def inputs(self, name: str) -> tuple[Location, ...]:
        """The files of the tables of one name and of those that are joined to them."""
        found = [table for table in self.schema.tables if name in (table.as_, table.join and table.join.to)]
        return tuple(dict.fromkeys(path for table in found if not table.paths for path in self._found(table)))

    def images(self) -> list[Location]:
        """The images that are rows themselves."""
        return [path for table in self.schema.tables if table.paths for path in self._found(table)]


def items(text: str) -> list[str] | None:
    """The texts of a list as JSON or Python writes it; none of a blank, None for what is no such list."""
    if not text.strip() or text.strip() in ("[]", "null", "None"):
        return []
    try:
        found = json.loads(text, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        try:
            found = None if re.search(_SIDE_BY_SIDE, text) else ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    if not isinstance(found, list | tuple) or any(isinstance(each, list | dict | tuple | set) for each in found):
        return None
    return ["" if each is None else str(each) for each in found]


def _bare(name: str) -> str:
    return re.sub(_PACKED, "", name.casefold())


def _taken(stack: Stack, rows: np.ndarray, notes: tuple[str, ...]) -> Stack:
    """Some rows of one file's stack."""
    frame = stack.frame.iloc[rows].reset_index(drop=True)
    ((path, _),) = stack.files
    return replace(stack, frame=frame, files=((path, len(rows)),), row=stack.row[rows], notes=(*stack.notes, *notes))


def _joined(stack: Stack, other: Stack, table: Table) -> Stack:
    """A stack with the columns of another in its rows; those that both have stay as they are."""
    join = table.join
    assert join is not None
    there, here = stack.column(join.on[0]), other.column(join.on[-1])
    double = (here.duplicated() & (here != "")).to_numpy()
    if double.any():
        at = int(double.argmax())
        words = f"column {join.on[-1]!r} holds {here[at]!r} again, and rows of {join.to!r} are joined by it"
        raise other.refuse(at, f"{words}: keep one of them. It is")
    rows = np.where(there == "", -1, rows_of(there, here))
    path, none = other.files[0][0], rows < 0
    if none.all() and len(none):
        raise UserError(
            f"{path}: column {join.on[-1]!r} holds no value of column {join.on[0]!r} of {stack.files[0][0].name}; the "
            f"first is {next(iter(here), '')!r} here and {there[0]!r} there"
        )
    new = [name for name in other.frame if name not in stack.frame]
    taken = other.frame[new].iloc[rows].reset_index(drop=True)
    taken[none] = ""
    notes = []
    if none.any():
        notes.append(f"{path.name} has no row for {counted(none.sum(), 'row')} of {join.to}: blank there")
    if unused := len(here) - len(np.unique(rows[~none])):
        notes.append(f"{path.name}: {counted(unused, 'row')} of no row of {join.to}")
    return replace(
        stack,
        frame=pd.concat([stack.frame, taken], axis=1),
        names=(*stack.names, *other.names),
        guessed=(*stack.guessed, *other.guessed),
        notes=(*stack.notes, *other.notes, *notes),
    )


def _exploded(stack: Stack, columns: Sequence[str]) -> Stack:
    """A row for each text of the lists in some columns, side by side."""
    lists: list[list[list[str]]] = []
    for name in columns:
        found = [items(text) for text in stack.column(name)]
        for at, own in enumerate(found):
            if own is None:
                text = stack.frame[name][at][:80]
                raise stack.refuse(at, f"column {name!r} holds {text!r}, which is no list,")
            count = len(lists[0][at]) if lists else len(own)
            if len(own) not in (0, count):
                words = f"column {columns[0]!r} lists {counted(count, 'text')} and column {name!r} {len(own):,}"
                raise stack.refuse(at, words)
            found[at] = own or [""] * count
        lists.append(found)  # type: ignore[arg-type]
    counts = np.array([len(each) for each in lists[0]], dtype=np.int64)
    empty, path = int((counts == 0).sum()), stack.files[0][0]
    notes = (f"{path.name}: {counted(empty, 'row')} left out, whose {columns[0]} lists nothing",) if empty else ()
    taken = _taken(stack, np.repeat(np.arange(len(counts)), counts), notes)
    made = {name: list(chain.from_iterable(found)) for name, found in zip(columns, lists, strict=True)}
    return replace(taken, frame=taken.frame.assign(**made))


def _of_guess(path: Location, frame: pd.DataFrame, guessed: str) -> str:
    """Which values a guess of the encoding has decided."""
    found = {name: int(frame[name].str.contains(r"[^\x00-\x7f]", regex=True).sum()) for name in frame}
    words = ", ".join(f"{name} ({count:,})" for name, count in found.items() if count)
    return f"{path.name} is no UTF-8 and is read as {guessed}; letters beyond ASCII are in: {words or 'no column used'}"
