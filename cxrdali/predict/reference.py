"""What a run was trained on, so that a new image can be told to look like it or not: views, pixels, features.

Each measure (`cxrdali.predict.likeness`) is put beside its range on validation images. An image is unusual if the
measure that lies farthest beyond its range does so by more than all but FALSE_ALARMS of validation images. That one
rule is fitted on half of the validation patients; how often it warns is measured on the others.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors import numpy as arrays_file

from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.splits import balanced_parts, group_ids, subject_is
from cxrdali.metrics.intervals import independent, wilson
from cxrdali.models import weights_file
from cxrdali.models.classifier import Classifier
from cxrdali.predict.likeness import (
    DISTANCE,
    KINDS,
    Likeness,
    Measure,
    Range,
    better_turned,
    normed,
    pixel_measures,
    thumbnail,
)
from cxrdali.predict.options import ReferenceOptions
from cxrdali.predict.predict import load_run_model
from cxrdali.predict.rendering import Rendered
from cxrdali.runs.layout import REFERENCE_ARRAYS, REFERENCE_JSON
from cxrdali.runs.reader import Run
from cxrdali.runs.same_data import labels_of, own_run, pixels, run_rows
from cxrdali.runtime.device import Hardware
from cxrdali.runtime.full import NO_ROOM, smaller_batch, told_if_full
from shards.dataset.dataset import Dataset
from shards.errors import UserError
from shards.progress import progress_bar
from shards.storage.files import read_regular, sha256_bytes, write_bytes
from shards.storage.sealed import check_kinds, maybe, read_json, sealed_json

FORMAT = 1
FALSE_ALARMS = 0.05  # of validation images get a warning
FOLDS = 10  # parts of the subjects, each scored by ranges of the others
ENOUGH = 40  # validation patients: of fewer no rate can be measured
SELDOM = 0.005  # of the training images: views that are rarer count as new
NEIGHBOURS = 5  # the distance of features is to the nearest training image but four
MOST_BYTES = 2**30
SIDES = {**dict.fromkeys(("AP", "PA"), "frontal"), **dict.fromkeys(("LL", "RL", "LATERAL"), "lateral")}
KINDS_OF_FILE = {
    "format": int, "run": str, "weights": str, "arrays": str, "training_images": int, "fitted_images": int,
    "views": {str: {"view": str, "images": int}}, "limit": float, "without_features": str,
    "measures": {str: {"middle": float, "low": float, "high": float}},
    "validation": {
        "images": int, "subjects": int, "a_subject_is": str, "measured_images": int, "measured_subjects": int,
        "false_alarms": maybe([float]),
    },
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Reference:
    """about: what reference.json holds; means: float32 [V, SIDE, SIDE], the mean training image of each common view;
    features: float32 [N, D] of training images, each of length 1 (None: the network has none that can be compared)."""

    about: dict
    means: np.ndarray
    features: np.ndarray | None

    def check(self, image: Rendered, features: np.ndarray | None) -> Likeness:
        """Whether a new image looks like those that the run was trained on. features: float32 [D], the network's."""
        values = pixel_measures(image.pixels, image.height, image.width, self.means)
        if self.features is not None and features is not None:
            values[DISTANCE] = float(distances(features[None], self.features)[0])
        limit, measures, scores = self.about["limit"], [], []
        for name, value in values.items():
            kind, known = KINDS[name], Range(**self.about["measures"][name])
            scores.append(float(known.excess(kind, np.array(value))))
            ends = known.low if kind.low else None, known.high if kind.high else None
            measures.append(Measure(name, kind.words, value, *ends, scores[-1] > limit))
        position = (image.tags.view_position if image.tags else "").strip()
        view, strange = self._view(position)
        warnings = ([view] if strange else []) + [_words(each) for each in measures if each.unusual]
        if any(each.unusual for each in measures) and (turn := better_turned(image.pixels, self.means)):
            warnings.append(f"It would look more like the training images {turn}.")
        return Likeness(view, tuple(measures), max(scores), limit, tuple(warnings))

    def _view(self, position: str) -> tuple[str, bool]:
        """What is known of a view position, in words, and whether the run was hardly trained on it."""
        views, total = self.about["views"], self.about["training_images"]
        if not position:
            return "The file does not say its view.", False
        if not any(views):
            return f"View {position}; the views of the training images are not known.", False
        count = view_images(views, position)
        named = not count or position.upper() in [name.upper() for name in views]
        how = "have it" if named else "show the same side"
        words = f"View {position}: {count:,} of the run's {total:,} training images {how}."
        return words, count < SELDOM * total

    @property
    def false_alarms(self) -> str:
        """How often images like those of training get a warning, in words."""
        found = self.about["validation"]
        if found["false_alarms"] is None:
            return (
                f"How often images of the run's own kind get a warning was not measured: there are validation "
                f"images of {found['subjects']} {found['a_subject_is']}s, and {ENOUGH} are needed"
            )
        rate, low, high = (f"{100 * each:.1f}" for each in found["false_alarms"])
        return (
            f"Of the run's own validation images, {rate} % get a warning of looking otherwise (95 % interval {low} to "
            f"{high} %; measured on {found['measured_images']:,} images of {found['measured_subjects']:,} "
            f"{found['a_subject_is']}s to which the rule was not fitted)"
        )

    def save(self, run: Path) -> Path:
        """In the run's folder; returns the file that names the other one."""
        stored = {"means": self.means} | (
            {} if self.features is None else {"features": self.features.astype(np.float16)}
        )
        data = arrays_file.save(stored)
        write_bytes(run / REFERENCE_ARRAYS, data)
        write_bytes(run / REFERENCE_JSON, sealed_json({**self.about, "arrays": sha256_bytes(data)}))
        return run / REFERENCE_JSON

    @classmethod
    def load(cls, run: Run, weights: Path | None = None) -> "Reference | None":
        """None if there is none. weights: those in use (None: the run's best).

        Raises UserError if it is damaged, or was fitted to other weights.
        """
        path, fix = run.path / REFERENCE_JSON, f"fit it again with `cxrdali reference {run.path} --data PACK`"
        if not path.exists():
            return None
        try:
            about = read_json(path)
            if about.get("format") != FORMAT:
                raise ValueError(f"format {about.get('format')!r}, this cxrdali reads {FORMAT}")
            check_kinds(about, KINDS_OF_FILE)
            data = read_regular(run.path / REFERENCE_ARRAYS, MOST_BYTES)
            if sha256_bytes(data) != about["arrays"]:
                raise ValueError(f"{REFERENCE_ARRAYS} beside it is of another one")
            stored = arrays_file.load(data)
            features = stored["features"].astype(np.float32) if "features" in stored else None
            if set(about["measures"]) != set(KINDS) - ({DISTANCE} if features is None else set()):
                raise ValueError("its measures are not those of this cxrdali")
            made = cls(about, stored["means"], features)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise UserError(f"{path}: no reference ({error}); {fix}") from error
        if weights_file.identity(weights or run.best_weights()) != about["weights"]:
            fix = f"leave --weights out, or move {path.name} away: nothing is compared then" if weights else fix
            raise UserError(f"{path}: was fitted to other weights than {weights or run.best_weights()}; {fix}")
        return made


def fit(run: Path, dataset: Dataset, options: ReferenceOptions) -> Reference:
    """Fit a reference to a run's training and validation images, or to `options.images` of each, chosen by chance.

    Raises UserError for another dataset than the run's, or a full GPU.
    """
    trained, mend = Run.open(run), "; give the dataset of the run with --data"
    train, val = run_rows(trained, dataset, labels_of(trained, dataset), mend)
    for part in dataset.parts:
        own = own_run(trained, part) or trained
        there, here = own.config["dataset"], pixels(part.dataset, val[:0], trained.settings.data.size)
        for name in ("size", "packed"):  # a new image is made as in training: beside others it would look strange
            if here and there.get(name, here[name]) != here[name]:
                words = f"{run}: images are packed otherwise in {part.dataset.root}: "
                raise UserError(f"{words}{name} {here[name]}, in training {there[name]}{mend}")
    weights, hardware = trained.best_weights(), Hardware.resolve(options.device, options.precision)
    hardware.begin()
    with told_if_full(NO_ROOM):
        model = load_run_model(trained, weights).to(hardware.device)

    def seen(rows: np.ndarray, words: str) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        loading = LoaderOptions(
            trained.settings.data.size, min(options.batch, len(rows)), options.threads, options.decode, hardware.device
        )
        return _seen(model, Loader(dataset, rows, loading), hardware, words)

    rows = some(train, options.images)
    small, vectors = [], []
    for image, vector in seen(rows, "training images"):
        small.append(thumbnail(image))
        vectors.append(vector)
    means = _means(np.stack(small), dataset.of_rows(rows, "view")["view"].to_numpy())
    bank = None if model.seen.why else lengths_one(np.stack(vectors)).astype(np.float16).astype(np.float32)  # as stored
    chosen = some(val, options.images)
    facts = dataset.of_rows(chosen, "height", "width", "view_position")
    measured, vectors = [], []
    for (image, vector), height, width in zip(
        seen(chosen, "validation images"), facts["height"], facts["width"], strict=True
    ):
        measured.append(pixel_measures(image, height, width, means))
        vectors.append(vector)
    values = pd.DataFrame(measured)
    if bank is not None:
        values[DISTANCE] = distances(np.stack(vectors), bank)
    views = _views(dataset, train)
    positions = facts["view_position"].astype(str)
    strange = np.array([bool(each) and view_images(views, each) < SELDOM * len(train) for each in positions])
    about = {
        "format": FORMAT, "run": trained.name, "weights": weights_file.identity(weights), "arrays": "",
        "training_images": len(train), "fitted_images": len(rows), "views": views,
        "without_features": model.seen.why,
        **fit_rule(values, strange, group_ids(dataset, "subject")[chosen], subject_is(dataset)),
    }  # fmt: skip
    return Reference(about, means, bank)


def fit_rule(values: pd.DataFrame, strange: np.ndarray, subjects: np.ndarray, subject: str) -> dict:
    """The ranges and the limit of half of the subjects, and how often the others are beyond it.

    values: a column for each measure, a row for each validation image; strange: bool [n], whose view is hardly
    among the training images; subjects: ids, [n]; subject: what that is.
    """
    count = len(np.unique(subjects))
    part = balanced_parts(subjects, 2) if count >= ENOUGH else np.zeros(len(subjects), dtype=np.int64)
    inside, others = part == 0, part == 1
    ranges = _ranges(values[inside])
    limit = _limit(values[inside], subjects[inside])
    scores = _scores(values, ranges)
    patients = len(np.unique(subjects[others]))
    rate = float(((scores > limit) | strange)[others].mean()) if patients else None
    return {
        "measures": {name: asdict(known) for name, known in ranges.items()},
        "limit": limit,
        "validation": {
            "images": len(values), "subjects": count, "a_subject_is": subject,
            "measured_images": int(others.sum()), "measured_subjects": patients,
            "false_alarms": None if rate is None else [rate, *wilson(rate, independent(subjects[others]))],
        },
    }  # fmt: skip


def _ranges(values: pd.DataFrame) -> dict[str, Range]:
    return {name: Range.of(values[name].to_numpy()) for name in values}


def _scores(values: pd.DataFrame, ranges: dict[str, Range]) -> np.ndarray:
    """The largest excess of each row: float64 [n]."""
    return np.max([known.excess(KINDS[name], values[name].to_numpy()) for name, known in ranges.items()], axis=0)


def _limit(values: pd.DataFrame, subjects: np.ndarray) -> float:
    """The score that FALSE_ALARMS of images like these are above, never within the ranges.

    Scores by ranges that an image helped to make are too low (of 200 images 7.5 % of others were above the limit), so
    each part of the subjects is scored by the ranges of the others.
    """
    parts = balanced_parts(subjects, min(FOLDS, len(np.unique(subjects))))
    scores = np.zeros(len(values))
    for each in np.unique(parts):
        others = parts != each if parts.any() else parts == each  # one subject has none
        scores[parts == each] = _scores(values[parts == each], _ranges(values[others]))
    place = math.ceil((len(scores) + 1) * (1 - FALSE_ALARMS)) - 1  # as split conformal prediction has it
    return max(1.0, float(np.sort(scores)[min(place, len(scores) - 1)]))


def view_images(views: dict[str, dict], position: str) -> int:
    """How many training images have a view position; of one that none has, how many show the same side."""
    side = SIDES.get(position.upper())
    same = [each for name, each in views.items() if name.upper() == position.upper()]
    same = same or [each for each in views.values() if side and each["view"] == side]
    return sum(each["images"] for each in same)


def distances(features: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """Of features, float32 [n, D], to their nearest of the `bank` (of length 1) but NEIGHBOURS - 1: float64 [n], from 0
    (the same direction) to 2 (the opposite one)."""
    near = min(NEIGHBOURS, len(bank)) - 1
    made = lengths_one(features)
    return np.concatenate(
        [np.partition(1 - made[at : at + 512] @ bank.T, near, axis=1)[:, near] for at in range(0, len(made), 512)]
    ).astype(np.float64)


def lengths_one(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def some(rows: np.ndarray, most: int) -> np.ndarray:
    """All rows, or `most` of them by chance (always the same ones), ascending."""
    return rows if len(rows) <= most else np.sort(np.random.default_rng(0).choice(rows, most, replace=False))


@torch.inference_mode()
def network_features(model: Classifier, images: torch.Tensor, hardware: Hardware) -> np.ndarray | None:
    """What the classifier sees of uint8 [B, 1, S, S]: float32 [B, D]; None if `model.seen.why` says why not."""
    if model.seen.why:
        return None
    model.eval()
    with hardware.autocast():
        return model.features(images.to(hardware.device)).float().cpu().numpy()


def _seen(
    model: Classifier, loader: Loader, hardware: Hardware, words: str
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Pixels uint8 [S, S] and features float32 [D] of each of the loader's images."""
    full = f"the GPU is full with {loader.options.batch} images at a time; {smaller_batch(loader.options.batch)}"
    with progress_bar(words, len(loader.rows), " images", leave=False) as bar:
        for images, _ in loader:
            with told_if_full(full):
                features = network_features(model, images, hardware)
            pixels = images[:, 0].cpu().numpy()
            yield from zip(pixels, [None] * len(pixels) if features is None else features, strict=True)
            bar.update(len(pixels))


def _means(small: np.ndarray, view: np.ndarray) -> np.ndarray:
    """The mean image of each view that is not rare: float32 [V, SIDE, SIDE]."""
    counts = pd.Series(view).value_counts()
    common = counts.index[counts >= SELDOM * len(view)]
    return np.stack([normed(small[view == each].mean(axis=0)) for each in common]).astype(np.float32)


def _views(dataset: Dataset, rows: np.ndarray) -> dict[str, dict]:
    """By view position: which view that is, and how many of these images have it."""
    table = dataset.of_rows(rows, "view", "view_position").astype(str)
    grouped = table.groupby("view_position")["view"].agg(["first", "size"])
    return {name: {"view": row["first"], "images": int(row["size"])} for name, row in grouped.iterrows()}


def _words(measure: Measure) -> str:
    low, high = measure.low, measure.high
    one = f"at least {low:.3g}" if high is None else f"at most {high:.3g}"
    share, ends = (99, one) if None in (low, high) else (98, f"{low:.3g} to {high:.3g}")
    return f"{measure.words}: {measure.value:.3g}; {share} % of the validation images have {ends}."
