"""The data of a replicate: half of the patients of a synthetic release to train on, the other half held out.

A release has two replicates, which exchange the halves. No two replicates share a held-out patient, or a patient whom
they train on. A small third part belongs to neither: rules are fitted there.
"""

import shutil
from pathlib import Path

import numpy as np

from benchmarks import datasets
from benchmarks.effects.arms import SIZE
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset
from shards.packing.attach import attach
from shards.releases.open import open_release
from shards.releases.release import LabelTable

STUDIES, PIXELS = 36_000, 96  # about 59,600 images; made at 96 px, stored at SIZE
FITTED = 0.06  # of the patients, for rules: split dev


def replicate(work: Path, number: int, studies: int = STUDIES) -> tuple[PackedDataset, Labels]:
    """The release of replicate `number`, made and packed below `work` if it is not there; and the labels of CXR-LT 2023
    with the replicate's own split: train, dev (for rules) and test (held out)."""
    seed, half = divmod(number, 2)
    folder = work / f"release{seed}"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        release = datasets.synthetic(folder / "release", studies, PIXELS, seed)
        dataset = datasets.packed(release, folder / "pack", (SIZE,))
        own = next(each for each in open_release(release).labels if each.name == dataset.label_names[0])
        attach(dataset.root, (), tables=[halves(own, dataset, seed, each) for each in (0, 1)])
        shutil.rmtree(release)
        (folder / "done").touch()
    dataset = PackedDataset.open(folder / "pack")
    return dataset, dataset.labels(f"half{half}")


def halves(labels: LabelTable, dataset: PackedDataset, seed: int, half: int) -> LabelTable:
    """The labels with a split by patient; half 1 trains on whom half 0 holds out."""
    subjects = dataset.catalog.set_index("image_id")["subject_id"]
    known = sorted(set(subjects))
    sides = np.random.default_rng(seed).random(len(known)) < 0.5
    fitted = np.random.default_rng((seed, 1)).random(len(known)) < FITTED
    names = np.where(fitted, "dev", np.where(sides == half, "test", "train"))
    split = dict(zip(known, names.tolist(), strict=True))
    table = labels.table.copy()
    table["split"] = [split[subjects[image]] for image in table.index]
    return LabelTable(f"half{half}", labels.findings, table, labels.inputs)
