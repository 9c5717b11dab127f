"""What only a GPU can settle: pixels, lifetimes, idle time, memory, precisions, the compiler, supply. docs/gpu.md

    python -m benchmarks.gpu [SECTION ...] [--out FILE] [--seconds LIMIT] [--save]

Each section is a process of its own with a time limit, the riskiest first: what crashes or hangs takes no other section
with it. FILE gets a JSON line for each fact: `section`, `fact`, `ok` (null where a number is the answer), `values` and
the environment; the page of FILE lies beside it as Markdown. Without a GPU it runs what can be run there.
"""

import json
import multiprocessing
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks import results
from benchmarks.gpu.sections import NAMES, SECTIONS, machine, measured
from benchmarks.options import Options, option, parse
from benchmarks.pages import gpu as page


@dataclass(frozen=True)
class GpuRun(Options):
    """What is asked."""

    sections: tuple[str, ...] = option((), f"of {', '.join(NAMES)}; none: all", named=False)
    out: Path = option("gpu.jsonl", "JSON lines are appended to this file", Path)
    seconds: float = option(570.0, "that all sections together may take")


def main() -> None:
    options = parse(GpuRun, "benchmarks.gpu", __doc__.splitlines()[0])
    if unknown := set(options.sections) - set(NAMES):
        sys.exit(f"section {min(unknown)!r}: choose from {', '.join(NAMES)}")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        environment = executor.submit(machine).result()
    wanted = {NAMES[0], *options.sections} if options.sections else NAMES
    sections = [each for each in SECTIONS if each.name in wanted]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # the section that runs ends, too
    rows = []
    with options.out.open("a") as file:
        for row in measured(sections, options.seconds, environment["gpu"] is not None):
            print(json.dumps({"benchmark": "gpu", **row, "environment": environment}), file=file, flush=True)
            rows.append(row)
    written = options.out.with_suffix(".md")
    written.write_text(page.text(page.newest(options.out)))
    print(f"{len(rows)} facts -> {options.out}, {written}")
    results.save(rows, environment, options.save, "gpu")


if __name__ == "__main__":
    main()
