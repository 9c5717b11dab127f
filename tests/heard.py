"""What cxrdali logs."""

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def heard(lines: list[str]) -> Iterator[list[str]]:
    """Append what cxrdali logs meanwhile to `lines`, a line each."""
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    loggers = [logging.getLogger(name) for name in ("cxrdali", "shards")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
