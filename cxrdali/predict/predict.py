"""A run's predictions on a split, in catalog order."""

import contextlib
import logging
import shlex
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from cxrdali.data.loader import Loader, nearest_stored
from cxrdali.data.options import TRAINED_ON, LoaderOptions
from cxrdali.data.splits import of_view, select, train_and_validation
from cxrdali.data.study_loader import StudyLoader
from cxrdali.models import weights_file
from cxrdali.models.classifier import Classifier, create
from cxrdali.models.inference import Inference, constant_words, logits
from cxrdali.models.study import StudyClassifier
from cxrdali.models.tta import TTA
from cxrdali.models.weights import load_initial
from cxrdali.predict.options import PredictOptions
from cxrdali.predictions import Predictions, Provenance
from cxrdali.provenance import Home
from cxrdali.runs.chosen import by_weights
from cxrdali.runs.exclusion import trained_rows
from cxrdali.runs.layout import BEST
from cxrdali.runs.reader import Run
from cxrdali.runs.same_data import labels_of, run_rows, with_images
from cxrdali.runs.seen import seen_by, seen_by_weights
from cxrdali.runs.words import reached, written
from cxrdali.runtime.device import Hardware, versions
from cxrdali.runtime.distributed import Ranks, joined
from cxrdali.runtime.full import NO_ROOM, smaller_batch, told_if_full
from shards.dataset.dataset import Dataset
from shards.dataset.labels import Labels
from shards.errors import UserError
from shards.storage.files import sha256_file
from shards.words import counted

log = logging.getLogger(__name__)


def predict(run: Path, dataset: Dataset, split: str, options: PredictOptions | None = None) -> Predictions | None:
    """Logits of the run's best weights (or `options.weights`) for every packed image of a split.

    Args:
        run: The run's folder; its last.pt is not needed.
        dataset: Where the images are.
        split: val and train are the run's own fold; dev, test and all are those of the labels.
        options: How to predict.

    Returns:
        One row per image, in catalog order. With several ranks (`cxrdali.runtime.distributed`), rank 0 returns the same
        as one process, and the others None.

    Raises:
        UserError: The weights are missing or of another network, another dataset would silently change what val means,
            images that are there to be scored were trained on, or the network gives NaN, infinity or the same logits
            for all images.
    """
    asked, trained = options or PredictOptions(), Run.open(run)
    table = _labels(trained, dataset, split, asked.labels)
    rows = split_rows(trained, dataset, table, split, asked.view)
    strange = other_views(trained, dataset, rows)
    leak = _leak(trained, dataset, table, rows, split, asked)
    weights = weights_of(trained, asked)
    model, settings = load_run_model(trained, weights), trained.settings
    batch = asked.batch or settings.runtime.micro_batch or settings.optimizer.batch
    with told_if_full(NO_ROOM), joined(asked.device) as ranks:
        hardware = Hardware.resolve(ranks.device(asked.device), asked.precision)
        hardware.begin()
        if ranks.world > 1:
            how = {"split": split, "tta": asked.tta, "batch": batch, "precision": hardware.precision}
            data = {"decode": asked.decode, "dataset": dataset.id, "labels": table.sha256, "versions": versions()}
            ranks.agree({"run": run.name, "weights": sha256_file(weights), **how, **data})
        model = model.to(hardware.device)
        threads = ranks.threads() if asked.threads is None else asked.threads
        loading = LoaderOptions(settings.data.size, batch, threads, asked.decode, hardware.device)
        study = settings.study
        make = partial(StudyLoader, most=study.study_images) if study else Loader
        loader = make(dataset, rows, loading, rank=ranks.rank, world=ranks.world)
        log.info(_words(loader, split, hardware, ranks, asked.tta))
        for part in dataset.parts:
            if outlook := part.dataset.outlook(nearest_stored(part.dataset, settings.data.size)):
                log.info(outlook)
        # a vote holds the ranks together: one that died is noticed now, not when all others are done
        fix = f"give others than {weights} with --weights, or train the run again"
        how = Inference(None, asked.tta, "predicting", lambda: ranks.vote(0), ranks, fix, smaller_batch(batch))
        values = logits(model, loader, len(trained.findings), hardware, how)
    if values is None:
        return None
    check_varies(values, trained.findings, loader, weights)
    values = loader.by_image(values) if study else values
    if mirrors := [part.dataset.mirror for part in dataset.parts if part.dataset.mirror]:
        log.info(f"waited {sum(each.take_waited() for each in mirrors):,.1f} s for the bucket")
    ids = dataset.of_rows(rows, "image_id", "study_id", "view")
    home = None if trained.dataset_id == dataset.id else _home_of(trained)
    provenance = Provenance("logit", run.name, split, table.name or None, dataset.id, asked.tta, seen=leak, home=home)
    provenance = with_weights(provenance, trained, asked.weights)
    if strange:
        provenance = replace(provenance, history=(*provenance.history, strange))
    return Predictions(ids, trained.findings, values, with_images(provenance, dataset, rows))


def _labels(run: Run, dataset: Dataset, split: str, name: str | None) -> Labels:
    """Those that say which images a split has; all images of a pack need none."""
    if dataset.label_names or name is not None or split != "all" or len(dataset.parts) > 1:
        return labels_of(run, dataset, name)
    rows = len(dataset.packed)
    values = np.full((rows, len(run.findings)), Labels.UNKNOWN, dtype=np.int8)
    return Labels("", run.findings, np.full(rows, None), values, "")


def _home_of(run: Run) -> Home | None:
    """How often the images that a run was trained on have its findings (None: an older version did not say)."""
    if "train_positives" not in run.config or "train_images" not in run.selection:
        return None
    return Home(run.needed("selection", "train_images"), tuple(run.train_positives.items()))


def with_weights(about: Provenance, run: Run, weights: str | None) -> Provenance:
    """What a table says of itself, with what was fitted for a run's best or other weights, and which these are."""
    about = replace(about, fitted=by_weights(Path(weights or run.path)) or None)
    if weights is None:
        return about
    path = Path(weights)
    step = f"weights of {path.name}, content {weights_file.identity(path)[:16]}"
    return replace(about, run=f"{about.run} + {path.name}", history=(step,))


def _leak(
    run: Run, dataset: Dataset, labels: Labels, rows: np.ndarray, split: str, asked: PredictOptions
) -> tuple[str, ...] | None:
    """On how many of these images the run trained, and those that its weights come from, as `Seen.among`.

    Raises UserError if a score of them would count as one of unseen images, unless that is allowed.
    """
    seen = seen_by(run, dataset)
    if asked.weights is not None:
        its = seen_by_weights(asked.weights, dataset)
        seen = its if its.runs else replace(seen, unknown=its.unknown)
    words = {"val": "validation images", "all": "images"}.get(split, f"{split} images")
    leak = seen.among(dataset, labels, rows, run.fold.group, words)
    if leak and split not in TRAINED_ON and not asked.allow_leak:
        fix = "predict images that it has not seen"
        if labels.name != run.labels:
            with contextlib.suppress(UserError):  # they are not here, or have no such split
                own = select(dataset, labels_of(run, dataset), split, run.fold)
                if not seen.among(dataset, labels, own, run.fold.group, words):
                    fix = f"predict {split} of its own labels with --labels {shlex.quote(run.labels)}"
        raise UserError(
            f"{run.path}: {leak[0]}, so their scores would say nothing of unseen images; {fix}, or say --allow-leak"
        )
    seen.tell(leak)
    return leak


def _words(loader: Loader, split: str, hardware: Hardware, ranks: Ranks, tta: str) -> str:
    """What is going to be predicted, in a line."""
    options, resized_from = loader.options, loader.resized_from
    return (
        f"{counted(len(loader.rows), loader.sample)} of {split} at {options.size} px, {hardware.precision} on "
        f"{hardware.device}, decode {options.resolved_decode}"
        + (f", TTA {tta}: {counted(len(TTA[tta]), 'pass')}" if tta != "none" else "")
        + (f", resized from {resized_from} px" if resized_from else "")
        + (f", batches round-robin over {counted(ranks.world, 'process')}" if ranks.world > 1 else "")
    )


def split_rows(run: Run, dataset: Dataset, labels: Labels, split: str, view: str | None = None) -> np.ndarray:
    """Catalog rows of a split for this run: int64 [n], ascending; val and train are its own fold, without a view those
    of its own.

    Raises UserError if those two would not be what they were in training, or there is no image of the view.
    """
    if split not in ("train", "val"):
        rows = select(dataset, labels, split, run.fold)
    else:
        without = f", so its {split} split is not there; choose dev, test or all"
        rows = run_rows(run, dataset, labels, without)[split == "val"]
        if view not in (None, run.fold.view):
            train, val = train_and_validation(dataset, labels, replace(run.fold, view="all"))
            rows = val if split == "val" else trained_rows(run, dataset, train)
    rows = of_view(dataset, rows, view or "all")
    if not len(rows):
        what = f"{view} image" if view else "image"
        raise UserError(
            f"{dataset.root}: no {what} in split {split!r}; give another {'--view or ' * bool(view)}--split"
        )
    return rows


def other_views(run: Run, dataset: Dataset, rows: np.ndarray) -> str:
    """A sentence on images of views that the run was not trained on; "" without any."""
    view, others = run.fold.view, len(rows) - len(of_view(dataset, rows, run.fold.view))
    if not others:
        return ""
    words = (
        f"{others:,} of {counted(len(rows), 'image')} are not {view}, and {run.name} was trained on {view} ones alone"
    )
    log.info(f"note: {words}")
    return words


def check_varies(values: np.ndarray, findings: Sequence[str], loader: Loader, source: Path) -> None:
    """Notes findings with one logit for all images; raises UserError if images that differ have all logits in common.
    source: of the logits."""
    blind, words = constant_words(values, findings, loader)
    if blind:
        raise UserError(f"{source}: {words}, though the images differ: the network does not see them; train it again")
    if words:
        log.info(words)


def weights_of(run: Run, asked: PredictOptions, say: bool = True) -> Path:
    """The file to predict with. say: which, and how far the run is."""
    path = run.best_weights() if asked.weights is None else Path(asked.weights)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file in it, as with --weights {path / BEST}")
    if say:
        log.info(f"{run.path}: {reached(run)}")
    if say and asked.weights is not None:
        log.info(f"weights {path}, written {written(path)}, in place of its best")
    return path


def load_run_model(run: Run, weights: Path | None = None) -> Classifier:
    """A run's model with its best or other weights, on the CPU. Raises UserError if they are missing or do not fit."""
    study = run.settings.study
    model = create(run.settings.model_options(), len(run.findings), StudyClassifier if study else Classifier)
    if study:
        model.fuse(study)
    load_initial(model, weights or run.best_weights(), run.findings, to_predict=True)
    return model
