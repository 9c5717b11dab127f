"""What every benchmark shares: interleaved timing, medians, the environment, and one JSON line per result row.

A row holds every run's value beside the median, and the whole environment, so that a line can be read alone.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import psutil

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "cxrdali",
    "torch",
    "nvidia-dali-cuda130",
    "nvidia-dali-cuda120",
    "simplejpeg",
    "opencv-python-headless",
    "opencv-python",
    "albumentations",
    "numpy",
    "pandas",
    "joblib",
)


@dataclass(frozen=True)
class Run:
    """One timed run: images handed over, wall seconds, CPU seconds of this process and its descendants."""

    images: int
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds


@dataclass(frozen=True)
class Spread:
    """The median, the lowest and the highest of several runs' values."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True)
class Target:
    """A promise: `ours` is at least `bound` times `theirs`; with several of theirs, the fastest counts.

    `bound` is None where nothing is promised and the ratio is for information.
    """

    ours: str
    theirs: tuple[str, ...]
    bound: float | None

    def check(self, rates: Mapping[str, float]) -> dict:
        """`rates` in images per second by contender. `met` is None without a bound."""
        against = max(self.theirs, key=rates.__getitem__)
        ratio = rates[self.ours] / rates[against]
        met = None if self.bound is None else ratio >= self.bound
        return {"ours": self.ours, "theirs": against, "ratio": ratio, "at_least": self.bound, "met": met}


def timed(contender: Callable[[], int]) -> Run:
    """One run of a contender, which returns how many images it handed over."""
    cpu = tree_cpu_seconds()
    start = time.perf_counter()
    images = contender()
    seconds = time.perf_counter() - start
    return Run(images, seconds, tree_cpu_seconds() - cpu)


def interleaved(contenders: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, list[Run]]:
    """`rounds` runs of each contender in turn (A B C A B C), after one run of each that is thrown away.

    A machine that slows down for a while slows all contenders down, not one of them.
    """
    for contender in contenders.values():
        contender()
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            runs[name].append(timed(contender))
    return runs


def tree_cpu_seconds() -> float:
    """CPU seconds, user and system, of this process and of its living descendants."""
    me = psutil.Process()
    return sum(_cpu_seconds(process) for process in (me, *me.children(recursive=True)))


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


def rate_row(contender: str, runs: Sequence[Run]) -> dict:
    """A contender's result: images/s, and CPU seconds per 1,000 images, which a busy machine sways less."""
    return {
        "contender": contender,
        "images": runs[0].images,
        "images_per_second": asdict(Spread.of([run.rate for run in runs])),
        "cpu_seconds_per_1000": median(1000 * run.cpu_seconds / run.images for run in runs),
        "runs": [round(run.rate, 1) for run in runs],
    }


def print_rates(rows: Sequence[dict]) -> None:
    print(f"  {'images/s':45} {'median':>9} {'min':>9} {'max':>9}   CPU s / 1,000 images")
    for row in rows:
        spread, cpu = row["images_per_second"], row["cpu_seconds_per_1000"]
        columns = " ".join(f"{spread[name]:9,.0f}" for name in ("median", "low", "high"))
        print(f"  {row['contender']:45} {columns}   {cpu:8.3f}", flush=True)


def print_target(found: Mapping) -> None:
    verdict = {None: "", True: "PASS", False: "MISS"}[found["met"]]
    bound = "" if found["at_least"] is None else f"at least {found['at_least']:g}"
    print(f"  {found['ours']} / {found['theirs']:52} {found['ratio']:8.2f}   {bound:14} {verdict}", flush=True)


def environment(module: str, device: str = "cpu") -> dict:
    """Where and with what a benchmark ran; `module` is its name behind `python -m`, `device` its own --device."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "gpu": _gpu(device),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def add_save_option(parser: argparse.ArgumentParser, name: str) -> None:
    """--save [DIR]: None without it, the committed results' folder without DIR."""
    parser.add_argument(
        "--save",
        type=Path,
        nargs="?",
        const=RESULTS,
        metavar="DIR",
        help=f"append the rows to DIR/{name}.jsonl [benchmarks/results]",
    )


def save(rows: Sequence[dict], environment: Mapping, folder: Path, name: str) -> Path:
    """Append the rows to FOLDER/NAME.jsonl, each with the environment."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.jsonl"
    with path.open("a") as file:
        for row in rows:
            file.write(json.dumps({"benchmark": name, **row, "environment": environment}) + "\n")
    return path


def newest(path: Path) -> list[dict]:
    """The rows of the last run in a results file; none if there is no file."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [row for row in rows if row["environment"]["date"] == rows[-1]["environment"]["date"]]


def _commit() -> str | None:
    """The commit that is checked out, with "+" if tracked files differ from it; None outside a repository."""
    root = Path(__file__).parent
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True)
    if head.returncode:
        return None
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=root).returncode
    return head.stdout.strip() + ("+" if changed else "")


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _gpu(device: str) -> str | None:
    if not device.startswith("cuda"):
        return None
    import torch

    return torch.cuda.get_device_name(device)


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
