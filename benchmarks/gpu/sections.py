"""The sections of `benchmarks.gpu`, each run in a process of its own with a time limit."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import results
from benchmarks.pages import gpu as page

ROOT = Path(__file__).parents[2]
LEAST = 10  # seconds: with less left, a section is left out


@dataclass(frozen=True)
class Section:
    """A function of a module that is called with the `Work`; most: seconds that it may take."""

    module: str
    name: str
    most: float
    needs_gpu: bool = True


_LOADING, _TRAINING, _COMMANDS = (f"benchmarks.gpu.{name}" for name in ("loading", "training", "commands"))
SECTIONS = (  # in this order; the first makes the data of all
    Section(_LOADING, "data", 90, False), Section(_COMMANDS, "environment", 60, False),
    Section(_LOADING, "pixels", 60, False), Section(_LOADING, "lifetime", 45), Section(_TRAINING, "stages", 90),
    Section(_TRAINING, "memory", 120), Section(_LOADING, "feeding", 90), Section(_TRAINING, "full", 60),
    Section(_COMMANDS, "runs", 150, False), Section(_TRAINING, "ranks", 80), Section(_LOADING, "supply", 90, False),
    Section(_COMMANDS, "predicting", 90, False), Section(_TRAINING, "precision", 60),
    Section(_COMMANDS, "compiled", 90, False), Section(_COMMANDS, "tests", 150, False),
    Section(_TRAINING, "compiling", 150), Section(_TRAINING, "parts", 300),
)  # fmt: skip
NAMES = tuple(each.name for each in SECTIONS)


def machine() -> dict:
    """The environment of the rows. To be asked in a process that ends: a context on the GPU takes memory."""
    import torch

    return results.environment("benchmarks.gpu", "cuda:0" if torch.cuda.is_available() else "cpu")


def measured(sections: Sequence[Section], seconds: float, on_gpu: bool) -> Iterator[dict]:
    """A row for each fact of the sections, as they end, within so many seconds in all."""
    until = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="cxrdali-gpu-", ignore_cleanup_errors=True) as folder:
        for section in sections:
            most = min(section.most, until - time.monotonic())
            if section.needs_gpu and not on_gpu:
                found = [_itself(None, not_measured="needs a GPU")]
            elif most < min(LEAST, section.most):
                found = [_itself(None, not_measured="no time was left")]
            else:
                found = in_a_process(section, Path(folder), most)
            print(f"{section.name}: {page.counted(found)}", flush=True)
            yield from ({"section": section.name, **fact} for fact in found)


def _itself(ok: bool | None, **values: str) -> dict:
    return {"fact": "the section itself", "ok": ok, "values": values}


def in_a_process(section: Section, folder: Path, most: float) -> list[dict]:
    """The facts that the section said until it ended, crashed, or had taken `most` seconds."""
    command = [sys.executable, "-m", "benchmarks.gpu.facts", section.module, section.name, str(folder)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    own = {"PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": path}
    said, errors = (folder / f"{section.name}.{kind}" for kind in ("out", "err"))
    with said.open("w") as out, errors.open("w") as err:
        # a session of its own: what it started ends with it
        process = subprocess.Popen(command, stdout=out, stderr=err, env=os.environ | own, start_new_session=True)
        try:
            how = f"its process ended with {process.wait(most)}"
        except subprocess.TimeoutExpired:
            how = f"it took more than {most:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    facts = [json.loads(line) for line in said.read_text(errors="replace").splitlines() if line.startswith('{"fact"')]
    if process.returncode:  # killed, too
        facts.append(_itself(False, error=how, stderr=errors.read_text(errors="replace")[-400:]))
    return facts
