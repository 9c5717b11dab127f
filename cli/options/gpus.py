"""--gpus: the same command in several processes, which torchrun's own launcher starts and watches."""

import logging
import os
import signal
import sys
import tempfile
import uuid

import click

SECONDS_TO_STOP = 40  # after which processes that were asked to stop are ended

gpus_option = click.option(
    "--gpus",
    type=click.IntRange(min=1),
    metavar="N",
    help="Use N GPUs of this machine: one process each, which share every batch. With --device cpu, N processes on the "
    "CPU. Several machines: torchrun, see docs/machines.md.  [default: 1]",
)


def shared_out(gpus: int | None, device: str) -> bool:
    """Run this very command in `gpus` processes, if that is more than one and this is not one of them already.

    True: it is done. Raises UserError if there are fewer GPUs, or a process died.
    """
    from cxrdali.runtime.distributed import check_gpus
    from cxrdali.runtime.torchrun import started_by_torchrun
    from shards.errors import UserError

    if gpus is None or started_by_torchrun():
        if gpus is not None and gpus != int(os.environ["LOCAL_WORLD_SIZE"]):
            raise UserError(f"--gpus {gpus}: torchrun started {os.environ['LOCAL_WORLD_SIZE']} here; leave --gpus out")
        return False
    if device != "cpu":
        check_gpus(gpus)
    if gpus == 1:
        return False
    _launch(gpus)
    return True


def _launch(processes: int) -> None:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from shards.errors import UserError

    for name in list(logging.root.manager.loggerDict):  # each has a level of its own
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # its warnings are about what is said below
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SECONDS_TO_STOP))
    # what was started: a folder or file named cli, where the user is, must not come in between
    command = ["-m", "cli"] if sys.modules["__main__"].__spec__ else [sys.argv[0]]
    try:
        with tempfile.TemporaryDirectory(prefix="cxrdali-gpus-") as folder:  # the launcher's own would stay
            config = LaunchConfig(
                min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=str(uuid.uuid4()), rdzv_backend="c10d",
                rdzv_endpoint="localhost:0", local_addr="localhost", max_restarts=0, monitor_interval=0.1,
                logs_specs=DefaultLogsSpecs(log_dir=folder),
            )  # fmt: skip
            elastic_launch(config, sys.executable)(*command, *sys.argv[1:])
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        if first.exitcode > 0:  # it has said why
            sys.exit(first.exitcode)
        raise UserError(
            f"rank {next(rank for rank, each in error.failures.items() if each is first)} (process {first.pid}) was "
            f"ended by {first.signal_name()}, and the others with it ({_why(-first.exitcode)}); the same command "
            "continues"
        ) from error


def _why(number: int) -> str:
    """What ends a process by a signal that nobody sent."""
    if number in (signal.SIGBUS, signal.SIGSEGV):
        return "if a shard or another file that it was reading was cut or replaced: `cxrdali verify` names it"
    return "if memory ran out, by the kernel"
