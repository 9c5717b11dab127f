"""How many native JPEGs does packing get through, next to decoding in full, shrinking by area and encoding?

    python -m benchmarks.packing.pack [--save]

Held fixed: the files (2544 x 3056, gray), the four sizes 224, 320, 384 and 512, JPEG quality 95, one thread per
process, a warm page cache. All baselines make one rendition per size of every file, in turn, after one run of
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

Then `cxrdali verify` of raw renditions of 1024 pixels, and `verify --deep`, which looks into every rendition, next to
SHA-256 alone over the same bytes, with 1 and 2 jobs, the start of the processes included. Last, renditions of 16-bit
PNGs in one process, next to decoding them by OpenCV and encoding alone.
"""

import itertools
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import cv2
import joblib
import numpy as np

from benchmarks import datasets, results
from benchmarks.options import Options, listed, option, parse
from benchmarks.packing import fullscale
from benchmarks.packing.fresh import FreshRun, end_workers, fresh
from benchmarks.packing.fullscale import QUALITY, SIZES
from benchmarks.results import Run, Spread, Target
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.packing.verify import verify
from shards.releases.open import open_release
from shards.renditions import source as files_of
from shards.renditions.options import Size
from shards.renditions.rendition import encode, renditions, resize
from shards.storage.files import sha256_file
from shards.workers import run as run_tasks

# for the fresh processes: as `cxrdali` sets them for itself
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "ARROW_DEFAULT_MEMORY_POOL": "system"}
BOUND = 2.5  # times the images/s per core of full decode
OF_CEILING = 0.8  # whole packing takes at most 1.25 times what decode and encode alone do
SCALING = 1.85  # two jobs next to one
HASHING = 0.9  # verify next to SHA-256 alone
OURS, SIMPLEJPEG, OPENCV = "renditions", "full decode, simplejpeg", "full decode, OpenCV"
CEILING = "decode and encode alone"
PNG, PNG_ALONE = "renditions, 16-bit PNG", "decode and encode alone, 16-bit PNG"
PNGS, OF_PNG = 16, 0.75  # files; renditions next to decode and encode alone
VERIFY, DEEP, HASH = "verify", "verify --deep", "SHA-256 alone"
VERIFIED = 1024  # pixels, of raw renditions: enough bytes that hashing, not starting, is timed
PACKING, FULL = "whole packing", "whole full decode"


@dataclass(frozen=True)
class PackRun(Options):
    """What is measured."""

    rounds: int = option(5, "timed runs of each baseline")
    seconds: float = option(3.0, "length of a one-process run, about")
    images: int = option(1600, "different files, about")
    jobs: tuple[int, ...] = option("1,2", "numbers of jobs for whole packing", listed(int))
    shards: int = option(8, "best a multiple of all --jobs")
    source: Path | None = option(None, "release to pack [a synthetic one]", Path)


# ---------------------------------------------------------------- one file at a time


def ours(path: Path) -> list[bytes]:
    """One JPEG per size, as packing makes them."""
    options = PackOptions(tuple(Size(size) for size in SIZES), quality=QUALITY)
    return renditions(files_of.read(path), path.name, options)[0]


def scaled(path: Path) -> np.ndarray:
    """A JPEG's pixels at the smallest scale that covers all sizes."""
    return files_of.decode(path.read_bytes(), max(SIZES), path.name).gray


def of_png(path: Path) -> np.ndarray:
    """A PNG's pixels, 12 bits in 16."""
    return cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)


class Ceiling:
    """What packing cannot do without: `decode`, and the encoder on renditions that were made before."""

    def __init__(self, decode: Callable[[Path], np.ndarray] = scaled):
        self._decode, self._ready = decode, {}

    def __call__(self, path: Path) -> list[bytes]:
        gray = self._decode(path)
        if path not in self._ready:
            gray = gray if gray.dtype == np.uint8 else (gray >> 4).astype(np.uint8)
            self._ready[path] = [resize(gray, size, "squash") for size in SIZES]
        made = zip(SIZES, self._ready[path], strict=True)
        return [encode(image, Size(size), QUALITY) for size, image in made]


def measure_renditions(makers: Mapping[str, Callable], files: list[Path], options: PackRun) -> list[dict]:
    """One row per baseline, in one process each: their images/s are per core."""
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


def measure_whole(source: Path, folder: Path, shard_images: int, options: PackRun) -> list[dict]:
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
            runs.setdefault((PACKING, jobs), []).append(fresh(_pack_once, source, out, jobs, shard_images))
            shutil.rmtree(out)  # else the page cache fills with what no run reads again
            _read(files)
            runs.setdefault((FULL, jobs), []).append(fresh(_full_once, source, jobs, shard_images))
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


def _pack_once(source: Path, out: Path, jobs: int, shard_images: int) -> Run:
    """Reading the release's tables is not timed: it does not grow with the bytes of the images."""
    release = open_release(source)
    wanted = PackOptions(sizes=tuple(Size(size) for size in SIZES), quality=QUALITY, shard_images=shard_images)
    run = results.timed(lambda: pack(release, out, wanted, jobs=jobs).packed)
    end_workers(jobs)
    return run


def _full_once(source: Path, jobs: int, files_per_task: int) -> Run:
    """As many files to a task as packing has images in a shard."""
    files = _files(source)
    starts = range(0, len(files), files_per_task)
    tasks = [joblib.delayed(fullscale.chunk)(files[start : start + files_per_task]) for start in starts]
    run = results.timed(lambda: sum(joblib.Parallel(n_jobs=jobs, batch_size=1)(tasks)))
    end_workers(jobs)
    return run


def _files(source: Path) -> list[Path]:
    release = open_release(source)
    return [release.root / path for path in release.images["path"]]


def ratios(one_process: list[dict], whole: list[dict]) -> list[dict]:
    """Images/s per core against full decode in as many processes; in one process the faster full decode counts."""
    rates = {row["baseline"]: row["images_per_second"]["median"] for row in (*one_process, *whole)}
    targets = [Target(OURS, (SIMPLEJPEG, OPENCV), BOUND)]
    numbers = sorted({row["jobs"] for row in whole if row["baseline"] != CEILING})
    for jobs in numbers:
        targets.append(Target(with_jobs(PACKING, jobs), (with_jobs(FULL, jobs),), BOUND))
    if 1 in numbers:
        targets.append(Target(with_jobs(PACKING, 1), (CEILING,), OF_CEILING))
    if {1, 2} <= set(numbers):
        targets.append(Target(with_jobs(PACKING, 2), (with_jobs(PACKING, 1),), SCALING))
        targets.append(Target(with_jobs(FULL, 2), (with_jobs(FULL, 1),), None))  # what the machine's two cores give
    return [target.check(rates) for target in targets]


# ---------------------------------------------------------------- verifying


def measure_verify(release: Path, folder: Path, shard_images: int, options: PackRun) -> list[dict]:
    """Bytes/s of verify and of SHA-256 alone in as many processes of the same pool; the files are in the page cache."""
    packed = folder / "verified"
    datasets.packed(release, packed, (VERIFIED,), raw=True, shard_images=shard_images)
    tars = sorted(packed.glob("*/*.tar"))
    num_bytes = sum(path.stat().st_size for path in tars)

    def hash_alone(jobs: int) -> int:
        assert len(list(run_tasks([joblib.delayed(sha256_file)(path) for path in tars], jobs, HASH))) == len(tars)
        return num_bytes

    def checked(deep: bool, jobs: int) -> int:
        found = verify(packed, deep, jobs)
        assert not found.problems, found.problems
        return num_bytes

    rows = []
    for jobs in options.jobs:
        runs = {
            VERIFY: partial(checked, False, jobs),
            DEEP: partial(checked, True, jobs),
            HASH: partial(hash_alone, jobs),
        }
        for name, made in results.interleaved(runs, options.rounds).items():
            rates = [run.rate / 1e6 for run in made]  # a run's "images" are bytes here
            row = {"baseline": with_jobs(name, jobs), "jobs": jobs, "mib": num_bytes / 2**20}
            rows.append(row | {"megabytes_per_second": vars(Spread.of(rates))})
            print(f"  {row['baseline']:45} {median(rates):9,.0f} MB/s, {num_bytes / 2**20:,.0f} MiB", flush=True)
    medians = {row["baseline"]: row["megabytes_per_second"]["median"] for row in rows}
    targets = [
        Target(with_jobs(VERIFY, jobs), (with_jobs(HASH, jobs),), HASHING).check(medians) for jobs in options.jobs
    ]
    for target in targets:
        results.print_target(target)
    return [*rows, *targets]


# ---------------------------------------------------------------- 16-bit PNG


def measure_png(files: list[Path], folder: Path, options: PackRun) -> list[dict]:
    """Renditions of 16-bit gray PNGs, made of the first files, next to OpenCV's decoding and encoding alone."""
    made = [_as_png(path, folder / f"{number}.png") for number, path in enumerate(files[:PNGS])]
    alone = Ceiling(of_png)
    for path in made:
        alone(path)
    rows = measure_renditions({PNG: ours, PNG_ALONE: alone}, made, options)
    rates = {row["baseline"]: row["images_per_second"]["median"] for row in rows}
    return [*rows, Target(PNG, (PNG_ALONE,), OF_PNG).check(rates)]


def _as_png(jpeg: Path, png: Path) -> Path:
    """12 bits in 16, the lower 4 made of noise, as those of a detector are."""
    gray = cv2.imread(str(jpeg), cv2.IMREAD_GRAYSCALE).astype(np.uint16)
    noise = np.random.default_rng(0).integers(0, 16, gray.shape, dtype=np.uint16)
    cv2.imwrite(str(png), gray * 16 + noise)
    return png


def main() -> None:
    options = parse(PackRun, "benchmarks.packing.pack", __doc__.splitlines()[0])
    os.environ |= ENVIRONMENT
    cv2.setNumThreads(1)
    environment = results.environment("benchmarks.packing.pack")
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as name:
        folder = Path(name)
        source = options.source or datasets.synthetic(
            folder / "release", datasets.studies_for(options.images), "native"
        )
        files = _files(source)
        shard_images = math.ceil(len(files) / options.shards)
        print(f"{environment['cpu']}, {environment['cores']} cores, {len(files)} files, sizes {SIZES}, warm cache")
        makers = {OURS: ours, SIMPLEJPEG: fullscale.with_simplejpeg, OPENCV: fullscale.with_opencv}
        one_process = measure_renditions(makers, files, options)
        whole = measure_whole(source, folder, shard_images, options)
        verified = measure_verify(source, folder, shard_images, options)
        pngs = measure_png(files, folder, options)
    rows = [*one_process, *whole, *pngs[:-1]]
    results.print_rates(rows)
    found = [*ratios(one_process, whole), pngs[-1]]
    for ratio in found:
        results.print_target(ratio)
    data = {"data": str(options.source or "synthetic"), "files": len(files), "shards": options.shards, "sizes": SIZES}
    saved = [*rows, *found, *verified]
    results.save([data | row for row in saved], environment, options.save, "pack")


if __name__ == "__main__":
    main()
