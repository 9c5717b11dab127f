"""TOML files that people write: read within a bound, so that a pipe, a device or a mistaken file is told at once."""

import tomllib
from pathlib import Path
from typing import Any

MOST_BYTES = 1_000_000  # the longest that comes with the package has 4 KB


def read_toml(path: Path) -> tuple[str, dict[str, Any]]:
    """The text and the tables of a TOML file.

    Raises OSError if it cannot be read, ValueError if it is no plain file of at most MOST_BYTES or no TOML.
    """
    if path.exists() and not (path.is_file() and path.stat().st_size <= MOST_BYTES):  # a pipe or /dev/zero never ends
        raise ValueError(f"no plain file of at most {MOST_BYTES:,} bytes")
    text = path.read_text(encoding="utf-8-sig")
    try:
        return text, tomllib.loads(text)
    except RecursionError:
        raise ValueError("tables or lists in one another beyond all measure") from None
