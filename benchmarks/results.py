"""What every benchmark shares: interleaved timing, medians, the environment, and one JSON line per result row.

A row holds every run's value beside the median, and the whole environment, so that a line can be read alone.
"""

import json
import os
import platform
import re
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

import joblib
import psutil

RESULTS = Path(__file__).parent / "results"
OLDER_FIELDS = {"contender": "baseline", "promise": "target"}  # as older rows have it
OLDER_NAMES = {
    "^paper, ": "stage-training paper, ",
    "the paper's": "the stage-training paper's",  # as older rows have it
    r"^WebDataset \+ OpenCV": "WebDataset, OpenCV",
}
NAMING = {"baseline", "ours", "theirs", "comparison", "loader"}  # fields whose values are such names
PACKAGES = (
    "cxrdali", "torch", "timm", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "simplejpeg", "opencv-python-headless",
    "opencv-python", "albumentations", "webdataset", "numpy", "pandas", "joblib",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One timed run: images that came out, wall seconds, and of the process and its descendants the CPU seconds and the
    bytes that they had the kernel fetch from a disk (0 where the files were in memory)."""

    images: int
    seconds: float
    cpu_seconds: float
    read_bytes: int = 0

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
    """`ours` is to be at least `bound` times `theirs`; with several of theirs, the fastest counts.

    `bound` is None where the ratio is for information.
    """

    ours: str
    theirs: tuple[str, ...]
    bound: float | None

    def check(self, rates: Mapping[str, float], missing: Mapping[str, str] | None = None) -> dict:
        """`rates` in images per second by baseline; `missing`: why one has no rate. `met` is None without a bound,
        and where a side was not measured; `not_measured` then says why."""
        names = [name for name in self.theirs if name in rates]
        found = {"ours": self.ours, "theirs": self.theirs[0], "ratio": None, "at_least": self.bound, "met": None}
        if self.ours not in rates or not names:
            absent = self.ours if self.ours not in rates else self.theirs[0]
            reason = (missing or {}).get(absent, "left out of this run")
            return found | {"not_measured": f"{absent}: {reason}"}
        against = max(names, key=rates.__getitem__)
        ratio = rates[self.ours] / rates[against]
        met = None if self.bound is None else ratio >= self.bound
        return found | {"theirs": against, "ratio": ratio, "met": met}


def timed(baseline: Callable[[], int], pid: int | None = None) -> Run:
    """One run of a baseline, which returns how many images came out; `pid`: the process that does its work."""
    family = processes(pid)
    cpu, read = _cpu_seconds(family), _read_bytes(family)
    start = time.perf_counter()
    images = baseline()
    seconds = time.perf_counter() - start
    if not images:
        raise RuntimeError("no image came out of a baseline: it needs more data, or a smaller batch")
    family = processes(pid)
    return Run(images, seconds, _cpu_seconds(family) - cpu, _read_bytes(family) - read)


def interleaved(baselines: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, list[Run]]:
    """`rounds` runs of each baseline in turn (A B C A B C), after one run of each that is thrown away.

    A machine that slows down for a while slows all of them down, not one.
    """
    for baseline in baselines.values():
        timed(baseline)
    runs: dict[str, list[Run]] = {name: [] for name in baselines}
    for _ in range(rounds):
        for name, baseline in baselines.items():
            runs[name].append(timed(baseline))
    return runs


def processes(pid: int | None = None) -> list[psutil.Process]:
    """A process (this one) and its living descendants."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def _cpu_seconds(family: Sequence[psutil.Process]) -> float:
    """With those of children that ended meanwhile, which the kernel adds to their parent's."""
    times = [found for process in family if (found := _asked(process.cpu_times))]
    return sum(each.user + each.system + each.children_user + each.children_system for each in times)


def _read_bytes(family: Sequence[psutil.Process]) -> int:
    if not hasattr(psutil.Process, "io_counters"):  # not Linux
        return 0
    return sum(found.read_bytes for process in family if (found := _asked(process.io_counters)))


def _asked(question: Callable):
    """The answer about a process, None if it has ended or is not ours to ask."""
    try:
        return question()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def rate_row(baseline: str, runs: Sequence[Run]) -> dict:
    """A baseline's result: images/s, and CPU seconds per 1,000 images, which a busy machine sways less."""
    return {
        "baseline": baseline,
        "images": runs[0].images,
        "images_per_second": asdict(Spread.of([run.rate for run in runs])),
        "cpu_seconds_per_1000": median(1000 * run.cpu_seconds / run.images for run in runs),
        "runs": [round(run.rate, 1) for run in runs],
    }


def median_rate(row: Mapping) -> float:
    """Images/s of a baseline's row."""
    return row["images_per_second"]["median"]


def print_rates(rows: Sequence[dict]) -> None:
    print(f"  {'images/s':45} {'median':>9} {'min':>9} {'max':>9}   CPU s / 1,000 images")
    for row in rows:
        spread, cpu = row["images_per_second"], row["cpu_seconds_per_1000"]
        columns = " ".join(f"{spread[name]:9,.0f}" for name in ("median", "low", "high"))
        print(f"  {row['baseline']:45} {columns}   {cpu:8.3f}", flush=True)


def print_target(found: Mapping) -> None:
    if found["ratio"] is None:
        print(f"  {found['ours']} / {found['theirs']}: not measured ({found['not_measured']})", flush=True)
        return
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
        "cores": joblib.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": round(os.getloadavg()[0], 2),
        **_gpu(device),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def save(rows: Sequence[dict], environment: Mapping, folder: Path | None, name: str) -> None:
    """Append the rows to FOLDER/NAME.jsonl, each with the environment; without a folder nothing is written."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.jsonl"
    with path.open("a") as file:
        for row in rows:
            file.write(json.dumps({"benchmark": name, **row, "environment": environment}) + "\n")
    print(f"{len(rows)} rows -> {path}")


def newest(name: str, gpu: bool) -> list[dict]:
    """The rows of a benchmark's last committed run with a GPU, or without; none if there is none."""
    rows = [row for row in committed(name) if bool(row["environment"]["gpu"]) == gpu]
    return [row for row in rows if row["environment"]["date"] == rows[-1]["environment"]["date"]]


def committed(name: str) -> list[dict]:
    """All rows of a benchmark, as they were saved one after the other."""
    path = RESULTS / f"{name}.jsonl"
    return [_in_todays_words(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def _in_todays_words(row: dict) -> dict:
    """Committed rows stay as they were written; here their older names are read as today's."""
    row = {OLDER_FIELDS.get(name, name): value for name, value in row.items()}
    for name in NAMING & row.keys():
        for older, todays in OLDER_NAMES.items():
            row[name] = re.sub(older, todays, row[name])
    return row


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


def _gpu(device: str) -> dict:
    """Name and memory in GiB of the GPU that was used, null without one; and how many GPUs the machine has."""
    if not device.startswith("cuda"):
        return {"gpu": None, "gpu_memory_gib": None}
    import torch

    found = torch.cuda.get_device_properties(device)
    memory = round(found.total_memory / 2**30, 1)
    return {"gpu": found.name, "gpu_memory_gib": memory, "gpus": torch.cuda.device_count()}


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
