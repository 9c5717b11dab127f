"""What both papers' studies share: recipes resolved on one dataset, and the steps that train, predict and evaluate.

runs/NAME        predictions/NAME.SPLIT.parquet        evaluations/NAME.SPLIT.json
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrdali.data.loader import nearest_stored
from cxrdali.data.options import FOLDS
from cxrdali.data.splits import released_rows, train_and_validation
from cxrdali.evaluate.evaluate import evaluate, write
from cxrdali.evaluate.options import EvaluateOptions
from cxrdali.models.classifier import check_arch
from cxrdali.postprocess.ensemble import Weights, ensemble
from cxrdali.predict.options import PredictOptions
from cxrdali.predict.predict import predict
from cxrdali.report.training.page import write_report
from cxrdali.report.training.sources import ReportOptions
from cxrdali.runs import layout as runs
from cxrdali.runs.oversampling import chosen_findings
from cxrdali.runs.reader import Run
from cxrdali.runs.recipes import Recipe, find, in_order
from cxrdali.runs.same_data import pixels, which
from cxrdali.runs.settings import MAY_DIFFER, TrainSettings
from cxrdali.runs.steps import Step
from cxrdali.runtime.device import Hardware
from cxrdali.studies.options import FlowOptions
from cxrdali.train.trainer import train
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.storage.files import sha256_file

log = logging.getLogger(__name__)

SPLITS = ("val", "dev", "test")
ALIKE = (*FOLDS, "uncertain")  # of all models: their tables are compared and averaged


@dataclass(frozen=True)
class Ground:
    """What a study works with. models: settings and recipe record by name, in the order of training; train_rows and
    splits: catalog rows, int64; a split without images is absent.

    notes: what is left out and why. problems: why the study cannot be done at all.
    """

    dataset: PackedDataset
    labels: Labels
    models: Mapping[str, tuple[TrainSettings, dict]]
    train_rows: np.ndarray
    splits: Mapping[str, np.ndarray]
    notes: tuple[str, ...]
    problems: tuple[str, ...]

    def labelled(self, split: str) -> bool:
        """Whether any finding of any image of the split is known."""
        return bool((self.labels.values[self.splits[split]] != Labels.BLANK).any())


@dataclass(frozen=True)
class Asked:
    """A step that predicts: which model, which split, and with which test-time augmentation."""

    step: str
    model: str
    split: str
    tta: str


@dataclass(frozen=True)
class Plan(Ground):
    """`Ground`, and the steps in an order in which they can be done, training first; asked: the steps that predict."""

    steps: tuple[Step, ...]
    asked: tuple[Asked, ...]


def ground(root: Path, dataset: PackedDataset, recipes: Mapping[str, Recipe], options: FlowOptions) -> Ground:
    """Raises UserError for an unknown model or setting, or a dataset without a training split."""
    labels = dataset.labels(options.labels)
    names = in_order(recipes, [find(recipes, name).name for name in options.models])
    models = {name: _resolve(root, recipes[name], labels, options) for name in names}
    for name, given in options.overrides.items():
        if name and name not in models:
            key = next(iter(given))
            raise UserError(f"{name}.{key}: {name} is not among the models; add it to --models, or do not set it")
    first = next(iter(models.values()))[0]
    train_rows, val_rows = train_and_validation(dataset, labels, first.data)
    splits = {"val": val_rows} | {name: released_rows(dataset, labels, name) for name in SPLITS[1:]}
    splits = {name: rows for name, rows in splits.items() if len(rows)}
    added = [name for name in names if name not in options.models]
    notes = [f"{', '.join(added)} too: the others need {'it' if len(added) == 1 else 'them'}"] if added else []
    notes += [f"no {name}: labels {labels.name!r} have no such split here" for name in SPLITS if name not in splits]
    problems = _problems(dataset, labels, models, train_rows)
    return Ground(dataset, labels, models, train_rows, splits, tuple(notes), problems)


def _resolve(root: Path, recipe: Recipe, labels: Labels, options: FlowOptions) -> tuple[TrainSettings, dict]:
    overrides = {**options.overrides.get("", {}), **options.overrides.get(recipe.name, {})}
    settings, about = recipe.resolve(root / "runs", overrides)
    if settings.data.labels not in (None, labels.name):
        raise UserError(
            f"{recipe.name}: labels = {settings.data.labels!r}, but all models need the same ones, here "
            f"{labels.name!r}; give --labels {settings.data.labels}"
        )
    return settings.changed(labels=labels.name), about


def _problems(dataset: PackedDataset, labels: Labels, models: Mapping, train_rows: np.ndarray) -> tuple[str, ...]:
    """What would stop a model, or what is made of several, after hours of training."""
    found, first = [], next(iter(models))
    for name, (settings, about) in models.items():
        others = [(first, ALIKE, "their validation would differ")]
        if about["starts_from"]:
            others.append((about["starts_from"], ("arch", "norm"), "it starts from these weights"))
        for other, keys, why in others:
            for key in keys:
                here, there = settings.flat()[key], models[other][0].flat()[key]
                if here != there:
                    found.append(f"{name}: {key} is {here!r}, of {other} {there!r}, and {why}; --set {key}= for all")
        if len(train_rows) < settings.optimizer.batch:
            found.append(
                f"{name}: {len(train_rows):,} training images make no batch of {settings.optimizer.batch}; "
                f"--set {name}.batch=N, or pack more images"
            )
        found += [f"{name}: {error}" for error in _errors(dataset, labels, settings)]
    return tuple(found)


def _errors(dataset: PackedDataset, labels: Labels, settings: TrainSettings) -> Iterator[UserError]:
    """What the trainer would say before its first step, as far as it needs no weights and no other run."""
    checks = (
        lambda: nearest_stored(dataset, settings.data.size),
        lambda: chosen_findings(settings.data.oversample, None, None, labels.findings),
        lambda: settings.loader_options(Hardware.resolve(settings.runtime.device, settings.runtime.precision).device),
        lambda: check_arch(settings.model.arch),
    )
    for check in checks:
        try:
            check()
        except UserError as error:
            yield error


class Flow:
    """Makes the steps that both studies have; each study's subclass adds its own.

    notes: what is left out and why; asked: every step that predicts; makers: by table and split the step that makes it;
    all as the steps are made.
    """

    def __init__(self, root: Path, ground: Ground, options: FlowOptions):
        self.root, self.ground, self.options = root, ground, options
        self.dataset, self.labels = ground.dataset, ground.labels
        self.models, self.splits = ground.models, ground.splits
        self.notes: list[str] = []
        self.asked: list[Asked] = []
        self.makers: dict[tuple[str, str], str] = {}
        self._rows = {
            "train": np.concatenate([ground.train_rows, self.splits["val"]]),
            "all": np.concatenate([ground.train_rows, *self.splits.values()]),
        }
        self._images = dict(zip(self._rows, which(self.dataset, *self._rows.values()), strict=True))
        # what is not a step, as far as it decides a result: part of every step's settings that reads it
        self.data = self._data("all")
        self.uncertain = next(iter(self.models.values()))[0].data.uncertain
        self.reported_by = {"title": options.title, "synthetic": options.synthetic, **self.data}

    def plan(self, steps: Sequence[Step]) -> Plan:
        found = {**vars(self.ground), "notes": (*self.ground.notes, *self.notes)}
        return Plan(**found, steps=tuple(steps), asked=tuple(self.asked))

    def _data(self, part: str, size: int | None = None) -> dict:
        """The images of a part of `_rows`; size: with their pixels, as a model of this size reads them."""
        found = {"id": self.dataset.id, "images": self._images[part]}
        found |= pixels(self.dataset, self._rows[part], size) if size else {}
        return {"dataset": found, "labels": self.labels.sha256}

    def train(self, name: str) -> Step:
        settings, about = self.models[name]
        folder = f"runs/{name}"
        kept = {key: value for key, value in settings.flat(without_before=True).items() if key not in MAY_DIFFER}
        kept["precision"] = _precision(self.root / folder, settings)
        # a path is spelled in many ways
        inside = {(self.root / "runs" / other).resolve(): other for other in self.models}
        given = {key: kept[key] and inside.get(Path(kept[key]).resolve()) for key in ("init", "oversample_from")}
        needs = [other for other in given.values() if other]
        late = [other for other in needs if list(self.models).index(other) >= list(self.models).index(name)]
        if late:
            raise UserError(f"{name}: needs {late[0]}, which is not trained before it; choose an earlier model's run")
        # a run of ours is known by its step, another file by its content
        for key, other in given.items():
            kept[key] = other or (kept[key] and content(Path(kept[key])))
        files = (runs.CONFIG, runs.METRICS, runs.FINDINGS, runs.PROGRESS, runs.BEST, runs.VAL_PREDICTIONS)

        def do() -> None:
            out = self.root / folder
            out.parent.mkdir(parents=True, exist_ok=True)
            train(settings, self.dataset, out, recipe=about)

        return Step(
            f"train {name}",
            tuple(f"{folder}/{file}" for file in files),
            {**kept, **self._data("train", settings.data.size)},
            tuple(f"train {other}" for other in dict.fromkeys(needs)),
            do,
            folder,
        )

    def predict(self, model: str, split: str, tta: str, name: str | None = None) -> Step:
        """The model's predictions as the table `name`, by default the model's."""
        settings, _ = self.models[model]
        name = name or model

        def do(out: Path) -> None:
            runtime = settings.runtime
            machine = (runtime.device, runtime.precision, runtime.decode, runtime.threads)
            # a label release may have patients in two of its splits (--allow-subject-overlap): every score says so
            how = PredictOptions(self.labels.name, tta, None, *machine, allow_leak=True)
            predict(self.root / "runs" / model, self.dataset, split, how).write(out)

        decided = {"tta": tta, **self._data("all", settings.data.size)}
        step = self.table(f"predict {name} {split}", name, split, decided, (f"train {model}",), do)
        self.asked.append(Asked(step.name, model, split, tta))
        return step

    def table(
        self, step: str, name: str, split: str, settings: dict, needs: Sequence[str], do: Callable[[Path], None]
    ) -> Step:
        """A step that writes the table `name`: `do` is given its path."""
        out, self.makers[name, split] = self.file(name, split), step

        def made() -> None:
            out.parent.mkdir(parents=True, exist_ok=True)
            do(out)

        return Step(step, (str(out.relative_to(self.root)),), {**self.data, **settings}, tuple(needs), made)

    def pool(
        self,
        name: str,
        split: str,
        members: Sequence[str],
        weights: Callable[[], Weights | None] = lambda: None,
        needs: Sequence[str] = (),
    ) -> Step:
        """The members' tables of a split as the table `name`. weights: theirs, which a step of `needs` makes."""

        def do(out: Path) -> None:
            ensemble([self.file(member, split) for member in members], weights(), allow_leak=True).write(out)

        needs = (*needs, *(self.makers[member, split] for member in members))
        return self.table(f"{name.replace('+', ' ')} {split}", name, split, {"members": members}, needs, do)

    def file(self, name: str, split: str) -> Path:
        return self.root / "predictions" / f"{name}.{split}.parquet"

    def evaluate(self, name: str, split: str, needs: Sequence[str], more: dict | None = None) -> Step:
        """needs: the step that makes the table, and any other that decides the result; more: settings that do."""
        out = Path("evaluations") / f"{name}.{split}"
        options = EvaluateOptions(draws=self.options.draws, uncertain=self.uncertain, allow_leak=True)

        def do() -> None:
            (self.root / out).parent.mkdir(parents=True, exist_ok=True)
            result = self.scored(name, split, options)
            write(result, self.root / out)
            log.info(f"{name} on {split}: mAP {number(result['all']['mAP'])}")

        outputs = (f"{out}.json", f"{out}.csv")
        settings = {"draws": options.draws, "uncertain": options.uncertain, **(more or {}), **self.data}
        return Step(f"evaluate {name} {split}", outputs, settings, tuple(needs), do)

    def scored(self, name: str, split: str, options: EvaluateOptions) -> dict:
        """What an evaluation of a table says."""
        return evaluate(self.file(name, split), self.dataset, self.labels, options)

    def labelled_splits(self) -> list[str]:
        """Those that can be evaluated; of the others a note is made."""
        labelled = [split for split in self.splits if self.ground.labelled(split)]
        without = [split for split in self.splits if split not in labelled]
        self.notes += [f"{split} is predicted, not evaluated: it was released without labels" for split in without]
        return labelled

    def write_report(self) -> None:
        synthetic = self.options.synthetic  # then its pictures show nobody
        options = ReportOptions(self.options.title, synthetic=synthetic, images=synthetic)
        write_report(self.root / "report.html", [self.root], pack=self.dataset, options=options)


def _precision(run: Path, settings: TrainSettings) -> str:
    """The setting, spelled as the run that is there began with it (auto, perhaps) if it means the same."""
    asked = settings.runtime.precision
    try:
        there = Run.open(run)
        same = there.config["precision"] == Hardware.resolve(settings.runtime.device, asked).precision
        return there.settings.runtime.precision if same else asked
    except (KeyError, UserError):
        return asked


def content(path: Path) -> str:
    """A fingerprint of a file, or of the best weights of a run; raises UserError if it is not there."""
    file = path / runs.BEST if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{path}: no such file or run; give another")
    return sha256_file(file)


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
