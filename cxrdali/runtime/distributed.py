"""The processes that train together: rank and number of this one, and communication between them.

`--gpus` or torchrun starts the processes and numbers them by environment variables. torch.distributed carries the
messages: NCCL between GPUs, gloo between CPUs and for everything but gradients. A process on its own is a group of one
and sends nothing, so callers need not distinguish. All ranks must call what communicates, in the same order.
"""

import datetime
import logging
import os
import socket
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from cxrdali.runtime.device import check_no_gpu, facts_here, has_gpu, share_cores
from cxrdali.runtime.full import is_full
from cxrdali.runtime.limits import default_threads
from cxrdali.runtime.torchrun import MEETING, NAMES, started_by_torchrun
from shards.errors import LostTouch, UserError

# For which a rank waits for the others: they may be copying shards from a bucket, or waiting for a busy disk.
PATIENCE = datetime.timedelta(minutes=30)
JOINING = datetime.timedelta(minutes=10)  # for which the first rank at the meeting waits for the last


@dataclass
class Ranks:
    """rank: of this process, 0 to world - 1; local and local_world: the same among the processes of its machine."""

    rank: int = 0
    world: int = 1
    local: int = 0
    local_world: int = 1
    control: Any = None
    _vote: tuple[Any, torch.Tensor] | None = field(default=None, repr=False)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def device(self, device: str) -> str:
        """The device of this rank, for what the user asked for: each process of a machine has a GPU of its own."""
        if self.world == 1 or device == "cpu" or not has_gpu():
            return device
        if device not in ("auto", "cuda"):
            raise UserError(f"device {device!r}: {self.world} processes share the GPUs out; give auto, cuda or cpu")
        return f"cuda:{self.local}"

    def threads(self) -> int:
        """A loader's threads where the user names none: the processes of a machine share its cores."""
        return default_threads(self.local_world)

    def share(self, batch: int, micro_batch: int | str | None = None) -> int:
        """Images of a global batch that this rank trains on. Raises UserError if they cannot be shared out evenly."""
        if batch % self.world:
            near = sorted((n for n in range(1, batch + 1) if batch % n == 0), key=lambda n: abs(n - self.world))[:2]
            raise UserError(
                f"batch {batch}: cannot be shared out to {self.world} processes; take "
                f"{' or '.join(map(str, sorted(near)))} of them, or another --batch"
            )
        mine = batch // self.world
        if isinstance(micro_batch, int) and mine % micro_batch:
            raise UserError(f"micro-batch {micro_batch}: must divide each process's share of the batch, {mine}")
        return mine

    def agree(self, facts: Mapping[str, object]) -> None:
        """Raises UserError on every rank, naming the first difference, if the ranks were not given the same facts."""
        first, *others = self._all(flat(facts))
        for rank, theirs in enumerate(others, 1):
            for name in [*first, *(name for name in theirs if name not in first)]:
                if first.get(name) != theirs.get(name):
                    raise UserError(
                        f"the processes differ in {name}: {first.get(name)!r} in rank 0, {theirs.get(name)!r} in rank "
                        f"{rank}; give every one the same command, data and versions"
                    )

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks of a scalar on any device, there; nothing waits for a GPU."""
        if self.world > 1:
            dist.all_reduce(value, op=dist.ReduceOp.SUM)
        return value

    def least(self, value: int) -> int:
        return min(self._all(value))

    def vote(self, number: int) -> int:
        """A number that some rank gave in the *previous* call (the largest), on all ranks alike; 0 if none did.

        A call later, so that nobody waits: the numbers travel beside a training step.
        """
        if self.world == 1:
            return number
        before, self._vote = self._vote, None
        agreed = 0
        if before is not None:
            before[0].wait()
            agreed = int(before[1])
        mine = torch.tensor(number)
        self._vote = (dist.all_reduce(mine, op=dist.ReduceOp.MAX, group=self.control, async_op=True), mine)
        return agreed

    def from_first(self, value: Any) -> Any:
        """What rank 0 gives, on all ranks."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def gather(self, value: Any) -> list | None:
        """What every rank gives, in the order of ranks, on rank 0; None on the others."""
        if self.world == 1:
            return [value]
        found = [None] * self.world if self.is_first else None
        dist.gather_object(value, found, dst=0, group=self.control)
        return found

    def copy_buffers(self, model: torch.nn.Module) -> None:
        """Give all ranks rank 0's buffers: batch normalisation keeps its statistics of each rank's own images."""
        if self.world > 1:
            for each in model.buffers():
                dist.broadcast(each, src=0)

    def to_mean(self, gradients: Iterable[torch.Tensor]) -> None:
        """Make each, in place, the mean over ranks, added up in the order of ranks (`mean_in_order` says why)."""
        for each in gradients if self.world > 1 else ():
            parts = [torch.empty_like(each, memory_format=torch.contiguous_format) for _ in range(self.world)]
            dist.all_gather(parts, each.contiguous())
            each.copy_(sum(parts[1:], parts[0]).div_(self.world))

    def wait(self) -> None:
        """Return when all ranks have come here. Raises RuntimeError after PATIENCE, naming those that have not."""
        if self.world > 1:
            dist.monitored_barrier(self.control, timeout=PATIENCE, wait_all_ranks=True)

    def part(self) -> None:
        """Leave the group, as all do at the same point. The last vote is still on its way to those that are behind."""
        if self._vote is not None:
            self._vote[0].wait()
        dist.destroy_process_group()

    def _all(self, value: Any) -> list:
        if self.world == 1:
            return [value]
        found = [None] * self.world
        dist.all_gather_object(found, value, group=self.control)
        return found


def mean_in_order(_: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """The mean of a bucket's gradients over the ranks, added up in the order of ranks: DDP's hook on CPUs.

    DDP arranges its buckets anew after its first step, and gloo adds up in an order that depends on the place in a
    bucket: of more than two ranks, a continued run would not be the unbroken one bit for bit.
    """
    mine = bucket.buffer()
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]

    def mean(_: torch.futures.Future) -> torch.Tensor:
        for part in parts[1:]:
            parts[0] += part
        return parts[0].div_(len(parts))

    return dist.all_gather(parts, mine, async_op=True).get_future().then(mean)


class StoppedTogether(Exception):
    """All ranks stopped at the same step, and none waits for another."""


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """The group that this process was started in, while `with` lasts; a group of one if it was started alone.

    device: as the user gave it. Raises UserError if there are fewer GPUs than processes on this machine.
    """
    if not started_by_torchrun() or dist.is_initialized():
        yield Ranks()
        return
    rank, world, local, local_world = (int(os.environ[name]) for name in NAMES)
    ranks = Ranks(rank, world, local, local_world)
    if not ranks.is_first:  # what all processes have to say, the first says
        logging.getLogger("cxrdali").setLevel(logging.WARNING)
    on_gpus = device != "cpu" and has_gpu()
    if device != "cpu":
        check_gpus(ranks.local_world)
    if on_gpus:
        torch.cuda.set_device(ranks.local)
    else:  # the processes share the cores
        share_cores(ranks.local_world)
    try:
        # With PATIENCE a rank would wait half an hour for one that failed before it came here, on another machine.
        store = _store(world)
        store.set(f"cxrdali/{rank}", "here")
        store.wait([f"cxrdali/{each}" for each in range(world)], JOINING)
        dist.init_process_group(
            "nccl" if on_gpus else "gloo", store=store, rank=rank, world_size=world, timeout=PATIENCE
        )
        ranks.control = dist.new_group(backend="gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise _apart(rank, error) from error
    try:
        yield ranks
    except StoppedTogether:
        ranks.part()
        raise
    except RuntimeError as error:
        if _lost(error) and not is_full(error):  # NCCL allocates, too
            raise LostTouch(
                f"another process of this run ended, or cannot be reached ({_first_line(error)}); the same command "
                "continues"
            ) from error
        raise
    else:
        ranks.part()
    # After any other error the group is left as it is: the others are in the midst of an exchange, NCCL waits for its
    # end before it lets go, and what is wrong would never be said. They notice when this process ends, and its
    # connections with it.


def _store(world: int) -> dist.Store:
    """Where the processes find one another: our launcher's file, which nobody else can open, or torchrun's server."""
    if MEETING in os.environ:
        store = dist.FileStore(os.environ[MEETING], world)
        store.set_timeout(JOINING)
        return store
    return next(dist.rendezvous("env://", timeout=JOINING))[0]


def _apart(rank: int, error: Exception) -> UserError:
    why = f"or one has failed before ({_first_line(error)}); see what the others say, "
    if MEETING in os.environ:
        return UserError(f"rank {rank} does not find the others of this machine, {why}and whether network lo is up")
    return UserError(
        f"rank {rank} on {socket.gethostname()} cannot reach the others at {os.environ['MASTER_ADDR']}:"
        f"{os.environ['MASTER_PORT']}, {why}check the address, firewalls between the machines, and GLOO_SOCKET_IFNAME "
        "(docs/machines.md)"
    )


def _first_line(error: Exception) -> str:
    """What happened, without gloo's source file in front and its advice behind."""
    return (str(error).strip().splitlines() or [""])[0].split(". ")[0].rpartition("] ")[2]


def _lost(error: RuntimeError) -> bool:
    """Whether it is one of talking to the others: raised by torch.distributed, or by gloo in a backward pass."""
    files = (frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__))
    return (
        isinstance(error, dist.DistError) or "gloo" in str(error) or any("torch/distributed/" in each for each in files)
    )


def check_gpus(asked: int) -> None:
    """Raises UserError if this machine has fewer GPUs than `asked`."""
    found = torch.cuda.device_count() if has_gpu() else 0
    if not found:
        check_no_gpu("auto", facts_here())
    if asked > found:
        fewer = f"give --gpus {found}, or " if found else ""
        raise UserError(
            f"{asked} GPUs asked, {found} {'is' if found == 1 else 'are'} here; {fewer}share the work out over "
            "processes on the CPU with --device cpu"
        )


def flat(facts: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested facts by dotted names."""
    found: dict[str, object] = {}
    for name, value in facts.items():
        name = f"{prefix}{name}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found
