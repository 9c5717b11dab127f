"""How far long work is: a bar on a terminal, a line a minute in a log."""

import io
import logging
import sys
from typing import Any

from tqdm import tqdm

log = logging.getLogger(__name__)

SECONDS = 60  # before the first line in a log, and between two


class _Lines(io.TextIOBase):
    """What tqdm draws, as lines that are logged."""

    def write(self, text: str) -> int:
        if line := text.strip():
            log.info(line)
        return len(text)


def progress_bar(desc: str, total: int, unit: str, leave: bool = True, hidden: bool = False, **more: Any) -> tqdm:
    """tqdm's bar if stderr is a terminal, else nothing but a line a minute.

    Args:
        desc: What is being done.
        total: How many units there are.
        unit: Their name after a number, as in " images".
        leave: Whether the bar stays when all is done.
        hidden: Neither bar nor line.
        more: Other options of tqdm.
    """
    if not sys.stderr.isatty():
        words = "{desc}: {percentage:.0f} %, {rate_noinv_fmt}{postfix}, {remaining} left"
        lines = {"file": _Lines(), "bar_format": words, "mininterval": SECONDS, "delay": SECONDS, "miniters": 1}
        leave, more = False, {**more, **lines}
    if hidden:
        more["disable"] = True  # not given otherwise: TQDM_DISABLE counts
    return tqdm(desc=desc, total=total, unit=unit, leave=leave, **more)
