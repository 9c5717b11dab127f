"""A study's file as the dataclasses of its schema, or the line on which something is wrong."""

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from cxrdali.runs.names import present
from cxrdali.runs.recipes import TAKEN, flat_settings
from cxrdali.runs.settings import names
from cxrdali.setting import read_value
from cxrdali.studies.schema import (
    EVERY,
    SPLITS,
    Calibrate,
    Claim,
    Comparison,
    Ensemble,
    Evaluate,
    Gate,
    Group,
    Lists,
    Matrix,
    Names,
    Predict,
    Recipes,
    RunTable,
    Study,
    StudyMean,
    Submission,
    Views,
)
from cxrdali.studies.source import Path_, Source
from shards.errors import UserError
from shards.words import choices

T = TypeVar("T")
TABLES = {
    "recipes": Recipes, "views": Views, "study_mean": StudyMean, "gate": Gate, "evaluate": Evaluate, "matrix": Matrix,
    "submission": Submission,
}  # fmt: skip
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
            given[key] = {name: _group(source, each, (key, name)) for name, each in named.items()}
        elif key == "settings":
            given[key] = _settings(source, _dict(source, value, (key,)), (key,))
        else:
            given[key] = value
    plain = {key: value for key, value in given.items() if key not in (*TABLES, *ARRAYS, "runs", "groups", "settings")}
    more = {key: value for key, value in given.items() if key not in plain}
    whole = _table(source, Study, plain, (), {"source": source, **more})
    if whole.demo and whole.packs and whole.demo.keys() != whole.packs.keys():
        differing = min(whole.demo.keys() ^ whole.packs.keys())
        raise source.error(("demo",), f"pack {differing!r} is not in both [packs] and [demo]; name the same ones")
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


def _run(source: Source, name: str, value: object) -> RunTable:
    at = ("runs", name)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name.endswith("-views") or name in (*TAKEN, *SPLITS):
        raise source.error(at, f"{name!r} cannot name a run, which names files too; use letters, digits, - and _")
    given = _dict(source, value, at)
    own = {key: each for key, each in given.items() if key in RUN_KEYS}
    grid = _dict(source, own.pop("grid", {}), (*at, "grid"))
    rest = {key: each for key, each in given.items() if key not in RUN_KEYS}
    read = {"grid": _grid(source, grid, (*at, "grid")), "settings": _settings(source, rest, at)}
    made = _table(source, RunTable, own, at, {"name": name, **read})
    if made.recipe and made.like:
        raise source.error((*at, "like"), f"{name}: recipe and like both say what its settings are; give one of them")
    return made


def _group(source: Source, value: object, at: Path_) -> Group:
    made = _table(source, Group, value, at)
    with source.at((*at, "same")):
        same = tuple(names().flat_name(key) for key in made.same)
    return replace(made, same=same, where=_settings(source, made.where, (*at, "where")))


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
            first = values[0] if isinstance(values, list) and values else None
            flat = names().flat_name(present(key, first))
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
