"""Data that benchmarks make for themselves: a synthetic release, packed, in a folder that goes with the run."""

import math
from collections.abc import Iterable
from pathlib import Path

import joblib

from shards.dataset.packed import PackedDataset
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.releases.open import open_release
from shards.renditions.options import Size
from shards.synthetic.plan import SyntheticOptions
from shards.synthetic.release import write_release

IMAGES_PER_STUDY = 1.6  # rounded down


def studies_for(images: int) -> int:
    """Studies that have about so many images, rather more than fewer."""
    return math.ceil(images / IMAGES_PER_STUDY)


def synthetic(folder: Path, studies: int, size: int | str, seed: int = 0) -> Path:
    """Write a synthetic release of `size` pixels, or "native", into `folder`; returns the folder."""
    write_release(folder, SyntheticOptions(studies, size, seed), jobs=joblib.cpu_count())
    return folder


def packed(release: Path, out: Path, sizes: Iterable[int], raw: bool = False, **options) -> PackedDataset:
    """Pack a release at `sizes` pixels into `out`, which leaves it in the page cache; options: of PackOptions."""
    wanted = PackOptions(sizes=tuple(Size(size, raw) for size in sorted(set(sizes))), **options)
    pack(open_release(release), out, wanted, jobs=joblib.cpu_count())
    return PackedDataset.open(out)
