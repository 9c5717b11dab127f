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
    "timm",
    "nvidia-dali-cuda130",
    "nvidia-dali-cuda120",
    "simplejpeg",
    "opencv-python-headless",
    "opencv-python",
    "albumentations",
    "webdataset",
    "numpy",
    "pandas",
    "joblib",
)


@dataclass(frozen=True)
class Run:
    """One timed run: images handed over, wall seconds, and of the process and its descendants the CPU seconds and the
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
    """A promise: `ours` is at least `bound` times `theirs`; with several of theirs, the fastest counts.

    `bound` is None where nothing is promised and the ratio is for information.
    """

    ours: str
    theirs: tuple[str, ...]
    bound: float | None

    def check(self, rates: Mapping[str, float], missing: Mapping[str, str] | None = None) -> dict:
        """`rates` in images per second by contender; `missing`: why one has no rate. `met` is None without a bound,
        and where a side was not measured; `not_measured` then says why."""
        names = [name for name in self.theirs if name in rates]
        if self.ours not in rates or not names:
            absent = self.ours if self.ours not in rates else self.theirs[0]
            reason = (missing or {}).get(absent, "left out of this run")
            why = {"not_measured": f"{absent}: {reason}"}
            return {
                "ours": self.ours,
                "theirs": self.theirs[0],
                "ratio": None,
                "at_least": self.bound,
                "met": None,
                **why,
            }
        against = max(names, key=rates.__getitem__)
        ratio = rates[self.ours] / rates[against]
        met = None if self.bound is None else ratio >= self.bound
        return {"ours": self.ours, "theirs": against, "ratio": ratio, "at_least": self.bound, "met": met}


def timed(contender: Callable[[], int], pid: int | None = None) -> Run:
    """One run of a contender, which returns how many images it handed over; `pid`: the process that does its work."""
    family = processes(pid)
    cpu, read = _cpu_seconds(family), _read_bytes(family)
    start = time.perf_counter()
    images = contender()
    seconds = time.perf_counter() - start
    if not images:
        raise RuntimeError("a contender handed over no image: it needs more data, or a smaller batch")
    family = processes(pid)
    return Run(images, seconds, _cpu_seconds(family) - cpu, _read_bytes(family) - read)


def interleaved(
    contenders: Mapping[str, Callable[[], int]], rounds: int, measure: Callable[[Callable[[], int]], Run] = timed
) -> dict[str, list[Run]]:
    """`rounds` runs of each contender in turn (A B C A B C), after one run of each that is thrown away.

    A machine that slows down for a while slows all contenders down, not one of them.
    """
    for contender in contenders.values():
        measure(contender)
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            runs[name].append(measure(contender))
    return runs


def processes(pid: int | None = None) -> list[psutil.Process]:
    """A process (this one) and its living descendants."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def tree_cpu_seconds(pid: int | None = None) -> float:
    """CPU seconds, user and system, of a process (this one) and of its living descendants."""
    return _cpu_seconds(processes(pid))


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
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": round(os.getloadavg()[0], 2),
        **_gpu(device),
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


def newest(path: Path, gpu: bool | None = None) -> list[dict]:
    """The rows of the last run in a results file, none without a file; gpu: the last one with a GPU, or without."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    rows = [row for row in rows if gpu is None or bool(row["environment"]["gpu"]) == gpu]
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


def _gpu(device: str) -> dict:
    """Of the GPU that was used: name, memory in GiB and driver, null without one; and how many GPUs the machine has.

    nvidia-smi is asked, because torch would start CUDA in this process, which its forked children cannot use then.
    """
    columns = "--query-gpu=name,memory.total,driver_version"
    try:
        asked = subprocess.run(["nvidia-smi", columns, "--format=csv,noheader,nounits"], capture_output=True, text=True)
        found = [
            [cell.strip() for cell in line.split(",")] for line in asked.stdout.splitlines() if not asked.returncode
        ]
    except FileNotFoundError:
        found = []
    name = memory = driver = None
    if device.startswith("cuda"):
        number = int(device.partition(":")[2] or 0)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        if number < len(visible) and visible[number].strip().isdigit():
            number = int(visible[number])
        if number < len(found):
            name, memory, driver = found[number]
        else:  # no nvidia-smi, or a part of a GPU
            import torch

            name, memory = torch.cuda.get_device_name(device), torch.cuda.mem_get_info(device)[1] / 2**20
    gib = None if memory is None else round(float(memory) / 1024, 1)
    return {"gpu": name, "gpu_memory_gib": gib, "driver": driver, "gpus": len(found)}


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
