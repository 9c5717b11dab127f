"""What a study stands on: the runs' settings on their datasets, the images of every split, and what cannot be done."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cxrdali.data.loader import nearest_stored
from cxrdali.data.options import FOLDS
from cxrdali.data.packs import as_one
from cxrdali.data.splits import group_codes, released_rows, train_and_validation
from cxrdali.models.classifier import check_arch
from cxrdali.runs.oversampling import chosen_findings
from cxrdali.runs.recipes import Recipe, in_order
from cxrdali.runs.same_data import pixels, which
from cxrdali.runs.settings import TrainSettings
from cxrdali.runs.steps import Step
from cxrdali.runtime.device import Hardware
from cxrdali.studies.expand import Planned, chosen
from cxrdali.studies.options import StudyOptions
from cxrdali.studies.schema import SPLITS, Study
from shards.dataset.dataset import Dataset, Part
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.words import choices

FIT = "val"  # the split that everything is fitted on
PARTS = 5  # of a cross-fit, by subject
Models = dict[str, tuple[TrainSettings, dict]]  # settings and recipe record by name, in the order of training


class Base:
    """A dataset as runs with the same folds see it.

    train_rows, splits: catalog rows, int64; a split without images is absent. data: what is not a step, as far as it
    decides a result; part of every step's settings that reads it. folds: of a cross-fit; below 2 nothing is fitted.
    """

    def __init__(self, dataset: Dataset, labels: Labels, settings: TrainSettings):
        self.dataset, self.labels, self.uncertain = dataset, labels, settings.data.uncertain
        self.train_rows, val_rows = train_and_validation(dataset, labels, settings.data)
        splits = {FIT: val_rows} | {name: released_rows(dataset, labels, name) for name in SPLITS[1:]}
        self.splits = {name: rows for name, rows in splits.items() if len(rows)}
        self._rows = {
            "train": np.concatenate([self.train_rows, val_rows]),
            "all": np.concatenate([self.train_rows, *self.splits.values()]),
        }
        self._images = dict(zip(self._rows, which(dataset, *self._rows.values()), strict=True))
        self.known = functools.cache(self._known)  # of many runs
        self.data = self.known("all")
        self.folds = min(PARTS, len(np.unique(group_codes(dataset, "subject")[val_rows])))

    def _known(self, part: str, *sizes: int) -> dict:
        """The images of "train" (and validation) or "all"; sizes: with their pixels, as a model of these reads them."""
        found = {"id": self.dataset.id, "images": self._images[part]}
        if sizes and isinstance(self.dataset, PackedDataset):
            found |= pixels(self.dataset, self._rows[part], *sizes)
        elif sizes:
            found["packs"] = [_pack(each, each.own(self._rows[part]), *sizes) for each in self.dataset.parts]
        return {"dataset": found, "labels": self.labels.sha256}

    @property
    def judged_on(self) -> tuple[str, str]:
        """What two tables have in common whose scores may be compared: dataset and labels."""
        return self.dataset.id, self.labels.sha256

    def labelled(self, split: str) -> bool:
        """Whether any finding of any image of the split is known."""
        return bool((self.labels.values[self.splits[split]] < Labels.UNKNOWN).any())


@dataclass(frozen=True)
class Asked:
    """A step that predicts: which run, which split, and with which test-time augmentation."""

    step: str
    model: str
    split: str
    tta: str


@dataclass(frozen=True)
class Plan:
    """steps: in an order in which they can be done, training first; asked: those that predict; bases: by run.

    notes: what is left out and why. problems: why the study cannot be done at all.
    """

    models: Models
    bases: Mapping[str, Base]
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    steps: tuple[Step, ...]
    asked: tuple[Asked, ...]
    record: Mapping[str, Any] = field(default_factory=dict)


class Ground:
    """The runs that a study trains, and their datasets.

    base: of the first run from which none on other packs starts: that one has its own images, folds and labels, and the
    tables are on the others'.
    """

    def __init__(
        self, root: Path, packs: Mapping[str, PackedDataset], study: Study, runs: Mapping[str, Planned],
        options: StudyOptions,
    ):  # fmt: skip
        self.packs, self.study, self.runs = packs, study, runs
        self._bases: dict[tuple, Base] = {}
        self._labels = options.labels or study.labels
        recipes = {name: planned.recipe for name, planned in runs.items()}
        wanted = chosen(study, runs, options.models)
        names = _in_order(study, recipes, wanted)
        self.models: Models = {name: self._resolve(root, recipes[name], options) for name in names}
        for name, given in options.overrides.items():
            if name and name not in {*self.models, *(runs[each].table for each in self.models)}:
                key = next(iter(given))
                raise UserError(f"{name}.{key}: {name} is not among the models; add it to --models, or do not set it")
        self.elsewhere = {
            about["starts_from"]
            for name, (_, about) in self.models.items()
            if about["starts_from"] and self.packs_of(about["starts_from"]) != self.packs_of(name)
        }
        self.first = next(name for name in self.models if name not in self.elsewhere)
        self.base = self.of(self.first)
        added = [name for name in names if name not in wanted]
        self.notes = [f"{', '.join(added)} too: the others need {'it' if len(added) == 1 else 'them'}"] if added else []
        splits = {split for each in study.predict for split in each.splits}
        known = f"labels {self.base.labels.name!r} have no such split here"
        self.notes += [f"no {name}: {known}" for name in SPLITS if name in splits and name not in self.base.splits]
        self.problems = tuple(self._problems())

    def of(self, run: str, pack: str | None = None) -> Base:
        """A run's own dataset, or a pack, with the run's folds."""
        settings, labels = self.models[run][0], self._labels_of(run)
        names = (pack,) if pack else self.packs_of(run)
        of_data = (*FOLDS, "uncertain", "findings", "same_patients")
        key = (names, labels, *(getattr(settings.data, name) for name in of_data))
        if key not in self._bases:
            dataset = self._dataset(names, settings)
            there = labels if not pack or labels in dataset.label_names else None
            self._bases[key] = Base(dataset, dataset.labels(there), settings)
        return self._bases[key]

    def packs_of(self, run: str) -> tuple[str, ...]:
        """Those that a run trains on."""
        return self.runs[run].packs or tuple(self.packs)

    def _labels_of(self, run: str) -> str | None:
        """A run that has packs of its own may have labels of its own, too."""
        own = self.runs[run].recipe.settings.get("labels") if self.runs[run].packs else None
        return own or self._labels

    def _dataset(self, names: Sequence[str], settings: TrainSettings) -> Dataset:
        for name in names:
            if name not in self.packs:
                raise UserError(f"no pack {name!r}; {choices(name, self.packs, 'there are')}")
        if len(names) == 1:  # which needs no name
            return self.packs[names[0]]
        data = settings.data
        return as_one({name: self.packs[name] for name in names}, data.findings, data.same_patients)

    def _resolve(self, root: Path, recipe: Recipe, options: StudyOptions) -> tuple[TrainSettings, dict]:
        given, planned = options.overrides, self.runs[recipe.name]
        overrides = {**given.get("", {}), **given.get(planned.table, {}), **given.get(recipe.name, {})}
        for name in (name for name in planned.axes if name in overrides):
            raise UserError(
                f"--set {name}={overrides[name]}: {recipe.name} has its {name} from its grid and is called by it; "
                "change the grid in the file, or leave --set out"
            )
        settings, about = recipe.resolve(root / "runs", overrides)
        with self.study.source.at(("runs", planned.table, "packs")):
            dataset = self._dataset(self.packs_of(recipe.name), settings)
        labels = dataset.labels(self._labels_of(recipe.name))
        if settings.data.labels not in (None, labels.name):
            raise UserError(
                f"{recipe.name}: labels = {settings.data.labels!r}, but all models need the same ones, here "
                f"{labels.name!r}; give --labels {settings.data.labels}"
            )
        return settings.changed(labels=labels.name), about

    def _problems(self) -> Iterator[str]:
        """What would stop a model, or what is made of several, after hours of training."""
        folded = any("fold" in self.runs[name].axes for name in self.models)  # then they are to differ
        alike = ("uncertain",) if folded else (*FOLDS, "uncertain")  # of all: their tables are compared and averaged
        for name, (settings, about) in self.models.items():
            others = [] if name in self.elsewhere else [(self.first, alike, "their validation would differ")]
            if about["starts_from"]:
                others.append((about["starts_from"], ("arch", "norm"), "it starts from these weights"))
            for other, keys, why in others:
                for key in keys:
                    here, there = settings.flat()[key], self.models[other][0].flat()[key]
                    if here != there:
                        yield f"{name}: {key} is {here!r}, of {other} {there!r}, and {why}; --set {key}= for all"
            base = self.of(name)
            if len(base.train_rows) < (batch := max(each.batch or 0 for each in settings.segments)):
                what = "schedule=..., with another after the @" if settings.data.schedule else "batch=N"
                yield (
                    f"{name}: {len(base.train_rows):,} training images make no batch of {batch}; "
                    f"--set {name}.{what}, or pack more images"
                )
            yield from (f"{name}: {error}" for error in _errors(base, settings))


def _pack(part: Part, rows: np.ndarray, *sizes: int) -> dict:
    """What decides the pixels that are read of one of several packs."""
    known = {"name": part.name, "id": part.dataset.id, "images": which(part.dataset, rows)[0]}
    return {**known, **pixels(part.dataset, rows, *sizes)}


def _in_order(study: Study, recipes: Mapping[str, Recipe], wanted: Sequence[str]) -> list[str]:
    """Raises UserError naming the line of a run that needs itself."""
    tables = {table.name for table in study.runs}
    for name in wanted:
        if name in tables:
            try:
                in_order(recipes, [name])
            except UserError as error:
                key = "starts_from" if recipes[name].starts_from else "oversample_from"
                raise study.source.error(("runs", name, key), str(error).removeprefix("recipes: ")) from error
    return in_order(recipes, wanted, study.source.path)


def _errors(base: Base, settings: TrainSettings) -> Iterator[UserError]:
    """What the trainer would say before its first step, as far as it needs no weights and no other run."""
    checks = (
        *(functools.partial(nearest_stored, part.dataset, settings.data.size) for part in base.dataset.parts),
        lambda: chosen_findings(settings.data.oversample, None, None, base.labels.findings),
        lambda: settings.loader_options(Hardware.resolve(settings.runtime.device, settings.runtime.precision).device),
        lambda: check_arch(settings.model.arch),
    )
    for check in checks:
        try:
            check()
        except UserError as error:
            yield error
