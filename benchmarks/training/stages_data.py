"""The data of `benchmarks.training.stages`: which arms there are, over which images, and how those arrive."""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path

import joblib
import numpy as np

from benchmarks import datasets
from benchmarks.options import Stage
from benchmarks.peers.paper import PaperLoader, without_normalisation
from benchmarks.training.stages_options import StagesRun
from benchmarks.training.stages_report import FIGURE, NATIVE, THREE
from cxrdali.data.loader import Loader
from cxrdali.data.options import FoldOptions
from cxrdali.data.splits import train_and_validation
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.releases.open import open_release

OURS, PAPERS = "our loader, packed", "the stage-training paper's loader"


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

    The cheap arm comes first, and has all the stages that the dear one has. workers: what the training rows are whole
    rounds of, where each process makes a batch.
    """

    name: str
    arms: dict[str, tuple[Stage, ...]]  # cheap, dear
    epochs: int
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

    def num_rows(self) -> tuple[int, int]:
        """Images that an epoch trains on, and those that validate."""
        labels = self.feed.dataset.labels(None)
        training, validation = train_and_validation(self.feed.dataset, labels, FoldOptions())
        return len(training) // self.multiple * self.multiple, len(validation)


def prepare(options: StagesRun, folder: Path) -> list[Comparison]:
    """The comparisons that were asked for, over data that is made in `folder`."""
    two, three, found, dataset = options.figure2, options.three, [], None
    arms = {
        FIGURE: {"small first": two, "large first": (two[1],) * 2},
        THREE: {"three sizes": three, "largest size": (three[-1],) * len(three)},
    }
    packed = [name for name in (FIGURE, THREE) if name in options.comparisons]
    if packed or options.real:
        dataset = _packed(options, folder)
        ours = Feed(dataset, Loader, options.arch, "imagenet", OURS)
        scored = not options.real or options.data is not None
        found = [Comparison(name, arms[name], options.epochs, options.seeds, ours, scored) for name in packed]
    if NATIVE in options.comparisons:
        workers = loading_cores(options.device)
        check_shared_memory(two, workers)
        for feed in _native(options, folder, dataset if options.real else None):
            name = f"{NATIVE}, {feed.words}"
            one = Comparison(name, arms[FIGURE], options.native_epochs, options.native_seeds, feed, False)
            found.append(_in_whole_rounds(one, workers) if options.real else one)
    return found


def _packed(options: StagesRun, folder: Path) -> PackedDataset:
    if options.data is not None:
        return PackedDataset.open(options.data)
    sizes = {stage.size for stage in (*options.figure2, *options.three)}
    release = datasets.synthetic(folder / "release", options.studies, max(options.pixels, *sizes))
    return datasets.packed(release, folder / "pack", sizes)


def _native(options: StagesRun, folder: Path, dataset: PackedDataset | None) -> tuple[Feed, Feed]:
    """Native files through the stage-training paper's loader, and the same packed through ours.

    With a dataset, its rows get few native files over and over: a worker makes whole batches, only thousands of rows
    keep all of them busy, and for times the pictures do not matter.
    """
    release = options.native or datasets.synthetic(folder / "native", options.native_studies, "native", seed=1)
    images = open_release(release).images
    if dataset is not None:
        files = [release / path for path in np.resize(images["path"], len(dataset.packed))]
    else:
        dataset = datasets.packed(release, folder / "native-pack", (stage.size for stage in options.figure2))
        paths = images.set_index("image_id")["path"]
        files = [release / paths[image] for image in dataset.catalog["image_id"]]
    theirs = partial(PaperLoader, files, loading_cores(options.device))
    return (
        Feed(dataset, theirs, without_normalisation(options.arch), "weights", PAPERS),
        Feed(dataset, Loader, options.arch, "imagenet", OURS),
    )


def check_shared_memory(stages: Sequence[Stage], workers: int, folder: Path = Path("/dev/shm")) -> None:
    """Raises UserError if float32 RGB batches, two ahead per worker, do not fit: workers would die."""
    if not folder.is_dir():
        return
    needed = 2 * workers * max(12 * stage.batch * stage.size**2 for stage in stages)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: {PAPERS} with {workers} workers needs {needed / 2**30:.1f} GiB for its batches, "
            f"{free / 2**30:.1f} GiB are free; make it larger, or leave native files out with --comparisons"
        )


def _in_whole_rounds(comparison: Comparison, workers: int) -> Comparison:
    """With as many training rows as keep that many workers, or most of them, busy to the end of an epoch."""
    return replace(comparison, workers=max(1, min(workers, comparison.num_rows()[0] // comparison.multiple)))


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


def training_cores() -> int:
    """Half of them."""
    return max(1, joblib.cpu_count() // 2)


def loading_cores(device: str) -> int:
    """Processes of the stage-training paper's loader: on a CPU the cores that do not train."""
    return joblib.cpu_count() if device.startswith("cuda") else max(1, joblib.cpu_count() - training_cores())
