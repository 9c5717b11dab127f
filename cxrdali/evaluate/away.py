"""A run's predictions in its own dataset and in others, as the places where it is judged."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cxrdali.data.splits import select
from cxrdali.evaluate.overlap import OverlapOptions
from cxrdali.evaluate.place import Place
from cxrdali.evaluate.strangers import strangers
from cxrdali.predict.options import PredictOptions
from cxrdali.predict.predict import predict
from cxrdali.runs.reader import Run
from cxrdali.runs.same_data import labels_of
from cxrdali.runs.seen import seen_by
from shards.dataset.dataset import Dataset
from shards.dataset.packed import PackedDataset
from shards.errors import UserError


@dataclass(frozen=True)
class NearCopies:
    """home: packs that the run was trained on, by name, in which copies of away images are looked for; allow: whether
    there may be any; options: how to compare."""

    home: dict[str, PackedDataset]
    allow: bool = False
    options: OverlapOptions | None = None


def at_home(run: Run, name: str, dataset: Dataset, split: str, asked: PredictOptions, out: Path) -> list[Place]:
    """Its split of the run's own dataset, and its validation images if that is another split.

    A table that the run has is taken as it is; others are predicted, to files in the folder `out`.
    """
    own = dataset.id == run.dataset_id
    places = []
    for each in dict.fromkeys((split, "val")):
        path = run.val_predictions if own and each == "val" else out / f"{name}.{each}.parquet"
        places.append(_predicted(run, name, dataset, each, asked, path))
    return places


def elsewhere(
    run: Run, packs: dict[str, Dataset], split: str, asked: Sequence[PredictOptions], out: Path, near: NearCopies
) -> list[Place]:
    """A split of other packs, by name, predicted to files in the folder `out`; asked: of each pack.

    Raises UserError if the run, or one behind its weights, trained on some of these images, or on copies of them,
    unless that is allowed: before any are predicted, which can take hours.
    """
    found, wanted = {}, []
    for (name, dataset), options in zip(packs.items(), asked, strict=True):
        labels = labels_of(run, dataset, options.labels)
        wanted.append(replace(options, labels=labels.name))
        rows = select(dataset, labels, split, run.fold)
        leak = seen_by(run, dataset).among(dataset, labels, rows, run.fold.group, f"images of {name}")
        if leak and not options.allow_leak:
            raise UserError(
                f"{run.path}: {leak[0]}, so their scores would say nothing of another hospital; give another --away, "
                "or say --allow-leak"
            )
        allowed = near.allow or options.allow_leak
        found[name] = strangers(run, dataset, rows, allowed, near.home, near.options).as_json()
    return [
        replace(_predicted(run, name, dataset, split, options, out / f"{name}.parquet"), copies=found[name])
        for (name, dataset), options in zip(packs.items(), wanted, strict=True)
    ]


def _predicted(run: Run, name: str, dataset: Dataset, split: str, asked: PredictOptions, path: Path) -> Place:
    labels = labels_of(run, dataset, asked.labels)
    if path != run.val_predictions:
        table = predict(run.path, dataset, split, asked)
        assert table is not None  # of one process
        table.write(path)
    return Place(name, path, dataset, labels)
