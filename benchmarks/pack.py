"""How many native JPEGs does packing get through, next to decoding in full, shrinking by area and encoding?

    python -m benchmarks.pack [--save]

Held fixed: the files (2544 x 3056, gray), the four sizes 224, 320, 384 and 512, JPEG quality 95, one thread per
process, a warm page cache. All contenders make one rendition per size of every file, in turn, after one run of
each that is thrown away:

    renditions              shards.rendition.renditions: decode at the smallest scale that covers 512, then shrink
    full decode, simplejpeg decode at full scale, INTER_AREA to each size, encode
    full decode, OpenCV     the same with OpenCV's own decoder and encoder

These run in one process. Then the whole of `cxrdali shard` with 1 and 2 jobs, tars, hashes, catalog and the start
of the workers included, next to full decode (simplejpeg) in as many workers, which writes nothing. Every such run
has fresh processes and a fresh folder; peak memory is of all of them and counts shared pages in each. Shards are
small, so that the jobs have equal shares.
"""

import argparse
import concurrent.futures
import itertools
import math
import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import cv2
import joblib
import psutil
from joblib.externals.loky import get_reusable_executor

from benchmarks import fullscale, results
from benchmarks.fullscale import QUALITY, SIZES
from benchmarks.results import Run, Target
from shards.pack import PackOptions, pack
from shards.release import open_release
from shards.rendition import Size, renditions
from shards.synthetic import SyntheticOptions, write_release

IMAGES_PER_STUDY = 1.6  # of a synthetic release, rounded down
SAMPLE_SECONDS = 0.05  # between two looks at the processes' memory
BOUND = 2  # promised: times the images/s per core of full decode
OURS, SIMPLEJPEG, OPENCV = "renditions", "full decode, simplejpeg", "full decode, OpenCV"
PACKING, FULL = "whole packing", "whole full decode"


@dataclass(frozen=True)
class FreshRun:
    """A run in processes of its own: `peak_bytes` is resident memory, summed over them."""

    run: Run
    peak_bytes: int


# ---------------------------------------------------------------- one file at a time


def ours(path: Path) -> list[bytes]:
    """One JPEG per size, as packing makes them."""
    return renditions(path, tuple(Size(size) for size in SIZES), "squash", QUALITY)[0]


def measure_renditions(files: list[Path], options: argparse.Namespace) -> list[dict]:
    """One row per contender, in one process each: their images/s are per core."""
    makers = {OURS: ours, SIMPLEJPEG: fullscale.with_simplejpeg, OPENCV: fullscale.with_opencv}
    runs = {name: _sized_run(make, files, options.seconds) for name, make in makers.items()}
    timed = results.interleaved(runs, options.rounds)
    return [{"jobs": 1, **results.rate_row(name, timed[name])} for name in makers]


def _sized_run(make: Callable[[Path], list[bytes]], files: list[Path], seconds: float) -> Callable[[], int]:
    """A run of about `seconds`: the files in turn, from the first on."""
    make(files[0])
    one = results.timed(lambda: len([make(path) for path in files[:4]]))
    count = max(1, round(one.rate * seconds))
    return lambda: len([make(path) for path in itertools.islice(itertools.cycle(files), count)])


# ---------------------------------------------------------------- the whole of packing


def measure_whole(source: Path, folder: Path, options: argparse.Namespace) -> list[dict]:
    """One row for packing and one for decoding in full, for every number of jobs."""
    runs: dict[tuple[str, int], list[FreshRun]] = {}
    for round_, jobs in itertools.product(range(options.rounds), options.jobs):
        out = folder / f"{round_}-{jobs}"
        runs.setdefault((PACKING, jobs), []).append(_fresh(_pack_once, source, out, jobs, options.shard_images))
        runs.setdefault((FULL, jobs), []).append(_fresh(_full_once, source, jobs, options.shard_images))
    return [_whole_row(name, jobs, made) for (name, jobs), made in runs.items()]


def _whole_row(name: str, jobs: int, runs: list[FreshRun]) -> dict:
    row = results.rate_row(with_jobs(name, jobs), [run.run for run in runs])
    per_core = row["images_per_second"]["median"] / jobs
    return {"jobs": jobs, **row, "per_core": per_core, "peak_mib": median(run.peak_bytes for run in runs) / 2**20}


def with_jobs(name: str, jobs: int) -> str:
    return f"{name}, {jobs} job{'s' if jobs > 1 else ''}"


def _fresh(work: Callable[..., Run], *arguments) -> FreshRun:
    """Run in a new process, so that no memory or worker of an earlier run is left, and watch its memory."""
    others = {process.pid for process in psutil.Process().children(recursive=True)}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(max_workers=1, mp_context=context) as executor:
        future = executor.submit(work, *arguments)
        peak = _peak_bytes(future, others)
        return FreshRun(future.result(), peak)


def _pack_once(source: Path, out: Path, jobs: int, shard_images: int) -> Run:
    """Reading the release's tables is not timed: it does not grow with the bytes of the images."""
    release = open_release(source)
    wanted = PackOptions(sizes=tuple(Size(size) for size in SIZES), quality=QUALITY, shard_images=shard_images)
    run = results.timed(lambda: pack(release, out, wanted, jobs=jobs, progress=False).packed)
    _end_workers(jobs)
    return run


def _full_once(source: Path, jobs: int, files_per_task: int) -> Run:
    """As many files to a task as packing has images in a shard."""
    files = _files(source)
    starts = range(0, len(files), files_per_task)
    tasks = [joblib.delayed(fullscale.chunk)(files[start : start + files_per_task]) for start in starts]
    run = results.timed(lambda: sum(joblib.Parallel(n_jobs=jobs, batch_size=1)(tasks)))
    _end_workers(jobs)
    return run


def _end_workers(jobs: int) -> None:
    """Idle workers of joblib would keep a process of multiprocessing from ending for five minutes."""
    if jobs > 1:
        get_reusable_executor().shutdown()


def _peak_bytes(future: concurrent.futures.Future, others: set[int]) -> int:
    """The highest resident memory of this process's descendants until `future` is done, without `others`."""
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    peak = 0
    while not done.wait(SAMPLE_SECONDS):
        processes = psutil.Process().children(recursive=True)
        peak = max(peak, sum(_resident(process) for process in processes if process.pid not in others))
    return peak


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def _files(source: Path) -> list[Path]:
    release = open_release(source)
    return [release.root / path for path in release.images["path"]]


# ---------------------------------------------------------------- command


def print_whole(rows: list[dict]) -> None:
    print(f"  {'':45} {'per core':>9} {'peak MiB':>9}")
    for row in rows:
        print(f"  {row['contender']:45} {row['per_core']:9,.1f} {row['peak_mib']:9,.0f}")


def ratios(one_process: list[dict], whole: list[dict]) -> list[dict]:
    """Images/s per core against full decode in as many processes; in one process the faster full decode counts."""
    rates = {row["contender"]: row["images_per_second"]["median"] for row in (*one_process, *whole)}
    targets = [Target(OURS, (SIMPLEJPEG, OPENCV), BOUND)]
    for jobs in sorted({row["jobs"] for row in whole}):
        targets.append(Target(with_jobs(PACKING, jobs), (with_jobs(FULL, jobs),), BOUND))
    return [target.check(rates) for target in targets]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pack", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each contender [%(default)s]")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a one-process run, about [%(default)s]")
    parser.add_argument("--images", type=int, default=250, help="different files, about [%(default)s]")
    parser.add_argument("--jobs", default="1,2", help="numbers of jobs for whole packing [%(default)s]")
    parser.add_argument("--shard-images", type=int, default=64, help="most images in a shard [%(default)s]")
    parser.add_argument("--source", type=Path, metavar="DIR", help="release to pack [a synthetic one]")
    results.add_save_option(parser, "pack")
    options = parser.parse_args()
    options.jobs = [int(text) for text in options.jobs.split(",")]
    return options


def main() -> None:
    options = arguments()
    cv2.setNumThreads(1)
    environment = results.environment("benchmarks.pack")
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as name:
        folder = Path(name)
        source = options.source or folder / "release"
        if options.source is None:
            studies = math.ceil(options.images / IMAGES_PER_STUDY)
            cores = len(os.sched_getaffinity(0))
            write_release(source, SyntheticOptions(studies, "native"), jobs=cores, progress=False)
        files = _files(source)
        print(f"{environment['cpu']}, {environment['cores']} cores, {len(files)} files, sizes {SIZES}, warm cache")
        one_process = measure_renditions(files, options)
        whole = measure_whole(source, folder, options)
    rows = [*one_process, *whole]
    results.print_rates(rows)
    print_whole(whole)
    found = ratios(one_process, whole)
    for ratio in found:
        results.print_target(ratio)
    if options.save:
        data = {"data": str(options.source or "synthetic"), "files": len(files), "sizes": SIZES}
        path = results.save([{**data, **row} for row in (*rows, *found)], environment, options.save, "pack")
        print(f"{len(rows) + len(found)} rows -> {path}")


if __name__ == "__main__":
    main()
