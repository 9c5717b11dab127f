"""What cxrdali logs."""

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def heard(lines: list[str]) -> Iterator[list[str]]:
    """Append what cxrdali logs meanwhile to `lines`, a line each."""
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("cxrdali")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
