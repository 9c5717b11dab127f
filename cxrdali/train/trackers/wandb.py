"""Weights & Biases, by its own variables: WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE, WANDB_BASE_URL, WANDB_API_KEY."""

import contextlib
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cxrdali.runtime.distributed import StoppedTogether
from cxrdali.train.tracker import Session, TrackedRun, Tracker, needed
from shards.errors import UserError
from shards.storage.files import check_inside

OFFLINE = ("offline", "dryrun", "disabled")
SECONDS = 30  # for the server to answer, at the start and at the end
BLOCK, HEADER = 32768, 7  # bytes, of a .wandb file: blocks of LevelDB's log format, after a header of the file
# what wandb collects by itself and a run does not tell: code, git, the console, the machine, who sits at it
PRIVATE = {
    **dict.fromkeys(("disable_git", "disable_code", "disable_job_creation", "x_disable_meta"), True),
    **dict.fromkeys(("x_disable_stats", "x_disable_machine_info"), True),
    **dict.fromkeys(("save_code", "x_save_requirements", "symlink"), False),
    **dict.fromkeys(("host", "username", "email", "program", "x_executable"), ""),
    "console": "off",
}


@dataclass(frozen=True)
class Wandb(Tracker):
    """Its files are in the run's folder: `wandb sync RUN/wandb/offline-run-*` sends them from elsewhere."""

    name: ClassVar[str] = "wandb"

    def check(self) -> None:
        needed(self.name, "wandb")
        import wandb

        mode = wandb.setup().settings.mode  # of WANDB_MODE, or of `wandb offline`
        if mode not in OFFLINE and not wandb.login(prompt=False, verify=False):
            raise UserError("track wandb: nobody is logged in; run `wandb login`, or set WANDB_MODE=offline")

    @contextlib.contextmanager
    def following(self, run: TrackedRun) -> Iterator[Session]:
        """The server says which epochs it has; offline, the files do."""
        import wandb

        check_inside(run.out, run.out / "wandb")
        told = wandb.init(
            dir=run.out,
            project=os.environ.get("WANDB_PROJECT", "cxrdali"),
            id=run.id,
            name=run.name,
            group=run.group,
            resume="allow",
            config=dict(run.about),
            allow_val_change=True,
            settings=wandb.Settings(silent=True, init_timeout=SECONDS, finish_timeout=SECONDS, **PRIVATE),
        )

        def send(epoch: int, values: Mapping[str, float]) -> None:
            told.log(dict(values), step=epoch, commit=True)

        code = 1
        try:
            yield Session(last_step(run.out / "wandb", run.id) if told.offline else max(0, told.step - 1), send)
            code = 0
        except StoppedTogether:
            code = 0
            raise
        finally:
            told.finish(code)


def last_step(folder: Path, id: str) -> int:
    """The last epoch in a run's files here; what a kill cut off does not count."""
    from wandb.proto.wandb_internal_pb2 import Record

    steps = [0]
    for file in folder.glob(f"*run-*-{id}/run-{id}.wandb"):
        for each in records(file.read_bytes()):
            record = Record.FromString(each)
            if record.HasField("history"):
                steps.append(record.history.step.num)
    return max(steps)


def records(data: bytes) -> Iterator[bytes]:
    """The whole records of a .wandb file."""
    at, part = HEADER, b""
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK  # too little for another one: zeros
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)  # after a checksum; 1 whole, 2 first, 3 middle, 4 last
        at += HEADER + length
        if at > len(data) or not kind:
            return
        part += data[at - length : at]
        if kind in (1, 4):
            yield part
            part = b""
