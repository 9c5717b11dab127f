"""--gpus: the same command in several processes of this machine."""

import os
import sys

import click

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
    from cxrdali.runtime.launcher import launch
    from cxrdali.runtime.torchrun import started_by_torchrun
    from shards.errors import UserError

    if gpus is None or started_by_torchrun():
        if gpus is not None and gpus != int(os.environ["LOCAL_WORLD_SIZE"]):
            raise UserError(f"--gpus {gpus}: torchrun started {os.environ['LOCAL_WORLD_SIZE']} here; leave --gpus out")
        return False
    if device != "cpu":
        from cxrdali.runtime.distributed import check_gpus  # torch, which the launcher does not need

        check_gpus(gpus)
    if gpus == 1:
        return False
    # what was started: a folder or file named cli, where the user is, must not come in between
    command = ["-m", "cli"] if sys.modules["__main__"].__spec__ else [sys.argv[0]]
    launch([*command, *sys.argv[1:]], gpus)
    return True
