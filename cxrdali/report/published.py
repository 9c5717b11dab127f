"""The numbers that the stage-training paper prints, as tables, and of which images those of both papers are: only
beside one's own scores of the same images may they stand.

Yamagishi & Hanaoka, "Effect of Stage Training for Long-Tailed Multi-Label Image Classification", ICCV-W CVAMD 2023.
The printed tables disagree about some means (model0 on development: 0.298 and 0.286); both are kept as printed.
"""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import pandas as pd

from cxrdali.runs.reader import Run

LABELS = "cxr-lt-2023"
TRAIN, VAL = 211_879, 52_970  # images
LOSS_DESIGN = ("cxr-lt-2026", 143_000)  # of Sulake (2026): label release, images to train and to validate, about
REJECTS = 0.01  # of the images: as many may be missing in a pack of the same release
# finding_ap.csv's column groups, in the order of the steps there
STEPS = ("stage1", "stage2", "oversampling", "postprocess", "ensemble")


def is_its_data(runs: Sequence[Run], synthetic: bool) -> bool:
    """Whether all runs have the data behind these tables: only then may their scores stand in one table with them."""
    return bool(runs) and all(
        has_its_images(run.labels, run.selection.get("train_images"), run.selection.get("val_images"), synthetic)
        for run in runs
    )


def has_its_images(labels: str | None, train: int | None, val: int | None, synthetic: bool) -> bool:
    """By the name of the label release and the number of images to train and to validate."""
    counts = ((train, TRAIN), (val, VAL))
    alike = all(images is not None and abs(images - there) <= REJECTS * there for images, there in counts)
    return not synthetic and labels == LABELS and alike


@cache
def _table(name: str) -> pd.DataFrame:
    with files("cxrdali.report").joinpath("papers", f"{name}.csv").open() as file:
        return pd.read_csv(file)


def model_of(run: Run) -> str | None:
    """Which of `models` a run is by its recipe, with the lists of findings of the rule or as printed."""
    name = run.recipe.get("name")
    return name and name.removesuffix("-printed")


def models() -> pd.DataFrame:
    """By model: stage, starts_from, size, batch, max_lr, oversample_below, val_map, dev_map (NaN: none, not given)."""
    return _table("models").set_index("model")


def finding_ap() -> pd.DataFrame:
    """AP by finding (26, and "Mean" last): columns STEP_dev and STEP_test for every one of STEPS."""
    return _table("finding_ap").set_index("finding")


def view_ap() -> pd.DataFrame:
    """model3's AP by finding (26, and "Mean" last) on validation: frontal, lateral, difference."""
    return _table("view_ap").set_index("finding")


def label_ratio() -> pd.DataFrame:
    """Share of images with a finding, 0 to 1: all, train, valid."""
    return _table("label_ratio").set_index("finding")
