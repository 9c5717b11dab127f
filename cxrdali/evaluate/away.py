"""A run's predictions in its own dataset and in others, as the places where it is judged."""

from collections.abc import Sequence
from pathlib import Path

from cxrdali.data.splits import select
from cxrdali.evaluate.place import Place
from cxrdali.predict.options import PredictOptions
from cxrdali.predict.predict import predict
from cxrdali.runs.reader import Run
from cxrdali.runs.same_data import labels_of
from cxrdali.runs.seen import seen_by
from shards.dataset.dataset import Dataset
from shards.errors import UserError


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


def check_unseen_there(run: Run, name: str, dataset: Dataset, split: str, asked: PredictOptions) -> None:
    """Raises UserError if the run, or one behind its weights, trained on some of these images, unless that is allowed:
    before they are predicted, which can take hours."""
    labels = labels_of(run, dataset, asked.labels)
    rows = select(dataset, labels, split, run.fold)
    leak = seen_by(run, dataset).among(dataset, labels, rows, run.fold.group, f"images of {name}")
    if leak and not asked.allow_leak:
        raise UserError(
            f"{run.path}: {leak[0]}, so their scores would say nothing of another hospital; give another --away, or "
            "say --allow-leak"
        )


def elsewhere(
    run: Run, packs: dict[str, Dataset], split: str, asked: Sequence[PredictOptions], out: Path
) -> list[Place]:
    """A split of other packs, by name, predicted to files in the folder `out`; asked: of each pack."""
    for (name, dataset), options in zip(packs.items(), asked, strict=True):
        check_unseen_there(run, name, dataset, split, options)
    return [
        _predicted(run, name, dataset, split, options, out / f"{name}.parquet")
        for (name, dataset), options in zip(packs.items(), asked, strict=True)
    ]


def _predicted(run: Run, name: str, dataset: Dataset, split: str, asked: PredictOptions, path: Path) -> Place:
    labels = labels_of(run, dataset, asked.labels)
    if path != run.val_predictions:
        table = predict(run.path, dataset, split, asked)
        assert table is not None  # of one process
        table.write(path)
    return Place(name, path, dataset, labels)
