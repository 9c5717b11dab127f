"""The measuring part of benchmarks.stages: data, arms, and the rows that they give."""

import argparse
import gc
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import timm
import torch

from benchmarks import smallnet
from benchmarks.baselines import PaperLoader, without_normalisation
from benchmarks.loader import Stage
from benchmarks.stages_report import FIGURE, NATIVE, THREE, check_sum, saving
from cxrdali.loader import Loader
from cxrdali.run import read_config
from cxrdali.selection import FoldOptions, train_and_validation
from cxrdali.stages import TrainSettings
from cxrdali.trainer import RunSummary, train
from shards.errors import DataError
from shards.pack import PackOptions, pack
from shards.packed import PackedDataset
from shards.release import open_release
from shards.rendition import Size
from shards.synthetic import SyntheticOptions, write_release
from shards.synthetic.facts import FREQUENCIES

SMALL = ("test_byobnet", smallnet.NAME)  # networks for a CPU
OURS, PAPERS = "our loader, packed", "the paper's loader"


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

    The cheap arm comes first, and has all the stages that the dear one has.
    """

    name: str
    arms: dict[str, tuple[Stage, ...]]  # cheap, dear
    epochs: int
    seeds: int
    feed: Feed
    scored: bool

    @property
    def multiple(self) -> int:
        return math.lcm(*(stage.batch for stage in chain(*self.arms.values())))

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
    if {FIGURE, THREE} & set(wanted):
        packed = options.data
        if packed is None:
            packed = folder / "pack"
            sizes = sorted({stage.size for stage in (*two, *three)})
            drawn = SyntheticOptions(options.studies, max(options.drawn, *sizes), seed=0)
            write_release(folder / "release", drawn, jobs=_cores(), progress=False)
            _pack(folder / "release", packed, sizes)
        ours = Feed(PackedDataset.open(packed), Loader, options.arch, "imagenet", OURS)
        if FIGURE in wanted:
            found.append(Comparison(FIGURE, first, options.epochs, options.seeds, ours, True))
        if THREE in wanted:
            arms = {"three sizes": three, "largest size": (three[-1],) * len(three)}
            found.append(Comparison(THREE, arms, options.epochs, options.seeds, ours, True))
    if NATIVE in wanted:
        release = options.native
        if release is None:
            release = folder / "native"
            drawn = SyntheticOptions(options.native_studies, "native", seed=1)
            write_release(release, drawn, jobs=_cores(), progress=False)
        _pack(release, folder / "native-pack", sorted({stage.size for stage in two}))
        dataset = PackedDataset.open(folder / "native-pack")
        paths = open_release(release).images.set_index("image_id")["path"]
        files = [release / paths[image] for image in dataset.catalog["image_id"]]
        theirs = Feed(
            dataset, partial(PaperLoader, files, loading_cores(options.device)),
            without_normalisation(options.arch), "weights", PAPERS,
        )  # fmt: skip
        ours = Feed(dataset, Loader, options.arch, "imagenet", OURS)
        for feed in (theirs, ours):
            name = f"{NATIVE}, {feed.words}"
            found.append(Comparison(name, first, options.native_epochs, options.native_seeds, feed, False))
    return found


def _pack(release: Path, out: Path, sizes: Sequence[int]) -> None:
    wanted = PackOptions(tuple(Size(size) for size in sizes))
    pack(open_release(release), out, wanted, jobs=_cores(), progress=False)


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
            raise DataError(
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
        settings = TrainSettings(
            place, stage.size, stage.batch, epochs=comparison.epochs if limit is None else 2, lr=options.lr,
            arch=feed.arch, pretrained=options.pretrained, init=before, norm=feed.norm, precision=options.precision,
            compile=options.compile, device=options.device, decode=options.decode,
            threads=loading_cores(options.device), seed=seed, limit_batches=limit,
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
    with _empty_cache(settings.compile):
        summary = train(settings, feed.dataset, out, say=_quiet, progress=False, loader=loader)
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


def predicted_seconds(comparison: Comparison, options: argparse.Namespace, folder: Path) -> float:
    """Of the comparison, from a throwaway run of a few batches of every stage; it also warms up what is made once."""
    training, validation = comparison.rows()
    cheap = next(iter(comparison.arms))
    per_epoch, once = {}, {}
    for stage in run_arm(comparison, cheap, 0, options, folder / "warm", limit=options.warm_batches)["stages"]:
        validated, seconds = 2 * min(validation, options.warm_batches * stage["batch"]), stage["seconds"]
        whole = training / stage["images_per_second"] + seconds["validation"] * validation / validated
        per_epoch[stage["size"]] = whole
        once[stage["size"]] = sum(seconds[kind] for kind in ("setup", "compiling", "closing"))
    sizes = [stage.size for stage in chain(*comparison.arms.values())]
    return comparison.seeds * sum(comparison.epochs * per_epoch[size] + once[size] for size in sizes)


def compare(comparison: Comparison, options: argparse.Namespace, folder: Path) -> list[dict]:
    """A row per arm and seed, then the comparison's."""
    rows, (cheap, dear) = [], comparison.arms
    training, validation = comparison.rows()
    common = {
        "loader": comparison.feed.words, "train_images": training, "val_images": validation,
        "epochs": comparison.epochs, "lr": options.lr, "arch": comparison.feed.arch, "device": options.device,
        "torch_threads": torch.get_num_threads(), "loader_threads": loading_cores(options.device),
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
    return [*rows, saving(rows, cheap, dear, comparison.scored)]


def loading_cores(device: str) -> int:
    """Threads of our loader, processes of the paper's: on a CPU the cores that do not train."""
    return _cores() if device.startswith("cuda") else max(1, _cores() - training_cores())


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


def measure(options: argparse.Namespace, folder: Path) -> list[dict]:
    """All rows, with `scale` and `data` in each."""
    torch.set_num_threads(training_cores())
    cv2.setNumThreads(0)
    found = prepare(options, folder)
    predicted = sum(predicted_seconds(comparison, options, folder) for comparison in found)
    print(f"{scale(options)}; about {predicted / 60:.1f} minutes from here", flush=True)
    started = time.perf_counter()
    rows = [row for comparison in found for row in compare(comparison, options, folder)]
    print(f"took {(time.perf_counter() - started) / 60:.1f} minutes")
    common = {"scale": scale(options), "data": str(options.data or "synthetic")}
    return [{**common, **row} for row in rows]
