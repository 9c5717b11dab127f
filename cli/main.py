"""`cxrdali`: one command per file, imported only when it is called, so that --help answers at once."""

import errno
import importlib
import io
import logging
import os
import pkgutil
import re
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn, TextIO

import click

from cxrdali.runtime.launcher import end_with_launcher
from cxrdali.runtime.limits import out_of_memory
from cxrdali.runtime.torchrun import is_one_of_several, rank
from shards.errors import LostTouch, UserError
from shards.words import did_you_mean

# Read when torch and Arrow load. Threads of torch that wait for each other give up the core instead of spinning on it:
# decoding needs it, and beside any other busy process spinning made training on the CPU three times slower. Arrow's own
# allocator keeps what it has freed: after the tables of MIMIC-CXR-JPG 1,346 MiB stayed with the packer, and not 614.
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "ARROW_DEFAULT_MEMORY_POOL": "system"}
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # but TAB and line feed
GRACE = 5.0  # seconds in which the launcher ends the other processes when one has failed
# a command is a file of this folder that has a function of its name
COMMANDS = tuple(
    module.name.replace("_", "-")
    for module in pkgutil.iter_modules([str(Path(__file__).parent)])
    if not module.ispkg and module.name not in ("main", "__main__")
)


class Shown:
    """A stream on which what a file says cannot steer the terminal: its controls are written as escapes."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(CONTROLS.sub(lambda found: ascii(found.group())[1:-1], text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Commands(click.Group):
    """Loads cli.NAME:NAME on demand; torch alone takes seconds to import."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        known = name.replace("-", "_")
        return getattr(importlib.import_module(f"cli.{known}"), known)

    def resolve_command(self, context: click.Context, arguments: list[str]) -> Any:
        """Raises click.UsageError, with the nearest names, for a command that there is not."""
        name = arguments[0]
        if name not in COMMANDS and not name.startswith("-"):
            context.fail(f"no such command {name!r}; {did_you_mean(name, COMMANDS)}`cxrdali --help` lists them")
        return super().resolve_command(context, arguments)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="cxrdali")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cxrdali(context: click.Context, debug: bool) -> None:
    """Pack chest X-ray releases once, train on any size of them.

    \b
    cxrdali releases     which releases are read, and what a description of your own would read
    cxrdali shard        pack a release into WebDataset shards, once per image size
    cxrdali inspect      what a packed dataset holds: findings, splits, rejects
    cxrdali overlap      which images two packs share, so that none is trained on here and tested on there
    cxrdali train        --stage 1, then 2, then 3; or --recipe model0 to model7
    cxrdali train-study  one prediction for a study, from all of its images
    cxrdali average      a run of the mean of epochs' or runs' weights
    cxrdali watch        how a run, or a folder of them, is at this moment
    cxrdali predict      a run's predictions on a split, or of new images
    cxrdali reference    what a run was trained on, so that images that look otherwise are noticed
    cxrdali read         new images: what a run says of each, as a page
    cxrdali serve        a page of this machine: drop a file, see what a run says
    cxrdali evaluate     AP, AUROC, confidence intervals
    cxrdali compare      runs side by side, with intervals of their differences
    cxrdali export       a run for other programs: timm, ONNX, TorchScript, the Hugging Face Hub, a model card
    cxrdali study        runs, grids, ensembles and comparisons that a file describes
    cxrdali paper        the whole stage-training paper, from stage 1 to report and submission
    cxrdali loss-design  the whole loss-design paper: losses, backbones, calibration, thresholds, report
    cxrdali doctor       whether this machine is ready, and what to fix

    Exit codes: 0 done, 1 an error named in one line, 2 wrong usage.
    """
    context.obj = {"debug": debug}


def main() -> None:
    """The console entry: an expected error is one line on stderr. Of several processes (torchrun), the first speaks."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    debug, stderr = "--debug" in sys.argv[1:], sys.stderr
    for stream in (sys.stdout, stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without UTF-8: \u20ac in a path's place, not an error
            stream.reconfigure(errors="backslashreplace")
    sys.stdout = Shown(sys.stdout)  # type: ignore[assignment]
    _log_to_stdout()
    end_with_launcher()
    if rank() and not debug:
        sys.stdout = sys.stderr = io.StringIO()
    try:
        _check_names([*sys.argv[1:], *(value for name, value in os.environ.items() if name.startswith("CXRDALI_"))])
        code = cxrdali(standalone_mode=False)  # click returns the code of its Exit, and None from a command
    except click.ClickException as error:
        if rank():
            _fail(error.format_message(), stderr, code=2)
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped; the same command continues, or begins again", err=True)
        sys.exit(130)
    except Exception as error:
        if not debug and (isinstance(error, UserError | OSError) or out_of_memory(error)):
            _fail(_in_words(error), stderr, isinstance(error, LostTouch))
        sys.stderr = stderr
        if is_one_of_several():
            traceback.print_exc()
            _end(1)
        raise
    sys.exit(code if isinstance(code, int) else 0)


def _check_names(names: list[str]) -> None:
    """Tables, JSON and pages hold text; a path that is none would fail when it is written, after hours."""
    for name in names:
        if name.encode(errors="replace").decode() != name:
            raise UserError(f"{name}: this name is not UTF-8, so it cannot be written down; rename the file or folder")


def _in_words(error: Exception) -> str:
    if lacking := out_of_memory(error):
        first = (str(lacking).strip().splitlines() or ["MemoryError"])[0]
        return (
            f"not enough memory ({first}); raise the limit (ulimit -v, the job's, the container's), or use smaller "
            "numbers, as of --batch, --micro-batch, --threads or --jobs"
        )
    if not isinstance(error, OSError):
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    fix = "make room" if full else "check the path and its permissions, or choose another place"
    return f"{where}{error.strerror or error}; {fix}"


def _log_to_stdout() -> None:
    """What the library logs is what the commands print."""

    def emit(record: logging.LogRecord) -> None:
        try:
            click.echo(record.getMessage())
        except OSError as error:
            if error.errno != errno.EIO:  # a terminal that went away ends no run
                raise

    handler = logging.Handler()
    handler.emit = emit  # type: ignore[method-assign]
    for name in ("cxrdali", "shards"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.handlers = [handler]  # not one more for every call in a process
        logger.propagate = False


def _fail(words: str, stderr: TextIO, follows: bool = False, code: int = 1) -> NoReturn:
    """Say what is wrong and end. What all processes find wrong, the first says, and the others are ended meanwhile; so
    are those whose error only follows from another's (`follows`)."""
    if (number := rank()) or follows:
        time.sleep(GRACE)
    # one line, no controls
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in words)
    print(f"error: {f'rank {number}: ' if number else ''}{shown}", file=stderr, flush=True)
    _end(code)


def _end(code: int) -> NoReturn:
    """One of several processes is ended at once: a GPU that waits for a lost process would keep Python from ending."""
    if is_one_of_several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
