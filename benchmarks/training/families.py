"""Which of timm's families of networks train, save, predict, explain, keep features, and go on at another size?

    python -m benchmarks.training.families [--families A,B] [--save]

Of each family (a module of timm) the network with the fewest parameters, without timm's weights: one step of training
at the first size that it takes, of SIZES and its own, by the trainer itself on a packed synthetic release; then all
that follows a training. A step that is refused has the reason in its row; what no line of ours explains begins with
FAULT. Each family has a process and --seconds of its own, and a row as soon as it ends: --families does some of them
again, and of several rows of a family the last counts.
"""

import json
import logging
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import timm
import torch

from benchmarks import datasets, results
from benchmarks.options import Options, listed, option, parse
from cxrdali import predictions
from cxrdali.predict.explain import explain
from cxrdali.predict.options import ExplainOptions, PredictOptions
from cxrdali.predict.predict import predict
from cxrdali.runs.layout import CONFIG, VAL_PREDICTIONS
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import settings_of
from cxrdali.train.retrain import retrain_settings
from cxrdali.train.trainer import train
from shards.dataset.packed import PackedDataset
from shards.errors import UserError

PRELOAD = ["benchmarks.datasets", "cxrdali.predict.explain", "cxrdali.train.retrain", "cxrdali.train.trainer"]
SIZES, LARGEST, BATCH, STUDIES = (64, 96, 128), 560, 4, 24
STEPS = ("trains", "saves", "predicts", "explains", "caches", "other_size")


@dataclass(frozen=True)
class FamiliesRun(Options):
    """What is walked."""

    families: tuple[str, ...] = option("", "names of timm's modules [all]", listed(str))
    seconds: int = option(300, "that a family may take")


def smallest(family: str) -> tuple[int, str, int]:
    """The number of parameters, the name and the own size in pixels of a family's network with the fewest of them."""
    found = []
    for arch in timm.list_models(module=family):
        try:
            with torch.device("meta"):
                model = timm.create_model(arch, num_classes=2)
        except TypeError:  # an encoder, which has no classifier
            continue
        found.append((sum(map(torch.numel, model.parameters())), arch, model.pretrained_cfg["input_size"][-1]))
    return min(found)


class Walk:
    """The steps of one network, each of which raises UserError where it is refused."""

    def __init__(self, arch: str, own_size: int, dataset: PackedDataset, folder: Path):
        self.arch, self.dataset, self.folder, self.run = arch, dataset, folder, folder / "stage1"
        self.sizes = tuple(dict.fromkeys((*SIZES, own_size)))
        self.size, self.other, self.smaller = 0, 0, ""

    def trains(self) -> None:
        self.size, self.smaller = self._first(self.sizes, 1, self.run, pretrained=False)

    def saves(self) -> None:
        Run.open(self.run).best_weights()

    def predicts(self) -> None:
        self._agree(self.run, BATCH + 1)  # with one image in the last batch

    def explains(self) -> None:
        explain(self.run, self.dataset, ExplainOptions(images=1), PredictOptions(device="cpu"))

    def caches(self) -> None:
        """The classifier is retrained in any case; its scores are those of the whole model."""
        out, said, log = self.folder / "crt", [], logging.getLogger("cxrdali.train.build")
        log.setLevel(logging.INFO)
        log.addFilter(lambda record: said.append(record.getMessage()))
        changes = {"epochs": 1, "warmup_epochs": 0, "limit_batches": None}
        train(retrain_settings(self.run, self.dataset, changes), self.dataset, out)
        self._agree(out, BATCH)
        if not any("computed once" in line for line in said):
            raise UserError(" ".join(said))

    def other_size(self) -> None:
        sizes = [size for size in (*self.sizes, 2 * self.size) if self.size < size <= LARGEST] or (224, *SIZES)
        self.other, _ = self._first(sizes, 2, self.folder / "stage2", init=str(self.run))

    def _first(self, sizes: Sequence[int], stage: int, out: Path, **start: object) -> tuple[int, str]:
        """The first size that is taken, and why the first of all is not."""
        errors = []
        for size in sizes:
            about = {"stage": stage, "size": size, "arch": self.arch, "device": "cpu", **start}
            try:
                train(settings_of(about, batch=BATCH, epochs=1, limit_batches=1), self.dataset, out)
                return size, " ".join(map(str, errors[:1]))
            except UserError as error:
                if (out / CONFIG).exists():
                    raise RuntimeError("refused after the run's folder was written") from error
                errors.append(error)
        raise errors[0]

    def _agree(self, run: Path, batch: int) -> None:
        """What is predicted is what the trainer validated with."""
        stored = predictions.read(run / VAL_PREDICTIONS)
        found = predict(run, self.dataset, "val", PredictOptions(batch=batch, device="cpu"))
        same = found.ids["image_id"].isin(stored.ids["image_id"])
        np.testing.assert_allclose(found.values[same], stored.values, rtol=1e-3, atol=1e-3)


def walked(family: str, data: Path, folder: Path) -> dict:
    """A family's row: for each step whether it went well, and the reasons of those that did not."""
    started, (parameters, arch, own_size) = time.perf_counter(), smallest(family)
    walk, row, reasons = Walk(arch, own_size, PackedDataset.open(data), folder), dict.fromkeys(STEPS, False), {}
    for step in STEPS:
        try:
            getattr(walk, step)()
            row[step] = True
        except Exception as error:
            fault = "" if isinstance(error, UserError) else f"FAULT {type(error).__name__}: "
            reasons[step] = fault + " ".join(str(error).split())[:300].replace(str(folder), "RUN")
            if step == "trains":
                break
    reasons |= {"smaller": walk.smaller} if walk.smaller else {}
    about = {"model": arch, "parameters": parameters, "size": walk.size, "other": walk.other}
    return about | row | {"reasons": reasons, "seconds": round(time.perf_counter() - started, 1)}


def _child(sent: Connection, *arguments) -> None:
    logging.getLogger("timm").setLevel(logging.ERROR)
    sent.send(walked(*arguments))


def row_of(family: str, data: Path, seconds: int) -> dict:
    """`walked`, in a process that cannot end this one."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(PRELOAD)
    received, sent = processes.Pipe(duplex=False)
    fault = {"model": "", "parameters": 0, "size": 0, "other": 0, **dict.fromkeys(STEPS, False)}
    fault["reasons"] = {"trains": f"FAULT its process ended, or took more than {seconds} s"}
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as folder:
        process = processes.Process(target=_child, args=(sent, family, data, Path(folder)))
        process.start()
        sent.close()
        try:
            found = received.recv() if received.poll(seconds) else fault
        except EOFError:
            found = fault
        process.kill()
        process.join()
    return {"data": "synthetic", "family": family, **found}


def main() -> None:
    options = parse(FamiliesRun, "benchmarks.training.families", __doc__.splitlines()[0])
    environment = results.environment("benchmarks.training.families")
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as folder:
        release = datasets.synthetic(Path(folder, "release"), STUDIES, LARGEST)
        data = datasets.packed(release, Path(folder, "packed"), (*SIZES, LARGEST)).root
        for family in options.families or timm.list_modules():
            row = row_of(family, data, options.seconds)
            print(json.dumps(row), flush=True)
            results.save([row], environment, options.save, "families")


if __name__ == "__main__":
    main()
