"""A study's file as steps, in an order in which they can be done: train, predict, pool, fit, score, compare, report."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from cxrdali.runs.recipes import Recipe
from cxrdali.runs.steps import Step, record_name
from cxrdali.studies.comparing import Comparisons
from cxrdali.studies.expand import expand, groups, members, repeat_of, roles, spelled_out
from cxrdali.studies.ground import FIT, Ground, Plan
from cxrdali.studies.handed_in import submissions
from cxrdali.studies.matrices import matrix_step, missing
from cxrdali.studies.options import StudyOptions
from cxrdali.studies.results import Results
from cxrdali.studies.rewritten import gated, study_means
from cxrdali.studies.schema import WEIGHTS, Study
from cxrdali.studies.source import Path_
from cxrdali.studies.tables import Tables
from cxrdali.studies.training import train_step
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.words import choices

FORMAT = 1
SINGLE = "validation has images of a single subject"


def make_plan(
    root: Path, packs: Mapping[str, PackedDataset], study: Study, known: Mapping[str, Recipe], options: StudyOptions
) -> Plan:
    """The plan, and what the folder's record says of it.

    Args:
        root: The study's folder.
        packs: Datasets by name.
        known: Recipes by name.

    Raises UserError naming the line of what cannot be, or an unknown model or setting, or a dataset without a training
    split.
    """
    study = _with(spelled_out(study, options.synthetic), options)
    runs = expand(study, known, options.overrides.get(""), options.many)
    return Planner(root, Ground(root, packs, study, runs, options), study, options).plan()


def _with(study: Study, options: StudyOptions) -> Study:
    """The file with what the command line says otherwise."""
    if options.tta is not None:
        some = [each for each in study.predict if "{tta}" in each.name]  # those that are there for their TTA, else all
        plain = tuple(name for name in options.tta if name != "none" or not some)
        changed = [replace(each, tta=plain) if each in some or not some else each for each in study.predict]
        study = study.changed(predict=tuple(each for each in changed if each.tta))
    if options.calibration is not None and study.calibrate:
        last = replace(study.calibrate[-1], methods=(options.calibration,))
        study = study.changed(calibrate=(*study.calibrate[:-1], last))
    if options.thresholds is not None:
        study = study.changed(evaluate=replace(study.evaluate, thresholds=options.thresholds))
    return study


class Planner:
    """Makes the steps of a whole study."""

    def __init__(self, root: Path, ground: Ground, study: Study, options: StudyOptions):
        self.ground, self.study, self.options, self.models = ground, study, options, ground.models
        draws = study.draws if options.draws is None else options.draws
        self.made = Tables(root, ground, options, draws)
        self.results, self.notes = Results(self.made), self.made.notes
        self.title = options.title or study.title
        self.groups, self.reference = groups(study, self.models)
        self.single = ground.base.folds < 2

    def plan(self) -> Plan:
        made = self.made
        steps = [train_step(self.made.root, self.ground, name) for name in self.models]
        for number, each in enumerate(self.study.predict):
            wanted, _ = self.runs(each.of, ("predict", number, "of"))
            with self.study.source.at(("predict", number)):
                steps += made.predicted(each, wanted if each.of else list(self.models))
        steps += [
            *self._ensembles(),
            *self._views(),
            *self._study_means(),
            *self._gated(),
            *self._calibrations(),
            *self._scores(),
            *Comparisons(self).steps(),
        ]
        steps += [*self._claims(), *self._matrix(), *submissions(self)]
        steps.append(self.results.report(self.title, self.study.page, steps))
        files = Counter(name for step in steps for name in (record_name(step.name), *step.outputs))
        if twice := next((each.name for each in steps if files[record_name(each.name)] > 1), None):
            raise UserError(f"{self.study.source.path}: two steps are called {twice!r}; give one another name")
        if twice := next((name for name in files if files[name] > 1), None):
            raise UserError(f"{self.study.source.path}: two steps write {twice}; give one another name or file")
        bases = {name: self.ground.of(name) for name in self.models}
        return Plan(
            self.models, bases, tuple(self.notes), self.ground.problems, tuple(steps), tuple(made.asked),
            self._record(steps),
        )  # fmt: skip

    def _record(self, steps: Sequence[Step]) -> dict:
        """Plain JSON values: what a page needs to know beside the files; that of stage training is told when it is
        done."""
        if self.study.page == "stage-training":
            return {}
        found = {
            "format": FORMAT,
            "title": self.title,
            "synthetic": self.options.synthetic,
            "models": list(self.models),
            "splits": {split: self.ground.base.labelled(split) for split in self.ground.base.splits},
            "fitted_on": FIT,
            "strategy": self.study.evaluate.thresholds,
            "tables": [asdict(table) for table in self.made.tables],
            "notes": list(self.notes),
            "steps": [step.name for step in steps],
        }
        if self.study.page == "loss-design":
            return {**found, "roles": roles(self.study, self.models)}
        runs = {
            name: {"cell": self.ground.runs[name].cell, "axes": dict(self.ground.runs[name].axes),
                   "repeat": repeat_of(settings)}
            for name, (settings, _) in self.models.items()
        }  # fmt: skip
        return {**found, "groups": self.groups, "runs": runs}

    # ------------------------------------------------------------ names

    def runs(self, names: Iterable[str], at: Path_) -> tuple[list[str], list[str]]:
        """Runs that are trained, and the names of those that are not."""
        found: list[str] = []
        missing: list[str] = []
        for name in names:
            inside = self.groups.get(name, members(self.ground.runs, name))
            here = [each for each in inside if each in self.models]
            if not inside and name not in (*self.groups, *self.study.recipes.train):
                every = dict.fromkeys([*self.groups, *self.models])
                raise self.study.source.error(at, f"no run {name!r}; {choices(name, every, 'there are')}")
            found += here
            missing += [] if here else [name]
        return list(dict.fromkeys(found)), missing

    def repeat(self, name: str) -> tuple[str, str] | None:
        """A run, or that of a table, and which repeat of its cell it is; None: a table that is made of others."""
        tables = (each.of for each in self.made.tables if each.name == name and each.kind in ("model", "tta"))
        if (run := next(tables, name)) not in self.models:
            return None
        return run, repeat_of(self.models[run][0])

    def tables(self, names: Iterable[str], at: Path_) -> tuple[list[str], list[str]]:
        """Tables that there are, and names of those that this study could have and has not."""
        found: list[str] = []
        missing: list[str] = []
        others = [*(each.name for each in self.study.ensembles), *self.groups, *self.study.recipes.train]
        for name in names:
            here, first = [name] if name in self.made.bases else [], re.split(r"-views$|-study$|-gated$|\+|@", name)[0]
            if not here and first not in others and not members(self.ground.runs, first):
                hint = choices(name, self.made.bases, "there are")
                raise self.study.source.error(at, f"no table {name!r} before this; {hint}")
            if not here and first not in others[: len(self.study.ensembles)]:
                named = [f"{run}{name.removeprefix(first)}" for run in self.runs([first], at)[0]]
                here = [each for each in named if each in self.made.bases]
            found += here
            missing += [] if here else [name]
        return list(dict.fromkeys(found)), missing

    def _check_fit(self, names: Iterable[str], at: Path_) -> None:
        """Raises UserError if one of these tables is not of validation."""
        for name in names:
            if (name, FIT) not in self.made.makers:
                why = f"{name} has no table of validation, on which this is fitted"
                raise self.study.source.error(at, f"{why}; predict it on {FIT} too, or leave it out")

    # ------------------------------------------------------------ tables

    def _ensembles(self) -> Iterable[Step]:
        said: set[tuple[str, ...]] = set()
        names = [each.name for each in self.study.ensembles]
        for number, each in enumerate(self.study.ensembles):
            at = ("ensembles", number, "members")
            for name in set(each.members) & set(names[number:]) - {*self.made.bases, *self.groups}:
                raise self.study.source.error(at, f"{name} is made here or later; name tables that are made before it")
            found, missing = self.tables(each.members, at)
            many = len(found) > 1
            if each.members not in said and (missing or not many):
                alone = f": {each.alone.format(run=found[0])}" if each.alone and found else ""
                text = f"the {each.name} is without {', '.join(missing)}" if many else f"no {each.name}{alone}"
                self.notes.append(text)
            said.add(each.members)
            if len({self.made.bases[name].judged_on for name in found}) > 1:
                text = f"members of {each.name} are of several datasets or labels; predict them on one pack"
                raise self.study.source.error(("ensembles", number, "members"), text)
            if isinstance(each.weights, tuple) and len(each.weights) != len(found):
                text = f"weights of {each.name}: {len(each.weights)} numbers for {len(found)} tables; give one for each"
                raise self.study.source.error(("ensembles", number, "weights"), text)
            if many and each.weights in WEIGHTS[1:]:
                self._check_fit(found, ("ensembles", number, "weights"))
            if many:
                with self.study.source.at(("ensembles", number)):
                    steps = self.made.ensemble(each, found)
                yield from steps

    def _views(self) -> Iterable[Step]:
        wanted = self.study.views
        if wanted is None:
            return
        self.tables([wanted.fit], ("views", "fit"))
        apply, _ = self.tables(wanted.apply, ("views", "apply"))
        if wanted.fit not in self.made.bases:
            self.notes.append(f"no view postprocess: {wanted.fit} is not among the models")
            return
        self._check_fit([wanted.fit], ("views", "fit"))
        base = self.made.bases[wanted.fit]
        if (base.dataset.catalog["view"].iloc[base.splits[FIT]] == "frontal").nunique() != 2:
            self.notes.append("no view postprocess: validation has not both frontal and lateral images")
            return
        yield from self.made.views(wanted, apply)

    def _study_means(self) -> Iterable[Step]:
        found, _ = self.tables(self.study.study_mean.of, ("study_mean", "of")) if self.study.study_mean else ([], [])
        for name in found:
            yield from study_means(self.made, name)

    def _gated(self) -> Iterable[Step]:
        wanted = self.study.gate
        for name in self.tables(wanted.of, ("gate", "of"))[0] if wanted else ():
            with self.study.source.at(("gate", "normal")):
                steps = gated(self.made, name, wanted)
            yield from steps

    def _calibrations(self) -> Iterable[Step]:
        done: set[tuple[str, str]] = set()
        if self.single and (self.study.calibrate or self.study.evaluate.thresholds):
            self.notes.append(f"no calibration, thresholds or comparisons: {SINGLE}")
        for number, each in enumerate(() if self.single else self.study.calibrate):
            found, _ = self.tables(each.of, ("calibrate", number, "of"))
            self._check_fit(found, ("calibrate", number, "of"))
            for of, method in ((of, method) for of in found for method in each.methods):
                if (of, method) not in done:
                    yield from self.made.calibrated(of, method)
                done.add((of, method))

    def _scores(self) -> Iterable[Step]:
        base, made = self.ground.base, [split for _, split in self.made.makers]
        without = [split for split in base.splits if split in made and not base.labelled(split)]
        self.notes += [f"{split} is predicted, not evaluated: it was released without labels" for split in without]
        for table in self.made.tables:
            yield from self.made.scored(table, self.study.evaluate.thresholds)

    # ------------------------------------------------------------ results

    def _claims(self) -> Iterable[Step]:
        wanted = []
        for number, claim in enumerate(self.study.claims):
            sides = []
            for key in ("higher", "than"):
                at, name = ("claims", number, key), getattr(claim, key)
                there, _ = self.tables([name], at)
                sides.append(there or self.runs([name], at)[0])
                for each in sides[-1]:
                    with self.study.source.at(("claims", number)):
                        self.results.scored(each, claim.split)
            if not all(sides):
                self.notes.append(f"not checked: {claim.higher} against {claim.than}; one of them is not trained")
            elif len(sides[0]) != len(sides[1]):
                text = f"{claim.higher} stands for {len(sides[0])} runs, {claim.than} for {len(sides[1])}; name as many"
                raise self.study.source.error(("claims", number, "than"), text)
            else:
                with self.study.source.at(("claims", number, "than")):
                    wanted.append((claim, *self._paired(*sides)))
        if wanted:
            yield self.results.claims(wanted)

    def _paired(self, higher: list[str], lower: list[str]) -> tuple[list[str], list[str]]:
        """Both in the order of their seeds and folds. Raises UserError where these differ, or the images do."""
        bases = [self.made.bases.get(name) or self.ground.of(name) for name in (*higher, *lower)]
        if len({base.judged_on for base in bases}) > 1:
            raise UserError("both sides are to have the same images and labels; predict them on one pack")
        found = {name: self.repeat(name) for name in (*higher, *lower)}
        repeats = {name: each[1] for name, each in found.items() if each}
        if len(higher) == 1 or len(repeats) < len(found):
            return higher, lower
        higher, lower = (sorted(side, key=lambda name: repeats[name]) for side in (higher, lower))
        if [repeats[name] for name in higher] != [repeats[name] for name in lower]:
            raise UserError("both sides are to have the same seeds and folds; they are compared in pairs")
        return higher, lower

    def _matrix(self) -> Iterable[Step]:
        if self.study.matrix is not None:
            split = self.study.matrix.split
            self.notes += missing(self.made, split)
            with self.study.source.at(("matrix",)):
                step = matrix_step(self.made, self.study.matrix, self.title)
            yield step
