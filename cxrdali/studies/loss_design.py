"""The study of the loss-design paper as steps: losses, backbones, the retrained classifier, and what follows training.

    runs/NAME                           predictions/TABLE.SPLIT.parquet    evaluations/TABLE.SPLIT.json
    calibrations/TABLE.METHOD.json      thresholds/TABLE.json              weights.json
    comparisons/losses.json, ...        report.html                        loss-design.json

TABLE is a model, MODEL+TTA of the main model, ensemble, ensemble+weighted, or one of them +METHOD, calibrated. Weights,
calibrations and thresholds are fitted on validation alone; development and test are predicted and evaluated with them.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np

from cxrdali.data.splits import group_codes
from cxrdali.evaluate.compare import compare
from cxrdali.evaluate.evaluate import PARTS, evaluate
from cxrdali.evaluate.options import CompareOptions, EvaluateOptions
from cxrdali.fitted import KINDS, from_json
from cxrdali.postprocess import calibration, thresholds
from cxrdali.postprocess.ensemble import Weights, weights_by_map
from cxrdali.postprocess.options import CALIBRATIONS, FitOptions
from cxrdali.runs.layout import RECORD, Table
from cxrdali.runs.recipes import Recipe
from cxrdali.runs.steps import Step
from cxrdali.studies.flow import Flow, Ground, Plan, ground
from cxrdali.studies.options import StudyOptions
from cxrdali.studies.roles import roles
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.storage.files import write_bytes
from shards.storage.sealed import check_kinds, maybe, read_json, sealed_json

log = logging.getLogger(__name__)

FIT = "val"  # the split that everything is fitted on
FOLDS = 5  # of a cross-fit, by subject
ENSEMBLE, WEIGHTED, WEIGHTS = "ensemble", "ensemble+weighted", "weights.json"
FORMAT = 1


def make_plan(
    root: Path, dataset: PackedDataset, recipes: Mapping[str, Recipe], options: StudyOptions
) -> tuple[Plan, dict]:
    """The plan, and what RECORD says of it: written when the steps begin, so that a half-done study has a report.

    Raises UserError for an unknown model or setting, or a dataset without a training split.
    """
    study = _Study(root, ground(root, dataset, recipes, options), options)
    plan = study.plan(study.steps())
    return plan, study.record(plan)


class _Study(Flow):
    def __init__(self, root: Path, ground: Ground, options: StudyOptions):
        super().__init__(root, ground, options)
        self.roles = roles(self.models)
        self.tables: list[Table] = []
        subjects = np.unique(group_codes(self.dataset, "subject")[self.splits[FIT]])
        self.folds = min(FOLDS, len(subjects))
        self.fit = FitOptions(self.uncertain, max(2, self.folds))  # of one subject nothing is fitted
        self.fitted_by = {"uncertain": self.uncertain, "folds": self.folds, **self.data}  # of steps that fit or compare

    def steps(self) -> tuple[Step, ...]:
        steps = [self.train(name) for name in self.models]
        steps += [step for name in self.models for step in self._predicted(Table(name, "model", name, "none"))]
        main = self.roles.main
        steps += [
            step for tta in self.options.tta for step in self._predicted(Table(f"{main}+{tta}", "tta", main, tta))
        ]
        steps += self._ensembles()
        steps += self._calibrations()
        steps += self._thresholds_and_scores()
        steps += self._comparisons()
        return (*steps, self._report(steps))

    def record(self, plan: Plan) -> dict:
        """Plain JSON values."""
        return {
            "format": FORMAT,
            "title": self.options.title,
            "synthetic": self.options.synthetic,
            "models": list(self.models),
            "roles": asdict(self.roles),
            "splits": {split: self.ground.labelled(split) for split in self.splits},
            "fitted_on": FIT,
            "strategy": self.options.strategy,
            "tables": [asdict(table) for table in self.tables],
            "notes": list(plan.notes),
            "steps": [step.name for step in plan.steps],
        }

    # ------------------------------------------------------------ tables

    def _predicted(self, table: Table) -> list[Step]:
        self.tables.append(table)
        return [self.predict(table.of, split, table.how, table.name) for split in self.splits]

    def _ensembles(self) -> list[Step]:
        members = self.roles.backbones
        if len(members) < 2:
            self.notes.append(f"no ensemble: {members[0]} is the only backbone among the models")
            return []
        weights = self._weigh(members)
        self.tables.append(Table(ENSEMBLE, "ensemble", "", "mean"))
        self.tables.append(Table(WEIGHTED, "ensemble", "", "weighted by validation mAP"))
        plain = [self.pool(ENSEMBLE, split, members) for split in self.splits]
        read = partial(read_weights, self.root / WEIGHTS)
        weighted = [self.pool(WEIGHTED, split, members, read, [weights.name]) for split in self.splits]
        return [*plain, weights, *weighted]

    def _weigh(self, members: Sequence[str]) -> Step:
        def do() -> None:
            paths = [self.file(name, FIT) for name in members]
            weights = weights_by_map(paths, self.dataset, self.labels, self.fit)
            write_bytes(self.root / WEIGHTS, sealed_json({"members": list(members), **asdict(weights)}))

        needs = tuple(self.makers[name, FIT] for name in members)
        settings = {"members": list(members), "uncertain": self.uncertain, **self.data}
        return Step("weights", (WEIGHTS,), settings, needs, do)

    def _calibrations(self) -> list[Step]:
        """The main model by every method, the final predictions by one."""
        if self.folds < 2:
            self.notes.append("no calibration, thresholds or comparisons: validation has images of a single subject")
            return []
        wanted = [(self.roles.main, method) for method in CALIBRATIONS]
        if self._final != self.roles.main:
            wanted.append((self._final, self.options.calibration))
        return [step for of, method in wanted for step in self._calibrated(of, method)]

    @property
    def _final(self) -> str:
        return ENSEMBLE if (ENSEMBLE, FIT) in self.makers else self.roles.main

    def _calibrated(self, of: str, method: str) -> list[Step]:
        rules, name = f"calibrations/{of}.{method}.json", f"{of}+{method}"
        self.tables.append(Table(name, "calibrated", of, method))

        def fit() -> None:
            found = calibration.fit(self.file(of, FIT), self.dataset, self.labels, method, self.fit)
            write(found, self.root / rules)
            errors = [found.macro("ece", when) for when in ("before", "after")]
            log.info(f"{of}, {method}: ECE {errors[0]:.4f} -> {errors[1]:.4f} on {FIT}, cross-fitted")

        settings = {"method": method, **self.fitted_by}
        steps = [Step(f"calibrate {of} {method}", (rules,), settings, (self.makers[of, FIT],), fit)]
        for split in self.splits:

            def use(out: Path, split=split) -> None:
                calibration.apply(self.file(of, split), calibration.read(self.root / rules)).write(out)

            needs = (steps[0].name, self.makers[of, split])
            steps.append(self.table(f"calibrated {of} {method} {split}", name, split, {}, needs, use))
        return steps

    # ------------------------------------------------------------ scores

    def _thresholds_and_scores(self) -> list[Step]:
        """On validation without what was fitted on it: files of calibrations and thresholds have their cross-fit."""
        steps, labelled = [], self.labelled_splits()
        for table in self.tables:
            if self.folds > 1:
                steps.append(self._thresholds(table.name))
            for split in labelled:
                if split == FIT and table.kind == "calibrated":
                    continue
                fitted = [f"thresholds {table.name}"] if self._has_thresholds(split) else []
                more = {"thresholds": self.options.strategy if fitted else "fixed"}
                steps.append(self.evaluate(table.name, split, [self.makers[table.name, split], *fitted], more))
        return steps

    def _has_thresholds(self, split: str) -> bool:
        return split != FIT and self.folds > 1

    def scored(self, name: str, split: str, options: EvaluateOptions) -> dict:
        """With the thresholds, and F1 at probability 0.5 as macro_F1_half."""
        path, half = self.file(name, split), thresholds.fixed(self.labels.findings)
        known = thresholds.read(self.root / thresholds_file(name)) if self._has_thresholds(split) else half
        result = evaluate(path, self.dataset, self.labels, options, known)
        plain = evaluate(path, self.dataset, self.labels, replace(options, draws=0), half)
        for part in PARTS:
            if result[part] is not None:
                result[part]["macro_F1_half"] = plain[part]["macro_F1"]
        return result

    def _thresholds(self, name: str) -> Step:
        out = thresholds_file(name)

        def do() -> None:
            found = thresholds.fit(self.file(name, FIT), self.dataset, self.labels, self.options.strategy, self.fit)
            write(found, self.root / out)

        settings = {"strategy": self.options.strategy, **self.fitted_by}
        return Step(f"thresholds {name}", (out,), settings, (self.makers[name, FIT],), do)

    def _comparisons(self) -> list[Step]:
        known, steps = self.roles, []
        if self.folds < 2:
            return []
        for what, names in (("losses", known.losses), ("backbones", known.backbones), *self._retrained()):
            if len(names) < 2:
                self.notes.append(f"no comparison of {what}: {names[0]} alone")
                continue
            if len({self._validated(name) for name in names}) > 1:
                self.notes.append(f"no comparison of {what}: limit_batches leaves them different validation images")
                continue
            baseline = "ld-bce" if what == "losses" and "ld-bce" in names else names[0]
            steps.append(self._compare(what, [baseline, *(name for name in names if name != baseline)]))
        return steps

    def _retrained(self) -> list[tuple[str, list[str]]]:
        """By the run that they start from: it, and the classifiers retrained on it."""
        found: dict[str, list[str]] = {}
        for name in self.roles.retrained:
            start = self.models[name][1]["starts_from"] or self.roles.main
            found.setdefault(start, [start]).append(name)
        if not found:
            self.notes.append("no comparison of retrained: no classifier is retrained")
        single = len(found) == 1
        return [("retrained" if single else f"retrained-{start}", names) for start, names in found.items()]

    def _validated(self, name: str) -> int:
        """How many images a model validates on while it trains: a trial, by limit_batches, on a batch's multiple."""
        settings, every = self.models[name][0], len(self.splits[FIT])
        limit = settings.runtime.limit_batches
        return min(every, limit * settings.optimizer.batch) if limit else every

    def _compare(self, what: str, names: list[str]) -> Step:
        out = f"comparisons/{what}.json"
        options = CompareOptions(draws=self.options.draws, folds=self.folds, uncertain=self.uncertain)

        def do() -> None:
            found = compare([self.root / "runs" / name for name in names], self.dataset, options)
            (self.root / out).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self.root / out, sealed_json(found))

        settings = {"runs": names, "draws": options.draws, **self.fitted_by}
        return Step(f"compare {what}", (out,), settings, tuple(f"train {name}" for name in names), do)

    def _report(self, steps: Sequence[Step]) -> Step:
        return Step("report", ("report.html",), self.reported_by, tuple(step.name for step in steps), self.write_report)


def thresholds_file(table: str) -> str:
    return f"thresholds/{table}.json"


def write(rules, path: Path) -> None:
    """Calibration or thresholds, in a folder that may not be there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rules.write(path)


def read_weights(path: Path) -> Weights:
    """Raises UserError if the file is not as `_weigh` writes it."""
    try:
        stored = read_json(path)
        check_kinds(
            stored,
            {"how": str, "values": [float], "runs": [maybe(str)], "maps": [float], "ttas?": [maybe(str)]}
            | {"calibrated?": [maybe([str])], "fitted?": KINDS},
        )
        known = {name: tuple(stored.get(name, ())) for name in ("values", "runs", "maps", "ttas", "calibrated")}
        known["calibrated"] = tuple(None if each is None else tuple(each) for each in known["calibrated"])
        fitted = {"fitted": from_json(stored["fitted"])} if "fitted" in stored else {}  # not of an older version
        return Weights(how=stored["how"], **known, **fitted)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no weights of an ensemble ({error}); delete it and run the same command") from error


def write_record(root: Path, record: dict) -> None:
    """Only if it says something else than before."""
    path, content = root / RECORD, sealed_json(record)
    if not path.is_file() or path.read_bytes() != content:
        write_bytes(path, content)
