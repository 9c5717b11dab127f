"""The measuring part of benchmarks.stages: data, arms, and the rows that they give."""

import argparse
import gc
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import timm
import torch

from benchmarks.effects import smallnet
from benchmarks.loading.baselines import PaperLoader, without_normalisation
from benchmarks.loading.loader import Stage
from benchmarks.pages import published
from benchmarks.training.stages_report import FIGURE, NATIVE, TARGETS, THREE, check_sum, saving
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.splits import FoldOptions, train_and_validation
from cxrdali.runs.folder import read_config
from cxrdali.runs.settings import TrainSettings, settings_of
from cxrdali.train.trainer import RunSummary, train
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.packing.rendition import Size
from shards.releases.open import open_release
from shards.synthetic.facts import FREQUENCIES
from shards.synthetic.plan import SyntheticOptions
from shards.synthetic.release import write_release

SMALL = ("test_byobnet", smallnet.NAME)  # networks for a CPU
OURS, PAPERS = "our loader, packed", "the paper's loader"
MOST_EPOCHS = 10  # of a stage of --real, however fast the GPU
NATIVE_CPU_SECONDS = 0.04  # an image through the paper's loader: benchmarks/results/loader.jsonl


@dataclass(frozen=True)
class Feed:
    """Images and how they arrive: a Loader-like class, the network that takes its batches, and the words for it."""

    dataset: PackedDataset
    loader: Callable
    arch: str
    norm: str
    words: str


@dataclass(frozen=True)
class Comparison:
    """Two lists of stages over one feed, `seeds` times; each stage has `epochs`. scored: whether mAP is compared.

    The cheap arm comes first, and has all the stages that the dear one has. epochs is None until a trial has told how
    many there is time for. workers: what the training rows are whole rounds of, where each process makes a batch.
    """

    name: str
    arms: dict[str, tuple[Stage, ...]]  # cheap, dear
    epochs: int | None
    seeds: int
    feed: Feed
    scored: bool
    workers: int = 1

    @property
    def multiple(self) -> int:
        return math.lcm(*(stage.batch for stage in chain(*self.arms.values()))) * self.workers

    @property
    def sides(self) -> tuple[tuple[int, ...], ...]:
        """In pixels, of the cheap and of the dear arm's stages."""
        return tuple(tuple(stage.size for stage in stages) for stages in self.arms.values())

    def rows(self) -> tuple[int, int]:
        """Images that an epoch trains on, and those that validate."""
        labels = self.feed.dataset.labels(None)
        training, validation = train_and_validation(self.feed.dataset, labels, FoldOptions())
        return len(training) // self.multiple * self.multiple, len(validation)


# ---------------------------------------------------------------- data


def prepare(options: argparse.Namespace, folder: Path) -> list[Comparison]:
    """The comparisons that were asked for, over data that is made in `folder`."""
    two, three = _stages(options.figure2), _stages(options.three)
    first = {"small first": two, "large first": (two[1],) * 2}
    wanted, found = options.comparisons.split(","), []
    dataset, scored = None, not options.real or options.data is not None
    if {FIGURE, THREE} & set(wanted) or options.real:
        packed = options.data
        if packed is None:
            packed = folder / "pack"
            more = [int(size) for size in options.packed.split(",")] if options.packed else []
            sizes = sorted({*more, *(stage.size for stage in (*two, *three))})
            drawn = SyntheticOptions(options.studies, max(options.drawn, *sizes), seed=0)
            write_release(folder / "release", drawn, jobs=_cores())
            _pack(folder / "release", packed, sizes)
        dataset = PackedDataset.open(packed)
        ours = Feed(dataset, Loader, options.arch, "imagenet", OURS)
        if FIGURE in wanted:
            found.append(Comparison(FIGURE, first, options.epochs, options.seeds, ours, scored))
        if THREE in wanted:
            arms = {"three sizes": three, "largest size": (three[-1],) * len(three)}
            found.append(Comparison(THREE, arms, options.epochs, options.seeds, ours, scored))
    if NATIVE in wanted:
        check_shared_memory(two, loading_cores(options.device))
        release = options.native
        if release is None:
            release = folder / "native"
            drawn = SyntheticOptions(options.native_studies, "native", seed=1)
            write_release(release, drawn, jobs=_cores())
        images = open_release(release).images
        if options.real:
            # a worker makes whole batches: only thousands of rows keep all of them busy, and few files serve for times
            files = [release / path for path in np.resize(images["path"], len(dataset.packed))]
        else:
            _pack(release, folder / "native-pack", sorted({stage.size for stage in two}))
            dataset = PackedDataset.open(folder / "native-pack")
            paths = images.set_index("image_id")["path"]
            files = [release / paths[image] for image in dataset.catalog["image_id"]]
        theirs = Feed(
            dataset, partial(PaperLoader, files, loading_cores(options.device)),
            without_normalisation(options.arch), "weights", PAPERS,
        )  # fmt: skip
        ours = Feed(dataset, Loader, options.arch, "imagenet", OURS)
        for feed in (theirs, ours):
            name = f"{NATIVE}, {feed.words}"
            one = Comparison(name, first, options.native_epochs, options.native_seeds, feed, False)
            found.append(_in_whole_rounds(one, loading_cores(options.device)) if options.real else one)
    return found


def check_shared_memory(stages: Sequence[Stage], workers: int, folder: Path = Path("/dev/shm")) -> None:
    """Raises UserError if the paper's float32 RGB batches, two ahead per worker, do not fit: workers would die."""
    if not folder.is_dir():
        return
    needed = 2 * workers * max(12 * stage.batch * stage.size**2 for stage in stages)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: the paper's loader with {workers} workers needs {needed / 2**30:.1f} GiB for its batches, "
            f"{free / 2**30:.1f} GiB are free; make it larger, or leave native files out with --comparisons"
        )


def _in_whole_rounds(comparison: Comparison, workers: int) -> Comparison:
    """With as many training rows as keep that many workers, or most of them, busy to the end of an epoch."""
    return replace(comparison, workers=max(1, min(workers, comparison.rows()[0] // comparison.multiple)))


def _pack(release: Path, out: Path, sizes: Sequence[int]) -> None:
    wanted = PackOptions(tuple(Size(size) for size in sizes))
    pack(open_release(release), out, wanted, jobs=_cores())


def _stages(text: str) -> tuple[Stage, ...]:
    return tuple(Stage.parse(part) for part in text.split(","))


@dataclass(frozen=True)
class WholeBatches:
    """Makes loaders whose training rows are cut to a multiple of every batch: no arm drops more images than another.

    `made` keeps them, so that their end (workers that stop, a pipeline) is not in the trainer's time by accident.
    """

    make: Callable
    multiple: int
    made: list

    def __call__(self, dataset: PackedDataset, rows: np.ndarray, options, *, drop_last: bool = False, **rest):
        if drop_last and len(rows) < self.multiple:
            raise UserError(
                f"{dataset.root}: {len(rows)} images to train, whole batches of all stages need {self.multiple}; "
                "give more --studies or --native-studies"
            )
        if drop_last:
            rows = rows[: len(rows) // self.multiple * self.multiple]
        self.made.append(self.make(dataset, rows, options, drop_last=drop_last, **rest))
        return self.made[-1]


# ---------------------------------------------------------------- measuring


def run_arm(
    comparison: Comparison, arm: str, seed: int, options: argparse.Namespace, folder: Path, limit: int | None = None
) -> dict:
    """Train the arm's stages one after the other into `folder`, which is deleted. limit: batches an epoch, at most."""
    feed, before, runs, totals = comparison.feed, None, [], []
    started = time.perf_counter()
    for place, stage in enumerate(comparison.arms[arm], 1):
        settings = settings_of(
            stage=place, size=stage.size, batch=stage.batch, epochs=comparison.epochs if limit is None else 2,
            lr=options.lr, arch=feed.arch, pretrained=options.pretrained, init=before, norm=feed.norm,
            precision=options.precision, compile=options.compile, device=options.device, decode=options.decode,
            threads=loader_threads(options.device), seed=seed, limit_batches=limit,
        )  # fmt: skip
        before = str(folder / f"stage{place}")
        since = time.perf_counter()
        runs.append(_run_stage(settings, feed, comparison.multiple, Path(before)))
        totals.append(time.perf_counter() - since)
    seconds = time.perf_counter() - started
    words = f"{comparison.name}, {arm}, seed {seed}"
    check_sum(words, totals, seconds)
    stages = [_stage_row(words, *each) for each in zip(comparison.arms[arm], runs, totals, strict=True)]
    shutil.rmtree(folder)
    gc.collect()  # what is left of this arm ends outside of the next one's time
    final = {"final_map": stages[-1]["best_map"], "final_epoch": stages[-1]["best_epoch"]}
    return {"comparison": comparison.name, "arm": arm, "seed": seed, "seconds": seconds, **final, "stages": stages}


def _run_stage(settings: TrainSettings, feed: Feed, multiple: int, out: Path) -> tuple[RunSummary, float]:
    """The trainer's summary, and the seconds in which its loaders were closed."""
    loader = WholeBatches(feed.loader, multiple, [])
    with _empty_cache(settings.runtime.compile):
        summary = train(settings, feed.dataset, out, loader=loader)
    trained = time.perf_counter()
    loader.made.clear()
    return summary, time.perf_counter() - trained


def _stage_row(words: str, stage: Stage, run: tuple[RunSummary, float], total: float) -> dict:
    summary, closing = run
    seconds = {kind: value for kind, value in summary.seconds.items() if kind != "total"} | {"closing": closing}
    check_sum(f"{words}, {stage.size} px", list(seconds.values()), total)
    epochs = pd.read_csv(summary.out / "metrics.csv")
    images = int(epochs["images"].sum())
    return {
        **asdict(stage),
        "init_sha256": read_config(summary.out)["init_sha256"],
        "images": images,
        "images_per_second": images / (seconds["training"] + seconds["waiting"]),
        "total": total,
        "seconds": seconds,
        "best_map": summary.best_score,
        "best_epoch": summary.best_epoch,
        "val_loss": float(epochs["val_loss"][summary.best_epoch - 1]),
        "epoch_map": epochs["mAP"].tolist(),
        "epoch_seconds": epochs[["train_seconds", "val_seconds"]].to_numpy().tolist(),
    }


@contextmanager
def _empty_cache(compiles: bool) -> Iterator[None]:
    """A stage compiles as in a process of its own with nothing in the cache: no arm pays for the other."""
    if not compiles:
        yield
        return
    from torch._inductor.utils import fresh_cache  # half a second of import time

    torch.compiler.reset()
    with fresh_cache():
        yield


def _quiet(_: str) -> None:
    pass


@dataclass(frozen=True)
class Duration:
    """Of a whole comparison, in seconds: what does not depend on its epochs, and what each of them adds."""

    fixed: float
    per_epoch: float


def predicted(comparison: Comparison, options: argparse.Namespace, folder: Path) -> Duration:
    """From a throwaway run of two epochs of a few batches of every stage; it also warms up what is made once.

    The second epoch tells the rate: the first has the first steps, in which kernels are chosen.
    """
    training, validation = comparison.rows()
    cheap = next(iter(comparison.arms))
    per_epoch, fixed = {}, {}
    for stage in run_arm(comparison, cheap, 0, options, folder / "warm", limit=options.warm_batches)["stages"]:
        images, (trained, validated) = options.warm_batches * stage["batch"], stage["epoch_seconds"][1]
        per_epoch[stage["size"]] = trained * training / min(training, images)
        per_epoch[stage["size"]] += validated * validation / min(validation, images)
        fixed[stage["size"]] = stage["total"] - 2 * (trained + validated)
    sizes = [size for side in comparison.sides for size in side]
    return Duration(*(comparison.seeds * sum(seconds[size] for size in sizes) for seconds in (fixed, per_epoch)))


def fitting_epochs(found: Sequence[Duration], minutes: float) -> int:
    """Of every stage, as many as there is time for: 1 to MOST_EPOCHS."""
    left = 60 * minutes - sum(one.fixed for one in found)
    return max(1, min(MOST_EPOCHS, int(left / sum(one.per_epoch for one in found))))


def compare(comparison: Comparison, options: argparse.Namespace, folder: Path) -> list[dict]:
    """A row per arm and seed, then the comparison's."""
    rows, (cheap, dear) = [], comparison.arms
    training, validation = comparison.rows()
    common = {
        "loader": comparison.feed.words, "train_images": training, "val_images": validation,
        "epochs": comparison.epochs, "lr": options.lr, "arch": comparison.feed.arch, "device": options.device,
        "torch_threads": torch.get_num_threads(), "loader_threads": _threads_of(comparison.feed, options),
        "compile": options.compile, "precision": options.precision,
    }  # fmt: skip
    for seed in range(comparison.seeds):
        for place, arm in enumerate((cheap, dear) if seed % 2 == 0 else (dear, cheap), 1):
            row = run_arm(comparison, arm, seed, options, folder / "run")
            rows.append({**row, "place": place, **common})
            stages = ", ".join(f"{stage['size']} px {stage['total']:.1f} s" for stage in row["stages"])
            print(
                f"{comparison.name}, seed {seed}, {arm}: {row['seconds']:.1f} s ({stages}), mAP {row['final_map']:.4f}",
                flush=True,
            )
    on_gpu = options.device.startswith("cuda") and comparison.feed.words == OURS
    bound = TARGETS.get(comparison.sides) if on_gpu and not comparison.name.startswith(NATIVE) else None
    return [*rows, saving(rows, cheap, dear, comparison.scored, bound)]


def loading_cores(device: str) -> int:
    """Processes of the paper's loader: on a CPU the cores that do not train."""
    return _cores() if device.startswith("cuda") else max(1, _cores() - training_cores())


def loader_threads(device: str) -> int | None:
    """Threads of our loader: beside a GPU its own choice."""
    return None if device.startswith("cuda") else loading_cores(device)


def _threads_of(feed: Feed, options: argparse.Namespace) -> int:
    if feed.words == PAPERS:
        return loading_cores(options.device)
    return LoaderOptions(1, 1, loader_threads(options.device)).resolved_threads


def training_cores() -> int:
    return max(1, _cores() // 2)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def scale(options: argparse.Namespace) -> str:
    """What the figures are of, in words: every row has them."""
    network = timm.create_model(options.arch, num_classes=len(FREQUENCIES))
    million = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    sizes = [stage.size for text in (options.figure2, options.three) for stage in _stages(text)]
    small = "small model, " if options.arch in SMALL else ""
    small += "small sizes, " if max(sizes) < 224 else ""
    where = "GPU" if options.device.startswith("cuda") else "CPU"
    data = str(options.data or "synthetic images")
    return f"{small}{where}, {data} ({options.arch}, {million:.1f} M parameters, {min(sizes)} to {max(sizes)} px)"


def timetable(found: Sequence[Comparison], options: argparse.Namespace, folder: Path) -> tuple[list[Comparison], float]:
    """The comparisons with their epochs, and the seconds that they will take."""
    if not options.real:
        times = [predicted(one, options, folder) for one in found]
        return [*found], sum(time.fixed + one.epochs * time.per_epoch for one, time in zip(found, times, strict=True))
    # a trial of native files would take as long as they do: a batch of hundreds is one worker's
    packed, native = ([one for one in found if one.name.startswith(NATIVE) == wanted] for wanted in (False, True))
    if packed:
        print(
            f"an epoch of every stage of the packed pairs would take EfficientNetV2-S {published_minutes(packed):.1f} "
            f"minutes on an {published.GPU}, by its published rate",
            flush=True,
        )
    times = [predicted(one, options, folder) for one in packed]
    epochs = options.epochs or (fitting_epochs(times, options.minutes) if packed else None)
    seconds = sum(time.fixed + epochs * time.per_epoch for time in times)
    for one in native:
        images = one.seeds * sum(one.rows()) * sum(map(len, one.sides)) * one.epochs
        seconds += images * NATIVE_CPU_SECONDS / loading_cores(options.device) if one.feed.words == PAPERS else 0
    return [*(replace(one, epochs=epochs) for one in packed), *native], seconds


def published_minutes(packed: Sequence[Comparison]) -> float:
    """Of an epoch of every stage of every arm, training alone, at the published rate of EfficientNetV2-S."""
    per_image = {
        one.name: sum(1 / published.images_per_second(size) for side in one.sides for size in side) for one in packed
    }
    return sum(one.seeds * one.rows()[0] * per_image[one.name] for one in packed) / 60


def measure(options: argparse.Namespace, folder: Path) -> list[dict]:
    """All rows, with `scale` and `data` in each."""
    torch.set_num_threads(training_cores())
    cv2.setNumThreads(0)
    started = time.perf_counter()
    found = prepare(options, folder)
    print(f"data made in {time.perf_counter() - started:.0f} s")
    found, seconds = timetable(found, options, folder)
    print(f"{scale(options)}; about {seconds / 60:.1f} minutes from here", flush=True)
    started = time.perf_counter()
    rows = [row for comparison in found for row in compare(comparison, options, folder)]
    print(f"took {(time.perf_counter() - started) / 60:.1f} minutes")
    common = {"scale": scale(options), "data": str(options.data or "synthetic")}
    return [{**common, **row} for row in rows]
