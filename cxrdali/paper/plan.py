"""The paper's flow as steps: trained models, their predictions, the ensemble, the views, what they score, the files.

    runs/model0 ... model7        predictions/NAME.SPLIT.parquet        evaluations/NAME.SPLIT.json
    views.json                    submission.zip, submission-dev.zip    report.html, paper.json

NAME is a model, model3-views, ensemble, or ensemble-views, the final one. Models 3, 5, 6 and 7 make the ensemble; the
views are learnt from model3 on validation (Yamagishi & Hanaoka 2023).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cxrdali import run as runs
from cxrdali import views
from cxrdali.ensemble import ensemble
from cxrdali.evaluate import EvaluateOptions, evaluate, write
from cxrdali.hardware import Hardware
from cxrdali.inference import TTA
from cxrdali.loader import nearest_stored
from cxrdali.model import ModelOptions
from cxrdali.paper import MEMBERS, MODELS, VIEWS_FROM
from cxrdali.paper.steps import Book, Step
from cxrdali.predict import predict
from cxrdali.recipes import Recipe, find, in_order
from cxrdali.report import ReportOptions, write_report
from cxrdali.sampling import chosen_findings
from cxrdali.selection import released_rows, train_and_validation
from cxrdali.stages import MAY_DIFFER, TrainSettings
from cxrdali.submission import match, submit, template_of
from cxrdali.trainer import train
from shards.errors import DataError
from shards.files import json_bytes, sha256_file, write_bytes
from shards.packed import Labels, PackedDataset

SPLITS = ("val", "dev", "test")
ALIKE = ("fold", "folds", "group", "uncertain")  # of all models: their tables are compared and averaged


@dataclass(frozen=True)
class PaperOptions:
    """models: recipes to train, with all they need; overrides: settings by recipe, "" for all of them; templates: the
    challenge's file by split, "dev" or "test"; draws: bootstrap draws of an evaluation."""

    models: tuple[str, ...] = MODELS
    labels: str | None = None
    tta: str = "hflip"
    draws: int = 1000
    overrides: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    templates: Mapping[str, Path] = field(default_factory=dict)
    title: str = "The stage-training paper"
    synthetic: bool = False

    def __post_init__(self):
        if self.tta not in TTA:
            raise DataError(f"tta {self.tta!r}: choose one of {', '.join(TTA)}")
        if not self.models:
            raise DataError("no model: give --models, for example 0,2,3,5,6,7")
        EvaluateOptions(draws=self.draws)


@dataclass(frozen=True)
class Plan:
    """steps in the order in which they can be done; models: settings and recipe record by name, in that order too.

    notes: what is left out and why. problems: what keeps it from being done at all.
    """

    steps: tuple[Step, ...]
    models: Mapping[str, tuple[TrainSettings, dict]]
    labels: Labels
    train_rows: np.ndarray
    splits: Mapping[str, np.ndarray]
    notes: tuple[str, ...]
    problems: tuple[str, ...]


def make_plan(
    root: Path,
    dataset: PackedDataset,
    recipes: Mapping[str, Recipe],
    options: PaperOptions,
    say: Callable[[str], None] = print,
    progress: bool = True,
) -> Plan:
    """Raises DataError for an unknown model or setting, or a dataset without a training split."""
    labels = dataset.labels(options.labels)
    names = in_order(recipes, [find(recipes, name).name for name in options.models])
    models = {name: _resolve(root, recipes[name], labels, options) for name in names}
    for name, given in options.overrides.items():
        if name and name not in models:
            key = next(iter(given))
            raise DataError(f"{name}.{key}: {name} is not among the models; add it to --models, or do not set it")
    first = next(iter(models.values()))[0]
    train_rows, val_rows = train_and_validation(dataset, labels, first.fold_options())
    splits = {"val": val_rows} | {name: released_rows(dataset, labels, name) for name in SPLITS[1:]}
    splits = {name: rows for name, rows in splits.items() if len(rows)}
    for name, path in options.templates.items():
        if name not in splits:
            raise DataError(f"{path}: labels {labels.name!r} have no {name} images here; leave out --template {name}=")
        # now, not after days of training
        images = dataset.catalog["image_id"].iloc[splits[name]]
        match(path, Path(f"{name} split of {labels.name}"), images, labels.findings)
    flow = _Flow(root, dataset, labels, options, models, splits, say, progress)
    steps = flow.steps()
    added = [name for name in names if name not in options.models]
    notes = [f"{', '.join(added)} too: the others need {'it' if len(added) == 1 else 'them'}"] if added else []
    notes += [f"no {name}: labels {labels.name!r} have no such split here" for name in SPLITS if name not in splits]
    return Plan(
        steps, models, labels, train_rows, splits, (*notes, *flow.notes), _problems(dataset, labels, models, train_rows)
    )


def _resolve(root: Path, recipe: Recipe, labels: Labels, options: PaperOptions) -> tuple[TrainSettings, dict]:
    overrides = {**options.overrides.get("", {}), **options.overrides.get(recipe.name, {})}
    settings, about = recipe.resolve(root / "runs", overrides)
    if settings.labels not in (None, labels.name):
        raise DataError(
            f"{recipe.name}: labels = {settings.labels!r}, but all models need the same ones, here {labels.name!r}; "
            f"give --labels {settings.labels}"
        )
    return replace(settings, labels=labels.name), about


def _problems(dataset: PackedDataset, labels: Labels, models: Mapping, train_rows: np.ndarray) -> tuple[str, ...]:
    """What would stop a model, or what is made of several, after hours of training."""
    found, first = [], next(iter(models))
    for name, (settings, about) in models.items():
        others = [(first, ALIKE, "their validation would differ")]
        if about["starts_from"]:
            others.append((about["starts_from"], ("arch", "norm"), "it starts from these weights"))
        for other, keys, why in others:
            for key in keys:
                here, there = getattr(settings, key), getattr(models[other][0], key)
                if here != there:
                    found.append(f"{name}: {key} is {here!r}, of {other} {there!r}, and {why}; --set {key}= for all")
        if len(train_rows) < settings.batch:
            found.append(
                f"{name}: {len(train_rows):,} training images make no batch of {settings.batch}; "
                f"--set {name}.batch=N, or pack more images"
            )
        found += [f"{name}: {error}" for error in _errors(dataset, labels, settings)]
    return tuple(found)


def _errors(dataset: PackedDataset, labels: Labels, settings: TrainSettings) -> Iterator[DataError]:
    """What the trainer would say before its first step, as far as it needs no weights and no other run."""
    checks = (
        lambda: nearest_stored(dataset, settings.size),
        lambda: chosen_findings(settings.oversample, None, None, labels.findings),
        lambda: settings.loader_options(Hardware.resolve(settings.device, settings.precision).device),
        lambda: ModelOptions(settings.arch, settings.size),
    )
    for check in checks:
        try:
            check()
        except DataError as error:
            yield error


class _Flow:
    def __init__(self, root, dataset, labels, options, models, splits, say, progress):
        self.root, self.dataset, self.labels, self.options = root, dataset, labels, options
        self.models, self.splits, self.say, self.progress = models, splits, say, progress
        self.notes: list[str] = []
        # hashes of what is not a step: part of every step's settings that reads it
        self.data = {"dataset": dataset.id, "labels": labels.sha256}
        self.uncertain = next(iter(models.values()))[0].uncertain

    def steps(self) -> tuple[Step, ...]:
        steps = [self._train(name) for name in self.models]
        tables = list(self.models)
        steps += [self._predict(name, split) for name in self.models for split in self.splits]
        members = [name for name in MEMBERS if name in self.models]
        if len(members) > 1:
            steps += [self._ensemble(members, split) for split in self.splits]
            tables.append("ensemble")
        missing = [name for name in MEMBERS if name not in members]
        if missing:
            self.notes.append(f"the ensemble is without {', '.join(missing)}" if len(members) > 1 else "no ensemble")
        if VIEWS_FROM in self.models and self._has_both_views():
            steps.append(self._learn_views())
            for name in (VIEWS_FROM, "ensemble"):
                if name in tables:
                    steps += [self._apply_views(name, split) for split in self.splits]
                    tables.append(f"{name}-views")
        elif VIEWS_FROM in self.models:
            self.notes.append("no view postprocess: validation has not both frontal and lateral images")
        else:
            self.notes.append(f"no view postprocess: {VIEWS_FROM} is not among the models")
        labelled = [split for split, rows in self.splits.items() if self._labelled(rows)]
        steps += [self._evaluate(name, split) for name in tables for split in labelled]
        for split in self.splits:
            if split not in labelled:
                self.notes.append(f"{split} is predicted, not evaluated: it was released without labels")
        final = next(name for name in ("ensemble-views", f"{VIEWS_FROM}-views", tables[-1]) if name in tables)
        steps += [self._submit(final, split) for split in ("dev", "test") if split in self.splits]
        return (*steps, self._report(steps, tables))

    def _has_both_views(self) -> bool:
        return (self.dataset.catalog["view"].iloc[self.splits["val"]] == "frontal").nunique() == 2

    def _labelled(self, rows: np.ndarray) -> bool:
        return bool((self.labels.values[rows] != Labels.BLANK).any())

    # ------------------------------------------------------------ models

    def _train(self, name: str) -> Step:
        settings, about = self.models[name]
        folder = f"runs/{name}"
        kept = {key: value for key, value in settings.as_json().items() if key not in MAY_DIFFER}
        # a path is spelled in many ways
        inside = {(self.root / "runs" / other).resolve(): other for other in self.models}
        given = {key: kept[key] and inside.get(Path(kept[key]).resolve()) for key in ("init", "oversample_from")}
        needs = [other for other in given.values() if other]
        late = [other for other in needs if list(self.models).index(other) >= list(self.models).index(name)]
        if late:
            raise DataError(f"{name}: needs {late[0]}, which is not trained before it; choose an earlier model's run")
        # a run of ours is known by its step, another file by its content
        for key, other in given.items():
            kept[key] = other or (kept[key] and _content(Path(kept[key])))
        files = (runs.CONFIG, runs.METRICS, runs.FINDINGS, runs.LAST, runs.BEST, runs.VAL_PREDICTIONS)

        def do() -> None:
            out = self.root / folder
            out.parent.mkdir(parents=True, exist_ok=True)
            train(settings, self.dataset, out, say=self.say, progress=self.progress, recipe=about)

        return Step(
            f"train {name}",
            tuple(f"{folder}/{file}" for file in files),
            {**kept, **self.data},
            tuple(f"train {other}" for other in dict.fromkeys(needs)),
            do,
            folder,
        )

    def _predict(self, name: str, split: str) -> Step:
        settings, _ = self.models[name]

        def do(out: Path) -> None:
            table = predict(
                self.root / "runs" / name, self.dataset, split, labels=self.labels.name, tta=self.options.tta,
                batch=settings.micro_batch, device=settings.device, precision=settings.precision,
                decode=settings.decode, threads=settings.threads, say=self.say, progress=self.progress,
            )  # fmt: skip
            table.write(out)

        return self._table(f"predict {name} {split}", name, split, {"tta": self.options.tta}, (f"train {name}",), do)

    # ------------------------------------------------------------ tables

    def _table(self, step: str, name: str, split: str, settings: dict, needs: Sequence[str], do) -> Step:
        out = self._file(name, split)

        def made() -> None:
            out.parent.mkdir(parents=True, exist_ok=True)
            do(out)

        return Step(step, (str(out.relative_to(self.root)),), {**settings, **self.data}, tuple(needs), made)

    def _file(self, name: str, split: str) -> Path:
        return self.root / "predictions" / f"{name}.{split}.parquet"

    def _ensemble(self, members: list[str], split: str) -> Step:
        return self._table(
            f"ensemble {split}", "ensemble", split, {"members": members},
            [f"predict {name} {split}" for name in members],
            lambda out: ensemble([self._file(name, split) for name in members]).write(out),
        )  # fmt: skip

    def _learn_views(self) -> Step:
        def do() -> None:
            views.fit(self._file(VIEWS_FROM, "val"), self.dataset, self.labels, self.uncertain).write(
                self.root / "views.json"
            )

        settings = {"uncertain": self.uncertain, **self.data}
        return Step("views", ("views.json",), settings, (f"predict {VIEWS_FROM} val",), do)

    def _apply_views(self, name: str, split: str) -> Step:
        def do(out: Path) -> None:
            table, _ = views.apply(self._file(name, split), views.read(self.root / "views.json"), self.dataset)
            table.write(out)

        return self._table(f"views {name} {split}", f"{name}-views", split, {}, ("views", self._maker(name, split)), do)

    def _maker(self, name: str, split: str) -> str:
        """The step that makes a table of predictions."""
        if name.endswith("-views"):
            return f"views {name.removesuffix('-views')} {split}"
        return f"ensemble {split}" if name == "ensemble" else f"predict {name} {split}"

    def _evaluate(self, name: str, split: str) -> Step:
        out = Path("evaluations") / f"{name}.{split}"
        options = EvaluateOptions(draws=self.options.draws, uncertain=self.uncertain)

        def do() -> None:
            (self.root / out).parent.mkdir(parents=True, exist_ok=True)
            result = evaluate(self._file(name, split), self.dataset, self.labels, options, self.progress)
            write(result, self.root / out)
            self.say(f"{name} on {split}: mAP {_number(result['all']['mAP'])}")

        outputs = (f"{out}.json", f"{out}.csv")
        settings = {"draws": options.draws, "uncertain": options.uncertain, **self.data}
        return Step(f"evaluate {name} {split}", outputs, settings, (self._maker(name, split),), do)

    # ------------------------------------------------------------ files to hand in, and to look at

    def _submit(self, name: str, split: str) -> Step:
        out = "submission.zip" if split == "test" else f"submission-{split}.zip"
        template = self.options.templates.get(split)
        if template is None:
            self.notes.append(f"{out} is in the labels' own form; give the challenge's with --template {split}=FILE")

        def do() -> None:
            form = template
            if form is None:
                form = self.root / "predictions" / f"template.{split}.csv"
                write_bytes(form, template_of(self.dataset, self.labels, split))
            submit(self._file(name, split), form, self.root / out)

        settings = {"template": _content(template) if template else None, **self.data}
        return Step(f"submit {split}", (out,), settings, (self._maker(name, split),), do)

    def _report(self, steps: Sequence[Step], tables: list[str]) -> Step:
        def do() -> None:
            book = Book(self.root)
            done = [{"name": step.name, "status": "done", "seconds": book.seconds(step)} for step in steps]
            write_bytes(
                self.root / "paper.json", json_bytes({"models": list(self.models), "tables": tables, "steps": done})
            )
            drawn = self.options.synthetic  # pictures of nobody
            options = ReportOptions(self.options.title, synthetic=drawn, images=drawn)
            write_report(self.root / "report.html", [self.root], pack=self.dataset.root, options=options)

        settings = {"title": self.options.title, "synthetic": self.options.synthetic, **self.data}
        return Step("report", ("report.html", "paper.json"), settings, tuple(step.name for step in steps), do)


def _content(path: Path) -> str:
    """A fingerprint of a file, or of the best weights of a run; raises DataError if it is not there."""
    file = path / runs.BEST if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{path}: no such file or run; give another")
    return sha256_file(file)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
