"""How many native JPEGs does packing get through, next to decoding in full, shrinking by area and encoding?

    python -m benchmarks.packing.pack [--save]

Held fixed: the files (2544 x 3056, gray), the four sizes 224, 320, 384 and 512, JPEG quality 95, one thread per
process, a warm page cache. All contenders make one rendition per size of every file, in turn, after one run of
each that is thrown away:

    renditions              shards.rendition.renditions: decode at the smallest scale that covers 512, then shrink
    full decode, simplejpeg decode at full scale, INTER_AREA to each size, encode
    full decode, OpenCV     the same with OpenCV's own decoder and encoder, as img2dataset does it

These run in one process. Then the whole of `cxrdali shard` with 1 and 2 jobs, tars, hashes, catalog and the start
of the workers included, next to full decode (simplejpeg) in as many workers, which writes nothing, and to the ceiling,
decode and encode alone: the same decode, and the encoder on renditions that are there already. They take turns. Every
run of packing and full decode has fresh processes and a fresh folder, and every file is read once before it; peak
memory is of all processes and counts shared pages in each. There are --shards of equal size, so that all jobs have as
much to do, as they nearly have of a hundred, and so many files that what comes once a run or a shard (half a second for
the start of the workers, 18 flushes to the disk) is not what is timed: a shard of `cxrdali shard` has 4,096 images.

Last, `cxrdali verify` of raw renditions of 1024 pixels, next to SHA-256 alone over the same bytes, each in one process,
and `verify --deep`, which looks into every rendition. --memory: whole packing of so many small images (one picture
under many names), where only the peak memory counts.
"""

import argparse
import concurrent.futures
import itertools
import math
import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import cv2
import joblib
import numpy as np
import psutil
from joblib.externals.loky import get_reusable_executor

from benchmarks import results
from benchmarks.effects.drawn import studies_for
from benchmarks.packing import fullscale
from benchmarks.packing.fullscale import QUALITY, SIZES
from benchmarks.results import Run, Spread, Target
from cli.main import ENVIRONMENT
from shards.packing import source as files_of
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.packing.rendition import Size, encode, renditions, resize
from shards.packing.verify import verify
from shards.releases.open import open_release
from shards.releases.table import Columns, open_table
from shards.storage.files import sha256_file
from shards.synthetic.plan import SyntheticOptions
from shards.synthetic.release import write_release

SAMPLE_SECONDS = 0.05  # between two looks at the processes' memory
BOUND = 2.5  # promised: times the images/s per core of full decode
OF_CEILING = 0.8  # promised: whole packing takes at most 1.25 times what decode and encode alone do
SCALING = 1.85  # promised: two jobs next to one
HASHING = 0.9  # promised: verify next to SHA-256 alone
GROWTH = 1.1  # promised: peak memory of the most images, next to the fewest
OURS, SIMPLEJPEG, OPENCV = "renditions", "full decode, simplejpeg", "full decode, OpenCV"
CEILING = "decode and encode alone"
VERIFY, DEEP, HASH = "verify", "verify --deep", "SHA-256 alone"
COLUMNS = Columns("image_id", "Edema", "path", "subject_id", "study_id", split="split")  # of the table of --memory
VERIFIED = 1024  # pixels, of raw renditions: enough bytes that hashing, not starting, is timed
SMALL_SIZE = 32  # pixels, of the renditions of --memory
SMALL_SHARD = 250  # most of them in a shard: all workers have work with the fewest images, too
PACKING, FULL = "whole packing", "whole full decode"


@dataclass(frozen=True)
class FreshRun:
    """A run in processes of its own: `peak_bytes` is resident memory, summed over them."""

    run: Run
    peak_bytes: int


# ---------------------------------------------------------------- one file at a time


def ours(path: Path) -> list[bytes]:
    """One JPEG per size, as packing makes them."""
    return renditions(path, PackOptions(tuple(Size(size) for size in SIZES), quality=QUALITY))[0]


class Ceiling:
    """What packing cannot do without: the scaled decode, and the encoder on renditions that were made before."""

    def __init__(self):
        self._ready: dict[Path, list[np.ndarray]] = {}

    def __call__(self, path: Path) -> list[bytes]:
        gray = files_of.decode(path.read_bytes(), max(SIZES), path.name).gray
        if path not in self._ready:
            self._ready[path] = [resize(gray, size, "squash") for size in SIZES]
        made = zip(SIZES, self._ready[path], strict=True)
        return [encode(image, Size(size), QUALITY) for size, image in made]


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
    """One row for packing and one for decoding in full, for every number of jobs, and one for the ceiling."""
    files, ceiling = _files(source), Ceiling()
    for path in files:
        ceiling(path)
    alone: list[Run] = []
    runs: dict[tuple[str, int], list[FreshRun]] = {}
    for round_ in range(options.rounds):
        for jobs in options.jobs:
            out = folder / f"{round_}-{jobs}"
            _read(files)
            runs.setdefault((PACKING, jobs), []).append(_fresh(_pack_once, source, out, jobs, options.shard_images))
            shutil.rmtree(out)  # else the page cache fills with what no run reads again
            _read(files)
            runs.setdefault((FULL, jobs), []).append(_fresh(_full_once, source, jobs, options.shard_images))
        alone.append(results.timed(lambda: len([ceiling(path) for path in files])))
    per_core = {"jobs": 1, **results.rate_row(CEILING, alone)}
    return [*(_whole_row(name, jobs, made) for (name, jobs), made in runs.items()), per_core]


def _read(files: list[Path]) -> None:
    """Into the page cache, where a run of before may have pushed some out."""
    for path in files:
        path.read_bytes()


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
    run = results.timed(lambda: pack(release, out, wanted, jobs=jobs).packed)
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
    """Of one that has just been started nothing: for a moment it is its parent's copy, which would count twice."""
    try:
        return process.memory_info().rss if time.time() - process.create_time() > SAMPLE_SECONDS else 0
    except psutil.NoSuchProcess:
        return 0


def _files(source: Path) -> list[Path]:
    release = open_release(source)
    return [release.root / path for path in release.images["path"]]


def print_whole(rows: list[dict]) -> None:
    print(f"  {'':45} {'per core':>9} {'peak MiB':>9}")
    for row in rows:
        if "peak_mib" in row:  # the ceiling runs beside what it needs, in this process
            print(f"  {row['contender']:45} {row['per_core']:9,.1f} {row['peak_mib']:9,.0f}")


def ratios(one_process: list[dict], whole: list[dict]) -> list[dict]:
    """Images/s per core against full decode in as many processes; in one process the faster full decode counts."""
    rates = {row["contender"]: row["images_per_second"]["median"] for row in (*one_process, *whole)}
    targets = [Target(OURS, (SIMPLEJPEG, OPENCV), BOUND)]
    numbers = sorted({row["jobs"] for row in whole if row["contender"] != CEILING})
    for jobs in numbers:
        targets.append(Target(with_jobs(PACKING, jobs), (with_jobs(FULL, jobs),), BOUND))
    if 1 in numbers:
        targets.append(Target(with_jobs(PACKING, 1), (CEILING,), OF_CEILING))
    if {1, 2} <= set(numbers):
        targets.append(Target(with_jobs(PACKING, 2), (with_jobs(PACKING, 1),), SCALING))
        targets.append(Target(with_jobs(FULL, 2), (with_jobs(FULL, 1),), None))  # what the machine's two cores give
    return [target.check(rates) for target in targets]


# ---------------------------------------------------------------- verifying


def measure_verify(release: Path, folder: Path, options: argparse.Namespace) -> list[dict]:
    """Bytes/s of verify and of SHA-256 alone, in as many processes; the files are in the page cache."""
    packed = folder / "verified"
    wanted = PackOptions(sizes=(Size(VERIFIED, raw=True),), shard_images=options.shard_images)
    jobs = 1  # the start of a second process would take longer than its share of the hashing
    pack(open_release(release), packed, wanted, jobs=max(options.jobs))
    tars = sorted(packed.glob("*/*.tar"))
    size = sum(path.stat().st_size for path in tars)
    hashes = [joblib.delayed(sha256_file)(path) for path in tars]

    def hash_alone() -> int:
        joblib.Parallel(n_jobs=jobs, batch_size=1)(hashes)
        return size

    def checked(deep: bool) -> int:
        found = verify(packed, deep, jobs)
        assert not found.problems, found.problems
        return size

    runs = {VERIFY: lambda: checked(False), DEEP: lambda: checked(True), HASH: hash_alone}
    timed = results.interleaved(runs, options.rounds)
    rows = []
    for name, made in timed.items():
        rates = [run.rate / 1e6 for run in made]  # a run's "images" are bytes here
        rows.append(
            {"contender": name, "jobs": jobs, "mib": size / 2**20, "megabytes_per_second": vars(Spread.of(rates))}
        )
        print(f"  {name:45} {median(rates):9,.0f} MB/s, {jobs} jobs, {size / 2**20:,.0f} MiB", flush=True)
    _end_workers(max(options.jobs))
    medians = {row["contender"]: row["megabytes_per_second"]["median"] for row in rows}
    target = Target(VERIFY, (HASH,), HASHING).check(medians)
    results.print_target(target)
    return [*rows, target]


# ---------------------------------------------------------------- memory


def measure_memory(folder: Path, options: argparse.Namespace) -> list[dict]:
    """Peak memory of whole packing by number of images, and whether it grows."""
    jobs, rows = max(options.jobs), []
    for images in options.memory:
        source_folder = folder / f"small-{images}"
        _many_files(source_folder, images)
        out = folder / f"small-pack-{images}"
        made = _fresh(_pack_small, source_folder, out, jobs)
        rows.append(
            {
                "contender": f"packing {images:,} small images",
                "jobs": jobs,
                "images": made.run.images,
                "peak_mib": made.peak_bytes / 2**20,
                "seconds": made.run.seconds,
            }
        )
        print(
            f"  {made.run.images:,} images at {SMALL_SIZE} px: {made.peak_bytes / 2**20:,.0f} MiB at most, all "
            f"processes ({made.run.seconds:.0f} s)",
            flush=True,
        )
        shutil.rmtree(source_folder)
        shutil.rmtree(out)
    if len(rows) < 2:
        return rows
    growth = rows[-1]["peak_mib"] / rows[0]["peak_mib"]
    what = f"peak memory of packing {rows[-1]['images']:,} images / {rows[0]['images']:,}"
    met = growth <= GROWTH
    print(f"  {what}: {growth:.2f}   at most {GROWTH}   {'PASS' if met else 'MISS'}")
    return [*rows, {"promise": what, "value": growth, "at_most": GROWTH, "met": met}]


def _many_files(folder: Path, images: int) -> None:
    """A release by a table: one small picture under `images` names, two to a study, two studies to a subject."""
    folder.mkdir()
    picture = cv2.imencode(".jpg", np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1)))[1].tobytes()
    for number in range(images):
        (folder / f"{number}.jpg").write_bytes(picture)
    lines = [f"{number}.jpg,{number},s{number // 2},p{number // 4},train,{number % 2}" for number in range(images)]
    (folder / "table.csv").write_text("\n".join(["path,image_id,study_id,subject_id,split,Edema", *lines, ""]))


def _pack_small(folder: Path, out: Path, jobs: int) -> Run:
    release = open_table(folder / "table.csv", COLUMNS, folder)
    wanted = PackOptions(sizes=(Size(SMALL_SIZE),), shard_images=SMALL_SHARD)
    run = results.timed(lambda: pack(release, out, wanted, jobs=jobs).packed)
    _end_workers(jobs)
    return run


# ---------------------------------------------------------------- command


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packing.pack", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each contender [%(default)s]")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a one-process run, about [%(default)s]")
    parser.add_argument("--images", type=int, default=1600, help="different files, about [%(default)s]")
    parser.add_argument("--jobs", default="1,2", help="numbers of jobs for whole packing [%(default)s]")
    parser.add_argument("--shards", type=int, default=8, help="best a multiple of all --jobs [%(default)s]")
    parser.add_argument("--memory", default="1000,100000", help="small images to pack for peak memory [%(default)s]")
    parser.add_argument("--source", type=Path, metavar="DIR", help="release to pack [a synthetic one]")
    results.add_save_option(parser, "pack")
    options = parser.parse_args()
    options.jobs = [int(text) for text in options.jobs.split(",")]
    options.memory = [int(text) for text in options.memory.split(",") if text]
    return options


def main() -> None:
    options = arguments()
    os.environ |= ENVIRONMENT  # for the fresh processes: as in those of `cxrdali shard`
    cv2.setNumThreads(1)
    environment = results.environment("benchmarks.packing.pack")
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as name:
        folder = Path(name)
        source = options.source or folder / "release"
        if options.source is None:
            studies = studies_for(options.images)
            cores = len(os.sched_getaffinity(0))
            write_release(source, SyntheticOptions(studies, "native"), jobs=cores)
        files = _files(source)
        options.shard_images = math.ceil(len(files) / options.shards)
        print(f"{environment['cpu']}, {environment['cores']} cores, {len(files)} files, sizes {SIZES}, warm cache")
        one_process = measure_renditions(files, options)
        whole = measure_whole(source, folder, options)
        verified = measure_verify(source, folder, options)
        memory = measure_memory(folder, options)
    rows = [*one_process, *whole]
    results.print_rates(rows)
    print_whole(whole)
    found = ratios(one_process, whole)
    for ratio in found:
        results.print_target(ratio)
    if options.save:
        data = {
            "data": str(options.source or "synthetic"),
            "files": len(files),
            "shards": options.shards,
            "sizes": SIZES,
        }
        saved = [*rows, *found, *verified, *memory]
        path = results.save([{**data, **row} for row in saved], environment, options.save, "pack")
        print(f"{len(saved)} rows -> {path}")


if __name__ == "__main__":
    main()
