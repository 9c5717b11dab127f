"""What a study's file may say: runs, grids, predictions, ensembles, fits, comparisons, claims (docs/studies.md).

Every table of the file is a dataclass here, every key a field of it. A name of a run stands for all runs of its grid.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cxrdali.evaluate.differences import TESTED
from cxrdali.models.options import TTAS
from cxrdali.postprocess.forms import FORMS
from cxrdali.postprocess.options import CALIBRATIONS, POOLINGS, STRENGTH, parse_strategy
from cxrdali.setting import Legal, above, at_least, check, one_of, setting
from cxrdali.studies.source import Source
from shards.errors import UserError
from shards.words import choices

Names = tuple[str, ...]  # a single name may be written without the list
Lists = tuple[Names, ...]
SPLITS = ("val", "dev", "test")
PAGES = ("study", "stage-training", "loss-design")
WEIGHTS = ("equal", "map", "fitted", "greedy")
BY = ("patient", "seed")
EVERY = "all"  # of folds: each of them once
EACH = "each"  # of packs: a run, or predictions, for each of them
NAMED = Legal(
    lambda text: not text or (bool(re.fullmatch(r"[A-Za-z0-9_+-]+", text)) and text not in SPLITS),
    "letters, digits, -, + and _, and none of val, dev, test: it names files",
)


def _each(name: str, given: Names, known: Names) -> None:
    for each in given:
        if each not in known:
            raise UserError(f"{name} {each!r}: {choices(each, known)}")


class Checked:
    def __post_init__(self):
        check(self)


@dataclass(frozen=True)
class Recipes(Checked):
    """[recipes]: a file of recipes, beside the study's or of the package, and which are trained as they are (none;
    "all"). demo: the file that takes its place with --scale demo, with synthetic data."""

    file: str | None = None
    demo: str | None = None
    train: Names = ()


@dataclass(frozen=True)
class RunTable:
    """[runs.NAME]: settings over those of a recipe, or of another run (like). starts_from: the run whose best weights
    it begins with. packs: those that it trains on (all; EACH: a run for each). grid: values by setting, a run for each
    combination."""

    name: str
    recipe: str | None = None
    like: str | None = None
    starts_from: str | None = None
    about: str = ""
    packs: Names = ()
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Group(Checked):
    """[groups]: runs by their settings, never by results. like, same: those with the same values of these settings as
    the run `like` (the first that is not frozen, where it is not trained); where: those with just these values.

    of, started: one run of the group `of`, the first from which a run of `started` starts, else its last.
    without: what a note says of an empty group.
    """

    like: str | None = None
    same: Names = ()
    where: Mapping[str, Any] = field(default_factory=dict)
    of: str | None = None
    started: str | None = None
    without: str = "it has no run"


@dataclass(frozen=True)
class Predict(Checked):
    """[[predict]]: tables of predictions. of: runs or groups (all). pack: a dataset (EACH: all of them). name: of the
    table, of {run}, {tta}, {pack}."""

    of: Names = ()
    pack: str | None = None
    splits: Names = SPLITS
    tta: Names = ("none",)
    name: str = "{run}"

    def __post_init__(self):
        _each("splits", self.splits, SPLITS)
        _each("tta", self.tta, TTAS)
        try:
            made = self.name.format(run="run", tta="tta", pack="pack")
        except (KeyError, ValueError, IndexError):
            made = ""
        if not re.fullmatch(r"[A-Za-z0-9_+-]+", made):
            raise UserError(f"name {self.name!r}: letters, digits, -, + and _, {{run}}, {{tta}} and {{pack}}")


@dataclass(frozen=True)
class Ensemble(Checked):
    """[[ensembles]]: tables pooled. weights: one of WEIGHTS, found on validation, or numbers. file: where they are kept
    (weights/NAME.json). alone: what a note says where {run} is the only member."""

    name: str = setting(legal=NAMED)
    members: Names = setting()
    method: str = setting("mean", legal=one_of(POOLINGS))
    weights: str | tuple[float, ...] = "equal"
    file: str = ""
    alone: str = ""

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.weights, str):
            _each("weights", (self.weights,), WEIGHTS)


@dataclass(frozen=True)
class Views(Checked):
    """[views]: rules for lateral images, fitted to a table on validation, applied to others, as NAME-views."""

    fit: str
    apply: Names


@dataclass(frozen=True)
class StudyMean(Checked):
    """[study_mean]: tables whose images get the mean of their study, as NAME-study."""

    of: Names


@dataclass(frozen=True)
class Gate(Checked):
    """[gate]: tables whose findings are lowered where the image is normal, as NAME-gated; normal: the finding that says
    so."""

    of: Names
    normal: str
    strength: float = setting(STRENGTH, legal=above(0))


@dataclass(frozen=True)
class Calibrate(Checked):
    """[[calibrate]]: tables calibrated on validation, as NAME+METHOD."""

    of: Names
    methods: Names = ("platt",)

    def __post_init__(self):
        _each("methods", self.methods, CALIBRATIONS)


@dataclass(frozen=True)
class Evaluate(Checked):
    """[evaluate]: every table on every labelled split. thresholds: a strategy, fitted on validation; none: 0.5."""

    thresholds: str | None = None

    def __post_init__(self):
        if self.thresholds is not None:
            parse_strategy(self.thresholds)


@dataclass(frozen=True)
class Comparison(Checked):
    """[[comparisons]]: differences with intervals, of runs on their validation images or of tables on `splits`.

    runs, tables: against the baseline (the first). start: a comparison for every run that they start from.
    chain: tables, each against the one before; a list in it is the first of them that there is. against: by table,
    which are compared with it. by: samples of patients; or seed: the mean difference of runs over seeds.
    """

    name: str = setting("", legal=NAMED)
    runs: Names = ()
    tables: Names = ()
    baseline: str | None = None
    start: bool = False
    chain: Lists = ()
    against: Mapping[str, Names] = field(default_factory=dict)
    splits: Names = SPLITS
    by: str = setting("patient", legal=one_of(BY))

    def __post_init__(self):
        super().__post_init__()
        if sum(map(bool, (self.runs, self.tables, self.chain or self.against))) != 1:
            raise UserError("a comparison is of runs, of tables, or of chain and against; give one of them")
        _each("splits", self.splits, SPLITS)
        if self.by == "seed" and not (self.runs or self.tables):
            raise UserError("by = 'seed' is of runs or of tables; leave it out")
        if self.start and (self.baseline or not self.runs or self.by == "seed"):
            raise UserError("start compares runs by patient, each with its own baseline; leave it or the other out")
        if not self.name and (self.runs or self.tables):
            raise UserError("a comparison of runs or tables has a name, of its file; give it")


@dataclass(frozen=True)
class Claim(Checked):
    """[[claims]]: that one run or table scores higher than another. printed: both scores as a paper has them."""

    higher: str
    than: str
    says: str = ""
    metric: str = setting("mAP", legal=one_of(TESTED))
    split: str = "val"
    printed: tuple[float, ...] = ()


@dataclass(frozen=True)
class Matrix(Checked):
    """[matrix]: every run on every pack that it is predicted on, by what it was trained on. allow_overlap: though a
    pack holds copies of images that a run was trained on."""

    split: str = setting("test", legal=one_of(SPLITS))
    allow_overlap: bool = False


@dataclass(frozen=True)
class Submission(Checked):
    """[submission]: the first of these tables that there is, else the last; by split, its file from the package or
    --template. form: of a challenge, whose columns are known (none: the labels' own)."""

    of: Names = ()
    form: str | None = setting(None, legal=one_of(FORMS))


@dataclass(frozen=True)
class Study(Checked):
    """The whole file. packs: paths by name, "" for one that --data gives; a study without them has one, --data. demo:
    by pack the synthetic hospital that takes its place with --scale demo. settings: of all runs."""

    source: Source
    title: str = "Study"
    page: str = setting("study", legal=one_of(PAGES))
    labels: str | None = None
    draws: int = setting(1000, legal=at_least(0))
    packs: Mapping[str, str] = field(default_factory=dict)
    demo: Mapping[str, str] = field(default_factory=dict)
    recipes: Recipes = Recipes()
    settings: Mapping[str, Any] = field(default_factory=dict)
    runs: tuple[RunTable, ...] = ()
    groups: Mapping[str, Group] = field(default_factory=dict)
    predict: tuple[Predict, ...] = ()
    ensembles: tuple[Ensemble, ...] = ()
    views: Views | None = None
    study_mean: StudyMean | None = None
    gate: Gate | None = None
    calibrate: tuple[Calibrate, ...] = ()
    evaluate: Evaluate = Evaluate()
    comparisons: tuple[Comparison, ...] = ()
    claims: tuple[Claim, ...] = ()
    matrix: Matrix | None = None
    submission: Submission | None = None

    def changed(self, **given: Any) -> "Study":
        return replace(self, **given)
