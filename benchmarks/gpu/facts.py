"""A section of `benchmarks.gpu` in its own process: what it finds goes to stdout, a JSON line for each fact.

python -m benchmarks.gpu.facts MODULE FUNCTION FOLDER      # the function is called with the `Work` in FOLDER
"""

import contextlib
import gc
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import torch


def say(fact: str, ok: bool | None = None, **values: object) -> None:
    """fact: what is asked, and after ": " of what. ok: None where `value` is the answer, unless that is to be
    `at_least` or `at_most` so much."""
    if {"at_least", "at_most"} & values.keys() and values.get("value") is not None:
        ok = values.get("at_least", values["value"]) <= values["value"] <= values.get("at_most", values["value"])
    print(json.dumps({"fact": fact, "ok": ok, "values": values}, default=str), flush=True)


@contextlib.contextmanager
def told(fact: str) -> Iterator[None]:
    """Say an error that the block ends with: it is a fact, too, and the rest of the section goes on."""
    try:
        yield
    except Exception as error:
        say(fact, False, error=in_a_line(error), where=traceback.format_exc().strip().splitlines()[-3:])
    gc.collect()  # here: inside of the except block the error holds the frames that hold the tensors
    if torch.cuda.is_available():
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()


def in_a_line(error: BaseException) -> str:
    """Its kind and its first words."""
    return f"{type(error).__name__}: {' / '.join(str(error).strip().splitlines()[:3])[:300]}"


def main() -> None:
    from benchmarks.gpu.work import Work

    module, function, folder = sys.argv[1:]
    started = time.perf_counter()
    with told("the section itself"):
        getattr(importlib.import_module(module), function)(Work(Path(folder)))
    say("seconds", value=round(time.perf_counter() - started, 1))
    sys.stdout.flush()
    os._exit(0)  # all is said: a library that crashes or hangs as it is unloaded takes nothing back


if __name__ == "__main__":
    main()
