"""The studies of the package, by name, and the record that a study leaves in its folder."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from cxrdali.runs.layout import RECORD, STUDY
from cxrdali.studies.reader import read_study
from cxrdali.studies.schema import Study
from shards.errors import UserError
from shards.storage.files import write_bytes
from shards.storage.sealed import sealed_json
from shards.words import choices


def names() -> dict[str, Path]:
    """Files of the package by name."""
    folder = Path(str(files("cxrdali").joinpath("studies")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def open_study(name: str) -> Study:
    """A file, or one of the package. Raises UserError if there is neither."""
    known, path = names(), Path(name)
    if name in known and not path.is_file():
        return read_study(known[name])
    if path.suffix != ".toml" and not path.exists():
        raise UserError(f"no study {name!r}; {choices(name, known, 'give a file, NAME.toml, or one of')}")
    return read_study(path)


def write_record(root: Path, record: Mapping[str, Any]) -> None:
    """Only if it says something else than before: a half-done study has a page too."""
    if not record:
        return
    path, content = root / (RECORD if "roles" in record else STUDY), sealed_json(dict(record))
    if not path.is_file() or path.read_bytes() != content:
        write_bytes(path, content)
