"""Importing what is heavy, torch first of all, in four fifths of the time."""

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Let the garbage collector rest meanwhile, and leave what was imported alone ever after.

    Modules make a million objects that stay, and the collector walks them again and again: half a second of the start
    of `cxrdali train` (`python -m benchmarks.training.start`).
    """
    first = "torch" not in sys.modules  # later there may be garbage, which must not stay
    gc.disable()
    try:
        yield
    finally:
        if first:
            gc.freeze()
        gc.enable()
