"""What a study's file may say: runs, grids, predictions, ensembles, fits, comparisons, claims (docs/studies.md).

Every table of the file is a dataclass here, every key a field of it. A name of a run stands for all runs of its grid.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from cxrdali.evaluate.differences import TESTED
from cxrdali.models.options import TTAS
from cxrdali.postprocess.options import CALIBRATIONS, POOLINGS, parse_strategy
from cxrdali.runs.recipes import flat_settings
from cxrdali.runs.settings import names
from cxrdali.setting import at_least, check, one_of, read_value, setting
from cxrdali.studies.source import Path_, Source
from shards.errors import UserError
from shards.words import choices

Names = tuple[str, ...]  # a single name may be written without the list
Lists = tuple[Names, ...]
T = TypeVar("T")
SPLITS = ("val", "dev", "test")
PAGES = ("study", "stage-training", "loss-design")
WEIGHTS = ("equal", "map", "fitted", "greedy")
BY = ("patient", "seed")
EVERY = "all"  # of folds: each of them once


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
    it begins with. packs: those that it trains on (all). grid: values by setting, a run for each combination."""

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
    """[[predict]]: tables of predictions. of: runs or groups (all). name: of the table, of {run}, {tta}, {pack}."""

    of: Names = ()
    pack: str | None = None
    splits: Names = SPLITS
    tta: Names = ("none",)
    name: str = "{run}"

    def __post_init__(self):
        _each("tta", self.tta, TTAS)


@dataclass(frozen=True)
class Ensemble(Checked):
    """[[ensembles]]: tables pooled. weights: one of WEIGHTS, found on validation, or numbers. file: where they are kept
    (weights/NAME.json). alone: what a note says where {run} is the only member."""

    name: str
    members: Names
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

    name: str = ""
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
class Submission(Checked):
    """[submission]: the first of these tables that there is, else the last; by split, its file from the package or
    --template."""

    of: Names = ()


@dataclass(frozen=True)
class Study(Checked):
    """The whole file. packs: paths by name; a study without them has one, --data. settings: of all runs."""

    source: Source
    title: str = "Study"
    page: str = setting("study", legal=one_of(PAGES))
    labels: str | None = None
    draws: int = setting(1000, legal=at_least(0))
    packs: Mapping[str, str] = field(default_factory=dict)
    recipes: Recipes = Recipes()
    settings: Mapping[str, Any] = field(default_factory=dict)
    runs: tuple[RunTable, ...] = ()
    groups: Mapping[str, Group] = field(default_factory=dict)
    predict: tuple[Predict, ...] = ()
    ensembles: tuple[Ensemble, ...] = ()
    views: Views | None = None
    calibrate: tuple[Calibrate, ...] = ()
    evaluate: Evaluate = Evaluate()
    comparisons: tuple[Comparison, ...] = ()
    claims: tuple[Claim, ...] = ()
    submission: Submission | None = None

    def changed(self, **given: Any) -> "Study":
        return replace(self, **given)


TABLES = {"recipes": Recipes, "views": Views, "evaluate": Evaluate, "submission": Submission}
ARRAYS = {
    "predict": Predict, "ensembles": Ensemble, "calibrate": Calibrate, "comparisons": Comparison, "claims": Claim,
}  # fmt: skip
RUN_KEYS = tuple(each.name for each in fields(RunTable) if each.name not in ("name", "settings"))


def read_study(path: Path) -> Study:
    """Raises UserError naming file and line for what is no study."""
    source, tables = Source.read(path)
    given: dict[str, Any] = {}
    for key, value in tables.items():
        if key in TABLES:
            given[key] = _table(source, TABLES[key], value, (key,))
        elif key in ARRAYS:
            each_is = value if isinstance(value, list) else [value]
            given[key] = tuple(_table(source, ARRAYS[key], each, (key, n)) for n, each in enumerate(each_is))
        elif key == "runs":
            given[key] = tuple(_run(source, name, each) for name, each in _dict(source, value, (key,)).items())
        elif key == "groups":
            named = _dict(source, value, (key,))
            given[key] = {name: _table(source, Group, each, (key, name)) for name, each in named.items()}
        elif key == "settings":
            given[key] = _settings(source, _dict(source, value, (key,)), (key,))
        else:
            given[key] = value
    plain = {key: value for key, value in given.items() if key not in (*TABLES, *ARRAYS, "runs", "groups", "settings")}
    more = {key: value for key, value in given.items() if key not in plain}
    whole = _table(source, Study, plain, (), {"source": source, **more})
    if not whole.runs and not whole.recipes.train:
        raise UserError(f"{path}: trains nothing; give [runs.NAME] with settings below it, or train in [recipes]")
    return whole


def _dict(source: Source, value: object, at: Path_) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise source.error(at, f"{at[-1]} = {value!r} is no table; write [{'.'.join(map(str, at))}] and keys below it")
    return value


def _table(source: Source, kind: type[T], value: object, at: Path_, more: Mapping[str, Any] | None = None) -> T:
    """A table as its dataclass; more: fields that are read already.

    Raises UserError for an unknown key, one that is missing, or a value of another kind.
    """
    given, kinds, more = _dict(source, value, at), get_type_hints(kind), more or {}
    known = [each for each in fields(kind) if each.name not in more]  # type: ignore[arg-type]
    for key in given:
        if key not in kinds or key == "source":
            names = [name for name in kinds if name != "source"]
            raise source.error((*at, key), f"unknown key {key!r}; {choices(key, names, 'there are')}")
    for each in known:
        if each.default is MISSING and each.default_factory is MISSING and each.name not in given:
            raise source.error(at, f"{each.name} is missing; give it")
    values = {}
    for key, content in given.items():
        try:
            values[key] = _value(key, content, kinds[key])
        except UserError as error:
            raise source.error((*at, key), error) from error
    try:
        return kind(**values, **more)
    except UserError as error:
        named = next((key for key in given if str(error).startswith(key)), None)
        raise source.error((*at, named) if named else at, error) from error


def _value(name: str, value: object, kind: Any) -> Any:
    if kind == Names:
        return _names(name, value)
    if kind == Lists and isinstance(value, list):
        return tuple(_names(name, each) for each in value)
    if kind == Mapping[str, Names] and isinstance(value, dict):
        return {key: _names(f"{name}.{key}", each) for key, each in value.items()}
    if kind in (Mapping[str, Any], Mapping[str, str]) and isinstance(value, dict):
        return {key: each if kind == Mapping[str, Any] else read_value(key, each, str) for key, each in value.items()}
    if isinstance(value, list) and kind == str | tuple[float, ...]:
        kind = tuple[float, ...]
    if isinstance(value, dict) or (kind != tuple[float, ...] and isinstance(value, list)):
        raise UserError(f"{name} = {value!r} is of the wrong kind")
    return read_value(name, value, str if kind == str | tuple[float, ...] else kind)


def _names(name: str, value: object) -> Names:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise UserError(f"{name} = {value!r} is no name and no list of names")
    return tuple(given)


def _each(name: str, given: Names, known: Names) -> None:
    for each in given:
        if each not in known:
            raise UserError(f"{name} {each!r}: {choices(each, known)}")


def _run(source: Source, name: str, value: object) -> RunTable:
    at = ("runs", name)
    given = _dict(source, value, at)
    own = {key: each for key, each in given.items() if key in RUN_KEYS}
    grid = _dict(source, own.pop("grid", {}), (*at, "grid"))
    rest = {key: each for key, each in given.items() if key not in RUN_KEYS}
    read = {"grid": _grid(source, grid, (*at, "grid")), "settings": _settings(source, rest, at)}
    made = _table(source, RunTable, own, at, {"name": name, **read})
    if made.recipe and made.like:
        raise source.error((*at, "like"), f"{name}: recipe and like both say what its settings are; give one of them")
    return made


def _settings(source: Source, given: Mapping[str, Any], at: Path_) -> dict[str, Any]:
    """By flat name."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        try:
            found |= flat_settings({key: value}, RUN_KEYS if at[0] == "runs" else ())
        except UserError as error:
            raise source.error((*at, key), error) from error
    return found


def _grid(source: Source, given: Mapping[str, Any], at: Path_) -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    for key, values in given.items():
        try:
            flat = names().flat_name(key)
            if values == EVERY and flat == "fold":
                found[flat] = (EVERY,)
                continue
            if not isinstance(values, list) or not values:
                raise UserError(f"{key} = {values!r} is no list of values; write {key} = [...]")
            found[flat] = tuple(names().read(flat, value) for value in values)
            if len(set(found[flat])) < len(values):
                raise UserError(f"{key} = {values!r} holds a value twice; leave one out")
        except UserError as error:
            raise source.error((*at, key), error) from error
    return found
