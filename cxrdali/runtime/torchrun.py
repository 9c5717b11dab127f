"""What torchrun, or `cxrdali.runtime.launcher`, says to the processes that it starts, by environment variables. Free of
torch: a command's first lines ask, too."""

import os

from shards.errors import UserError

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
MEETING = "CXRDALI_MEETING"  # the file by which processes of one machine meet; set by our launcher only
_ALL = (*NAMES, "MASTER_ADDR", "MASTER_PORT")


def started_by_torchrun() -> bool:
    """Whether this is one of several processes, of torchrun or of our launcher.

    Raises UserError if some of the variables are there and others not, as scripts set them that are not torchrun.
    """
    if MEETING in os.environ:
        return True
    there = [name for name in _ALL if name in os.environ]
    if "RANK" in there and int(os.environ.get("WORLD_SIZE", 1)) > 1 and len(there) < len(_ALL):
        missing = next(name for name in _ALL if name not in there)
        raise UserError(
            f"RANK and WORLD_SIZE are set, {missing} is not: start the processes with torchrun (docs/machines.md), or "
            "unset these variables"
        )
    return len(there) == len(_ALL)


def is_one_of_several() -> bool:
    """Whether torchrun started this process, by one of its variables: for last lines, which must not fail."""
    return "LOCAL_WORLD_SIZE" in os.environ


def rank() -> int:
    """Of this process; 0 without torchrun."""
    return int(os.environ.get("RANK", 0)) if is_one_of_several() else 0
