"""What a run looks at: per finding its best-scored positives, its misses and false positives, each with a heat map."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cxrdali import predictions
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.targets import check_labelled, targets
from cxrdali.models.classifier import Classifier
from cxrdali.predict.heatmaps import attention_maps, check_attention, heat_maps, map_layer
from cxrdali.predict.options import ExplainOptions, PredictOptions
from cxrdali.predict.predict import check_varies, load_run_model, predict, split_rows, weights_of
from cxrdali.predictions import Predictions, sigmoid
from cxrdali.runs.reader import Run
from cxrdali.runs.same_data import labels_in_run, labels_of
from cxrdali.runtime.device import Hardware
from cxrdali.runtime.full import NO_ROOM, smaller_batch, told_if_full
from shards.dataset.dataset import Dataset
from shards.dataset.labels import Labels
from shards.errors import UserError
from shards.progress import progress_bar
from shards.words import choices, counted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """One image of a finding.

    row: of the catalog; score: the logit; rank: from 1, among the images whose label is known; pixels: uint8 [S, S],
    as the model saw them; heat: float32 [h, w], 0 and above (`cxrdali.predict.heatmaps`).
    """

    row: int
    score: float
    rank: int
    pixels: np.ndarray
    heat: np.ndarray

    @property
    def probability(self) -> float:
        """0 to 1."""
        return float(sigmoid(np.float64(self.score)))


@dataclass(frozen=True)
class Shown:
    """A finding's examples, no image twice: positives from the highest score down (best) and from the lowest up
    (misses), negatives from the highest score down (false_positives).

    positives and images: those among the predicted images, of all whose label is known. separated: every positive
    scores above every negative, so there is no miss.
    """

    finding: str
    positives: int
    images: int
    separated: bool
    best: tuple[Example, ...]
    misses: tuple[Example, ...]
    false_positives: tuple[Example, ...]


@dataclass(frozen=True)
class Explanation:
    """What a page shows. layer: None of attention; findings: those with most positives in the split first; without:
    those that have none."""

    run: str
    dataset: Dataset
    labels: str
    split: str
    size: int
    method: str
    layer: str | None
    findings: tuple[Shown, ...]
    without: tuple[str, ...]


@dataclass(frozen=True)
class _Chosen:
    """Places in the table of predictions, int64: the best, the misses, the false positives."""

    column: int
    kinds: tuple[np.ndarray, np.ndarray, np.ndarray]

    @property
    def places(self) -> np.ndarray:
        return np.concatenate(self.kinds)


def choose(truth: np.ndarray, scores: np.ndarray, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of the best positives, of misses and of false positives, at most `images` each: int64.

    No threshold is needed: a miss is a positive that does not score above every negative, lowest first; a false
    positive is a negative, highest first. Of fewer than 2 x images positives the upper half (and the one in the middle)
    counts as best, so that no image is in both. Equal scores stand in their order.

    Args:
        truth: float [n] of 1, 0 and NaN, which is left out.
        scores: float [n].
        images: How many of each kind.
    """
    ordered = np.argsort(-scores.astype(np.float64), kind="stable")
    positives, negatives = (ordered[truth[ordered] == label] for label in (1, 0))
    above = int((scores[positives] > scores[negatives[:1]].max(initial=-np.inf)).sum())
    best = positives[: min(images, max(above, (len(positives) + 1) // 2))]
    return best, positives[max(above, len(best)) :][::-1][:images], negatives[:images]


def explain(
    run: Path, dataset: Dataset, options: ExplainOptions, predicting: PredictOptions | None = None
) -> Explanation:
    """Choose images by the scores of the run's best weights, and compute a heat map for each. Only these are loaded.

    Args:
        run: The run's folder; its last.pt is not needed.
        dataset: Where the images are.
        options: What to show.
        predicting: How the scores are predicted, where they are not the run's own validation predictions. Its labels
            choose another release for dev, test or all; heat maps are computed in fp32 on its device.

    Raises:
        UserError: A run, split or finding that is not there, a model without a map, or a full GPU.
    """
    how, trained = predicting or PredictOptions(), Run.open(run)
    trained.check_of_images("explain")
    table = labels_in_run(trained, dataset, how.labels)
    columns = _columns(trained, table, options.findings)
    split_rows(trained, dataset, labels_of(trained, dataset, how.labels), options.split)
    size, hardware = trained.settings.data.size, Hardware.resolve(how.device, how.precision)
    hardware.begin()
    whole = not trained.packs or len(trained.packs) == len(dataset.parts)  # else its table has other ids
    stored = options.split == "val" and trained.val_predictions.exists() and how.weights is None and whole
    weights = weights_of(trained, how, say=stored)  # else `predict` says it
    with told_if_full(NO_ROOM):
        model = load_run_model(trained, weights).to(hardware.device)
    layer = _layer(model, size, options)  # before a prediction that may take an hour

    path = trained.val_predictions if stored else run
    predicted = _predictions(trained, dataset, options.split, replace(how, labels=table.name), stored)
    rows = predictions.catalog_rows(predicted, path, dataset)
    if stored and (predicted.values == predicted.values[:1]).all():
        plain = Loader(dataset, rows, LoaderOptions(size, options.batch, how.threads, how.decode, hardware.device))
        check_varies(predicted.values, predicted.findings, plain, path)
    check_labelled(table, rows, f"the {options.split} split")
    truth = targets(table, trained.settings.data.uncertain)[rows]
    truth[table.values[rows] == -1] = np.nan  # a picture's caption says present or absent
    truth = {column: truth[:, table.findings.index(predicted.findings[column])] for column in columns}
    chosen = [_Chosen(column, choose(truth[column], predicted.values[:, column], options.images)) for column in columns]
    without = tuple(predicted.findings[each.column] for each in chosen if not len(each.kinds[0]))
    chosen = [each for each in chosen if len(each.kinds[0])]
    if not chosen:
        raise UserError(
            f"{dataset.root}: no image of {options.split} has {predictions.first_of(without)}, so there is nothing to "
            "show; choose another --split or other --findings"
        )
    places = np.concatenate([each.places for each in chosen])
    wanted = np.repeat([each.column for each in chosen], [len(each.places) for each in chosen])
    batch = min(options.batch, len(places))
    loader = Loader(dataset, rows[places], LoaderOptions(size, batch, how.threads, how.decode, hardware.device))
    several = counted(len(chosen), "finding")
    what = f"layer {layer}" if layer else f"attention of {options.method}"
    log.info(f"{len(places):,} heat maps of {several} at {size} px, {what}, fp32 on {hardware.device}")
    maps = _maps(model, layer, loader, torch.from_numpy(wanted), hardware)
    shown = [_shown(each, predicted, rows, truth[each.column], maps) for each in chosen]
    shown.sort(key=lambda each: -each.positives)
    name = run.name if how.weights is None else f"{run.name} + {weights.name}"
    return Explanation(name, dataset, table.name, options.split, size, options.method, layer, tuple(shown), without)


def _layer(model: Classifier, size: int, options: ExplainOptions) -> str | None:
    """Whose output Grad-CAM is of; None of attention. Raises UserError if the model has no such map."""
    if options.method == "grad-cam":
        return map_layer(model, size, options.layer)
    check_attention(model, options.method)
    return None


def _shown(
    chosen: _Chosen, predicted: Predictions, rows: np.ndarray, truth: np.ndarray, maps: Iterator[tuple]
) -> Shown:
    """A finding's examples, with the next of the maps. truth: float [n], its labels of the predicted images."""
    known, scores = ~np.isnan(truth), predicted.values[:, chosen.column]

    def example(place: int) -> Example:
        rank = 1 + int((scores[known] > scores[place]).sum())
        return Example(int(rows[place]), float(scores[place]), rank, *next(maps))

    positive, negative = truth == 1, truth == 0
    separated = bool(negative.any() and scores[positive].min() > scores[negative].max())
    examples = [tuple(example(place) for place in kind) for kind in chosen.kinds]
    finding = predicted.findings[chosen.column]
    return Shown(finding, int(positive.sum()), int(known.sum()), separated, *examples)


def _columns(run: Run, labels: Labels, asked: Sequence[str]) -> list[int]:
    """Columns of the run's findings that are to be shown, in the run's order."""
    own = run.findings
    for name in asked or own:
        if name not in own:
            raise UserError(f"finding {name!r}: {run.path} was not trained on it; {choices(name, own, 'it has')}")
        if name not in labels.findings:
            fix = "choose others with --findings" if asked else "name those to show with --findings"
            raise UserError(f"finding {name!r} is not in labels {labels.name!r}; {fix}")
    return [column for column, name in enumerate(own) if name in (asked or own)]


def _predictions(run: Run, dataset: Dataset, split: str, how: PredictOptions, stored: bool) -> Predictions:
    """The run's scores of a split, those that it stored or new ones. No figure is made of them: it is enough to say
    which images were trained on."""
    if not stored:
        return predict(run.path, dataset, split, replace(how, allow_leak=True))
    found = predictions.read(run.val_predictions)
    for text in found.provenance.seen or ():
        log.info(f"note: {text}")
    return found


def _maps(model, layer: str | None, loader: Loader, findings: torch.Tensor, hardware: Hardware) -> Iterator[tuple]:
    """Pixels uint8 [S, S] and heat float32 [h, w] of each of the loader's images, one after the other."""
    at = 0
    with progress_bar("heat maps", len(findings), " images", leave=False) as bar:
        for images, _ in loader:
            full = f"the GPU is full with {counted(len(images), 'image')} of {loader.options.size} px at a time"
            with told_if_full(f"{full}; {smaller_batch(len(images))}"):
                images = images.to(hardware.device)
                wanted = findings[at : at + len(images)]
                heat = heat_maps(model, layer, images, wanted) if layer else attention_maps(model, images, wanted)
            yield from zip(images[:, 0].cpu().numpy(), heat, strict=True)
            at += len(images)
            bar.update(len(images))
