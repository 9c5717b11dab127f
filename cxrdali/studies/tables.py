"""Steps that make a study's tables of predictions, and score them.

    predictions/TABLE.SPLIT.parquet    evaluations/TABLE.SPLIT.json
    calibrations/TABLE.METHOD.json   thresholds/TABLE.json              weights/TABLE.json    views.json

TABLE is a run, or a name made of one: ensemble, model3-views, ensemble+platt. All that is fitted is fitted on
validation alone; the other splits are predicted and evaluated with it.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from cxrdali.evaluate.evaluate import PARTS, evaluate, write
from cxrdali.evaluate.options import EvaluateOptions
from cxrdali.postprocess import calibration, ensemble, thresholds, views
from cxrdali.postprocess.options import FitOptions
from cxrdali.predict.options import PredictOptions
from cxrdali.predict.predict import predict
from cxrdali.runs.layout import Table
from cxrdali.runs.steps import Step
from cxrdali.studies.ground import FIT, Asked, Base, Ground
from cxrdali.studies.kept import keep, number, read_weights
from cxrdali.studies.options import StudyOptions
from cxrdali.studies.schema import Ensemble, Predict, Views
from shards.errors import UserError
from shards.storage.files import write_bytes
from shards.storage.sealed import sealed_json

log = logging.getLogger(__name__)


class Tables:
    """Makes the steps of runs and tables.

    notes: what is left out and why; asked: every step that predicts; tables, bases, makers: the tables, by name their
    dataset, and by table and split the step that makes it; all as the steps are made.
    """

    def __init__(self, root: Path, ground: Ground, options: StudyOptions, draws: int):
        self.root, self.ground, self.models, self.options, self.draws = root, ground, ground.models, options, draws
        self.base, self.uncertain = ground.base, ground.base.uncertain
        self.notes: list[str] = list(ground.notes)
        self.asked: list[Asked] = []
        self.tables: list[Table] = []
        self.bases: dict[str, Base] = {}
        self.makers: dict[tuple[str, str], str] = {}

    def file(self, name: str, split: str) -> Path:
        return self.root / "predictions" / f"{name}.{split}.parquet"

    def predict(self, model: str, split: str, tta: str, name: str, base: Base) -> Step:
        """A run's predictions as the table `name`."""
        settings, _ = self.models[model]

        def do(out: Path) -> None:
            runtime = settings.runtime
            machine = (runtime.device, runtime.precision, runtime.decode, runtime.threads)
            # a label release may have patients in two of its splits (--allow-subject-overlap): every score says so
            how = PredictOptions(base.labels.name, tta, None, *machine, allow_leak=True)
            predict(self.root / "runs" / model, base.dataset, split, how).write(out)

        decided = {"tta": tta, **base.known("all", settings.data.size)}
        step = self.table(f"predict {name} {split}", name, split, decided, (f"train {model}",), do)
        self.asked.append(Asked(step.name, model, split, tta))
        return step

    def predicted(self, wanted: Predict, models: Sequence[str]) -> list[Step]:
        steps = []
        for model in models:
            base = self.ground.of(model, wanted.pack)
            for tta in wanted.tta:
                name = wanted.name.format(run=model, tta=tta, pack=wanted.pack or "")
                name += f"@{wanted.pack}" if wanted.pack and "{pack}" not in wanted.name else ""
                self.begin(Table(name, "model" if name == model else "tta", model, tta), base)
                steps += [
                    self.predict(model, split, tta, name, base) for split in wanted.splits if split in base.splits
                ]
        return steps

    def begin(self, table: Table, base: Base) -> None:
        """From here on there is this table. Raises UserError for a second one of its name."""
        if table.name in self.bases:
            raise UserError(f"two tables are called {table.name}; give one another name")
        self.tables.append(table)
        self.bases[table.name] = base

    def splits(self, name: str) -> list[str]:
        """Those that a table is of."""
        return [split for table, split in self.makers if table == name]

    def table(
        self, step: str, name: str, split: str, settings: dict, needs: Sequence[str], do: Callable[[Path], None]
    ) -> Step:
        """A step that writes the table `name`: `do` is given its path."""
        out, self.makers[name, split] = self.file(name, split), step

        def made() -> None:
            out.parent.mkdir(parents=True, exist_ok=True)
            do(out)

        outputs = (str(out.relative_to(self.root)),)
        return Step(step, outputs, {**self.bases[name].data, **settings}, tuple(needs), made)

    # ------------------------------------------------------------ ensembles, views

    def ensemble(self, wanted: Ensemble, members: Sequence[str]) -> list[Step]:
        """The members' tables of each split that all of them have, of the same images, as one."""
        name, base, fit = wanted.name, self.bases[members[0]], wanted.weights not in ("equal",)
        words = {"equal": "mean", "map": "weighted by validation mAP"}
        how = words.get(str(wanted.weights), f"{wanted.method}, weights {wanted.weights}")
        self.begin(Table(name, "ensemble", "", how if wanted.method == "mean" else f"{wanted.method}, {how}"), base)
        splits = [split for split in base.splits if all((each, split) in self.makers for each in members)]
        if len({id(self.bases[each]) for each in members}) > 1 and FIT in splits:
            splits.remove(FIT)
            self.notes.append(f"{name} has no validation table: its members validate on different images")
        steps, needs, weights = [], [], lambda: None
        if isinstance(wanted.weights, tuple):
            weights = partial(list, wanted.weights)
        elif fit:
            file = wanted.file or f"weights/{name}.json"
            steps.append(self._weigh(wanted, members, file))
            needs, weights = [steps[0].name], partial(read_weights, self.root / file)
        more = {"method": wanted.method} if wanted.method != "mean" else {}
        more |= {"weights": wanted.weights} if isinstance(wanted.weights, tuple) else {}

        def pool(split: str) -> Step:
            def do(out: Path) -> None:
                paths = [self.file(member, split) for member in members]
                ensemble.ensemble(paths, weights(), wanted.method, allow_leak=True).write(out)

            before = (*needs, *(self.makers[member, split] for member in members))
            return self.table(
                f"{name.replace('+', ' ')} {split}", name, split, {"members": members, **more}, before, do
            )

        return [*steps, *(pool(split) for split in splits)]

    def _weigh(self, wanted: Ensemble, members: Sequence[str], file: str) -> Step:
        """The step of the weights has the name of their file, if the study gives it."""
        base, fit = self.bases[members[0]], self.fit_options(members[0])

        def do() -> None:
            paths = [self.file(name, FIT) for name in members]
            if wanted.weights == "map":
                weights = ensemble.weights_by_map(paths, base.dataset, base.labels, fit)
            else:
                ground, greedy = (base.dataset, base.labels), wanted.weights == "greedy"
                weights = ensemble.fitted_weights(paths, *ground, wanted.method, fit, greedy=greedy)
            (self.root / file).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self.root / file, sealed_json({"members": list(members), **asdict(weights)}))

        settings = {"members": list(members), "uncertain": base.uncertain, **base.data}
        if wanted.weights != "map":
            settings |= {"weights": wanted.weights, "method": wanted.method, "folds": base.folds}
        name = Path(file).stem if wanted.file else f"weights {wanted.name}"
        return Step(name, (file,), settings, tuple(self.makers[name, FIT] for name in members), do)

    def fit_options(self, table: str) -> FitOptions:
        base = self.bases[table]
        return FitOptions(base.uncertain, max(2, base.folds))  # of one subject nothing is fitted

    def views(self, wanted: Views, others: Sequence[str]) -> list[Step]:
        """Rules fitted to one table, applied to itself and others."""
        base, rules = self.bases[wanted.fit], self.root / "views.json"
        settings = {"uncertain": base.uncertain, **base.data}
        source = self.file(wanted.fit, FIT)

        def fit() -> None:
            views.fit(source, base.dataset, base.labels, FitOptions(base.uncertain)).write(rules)

        steps = [Step("views", ("views.json",), settings, (self.makers[wanted.fit, FIT],), fit)]
        for name in others:
            self.begin(Table(f"{name}-views", "views", name, wanted.fit), self.bases[name])
            for split in self.splits(name):

                def use(out: Path, name=name, split=split) -> None:
                    # Yamagishi & Hanaoka use model3's rules on the ensemble too; the table's history says so
                    other = name != wanted.fit
                    table, _ = views.apply(
                        self.file(name, split), views.read(rules), base.dataset, allow_other_run=other
                    )
                    table.write(out)

                needs = ("views", self.makers[name, split])
                steps.append(self.table(f"views {name} {split}", f"{name}-views", split, {}, needs, use))
        return steps

    # ------------------------------------------------------------ calibration, thresholds, scores

    def calibrated(self, of: str, method: str) -> list[Step]:
        rules, name, base = f"calibrations/{of}.{method}.json", f"{of}+{method}", self.bases[of]
        self.begin(Table(name, "calibrated", of, method), base)

        def fit() -> None:
            found = calibration.fit(self.file(of, FIT), base.dataset, base.labels, method, self.fit_options(of))
            keep(found, self.root / rules)
            errors = [found.macro("ece", when) for when in ("before", "after")]
            log.info(f"{of}, {method}: ECE {errors[0]:.4f} -> {errors[1]:.4f} on {FIT}, cross-fitted")

        settings = {"method": method, **self.fitted_by(of)}
        steps = [Step(f"calibrate {of} {method}", (rules,), settings, (self.makers[of, FIT],), fit)]
        for split in self.splits(of):

            def use(out: Path, split=split) -> None:
                calibration.apply(self.file(of, split), calibration.read(self.root / rules)).write(out)

            needs = (steps[0].name, self.makers[of, split])
            steps.append(self.table(f"calibrated {of} {method} {split}", name, split, {}, needs, use))
        return steps

    def fitted_by(self, table: str) -> dict:
        """Of steps that fit or compare."""
        base = self.bases[table]
        return {"uncertain": base.uncertain, "folds": base.folds, **base.data}

    def scored(self, table: Table, strategy: str | None) -> list[Step]:
        """Validation without what was fitted on it: files of calibrations and thresholds have their cross-fit."""
        steps, name, base = [], table.name, self.bases[table.name]
        fits = strategy is not None and base.folds > 1 and (name, FIT) in self.makers
        if fits:
            steps.append(self._thresholds(name, strategy))
        for split in self.splits(name):
            if base.labelled(split) and not (split == FIT and table.kind == "calibrated"):
                fitted = f"thresholds {name}" if fits and split != FIT else None
                steps.append(self._evaluate(name, split, strategy, fitted))
        return steps

    def _thresholds(self, name: str, strategy: str) -> Step:
        out, base = thresholds_file(name), self.bases[name]

        def do() -> None:
            found = thresholds.fit(self.file(name, FIT), base.dataset, base.labels, strategy, self.fit_options(name))
            keep(found, self.root / out)

        settings = {"strategy": strategy, **self.fitted_by(name)}
        return Step(f"thresholds {name}", (out,), settings, (self.makers[name, FIT],), do)

    def _evaluate(self, name: str, split: str, strategy: str | None, fitted: str | None) -> Step:
        """fitted: the step of its thresholds."""
        out, base = Path("evaluations") / f"{name}.{split}", self.bases[name]
        options = EvaluateOptions(draws=self.draws, uncertain=base.uncertain, allow_leak=True)

        def do() -> None:
            (self.root / out).parent.mkdir(parents=True, exist_ok=True)
            result = self._score(name, split, options, strategy, fitted)
            write(result, self.root / out)
            log.info(f"{name} on {split}: mAP {number(result['all']['mAP'])}")

        more = {} if strategy is None else {"thresholds": strategy if fitted else "fixed"}
        settings = {"draws": options.draws, "uncertain": options.uncertain, **more, **base.data}
        needs = (self.makers[name, split], *([fitted] if fitted else []))
        return Step(f"evaluate {name} {split}", (f"{out}.json", f"{out}.csv"), settings, needs, do)

    def _score(self, name: str, split: str, options: EvaluateOptions, strategy: str | None, fitted: str | None) -> dict:
        """In a study with thresholds F1 at probability 0.5 too, as macro_F1_half."""
        path, base = self.file(name, split), self.bases[name]
        if strategy is None:
            return evaluate(path, base.dataset, base.labels, options)
        half = thresholds.fixed(base.labels.findings)
        known = thresholds.read(self.root / thresholds_file(name)) if fitted else half
        result = evaluate(path, base.dataset, base.labels, options, known)
        plain = evaluate(path, base.dataset, base.labels, replace(options, draws=0), half)
        for part in PARTS:
            if result[part] is not None:
                result[part]["macro_F1_half"] = plain[part]["macro_F1"]
        return result


def thresholds_file(table: str) -> str:
    return f"thresholds/{table}.json"
