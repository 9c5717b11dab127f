"""What a training run says."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from shards.storage.files import cannot_write


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
