"""Recipes: named training settings, read from TOML; those of the two papers come with the package.

A recipe is a table of `stage`, `seed` and the groups of `TrainSettings`. (Names are unique, so that
groups may be left out.)

    [model2]
    about = "stage 2; its AP decides what is oversampled"
    stage = 2
    starts_from = "model0"
    data.size = 320
    optimizer = { batch = 128, lr = 1e-3 }
    loss = { name = "asl", asl_clip = 0.05 }

[every] holds for all recipes of its file. `starts_from` and `data.oversample_from` name other recipes.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from cxrdali.runs.layout import REPLACED
from cxrdali.runs.names import flatten, present
from cxrdali.runs.settings import TrainSettings, names, settings_of
from cxrdali.setting import read_value
from shards.errors import UserError
from shards.storage.toml_file import read_toml
from shards.words import choices

PAPER, LOSS_DESIGN, DEMO, LOSS_DESIGN_DEMO = (
    Path(str(files("cxrdali").joinpath("recipes", name)))
    for name in ("stage_training.toml", "loss_design.toml", "demo.toml", "loss_design_demo.toml")
)
EVERY = "every"
TAKEN = ("ensemble", REPLACED)  # as are names ending in -views: what is written beside the models of `cxrdali paper`
WORDS = ("about", "starts_from")  # beside settings: init is the run of the recipe that it starts from


@dataclass(frozen=True)
class Recipe:
    """settings: what the file gives, by flat name; starts_from and oversample_from name other recipes."""

    name: str
    settings: Mapping[str, Any]
    starts_from: str | None = None
    about: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """Recipes whose runs must be finished first."""
        both = (self.starts_from, self.settings.get("oversample_from"))
        return tuple(dict.fromkeys(name for name in both if name is not None))

    def resolve(self, runs: Path, overrides: Mapping[str, Any] | None = None) -> tuple[TrainSettings, dict]:
        """The settings of a run beside those it needs, in the folder `runs`; and what its config says of the recipe.

        overrides: settings to have otherwise, by flat name; one that the recipe has just so counts as none. Raises
        UserError, naming the recipe, if they do not go together.
        """
        overrides = dict(overrides or {})
        found = dict(self.settings)
        if self.starts_from:
            found["init"] = str(runs / self.starts_from)
        if found.get("oversample_from"):
            found["oversample_from"] = str(runs / found["oversample_from"])
        plain = settings_of(found)
        # findings are named or chosen by AP: one way given replaces the other
        replaced: dict[str, Any] = {}
        if "oversample" in overrides:
            replaced = {"oversample_below": None, "oversample_from": None}
        elif {"oversample_below", "oversample_from"} & overrides.keys():
            replaced = {"oversample": ()}
        try:
            settings = settings_of(found, {**replaced, **overrides})
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from error
        before, after = plain.flat(), settings.flat()
        changed = {name: after[name] for name in overrides if before.get(name) != after[name]}
        return settings, {"name": self.name, "starts_from": self.starts_from, "overridden": changed}


def load(path: Path | None = None) -> dict[str, Recipe]:
    """Recipes by name: the papers', and those of a file of the same form, which go before ones of the same name.

    Raises UserError naming file, recipe and setting for one that is unknown or of the wrong kind, a recipe that
    starts from none, or one that needs itself.
    """
    recipes, where = read(PAPER) | read(LOSS_DESIGN), path or PAPER
    if path is not None:
        recipes |= read(path)
    for recipe in recipes.values():
        for needed in recipe.needs:
            find(recipes, needed, f"{where}: {recipe.name}: ")
    with _bounded(where):
        in_order(recipes, recipes, where)
    return recipes


def find(recipes: Mapping[str, Recipe], name: str, where: str = "") -> Recipe:
    """Raises UserError that lists the recipes there are."""
    if name not in recipes:
        raise UserError(f"{where}no recipe {name!r}; {choices(name, recipes, 'there are')}")
    return recipes[name]


def in_order(recipes: Mapping[str, Recipe], wanted: Iterable[str], where: object = "recipes") -> list[str]:
    """`wanted` and all that they need, every recipe after those it needs. Raises UserError if one needs itself."""
    done: list[str] = []
    open_: list[str] = []

    def visit(name: str) -> None:
        if name in done:
            return
        if name in open_:
            raise UserError(f"{where}: {' needs '.join([*open_[open_.index(name) :], name])}; break the circle")
        open_.append(name)
        for needed in recipes[name].needs:
            visit(needed)
        done.append(open_.pop())

    for name in wanted:
        visit(name)
    return done


def read(path: Path) -> dict[str, Recipe]:
    """The recipes of one file alone, which may start from others' that it does not have."""
    with _bounded(path):
        return _read(path)


@contextmanager
def _bounded(where: object) -> Iterator[None]:
    """The reader of TOML has no limit of its own."""
    try:
        yield
    except RecursionError:
        raise UserError(f"{where}: tables, lists or recipes in one another beyond all measure; make it flat") from None


def _read(path: Path) -> dict[str, Recipe]:
    try:
        _, tables = read_toml(path)
    except (OSError, ValueError) as error:  # of bytes, of TOML, of a number with thousands of digits
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: no recipes ({reason}); `cxrdali recipes model0` prints one to begin with") from error
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise UserError(f"{path}: {name} = {table!r} stands outside a recipe; put it under [{EVERY}] or a [name]")
    every = _layer(f"{path}: {EVERY}", tables.pop(EVERY, {}))
    for name in tables:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in (*TAKEN, *names().groups) or name.endswith("-views"):
            raise UserError(
                f"{path}: [{name}] cannot be a recipe's name, which names its run and its tables too; "
                f"use letters, digits, - and _, and not {', '.join((*TAKEN, *names().groups))} or ...-views"
            )
    if not tables:
        raise UserError(f"{path}: holds no recipe; give each a table with its name, [mymodel] and settings below it")
    return {name: _recipe(path, name, every, table) for name, table in tables.items()}


def _layer(where: str, table: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return flat_settings(table)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def flat_settings(table: Mapping[str, Any], others: tuple[str, ...] = WORDS) -> dict[str, Any]:
    """A table, or groups of settings, by flat name; others: keys that may stand beside them. "none" is no value of a
    number that may have none, which TOML cannot write.

    Raises UserError for an unknown name or a value of another type.
    """
    found = {}
    for name, value in _dotted(table):
        if name in WORDS:
            found[name] = read_value(name, value, str)
            if not found[name].isprintable():  # a terminal would obey it
                raise UserError(f"{name} = {value!r} holds what cannot be printed; write plain text")
            continue
        if name.endswith("init"):  # of a recipe it is the run of another one
            raise UserError(f"unknown setting {name!r}; a recipe starts from another one, with starts_from")
        flat = names().flat_name(present(name, value), others)
        found[flat] = None if value == "none" and _may_be_none(flat) else names().read(flat, value)
    return found


def _may_be_none(name: str) -> bool:
    """Of a setting that is no text: a text may be called "none"."""
    kinds = get_args(names().kind(name))
    return type(None) in kinds and str not in kinds


def _dotted(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _recipe(path: Path, name: str, every: Mapping[str, Any], table: Mapping[str, Any]) -> Recipe:
    where = f"{path}: {name}"
    own = _layer(where, table)
    words = {key: {**every, **own}[key] for key in WORDS if key in every or key in own}
    layers = [{key: value for key, value in layer.items() if key not in WORDS} for layer in (every, own)]
    try:
        return of_layers(name, layers, words.get("starts_from"), words.get("about", ""))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def of_layers(name: str, layers: Iterable[Mapping[str, Any]], starts_from: str | None, about: str = "") -> Recipe:
    """A recipe of settings by flat name, later ones over earlier ones. Raises UserError if they do not go together."""
    given = list(layers)
    settings_of(*given, init=starts_from)
    return Recipe(name, flatten(names().grouped(*given)), starts_from, about)
