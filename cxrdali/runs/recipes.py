"""Recipes: named training settings, read from TOML; those of the two papers come with the package."""

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import get_args, get_type_hints

from cxrdali.models.losses import LOSSES, PARAMETERS
from cxrdali.runs.layout import REPLACED
from cxrdali.runs.settings import TrainSettings
from shards.errors import UserError

PAPER, LOSS_DESIGN, DEMO, LOSS_DESIGN_DEMO = (
    Path(str(files("cxrdali").joinpath("recipes", name)))
    for name in ("stage_training.toml", "loss_design.toml", "demo.toml", "loss_design_demo.toml")
)
EVERY = "every"
TAKEN = ("ensemble", REPLACED)  # as are names ending in -views: what stands beside the models of `cxrdali paper`
# What a recipe says in its own words: which weights and which AP are other recipes' runs
WORDS = ("about", "starts_from")
SETTINGS = tuple(field.name for field in fields(TrainSettings) if field.name != "init")


@dataclass(frozen=True)
class Recipe:
    """settings: those of TrainSettings that the file gives; starts_from and oversample_from name other recipes."""

    name: str
    settings: Mapping[str, object]
    starts_from: str | None = None
    about: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """Recipes whose runs must be finished first."""
        both = (self.starts_from, self.settings.get("oversample_from"))
        return tuple(dict.fromkeys(name for name in both if name is not None))

    def resolve(self, runs: Path, overrides: Mapping[str, object] | None = None) -> tuple[TrainSettings, dict]:
        """The settings of a run beside those it needs, in the folder `runs`; and what its config says of the recipe.

        overrides: settings to have otherwise; one that the recipe has just so counts as none. Raises UserError,
        naming the recipe, if they do not go together.
        """
        overrides = dict(overrides or {})
        found = dict(self.settings)
        if self.starts_from:
            found["init"] = str(runs / self.starts_from)
        if found.get("oversample_from"):
            found["oversample_from"] = str(runs / found["oversample_from"])
        plain = TrainSettings(**found)
        # findings are named or chosen by AP: one way given replaces the other
        if "oversample" in overrides:
            found |= {"oversample_below": None, "oversample_from": None}
        elif {"oversample_below", "oversample_from"} & overrides.keys():
            found["oversample"] = ()
        if "loss" in overrides:  # another loss does not have this one's parameters
            own = LOSSES.get(overrides["loss"], ())
            found = {name: value for name, value in found.items() if name not in PARAMETERS or name in own}
        try:
            settings = TrainSettings(**{**found, **overrides})
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from error
        changed = {name: value for name, value in overrides.items() if getattr(plain, name) != getattr(settings, name)}
        return settings, {"name": self.name, "starts_from": self.starts_from, "overridden": changed}


def load(path: Path | None = None) -> dict[str, Recipe]:
    """Recipes by name: the papers', and those of a file of the same form, which go before ones of the same name.

    Raises UserError naming file, recipe and setting for one that is unknown or of the wrong kind, a recipe that
    starts from none, or one that needs itself.
    """
    recipes = read(PAPER) | read(LOSS_DESIGN)
    if path is not None:
        recipes |= read(path)
    where = path or PAPER
    for recipe in recipes.values():
        for needed in recipe.needs:
            find(recipes, needed, f"{where}: {recipe.name}: ")
    in_order(recipes, recipes, where)
    return recipes


def find(recipes: Mapping[str, Recipe], name: str, where: str = "") -> Recipe:
    """Raises UserError that lists the recipes there are."""
    if name not in recipes:
        raise UserError(f"{where}no recipe {name!r}; there are {', '.join(recipes)}")
    return recipes[name]


def in_order(recipes: Mapping[str, Recipe], wanted, where: object = "recipes") -> list[str]:
    """`wanted` and all that they need, every recipe after those it needs. Raises UserError if one needs itself."""
    done, open_ = [], []

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
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: no recipes ({reason}); `cxrdali recipes model0` prints one to begin with") from error
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise UserError(f"{path}: {name} = {table!r} stands outside a recipe; put it under [{EVERY}] or a [name]")
    every = tables.pop(EVERY, {})
    for name in tables:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in TAKEN or name.endswith("-views"):
            raise UserError(
                f"{path}: [{name}] cannot be a recipe's name, which names its run and its tables too; "
                f"use letters, digits, - and _, and not {', '.join(TAKEN)} or ...-views"
            )
    if not tables:
        raise UserError(f"{path}: holds no recipe; give each a table with its name, [mymodel] and settings below it")
    return {name: _recipe(path, name, {**every, **table}) for name, table in tables.items()}


def checked(where: str, settings: dict, words: tuple[str, ...] = ()) -> dict:
    """The settings, if there are such and their values are of the right kind; else raises UserError, after `where`."""
    for key, value in settings.items():
        if key not in SETTINGS and key not in words:
            near = difflib.get_close_matches(key, (*SETTINGS, *words), 1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join((*words, *SETTINGS))}"
            raise UserError(f"{where}: unknown setting {key!r}{hint}")
        if not _fits(key, value):
            raise UserError(f"{where}: {key} = {value!r} is of the wrong kind; {key} is {_kind(key)}")
    return settings


def _recipe(path: Path, name: str, table: dict) -> Recipe:
    checked(f"{path}: {name}", table, WORDS)
    if "stage" not in table:
        raise UserError(f"{path}: {name}: stage is missing; give stage = 1, 2 or 3")
    settings = {key: tuple(value) if key == "oversample" else value for key, value in table.items() if key in SETTINGS}
    try:
        TrainSettings(**settings, init=table.get("starts_from"))
    except UserError as error:
        raise UserError(f"{path}: {name}: {error}") from error
    return Recipe(name, settings, table.get("starts_from"), table.get("about", ""))


def _fits(key: str, value: object) -> bool:
    if key == "oversample":
        return isinstance(value, list) and all(isinstance(name, str) for name in value)
    wanted = _types(key)
    if isinstance(value, bool):
        return bool in wanted
    return type(value) in wanted or (type(value) is int and float in wanted)


def _types(key: str) -> tuple[type, ...]:
    if key in WORDS:
        return (str,)
    hint = get_type_hints(TrainSettings)[key]
    return get_args(hint) if isinstance(hint, UnionType) else (hint,)


def _kind(key: str) -> str:
    if key == "oversample":
        return "a list of findings"
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return " or ".join(names[each] for each in _types(key) if each in names)
