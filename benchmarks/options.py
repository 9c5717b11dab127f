"""A benchmark's command line from a dataclass: a field is an option, with its default and its line of --help."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TypeVar

from benchmarks.results import RESULTS


def option(default, words: str, read: Callable | None = None, named: bool = True):
    """A field of a dataclass of options.

    Args:
        default: the value, or the text that `read` makes it of; False makes a flag.
        words: its line of --help.
        read: from the text of the command line to the value; without it the default's own type.
        named: False for what stands on the command line without an option's name, any number of times: a tuple.
    """
    value = read(default) if read and isinstance(default, str) else default
    shown = "" if default in (None, False, "") else f" [{default}]"
    return field(default=value, metadata={"words": words + shown, "read": read or type(default), "named": named})


def listed(read: Callable) -> Callable[[str], tuple]:
    """Reads "1,2,3": a tuple of what `read` makes of each part, empty for no text."""
    return lambda text: tuple(read(part) for part in text.split(",") if part)


@dataclass(frozen=True)
class Stage:
    """Side in pixels and images per batch."""

    size: int
    batch: int

    @classmethod
    def parse(cls, text: str) -> "Stage":
        """From SIZE:BATCH."""
        size, _, batch = text.partition(":")
        return cls(int(size), int(batch))


STAGES = listed(Stage.parse)


@dataclass(frozen=True)
class Options:
    """What every benchmark has."""

    save: Path | None = None


T = TypeVar("T", bound=Options)


def parse(kind: type[T], module: str, words: str) -> T:
    """The options that this process was started with; a wrong one ends it with a line that says so.

    Args:
        kind: the dataclass of options.
        module: the benchmark's name behind `python -m`.
        words: its question.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=words)
    for each in fields(kind):
        name, shown = f"--{each.name.replace('_', '-')}", each.metadata.get("words", "").replace("%", "%%")
        if each.name == "save":
            saved = "append the rows to a file in DIR [benchmarks/results]"
            parser.add_argument(name, type=Path, nargs="?", const=RESULTS, metavar="DIR", help=saved)
        elif not each.metadata["named"]:
            parser.add_argument(each.name, nargs="*", default=(), metavar=each.name.upper(), help=shown)
        elif each.default is False:
            parser.add_argument(name, action="store_true", help=shown)
        else:
            parser.add_argument(name, type=each.metadata["read"], default=each.default, metavar="X", help=shown)
    return kind(**vars(parser.parse_args()))
