"""Tiny training runs that are recorded, compared, and made to fail on purpose."""

import json
import multiprocessing
import os
import re
import resource
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from cxrdali import predictions
from cxrdali.runs import layout
from cxrdali.runs.settings import TrainSettings, settings_of
from cxrdali.train import trainer as training
from cxrdali.train.hooks import Hooks, StepRecord
from shards.dataset.packed import PackedDataset
from shards.storage.sealed import read_json
from tests.faults.processes import drop_privileges

ARCH = "test_efficientnet"
TIMES = ("images_per_second", "train_seconds", "wait_seconds", "val_seconds")
# stage: settings, optimizer steps and validation batches of an epoch
STAGES = {1: ({"size": 48, "batch": 16}, 3, 1), 2: ({"size": 64, "batch": 12}, 4, 2)}
EPOCHS = 2
# What has just happened at each moment of the job: an optimizer step or a validation batch
MOMENTS = [
    what
    for _, steps, batches in STAGES.values()
    for _ in range(EPOCHS)
    for what in ["step"] * steps + ["validation"] * batches
]

# Children are forked from a process that has all of this imported and trains nothing itself.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    ["tests.faults.trainers", "torch.utils.tensorboard", "cli.train", "cli.paper", "cxrdali.studies.plan"]
)


def settings(stage: int, runs_folder: Path, **changes) -> TrainSettings:
    """A stage of the job; stage 2 starts from stage 1 of the same folder."""
    init = {"init": str(runs_folder / "stage1")} if stage > 1 else {}
    given = {"epochs": EPOCHS, "arch": ARCH, "pretrained": False, "device": "cpu", **STAGES[stage][0], **init}
    return settings_of(stage=stage, **{**given, **changes})


def train(stage: int, dataset: PackedDataset, runs_folder: Path, **changes) -> training.RunSummary:
    out = runs_folder / f"stage{stage}"
    return training.train(settings(stage, runs_folder, **changes), dataset, out)


def job(dataset: PackedDataset, runs_folder: Path, **changes) -> None:
    """Both stages; the same call again continues."""
    for stage in STAGES:
        train(stage, dataset, runs_folder, **changes)


def train_command(pack: Path, out: Path) -> list:
    """Stage 1 of the job as a command line."""
    options = [word for name, value in STAGES[1][0].items() for word in (f"--{name}", value)]
    options += ["--epochs", EPOCHS, "--arch", ARCH, "--no-pretrained", "--device", "cpu"]
    return ["train", "--stage", 1, "--data", pack, "--out", out, *options]


def error_line(code: int, said: str, *named) -> str:
    """The one line that begins with error: and is the last; it holds every text of `named`."""
    assert code == 1 and "Traceback" not in said and not re.search(r"\bException\b", said), said
    lines = [line.rpartition("\r")[2] for line in said.splitlines()]  # what a progress bar left on the terminal
    assert [line for line in lines if "error: " in line] == lines[-1:] and lines[-1].startswith("error: "), said
    assert [text for text in map(str, named) if text not in lines[-1]] == [], lines[-1]
    return lines[-1]


# ---------------------------------------------------------------- processes


def child(function: Callable, *arguments):
    """A started process that calls a module's function; it has everything imported, so it costs no seconds."""
    process = _PROCESSES.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def in_child(function: Callable, *arguments) -> int:
    """Call it in a process of its own; its exit code, minus the signal that ended it."""
    process = child(function, *arguments)
    process.join(60)
    process.kill()  # no effect on one that has ended
    assert process.exitcode is not None, "nothing happened for a minute"
    return process.exitcode


def job_with_a_signal(number: int, pack: Path, runs_folder: Path, log: Path, moment: int) -> None:
    """For a child: the recorded job that sends itself a signal at a moment."""
    patch = pytest.MonkeyPatch()
    record(patch, log)
    at_moment(patch, moment, lambda: os.kill(os.getpid(), number))
    job(PackedDataset.open(pack), runs_folder)


def command_line(log: Path, arguments: list, unprivileged: bool = False, file_size: int | None = None) -> None:
    """For a child: `cxrdali arguments`, its output in `log`.

    unprivileged: permission bits count, for root too; file_size: no file may grow over so many bytes.
    """
    from cli.main import main

    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for place in (1, 2):
        os.dup2(said, place)
    sys.argv = ["cxrdali", *map(str, arguments)]
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))
    if unprivileged:
        drop_privileges()
    main()


# ---------------------------------------------------------------- watching


def hooked(monkeypatch, make: Callable[[TrainSettings], Hooks]) -> None:
    """Every run from here on has these hooks, `make` of its settings, and those that it is given beside them."""
    whole = training.train

    def both(one, two):
        return (lambda *seen: two(*seen) or one(*seen)) if one and two else one or two

    def train(given, *arguments, hooks=None, **options):
        pairs = zip(vars(make(given)).values(), vars(hooks or Hooks()).values(), strict=True)
        return whole(given, *arguments, hooks=Hooks(*(both(*pair) for pair in pairs)), **options)

    monkeypatch.setattr(training, "train", train)


def record(monkeypatch, log: Path) -> None:
    """Append a line per step to `log`: stage, epoch, position, learning rate, rows, CRC of the pixels, loss."""

    def hooks(given):
        def noted(step: StepRecord):
            at = [given.stage, step.epoch, step.position]
            what = [step.lr, step.rows.tolist(), zlib.crc32(step.images.numpy()), float(step.loss)]
            with log.open("a") as file:  # a file, and no buffer: the lines outlive a SIGKILL
                file.write(json.dumps([*at, *what]) + "\n")

        return Hooks(on_step=noted)

    hooked(monkeypatch, hooks)


def steps(log: Path) -> list[list]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def at_moment(monkeypatch, number: int, act: Callable[[], None]) -> None:
    """Do something at the n-th moment, from 1: after a step's or a validation batch's work, before the next."""
    left = number

    def moment() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            act()

    hooked(monkeypatch, lambda _: Hooks(should_stop=moment))


def differences(one: Path, two: Path) -> list[str]:
    """What two run folders do not share, apart from times: names of files and of values in them."""
    names = [sorted(p.name for p in run.iterdir() if p.name != "tensorboard") for run in (one, two)]
    found = [] if names[0] == names[1] else [f"{names[0]} against {names[1]}"]
    states = [torch.load(run / layout.LAST, weights_only=True) for run in (one, two)]
    for state in states:
        state["metrics"] = _without_times(pd.DataFrame(state["metrics"]))
        state["findings"] = pd.DataFrame(state["findings"])
    found += [f"{layout.LAST}: {name}" for name in _unequal(*states)]
    progress = [progress_without_times(run) for run in (one, two)]
    found += [] if progress[0] == progress[1] else [layout.PROGRESS]
    weights = [(run / layout.BEST).read_bytes() for run in (one, two)]
    found += [] if weights[0] == weights[1] else [layout.BEST]
    found += [f"{layout.BEST}: {name}" for name in _unequal(*(load_file(run / layout.BEST) for run in (one, two)))]
    for name in (layout.METRICS, layout.FINDINGS):
        tables = [_without_times(pd.read_csv(run / name)) for run in (one, two)]
        found += [] if tables[0].equals(tables[1]) else [name]
    tables = [predictions.read(run / layout.VAL_PREDICTIONS) for run in (one, two)]
    same = (tables[0].values == tables[1].values).all() and tables[0].ids.equals(tables[1].ids)
    return found if same else [*found, layout.VAL_PREDICTIONS]


def progress_without_times(run: Path) -> dict:
    """What progress.json says, without the checksum of metrics.csv, which holds times."""
    said = read_json(run / layout.PROGRESS)
    del said["checksums"][layout.METRICS]
    return said


def _without_times(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=[*TIMES], errors="ignore")  # findings have none


def _unequal(one, two, name: str = "") -> list[str]:
    """Names of the values that differ in one bit, in nested dicts and lists."""
    if isinstance(one, torch.Tensor | pd.DataFrame):
        same = type(one) is type(two) and (one.equal(two) if isinstance(one, torch.Tensor) else one.equals(two))
        return [] if same else [name]
    if isinstance(one, dict | list | tuple):
        if type(one) is not type(two) or len(one) != len(two):
            return [name]
        keys = one if isinstance(one, dict) else range(len(one))
        if isinstance(one, dict) and set(one) != set(two):
            return [f"{name} {set(one) ^ set(two)}"]
        return [found for key in keys for found in _unequal(one[key], two[key], f"{name}.{key}")]
    return [] if one == two else [name]
