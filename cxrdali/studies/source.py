"""The text of a study's file: TOML, and on which line of it something stands. (The reader of TOML keeps no lines.)"""

import tomllib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.errors import UserError
from shards.storage.toml_file import read_toml

Path_ = tuple[str | int, ...]  # keys from the top to a value; of a table in [[ ]] its number, from 0


@dataclass(frozen=True)
class Source:
    """path: of the file; text: what it holds."""

    path: Path
    text: str

    @classmethod
    def read(cls, path: Path) -> tuple["Source", dict[str, Any]]:
        """And its tables. Raises UserError for a file that is not there, too large, or no TOML."""
        try:
            text, tables = read_toml(path)
            return cls(path, text), tables
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"{path}: no study ({reason}); docs/studies.md has one of six lines") from error

    def error(self, at: Path_, message: object) -> UserError:
        """What is wrong at a place, with its line; of a key that is not written there, the line of its table."""
        line = self.line(at)
        return UserError(f"{self.path}{f', line {line}' if line else ''}: {message}")

    @contextmanager
    def at(self, at: Path_) -> Iterator[None]:
        """What is wrong inside is said with the line of this place."""
        try:
            yield
        except UserError as error:
            raise self.error(at, error) from error

    def line(self, at: Path_) -> int | None:
        """The line, from 1, on which a key is given, or the nearest table around it; None: the file alone says it."""
        best, depth = None, 0
        for number, path in self._places():
            differing = [n for n, (one, other) in enumerate(zip(path, at, strict=False)) if one != other]
            common = differing[0] if differing else min(len(path), len(at))
            if common > depth and common in (len(path), len(at)):
                best, depth = number, common
        return best

    def _places(self) -> Iterator[tuple[int, Path_]]:
        """All keys by the line on which their statement begins: each statement of TOML is a TOML text too."""
        table: Path_ = ()
        seen: Counter[Path_] = Counter()
        begun, text = 1, ""
        for number, line in enumerate(self.text.split("\n"), 1):
            text += line + "\n"
            try:
                given = tomllib.loads(text)
            except tomllib.TOMLDecodeError:
                continue  # it goes on in the next line
            if text.lstrip().startswith("["):
                table = self._header(given, seen)
                yield begun, table
            else:
                yield from ((begun, (*table, *keys)) for keys in _keys(given))
            begun, text = number + 1, ""

    @staticmethod
    def _header(given: Any, seen: Counter[Path_]) -> Path_:
        """Of [a.b] or [[a.b]]; inside a table of [[ ]] its latest one is meant."""
        found: Path_ = ()
        while given:
            ((key, given),) = given.items()
            found = (*found, key)
            if isinstance(given, list):
                seen[found] += 1
                given = given[0]
            if seen[found]:
                found = (*found, seen[found] - 1)
        return found


def _keys(value: Any) -> Iterator[Path_]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inside:
        yield (key,)
        yield from ((key, *more) for more in _keys(each))
