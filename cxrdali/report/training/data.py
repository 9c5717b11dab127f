"""The report's sections on the packed dataset: images per finding, and the first training images."""

import numpy as np
import pandas as pd

from cxrdali.data.mix import visits
from cxrdali.data.options import FoldOptions
from cxrdali.data.splits import released_rows, rows_sha256, train_and_validation
from cxrdali.data.targets import targets
from cxrdali.report import published
from cxrdali.report.kit import plots
from cxrdali.report.kit.page import Figure
from cxrdali.report.kit.pictures import contact_sheet
from cxrdali.report.kit.tables import Table
from cxrdali.report.training.models import MIMIC
from cxrdali.report.training.sources import Sources
from cxrdali.runs import layout as runs_on_disk
from cxrdali.runs.exclusion import trained_rows
from cxrdali.runs.oversampling import oversampled
from cxrdali.runs.reader import Run
from cxrdali.runs.same_data import labels_of
from cxrdali.runs.settings import sampling_seed
from shards.dataset.dataset import Dataset
from shards.dataset.labels import Labels
from shards.errors import UserError

CONTACT_IMAGES = 12
MOST_SHEETS = 3  # with more runs, one sheet per size


def label_frequencies(sources: Sources) -> dict:
    """The long tail: images per finding in the training split, and in the others."""
    if sources.dataset is None:
        return {
            "missing": "No packed dataset was given, so images per finding cannot be counted; give it with `--data`."
        }
    try:
        labels, splits, fold = _splits(sources)
    except UserError as error:
        return {"missing": str(error)}
    table = _frequency_table(labels, splits)
    train = table["train"].rename("images").reset_index().assign(share=table["train"].to_numpy() / len(splits["train"]))
    return {
        "labels": labels.name,
        "train_images": len(splits["train"]),
        "fold": fold and {"number": fold.fold, "folds": fold.folds, "group": fold.group + fold.how},
        "figure": Figure("frequencies", plots.label_frequencies, (train,)),
        "absent": [name for name, images in zip(table.index, table["train"], strict=True) if not images],
        "counts": _counts(table, splits),
        "shares": _shares(table, splits, with_paper=_is_the_papers(sources, labels, splits)),
    }


def _splits(sources: Sources) -> tuple[Labels, dict[str, np.ndarray], FoldOptions | None]:
    """Labels, the rows of every split by name, and the fold that is left out (None: no run says which)."""
    dataset = sources.dataset
    if not sources.runs:
        labels = dataset.labels()
        splits = {name: released_rows(dataset, labels, name) for name in ("train", "dev", "test")}
        if not len(splits["train"]):
            raise UserError(f"{dataset.root}: labels {labels.name!r} have no packed image in their training split")
        return labels, splits, None
    first = sources.runs[0]
    labels, fold = labels_of(first, dataset), first.fold
    train, validation = train_and_validation(dataset, labels, fold)
    train = trained_rows(first, dataset, train)
    splits = {"train": train, "validation": validation}
    splits |= {name: released_rows(dataset, labels, name) for name in ("dev", "test")}
    return labels, splits, fold


def _frequency_table(labels: Labels, splits: dict[str, np.ndarray]) -> pd.DataFrame:
    """Images per finding (rows) and split (columns), most frequent in training first; NaN: released without labels."""
    columns = {}
    for name, rows in splits.items():
        values = labels.values[rows]
        known = len(rows) and (values < Labels.UNKNOWN).any()
        columns[name] = (values == 1).sum(axis=0) if known else np.full(len(labels.findings), np.nan)
    table = pd.DataFrame(columns, index=pd.Index(labels.findings, name="finding"))
    return table.sort_values("train", ascending=False, kind="stable")


def _counts(table: pd.DataFrame, splits: dict[str, np.ndarray]) -> Table:
    columns = [("Finding", "text"), *((name.capitalize(), "count") for name in splits)]
    rows = [("All images", *map(len, splits.values())), *table.itertuples()]
    return Table("Images per finding and split", columns, rows)


def _is_the_papers(sources: Sources, labels: Labels, splits: dict[str, np.ndarray]) -> bool:
    """Whether these are the images whose shares the stage-training paper prints."""
    train, validation = len(splits["train"]), len(splits.get("validation", ()))
    if not validation:  # no run says which fold is left out
        train, validation = train - published.VAL, published.VAL
    return sources.study is None and published.has_its_images(labels.name, train, validation, sources.options.synthetic)


def _shares(table: pd.DataFrame, splits: dict[str, np.ndarray], with_paper: bool) -> Table:
    """`with_paper`: those of the stage-training paper beside them."""
    paper = published.label_ratio()
    known = ("train", "valid") if with_paper and any(name in paper.index for name in table.index) else ()
    columns = [*map(str.capitalize, splits), *(f"{name}, {MIMIC}" for name in ("Train", "Validation")[: len(known)])]
    rows = [
        (
            finding,
            *(row[name] / len(rows) if len(rows) else None for name, rows in splits.items()),
            *(paper[name].get(finding) for name in known),
        )
        for finding, row in table.iterrows()
    ]
    columns = [("Finding", "text"), *((title, "percent") for title in columns)]
    return Table("Share of a split's images that have the finding", columns, rows)


def contact_sheets(sources: Sources) -> dict:
    """The first images of every run's training loader, as the model saw them in its first epoch."""
    if not sources.options.images:
        return {
            "missing": "Images are left out, because a page may travel further than its data; ask for them with "
            "`--images`."
        }
    if sources.dataset is None:
        return {"missing": "No packed dataset was given, so no image can be shown; give it with `--data`."}
    if not sources.runs:
        return {"missing": "No run was given, so there is no training batch to show."}
    runs = sources.runs
    if len(runs) > MOST_SHEETS:
        runs = list({run.setting("size"): run for run in reversed(runs)}.values())[::-1]
    return {"synthetic": sources.options.synthetic, "sheets": [_sheet(run, sources.dataset) for run in runs]}


def _sheet(run: Run, dataset: Dataset) -> dict:
    about = {"run": run.name, "size": run.setting("size")}
    try:
        images, augmentation = first_training_images(run, dataset)
    except UserError as error:
        return {**about, "error": str(error)}
    return {**about, "error": None, "images": len(images), "augmentation": augmentation, "jpeg": contact_sheet(images)}


def first_training_images(run: Run, dataset: Dataset) -> tuple[np.ndarray, str]:
    """uint8 [B, 1, S, S], and in words what the augmentation did to them.

    What a position of an epoch holds does not depend on the batch size, so twelve are the first of the run's own batch.
    """
    from cxrdali.data.augment import Sometimes, decide, in_order, options_of
    from cxrdali.data.loader import Loader
    from cxrdali.data.options import LoaderOptions

    labels = labels_of(run, dataset)
    train = trained_rows(run, dataset, train_and_validation(dataset, labels, run.fold)[0])
    trained_on = run.selection.get("train_sha256")
    if trained_on and trained_on != rows_sha256(train):
        raise UserError(f"{run.path / runs_on_disk.CONFIG}: it trained on other rows than its fold selects here")
    settings = run.settings
    size, seed = settings.data.size, sampling_seed(settings.seed, settings.stage)
    wanted = targets(labels, settings.data.uncertain)
    train = _with_repeats(run, labels, train, wanted)
    sampler = visits(settings.data, dataset.starts, train, wanted, seed, settings.optimizer.epochs)
    augment = options_of(settings.data.flips, settings.data.cutout, settings.data.augment)
    batch = min(CONTACT_IMAGES, len(train))
    options = LoaderOptions(size, batch, threads=1, prefetch=1, order=settings.data.order)
    loader = Loader(dataset, train, options, seed=seed, shuffle=True, augment=augment, drop_last=True, sampler=sampler)
    images = next(iter(loader)).images.numpy()
    if augment is None:
        return images, "none"
    decided = decide(augment, seed, 0, 0, len(images), size)
    words = {"horizontal": "mirrored left to right", "vertical": "upside down", "shape": "with black cutout squares"}
    words |= {each.said_by: f"with {each.title}" for each in in_order(augment) if isinstance(each, Sometimes)}
    counts = {
        name: np.count_nonzero(decided[name].reshape(len(images), -1).any(axis=1)) for name in words if name in decided
    }
    return images, ", ".join(f"{count} {words[name]}" for name, count in counts.items())


def _with_repeats(run: Run, labels: Labels, train: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The rows of an epoch of the run: those with an oversampled finding twice."""
    if not run.oversampling:
        return train
    chosen = run.oversampling["findings"]
    strange = [name for name in chosen if name not in labels.findings]
    if strange:
        raise UserError(f"{run.path / runs_on_disk.CONFIG}: oversampled finding {strange[0]!r} is not in the labels")
    rows = oversampled(train, wanted, labels.findings, chosen)
    if len(rows) != run.oversampling["epoch_images"]:
        raise UserError(
            f"{run.path / runs_on_disk.CONFIG}: an epoch had {run.oversampling['epoch_images']} images, here it would "
            f"have {len(rows)}"
        )
    return rows
