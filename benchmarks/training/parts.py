"""What does each part cost: seconds of a training step and peak memory, beside the plain step's?

    python -m benchmarks.training.parts [--work DIR] [--save]              # on the CPU, a small network: 2 minutes
    python -m benchmarks.training.parts --device cuda --arch NETWORK --size 512 --batch 32 [--save]

The parts are the arms of the shipped study `parts`. A step is the trainer's, fed by its loader (as `cxrdali train
--dry-run` measures it); every part has a process of its own, and the plain step comes again after every few. On a CPU
peak memory is that of the whole process, on a GPU what torch holds of it.
"""

import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import datasets, results
from benchmarks.options import Options, listed, option, parse

PLAIN, EVERY = "plain", 6  # the plain step once more after so many parts


@dataclass(frozen=True)
class PartsRun(Options):
    """What is measured."""

    device: str = option("cpu", "cpu or cuda[:N]")
    arch: str = option("resnet10t", "timm's name of the network")
    size: int = option(96, "side in pixels")
    batch: int = option(16, "images in a batch")
    parts: tuple = option("", "names of parts, with commas between them [all]", listed(str))
    work: Path | None = option(None, "folder of the pack, kept for the next time [a temporary one]", Path)


def arms() -> dict[str, dict]:
    """Settings of every part by its name, the plain ones first; without what is no step's: sizes of a schedule."""
    from cxrdali.runs import recipes
    from cxrdali.studies.expand import expand
    from cxrdali.studies.shipped import open_study

    study = open_study("parts")
    runs, tables = expand(study, recipes.load()), {table.name for table in study.runs}
    found = {each.cell: dict(each.recipe.settings) for each in runs.values() if each.table in tables}
    return {name: settings for name, settings in found.items() if not settings.get("schedule")}


def step_of(settings: dict, changes: dict, pack: Path) -> tuple[float, int]:
    """Seconds of a step, and bytes at the peak. Runs in a process of its own."""
    from cxrdali.runs.settings import settings_of
    from cxrdali.train.dry_run import dry_run
    from shards.dataset.packed import PackedDataset

    with tempfile.TemporaryDirectory() as folder:
        found = dry_run(settings_of(settings, changes), PackedDataset.open(pack), Path(folder) / "run")
    assert found is not None  # of a new folder
    return found.step_seconds, found.memory_bytes


def measured(options: PartsRun, pack: Path) -> Iterator[tuple[str, float, int]]:
    """Name, seconds and bytes of each part in turn, the plain step between them and at the end."""
    known = arms()
    names = [name for name in known if name != PLAIN and name in (options.parts or known)]
    order = [PLAIN] + [each for place, name in enumerate(names, 1) for each in (name, *[PLAIN] * (place % EVERY == 0))]
    changes = {"arch": options.arch, "size": options.size, "batch": options.batch, "device": options.device}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cxrdali.train.dry_run"])
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as processes:
        for name in order:
            yield (name, *processes.submit(step_of, known[name], changes, pack).result())


def main() -> None:
    options = parse(PartsRun, "benchmarks.training.parts", __doc__.splitlines()[0])
    environment = results.environment("benchmarks.training.parts", options.device)
    with ExitStack() as stack:
        folder = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cxrdali-bench-")))
        pack = folder / f"pack-{options.size}"
        if not pack.exists():
            datasets.packed(datasets.synthetic(folder / "release", 300, 2 * options.size), pack, [options.size])
        found: dict[str, list[tuple[float, int]]] = {}
        for name, *each in measured(options, pack):
            found.setdefault(name, []).append(tuple(each))
            print(f"  {name:24} {each[0]:8.4f} s a step, {each[1] / 2**20:8,.0f} MiB", flush=True)
    plain = [median(each) for each in zip(*found[PLAIN], strict=True)]
    rows = [
        {
            "part": name, "arch": options.arch, "size": options.size, "batch": options.batch,
            "step_seconds": median(seconds for seconds, _ in each), "runs": [seconds for seconds, _ in each],
            "ratio": median(seconds for seconds, _ in each) / plain[0],
            "peak_mib": median(held for _, held in each) / 2**20,
            "more_mib": (median(held for _, held in each) - plain[1]) / 2**20,
        }
        for name, each in found.items()
    ]  # fmt: skip
    results.save(rows, environment, options.save, "parts")


if __name__ == "__main__":
    main()
