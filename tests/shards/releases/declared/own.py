"""A small release and a declaration of it, from texts in a test."""

from pathlib import Path

import pytest

from shards.errors import UserError
from shards.releases.declared.schema import read_schema
from shards.releases.declared.tables import Files, Tables
from shards.releases.open import open_release
from tests.shards.releases.declared.layout import write_text

PLAIN = """
name = "mine"
title = "A collection of a test"

[[tables]]
as = "images"
file = ["t.csv"]

[images]
image_id = "id"
path = "file"
"""


def write(root: Path, declaration: str = PLAIN, images: tuple[str, ...] = (), **tables: str) -> Path:
    """The declaration beside a folder `release` with tables by their names (t__csv="a,b") and empty files as images."""
    release = root / "release"
    release.mkdir(exist_ok=True)
    for name, text in tables.items():
        write_text(release / name.replace("__", "."), text)
    for path in images:
        (release / path).parent.mkdir(parents=True, exist_ok=True)
        (release / path).touch()
    (root / "mine.toml").write_text(declaration)
    return release


def opened(root: Path, declaration: str = PLAIN, images: tuple[str, ...] = (), join_rows=None, **tables: str):
    """What is read of that by the declaration."""
    return open_release(write(root, declaration, images, **tables), (), str(root / "mine.toml"), join_rows)


def stack(root: Path, declaration: str, name: str = "images", **tables: str):
    """The stacked table of a name, read from the declaration alone."""
    release = write(root, declaration, **tables)
    return Tables(read_schema(root / "mine.toml"), Files(release)).stack(name)


def refused(call, *arguments, **more) -> str:
    with pytest.raises(UserError) as error:
        call(*arguments, **more)
    assert "\n" not in str(error.value)
    return str(error.value)
