"""Which of timm's families of networks train, save, predict, explain, keep features, and go on at another size?

    python -m benchmarks.training.families [--families A,B] [--save]

Of each family (a module of timm) the network with the fewest parameters, from scratch: one step of the trainer at the
first size that is taken, of SIZES and its own, and all that follows a training. What is refused has the reason in the
family's row; what no line of ours explains begins with FAULT. Of several rows of a family the last counts.
"""

import contextlib
import json
import logging
import multiprocessing
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import timm

from benchmarks import datasets, results
from benchmarks.options import Options, listed, option, parse
from benchmarks.training.families_walk import LARGEST, SIZES, STEPS, Walk, smallest
from shards.errors import UserError

NOTHING = {"model": "", "parameters": 0, "size": 0, "other": 0, **dict.fromkeys(STEPS, False)}  # of a row


@dataclass(frozen=True)
class FamiliesRun(Options):
    """What is walked."""

    families: tuple[str, ...] = option("", "names of timm's modules [all]", listed(str))
    seconds: int = option(300, "that a family may take")


def walked(family: str, data: Path, folder: Path) -> dict:
    """What a family's row says, with the reasons of the steps that did not go well."""
    started, (parameters, arch, own_size) = time.perf_counter(), smallest(family)
    walk, went, reasons = Walk(arch, own_size, data, folder), {}, {}
    for step in STEPS:
        try:
            getattr(walk, step)()
            went[step] = True
        except Exception as error:
            fault = "" if isinstance(error, UserError) else f"FAULT {type(error).__name__}: "
            reasons[step] = fault + " ".join(str(error).split())[:300].replace(str(folder), "RUN")
            if step == "trains":
                break
    reasons |= {"smaller": walk.smaller} if walk.smaller else {}
    about = {"model": arch, "parameters": parameters, "size": walk.size, "other": walk.other}
    return NOTHING | about | went | {"reasons": reasons, "seconds": round(time.perf_counter() - started, 1)}


def _child(sent, *arguments) -> None:
    logging.getLogger("timm").setLevel(logging.ERROR)
    sent.send(walked(*arguments))


def row_of(family: str, data: Path, seconds: int) -> dict:
    """`walked`, in a process that cannot end this one."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["benchmarks.training.families_walk"])
    received, sent = processes.Pipe(duplex=False)
    found = NOTHING | {"reasons": {"trains": f"FAULT its process ended, or took more than {seconds} s"}}
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as folder:
        process = processes.Process(target=_child, args=(sent, family, data, Path(folder)))
        process.start()
        sent.close()
        with contextlib.suppress(EOFError):
            found = received.recv() if received.poll(seconds) else found
        process.kill()
        process.join()
    return {"data": "synthetic", "family": family, **found}


def main() -> None:
    options = parse(FamiliesRun, "benchmarks.training.families", __doc__.splitlines()[0])
    environment = results.environment("benchmarks.training.families")
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as folder:
        release = datasets.synthetic(Path(folder, "release"), studies=24, size=LARGEST)
        data = datasets.packed(release, Path(folder, "packed"), (*SIZES, LARGEST)).root
        for family in options.families or timm.list_modules():
            row = row_of(family, data, options.seconds)
            print(json.dumps(row), flush=True)
            results.save([row], environment, options.save, "families")


if __name__ == "__main__":
    main()
