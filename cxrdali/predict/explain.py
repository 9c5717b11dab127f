"""What a run looks at: per finding its best-scored positives and its worst misses, each with a heat map."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from cxrdali import predictions
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.splits import SPLITS
from cxrdali.data.targets import check_labelled, targets
from cxrdali.predict.heatmaps import heat_maps, map_layer
from cxrdali.predict.predict import load_run_model, predict, split_rows
from cxrdali.predictions import Predictions, sigmoid
from cxrdali.runs import folder as runs
from cxrdali.runs.settings import TrainSettings
from cxrdali.runtime.device import Hardware
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset
from shards.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExplainOptions:
    """images: of each kind per finding; split: whose images; findings: which (empty: all of the run's); layer: module
    of the backbone whose map is shown (None: the last one); batch: images at a time."""

    images: int = 4
    split: str = "val"
    findings: tuple[str, ...] = ()
    layer: str | None = None
    batch: int = 8

    def __post_init__(self):
        object.__setattr__(self, "findings", tuple(self.findings))
        for name in ("images", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} {getattr(self, name)}: at least 1")
        if self.split not in SPLITS:
            raise UserError(f"split {self.split!r}: choose one of {', '.join(SPLITS)}")
        doubled = [name for place, name in enumerate(self.findings) if name in self.findings[:place]]
        if doubled:
            raise UserError(f"finding {doubled[0]!r}: stands twice in --findings")


@dataclass(frozen=True)
class Example:
    """One positive image of a finding.

    row: of the catalog; probability: 0 to 1; rank: from 1, among the images whose label is known; pixels: uint8
    [S, S], as the model saw them; heat: float32 [h, w], 0 and above (`cxrdali.predict.heatmaps`).
    """

    row: int
    probability: float
    rank: int
    pixels: np.ndarray
    heat: np.ndarray


@dataclass(frozen=True)
class Shown:
    """A finding's examples: best from the highest score down, worst from the lowest up; none is in both.

    positives and images: those among the predicted images, of all whose label is known.
    """

    finding: str
    positives: int
    images: int
    best: tuple[Example, ...]
    worst: tuple[Example, ...]


@dataclass(frozen=True)
class Explanation:
    """What a page shows. without: findings that have no positive image in the split."""

    run: str
    dataset: PackedDataset
    labels: str
    split: str
    size: int
    layer: str
    findings: tuple[Shown, ...]
    without: tuple[str, ...]


@dataclass(frozen=True)
class _Chosen:
    """Places in the table of predictions: int64 [best], int64 [worst]."""

    column: int
    best: np.ndarray
    worst: np.ndarray


def choose(truth: np.ndarray, scores: np.ndarray, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the positives with the highest and with the lowest scores, at most `images` each: int64, int64.

    truth: float [n] of 1, 0 and NaN; scores: float [n]. Highest first, and lowest first; equal scores stand in their
    order. Of fewer than 2 x images positives the upper half (and the one in the middle) counts as best, so that no
    image is in both.
    """
    positives = np.flatnonzero(truth == 1)
    ordered = positives[np.argsort(-scores[positives].astype(np.float64), kind="stable")]
    best = ordered[: min(images, (len(ordered) + 1) // 2)]
    return best, ordered[len(best) :][::-1][:images]


def explain(
    run: Path,
    dataset: PackedDataset,
    options: ExplainOptions,
    *,
    labels: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    decode: str = "auto",
    threads: int | None = None,
) -> Explanation:
    """Choose images by the scores of the run's best weights, and compute a heat map for each. Only these are loaded.

    The scores are the run's own validation predictions for its validation images, else predicted now. `labels`
    chooses another release for dev, test or all; precision is that of predicting. Raises UserError for a run, split or
    finding that is not there, a model without a map, or a full GPU.
    """
    config = runs.read_config(run)
    table = dataset.labels(labels or config["labels"]["name"])
    columns = _columns(run, tuple(config["findings"]), table, options.findings)
    split_rows(run, config, dataset, table, options.split)
    settings, hardware = TrainSettings.from_json(config["settings"]), Hardware.resolve(device, precision)
    model = load_run_model(run, config).to(hardware.device)
    layer = map_layer(model, settings.data.size, options.layer)  # before a prediction that may take an hour

    how = {"device": device, "precision": precision, "decode": decode, "threads": threads}
    predicted, path = _predictions(run, dataset, options.split, table, how)
    rows = predictions.catalog_rows(predicted, path, dataset)
    check_labelled(table, rows, f"the {options.split} split")
    truth = targets(table, settings.data.uncertain)[rows]
    truth = {column: truth[:, table.findings.index(predicted.findings[column])] for column in columns}
    chosen = [
        _Chosen(column, *choose(truth[column], predicted.values[:, column], options.images)) for column in columns
    ]
    without = tuple(predicted.findings[each.column] for each in chosen if not len(each.best))
    if len(without) == len(chosen):
        raise UserError(
            f"{dataset.root}: no image of {options.split} has {predictions.first_of(without)}, so there is nothing to "
            "show; choose another --split or other --findings"
        )
    places = np.concatenate([np.concatenate([each.best, each.worst]) for each in chosen])
    wanted = np.repeat([each.column for each in chosen], [len(each.best) + len(each.worst) for each in chosen])
    loader = Loader(
        dataset, rows[places],
        LoaderOptions(settings.data.size, min(options.batch, len(places)), threads, decode, hardware.device),
    )  # fmt: skip
    log.info(
        f"{len(places):,} heat maps of {len(chosen) - len(without)} findings at {settings.data.size} px, "
        f"layer {layer}, fp32 on {hardware.device}"
    )
    maps = _maps(model, layer, loader, torch.from_numpy(wanted), hardware)
    shown = []
    for each in chosen:
        known, scores = ~np.isnan(truth[each.column]), predicted.values[:, each.column]
        of_kind = []
        for kind in (each.best, each.worst):
            of_kind.append(
                tuple(
                    Example(
                        int(rows[place]), float(sigmoid(scores[place])),
                        1 + int((scores[known] > scores[place]).sum()), *next(maps),
                    )
                    for place in kind
                )
            )  # fmt: skip
        if len(each.best):
            name, positives = predicted.findings[each.column], int((truth[each.column] == 1).sum())
            shown.append(Shown(name, positives, int(known.sum()), *of_kind))
    return Explanation(run.name, dataset, table.name, options.split, settings.data.size, layer, tuple(shown), without)


def _columns(run: Path, own: Sequence[str], labels: Labels, asked: Sequence[str]) -> list[int]:
    """Columns of the run's findings that are to be shown, in the run's order."""
    for name in asked or own:
        if name not in own:
            raise UserError(f"finding {name!r}: {run} was not trained on it; it has {', '.join(own)}")
        if name not in labels.findings:
            way_out = "choose others with --findings" if asked else "name those to show with --findings"
            raise UserError(f"finding {name!r} is not in labels {labels.name!r}; {way_out}")
    return [column for column, name in enumerate(own) if name in (asked or own)]


def _predictions(run: Path, dataset: PackedDataset, split: str, labels: Labels, how: dict) -> tuple[Predictions, Path]:
    """The run's scores of a split, and the file to name in an error."""
    path = run / runs.VAL_PREDICTIONS
    if split == "val" and path.exists():
        return predictions.read(path), path
    return predict(run, dataset, split, labels=labels.name, **how), run


def _maps(model, layer: str, loader: Loader, findings: torch.Tensor, hardware: Hardware):
    """Pixels uint8 [S, S] and heat float32 [h, w] of each of the loader's images, one after the other."""
    at = 0
    with tqdm(total=len(findings), unit=" images", desc="heat maps", disable=None, leave=False) as bar:
        for images, _ in loader:
            images = images.to(hardware.device)
            try:
                heat = heat_maps(model, layer, images, findings[at : at + len(images)])
            except torch.OutOfMemoryError as error:
                raise UserError(
                    f"the GPU is full with {len(images)} images of {loader.options.size} px at a time; "
                    "use a smaller --batch"
                ) from error
            yield from zip(images[:, 0].cpu().numpy(), heat, strict=True)
            at += len(images)
            bar.update(len(images))
