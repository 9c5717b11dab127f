"""Groups of real processes that train together over gloo, on loopback: torchrun's environment without its seconds."""

import datetime
import json
import os
import signal
import socket
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cxrdali.models.loss import LOSSES
from cxrdali.models.loss_module import LossModule
from cxrdali.predict.predict import PredictOptions, predict
from cxrdali.runtime import distributed as joining
from cxrdali.runtime.device import Hardware
from cxrdali.runtime.distributed import joined
from cxrdali.train import trainer as training
from cxrdali.train.hooks import Hooks, StepRecord
from cxrdali.train.step import Step, grad_scaler
from cxrdali.train.stopping import Stopped
from shards.dataset.packed import PackedDataset
from tests.faults.trainers import ARCH, at_moment, child, command_line, hooked, settings

SETTINGS = {"size": 48, "batch": 12}  # of which 2 and 3 processes take equal shares
STOPPED = 75  # exit code of a process that was asked to stop


def group(world: int, function: Callable, *arguments, seconds: float = 90) -> list[int]:
    """Call `function(rank, *arguments)` in `world` processes that can reach one another; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [child(_ranked, rank, world, port, function, arguments) for rank in range(world)]
    for process in processes:
        process.join(seconds)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()  # no effect on one that has ended
    assert None not in codes, f"not ended after {seconds} s: {codes}"
    return codes


def _ranked(rank: int, world: int, port: int, function: Callable, arguments: tuple) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in names.items()} | {"MASTER_ADDR": "127.0.0.1"}
    function(rank, *arguments)


def line(*more: object, pack: Path, out: Path, epochs: int = 2) -> list:
    """A command line that trains a small network on the CPU."""
    words = ["train", "--stage", 1, "--data", pack, "--out", out, "--size", 48, "--batch", 12, "--epochs", epochs]
    return [*words, "--arch", ARCH, "--no-pretrained", "--device", "cpu", *more]


# ---------------------------------------------------------------- what a rank does


def train(rank: int, pack: Path, out: Path, log: Path | None = None, stop: tuple[int, int] | None = None, **changes):
    """A run of `SETTINGS`; stop: (rank, moment at which it gets a SIGTERM). log: a file of samples per rank."""
    patch = pytest.MonkeyPatch()
    if log is not None:
        _record(patch, log.with_name(f"{log.name}.{rank}"))
    if stop is not None and stop[0] == rank:
        at_moment(patch, stop[1], lambda: os.kill(os.getpid(), signal.SIGTERM))
    given = settings(1, out.parent, **{**SETTINGS, **changes})
    try:
        training.train(given, PackedDataset.open(pack), out)
    except Stopped:
        os._exit(STOPPED)


def train_with(rank: int, pack: Path, out: Path, options: dict) -> None:
    train(rank, pack, out, **options)


def predicted(rank: int, run: Path, pack: Path, out: Path, precisions: tuple[str, ...] = ("fp32",) * 3) -> None:
    options = PredictOptions(tta="hflip", batch=10, device="cpu", precision=precisions[rank])
    found = predict(run, PackedDataset.open(pack), "all", options)
    assert (found is None) == (rank > 0)
    if found is not None:
        found.write(out)


def commanded(rank: int, log: Path, arguments: list[list]) -> None:
    """Every rank its own command line; what it says is in a file per rank."""
    command_line(log.with_name(f"{log.name}.{rank}"), arguments[rank])


def commanded_in_haste(rank: int, log: Path, arguments: list[list]) -> None:
    """The same, and the ranks wait 5 s for one that does not come."""
    joining.JOINING = datetime.timedelta(seconds=5)
    commanded(rank, log, arguments)


def gradients(rank: int, out: Path, micro_batch: int, device: str = "cpu", synchronised: bool = False) -> None:
    """Loss and gradients of one step on a batch of 12, in float64; rank 0 writes them. synchronised: batch
    normalisation by the statistics of all ranks' images, else by its own running ones."""
    with joined(device) as ranks:
        place = torch.device(ranks.device(device))
        torch.manual_seed(0)
        nn = torch.nn
        layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
        model = nn.Sequential(*layers).double()
        images, wanted = torch.rand(12, 1, 8, 8, dtype=torch.float64), (torch.rand(12, 5) > 0.5).float()
        weights = torch.rand(12, dtype=torch.float64).to(place)
        wanted[0] = wanted[3:5, 1] = wanted[7, 2:] = torch.nan  # unequal numbers of known targets on the ranks
        model[1].running_mean.uniform_(), model.train(synchronised)
        model, images, wanted = model.to(place), images.to(place), wanted.to(place)
        if synchronised:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model) if ranks.world > 1 else model
        share = ranks.share(12, micro_batch)
        mine = slice(ranks.rank * share, (ranks.rank + 1) * share)
        forward = model if ranks.world == 1 else nn.parallel.DistributedDataParallel(model)
        hardware, seen = Hardware(str(place), "fp32"), {}
        # a learning rate of 1 and no momentum: what a parameter loses is its gradient
        before = [each.detach().clone() for each in model.parameters()]
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        loss = LossModule(LOSSES["bce"](), np.ones(5), np.ones(5)).to(place)
        step = Step(forward, loss, optimizer, grad_scaler(hardware), hardware, ranks)
        part = step(images[mine], wanted[mine], 0, micro_batch, weights[mine])
        seen["loss"] = ranks.total(part.clone()).cpu()
        seen["gradients"] = [(old - new.detach()).cpu() for old, new in zip(before, model.parameters(), strict=True)]
        if ranks.is_first:
            torch.save(seen, out)


# ---------------------------------------------------------------- what it saw


def _record(monkeypatch, log: Path) -> None:
    """Append a line per step: epoch, position of the batch, and (row, CRC of the pixels) of each image."""

    def noted(step: StepRecord) -> None:
        seen = zip(step.rows.tolist(), step.images, strict=True)
        samples = [[row, zlib.crc32(image.numpy())] for row, image in seen]
        with log.open("a") as file:
            file.write(json.dumps([step.epoch, step.position, samples]) + "\n")

    hooked(monkeypatch, lambda _: Hooks(on_step=noted))


def samples(log: Path, world: int) -> dict[tuple[int, int], list]:
    """{(epoch, position): what all ranks together trained on in that step, in the order of ranks}."""
    found: dict[tuple[int, int], list] = {}
    for rank in range(world):
        for line in log.with_name(f"{log.name}.{rank}").read_text().splitlines():
            epoch, position, seen = json.loads(line)
            found.setdefault((epoch, position), []).extend(seen)
    return found
