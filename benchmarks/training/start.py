"""How long after the command does `cxrdali train` start its first step?

    python -m benchmarks.training.start [--save]

The command runs as a user's does, in a process of its own each time, on a packed dataset that is in the page cache, and
is ended when its first step begins. The seconds in which timm builds the network, and those of the pass of black images
through it, are given beside; the target is of all that is not timm's.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import datasets, results
from benchmarks.options import Options, option, parse

LIMIT = 3.0  # seconds
IMAGES = 200
# Wraps public names after the imports that `train_run` begins with in any case, then runs the command.
PROBE = """
import json, os, sys, time
from pathlib import Path
import cli.options.training as training
from cli.options.imports import quick_imports

began, written, train_run, spent = float(sys.argv.pop(1)), sys.argv.pop(1), training.train_run, {}

def timed(name, function):
    def call(*given, **named):
        started = time.time()
        try:
            return function(*given, **named)
        finally:
            spent[name] = spent.get(name, 0.0) + time.time() - started
    return call

def first_step(*given, **named):
    spent["total"] = time.time() - began
    Path(written).write_text(json.dumps(spent))
    os._exit(0)

def probed(*given, **named):
    before = time.time()
    with quick_imports():
        import timm
        import cxrdali.models.classifier as classifier
        import cxrdali.train.trainer
        from cxrdali.train.step import Step
    spent["imports"] = time.time() - before
    timm.create_model = timed("network", timm.create_model)
    classifier.look = timed("black images", classifier.look)
    Step.__call__ = first_step
    return train_run(*given, **named)

training.train_run = probed
from cli.main import main
main()
"""


@dataclass(frozen=True)
class StartRun(Options):
    """What is started."""

    rounds: int = option(7, "counted starts; one before them is not")
    arch: str = option("tf_efficientnetv2_s", "network")
    size: int = option(224, "side in pixels")


def started(data: Path, options: StartRun, folder: Path) -> dict[str, float]:
    """Seconds of one start: total, and by what they went to."""
    run, written = folder / "run", folder / "seconds.json"
    shutil.rmtree(run, ignore_errors=True)
    command = [
        "train", "--stage", "1", "--arch", options.arch, "--no-pretrained", "--size", str(options.size),
        "--batch", "8", "--data", str(data), "--out", str(run),
    ]  # fmt: skip
    subprocess.run(
        [sys.executable, "-c", PROBE, str(time.time()), str(written), *command], check=True, stdout=subprocess.DEVNULL
    )
    return json.loads(written.read_text())


def rows_of(runs: list[dict[str, float]], options: StartRun) -> list[dict]:
    """The result rows: one with the target, one for each part."""
    about = {"data": "synthetic", "arch": options.arch, "size": options.size}
    own = [each["total"] - each["network"] for each in runs]
    spread = asdict(results.Spread.of(own))
    rows = [{**about, "target": "first step after the command, without timm's network, seconds", "value": spread,
             "at_most": LIMIT, "met": spread["median"] <= LIMIT}]  # fmt: skip
    for part in ("total", "imports", "network", "black images"):
        rows.append({**about, "part": part, "seconds": asdict(results.Spread.of([each[part] for each in runs]))})
    return rows


def main() -> None:
    options = parse(StartRun, "benchmarks.training.start", __doc__.splitlines()[0])
    environment = results.environment("benchmarks.training.start")
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as folder:
        release = datasets.synthetic(Path(folder, "release"), datasets.studies_for(IMAGES), options.size)
        data = datasets.packed(release, Path(folder, "packed"), (options.size,)).root
        runs = [started(data, options, Path(folder)) for _ in range(options.rounds + 1)][1:]
    rows = rows_of(runs, options)
    for row in rows:
        print(json.dumps(row), flush=True)
    results.save(rows, environment, options.save, "start")


if __name__ == "__main__":
    main()
