"""What does each augmentation cost, and how fast is the loader with all of the preset mild?

    python -m benchmarks.loading.augment [--work DIR] [--save]

The loader with flips and cutout, with the preset mild and with neither, on JPEG and raw renditions; and on one thread,
over images in memory, each augmentation done to every image, and albumentations' Affine with the same strengths.
"""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import albumentations as A
import cv2
import numpy as np

from benchmarks import datasets, results
from benchmarks.options import Options, option, parse
from cxrdali.data.augment import AUGMENTATIONS, AugmentOptions, carry_out, decide, options_of
from cxrdali.data.augment.presets import PRESETS
from cxrdali.data.augment.written import read
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from shards.dataset.packed import PackedDataset

TARGETS = (
    *(results.Target(f"{kind}, mild", (f"{kind}, flips and cutout",), 0.6) for kind in ("JPEG", "raw")),
    results.Target("affine, in memory", ("albumentations' Affine, in memory",), 2),
    results.Target("crop and affine, in memory", ("albumentations' RandomResizedCrop and Affine, in memory",), 2),
)


@dataclass(frozen=True)
class AugmentRun(Options):
    """What is measured."""

    size: int = option(224, "side in pixels")
    images: int = option(2000, "different images, about")
    seen: int = option(6144, "images in a run of the loader")
    batch: int = option(256, "images in a batch")
    rounds: int = option(7, "timed runs of each")
    work: Path | None = option(None, "folder of the packs, kept for the next time [a temporary one]", Path)


def loaders(options: AugmentRun, folder: Path) -> dict[str, Loader]:
    release, made = folder / "release", {}
    mild = PRESETS["mild"]
    ways = {
        "as they are": None,
        "flips and cutout": AugmentOptions(),
        "mild": options_of(mild["flips"], mild["cutout"], mild["augment"]),
    }
    for kind in ("JPEG", "raw"):
        out = folder / f"{kind}-{options.size}"
        if not out.exists():
            if not release.exists():
                datasets.synthetic(release, datasets.studies_for(options.images), 512)
            datasets.packed(release, out, [options.size], raw=kind == "raw")
        dataset = PackedDataset.open(out)
        rows = np.resize(np.flatnonzero(dataset.packed), options.seen)
        for name, augment in ways.items():
            how = LoaderOptions(options.size, options.batch)
            made[f"{kind}, {name}"] = Loader(dataset, rows, how, shuffle=True, augment=augment, drop_last=True)
    return made


def in_memory(images: np.ndarray) -> dict[str, Callable[[], int]]:
    """Each augmentation with its own strengths, done to each of the images uint8 [n, S, S, 1]."""
    room, size = np.empty_like(images), images.shape[1]
    every = {name: (read(f"{name}(p=1)"),) for name in AUGMENTATIONS if name not in ("flips", "cutout")}
    every["crop and affine"] = every["crop"] + every["affine"]
    baselines = {f"{name}, in memory": partial(_ours, each, images, room) for name, each in every.items()}
    affine = A.Affine(scale=(0.95, 1.05), translate_percent=(-0.03, 0.03), rotate=(-7, 7), p=1)  # ours, by default
    crop = A.RandomResizedCrop((size, size), scale=(0.85, 1.0), ratio=(1.0, 1.0), p=1.0)
    theirs = {"Affine": affine, "RandomResizedCrop and Affine": lambda image: affine(**crop(image=image))}
    for name, work in theirs.items():
        baselines[f"albumentations' {name}, in memory"] = lambda work=work: sum(len(work(image=one)) for one in images)
    return baselines


def _ours(augment: tuple, images: np.ndarray, room: np.ndarray) -> int:
    carry_out(augment, images, decide(augment, 0, 0, 0, len(images), images.shape[1]), room)
    return len(images)


def main() -> None:
    options = parse(AugmentRun, "benchmarks.loading.augment", __doc__.splitlines()[0])
    environment = results.environment("benchmarks.loading.augment")
    with ExitStack() as stack:
        folder = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cxrdali-bench-")))
        made = loaders(options, folder)
        raw = made["raw, as they are"]
        some = np.stack(raw.mapped.pixels(raw.rows[: options.batch]))
        baselines = {name: lambda one=loader: sum(len(each.rows) for each in one) for name, loader in made.items()}
        runs = results.interleaved(baselines, options.rounds)
        cv2.setNumThreads(1)
        runs |= results.interleaved(in_memory(some), options.rounds)
    rows = [{"size": options.size, **results.rate_row(name, each)} for name, each in runs.items()]
    results.print_rates(rows)
    rates = {row["baseline"]: results.median_rate(row) for row in rows}
    found = [{"size": options.size, **target.check(rates)} for target in TARGETS]
    for row in found:
        results.print_target(row)
    results.save([*rows, *found], environment, options.save, "augment")


if __name__ == "__main__":
    main()
