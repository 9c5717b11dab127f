"""A study's runs: grids become runs of names of their own, and all of them recipes, which the rest of cxrdali knows."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from cxrdali.runs import recipes
from cxrdali.runs.recipes import Recipe
from cxrdali.studies.schema import EVERY, Group, RunTable, Study
from shards.errors import UserError
from shards.words import choices

MOST_RUNS = 1000  # of a study, unless --yes
REPEATS = ("seed", "fold")  # axes of a grid that repeat a run: its mean is over them


@dataclass(frozen=True)
class Planned:
    """A run. table: the [runs.NAME] or recipe that it is of; cell: its name without seed and fold; axes: its values of
    the grid, by setting."""

    recipe: Recipe
    table: str
    cell: str
    axes: Mapping[str, Any]
    packs: tuple[str, ...] = ()


def recipe_file(study: Study, demo: bool = False) -> Path | None:
    """The study's file of recipes: beside it, or in the package."""
    name = (study.recipes.demo or study.recipes.file) if demo else study.recipes.file
    if name is None:
        return None
    near, shipped = study.source.path.parent / name, recipes.PAPER.parent / name
    return near if near.is_file() or not shipped.is_file() else shipped


def spelled_out(study: Study, demo: bool = False) -> Study:
    """With the names of the recipes that are trained, where it says all of them."""
    file = recipe_file(study, demo)
    if study.recipes.train != (EVERY,):
        return study
    if file is None:
        raise study.source.error(("recipes", "train"), f'"{EVERY}" are those of a file; give file = "NAME.toml"')
    return study.changed(recipes=replace(study.recipes, train=tuple(recipes.read(file))))


def expand(
    study: Study, known: Mapping[str, Recipe], every: Mapping[str, object] | None = None, many: bool = False
) -> dict[str, Planned]:
    """All runs by name: those of the file in its order, and every other recipe, in case that a run starts from it.

    Args:
        known: Recipes by name.
        every: Settings of all runs, by flat name, which go before those of the file.
        many: Allow more than MOST_RUNS.

    Raises UserError naming the line of what cannot be.
    """
    found: dict[str, Planned] = {}
    names = [name for name in study.recipes.train if name in known]
    for name, recipe in known.items():
        if study.settings:
            try:
                recipe = recipes.of_layers(name, [recipe.settings, study.settings], recipe.starts_from, recipe.about)
            except UserError as error:
                if name in names:
                    raise study.source.error(("settings",), f"{name}: {error}") from error
                continue  # a recipe of the package that cannot be of this study
        found[name] = Planned(recipe, name, name, {})
    tables, counted = {table.name: table for table in study.runs}, len(names)
    taken = set(names)
    for table in study.runs:
        base = _base(study, table, tables, known)
        grid = {key: _values(key, values, {**base.settings, **(every or {})}) for key, values in table.grid.items()}
        counted += prod(map(len, grid.values()))
        if counted > MOST_RUNS and not many:
            raise study.source.error(
                ("runs", table.name, "grid"), f"{counted:,} runs and more, above {MOST_RUNS:,}; give --yes to mean it"
            )
        for values in product(*grid.values()):
            axes = dict(zip(grid, values, strict=True))
            planned = _planned(
                table, base, axes, {key: value for key, value in (every or {}).items() if key == "folds"}
            )
            name = planned.recipe.name
            if name in taken:
                raise study.source.error(("runs", table.name), f"two runs are called {name}; rename one of them")
            taken.add(name)
            found[name] = planned
    linked = {name: _linked(study, planned, found) for name, planned in found.items() if planned.table in tables}
    # recipes of the package whose start cannot be of this study cannot be either
    rest = {name: planned for name, planned in found.items() if name not in linked}
    while lost := [name for name, planned in rest.items() if set(planned.recipe.needs) - {*rest, *linked}]:
        rest = {name: planned for name, planned in rest.items() if name not in lost}
    return {**rest, **linked}


def chosen(study: Study, runs: Mapping[str, Planned], models: Sequence[str] | None) -> list[str]:
    """Names of the runs to train, without those that they need: what --models says, else what the file does."""
    if models is None:
        tables, whole = {table.name for table in study.runs}, study.recipes.train
        for name in (name for name in whole if name not in runs):
            hint = choices(name, runs, "there are")
            raise study.source.error(("recipes", "train"), f"no recipe {name!r}; {hint}")
        return [*whole, *(name for name, planned in runs.items() if planned.table in tables and name not in whole)]
    found: list[str] = []
    for model in models:
        inside = members(runs, model)
        if not inside:
            recipes.find({name: planned.recipe for name, planned in runs.items()}, model)
        found += inside
    return list(dict.fromkeys(found))


def members(runs: Mapping[str, Planned], name: str) -> list[str]:
    """The runs that a name stands for: one, those of a grid, or those of one of its cells."""
    if name in runs:
        return [name]
    return [each for each, planned in runs.items() if name in (planned.table, planned.cell)]


def _base(study: Study, table: RunTable, tables: Mapping[str, RunTable], known: Mapping[str, Recipe]) -> Recipe:
    """Settings of a run without its grid. Raises UserError for one that is like itself."""
    chain, layers = [table], []
    while (like := chain[-1].like) is not None:
        at = ("runs", chain[-1].name, "like")
        if like not in tables:
            raise study.source.error(at, f"no run {like!r}; {choices(like, tables, 'there are')}")
        chain.append(tables[like])
        if chain.count(tables[like]) > 1:
            raise study.source.error(at, f"{' is like '.join(each.name for each in chain)}; break the circle")
    first, start = chain[-1].recipe, None
    if first is not None:
        if first not in known:
            at = ("runs", chain[-1].name, "recipe")
            raise study.source.error(at, f"no recipe {first!r}; {choices(first, known, 'there are')}")
        layers, start = [known[first].settings], known[first].starts_from
    layers += [study.settings, *(each.settings for each in reversed(chain))]
    start = next((each.starts_from for each in chain if each.starts_from is not None), start)
    try:
        return recipes.of_layers(table.name, layers, start or None, table.about)
    except UserError as error:
        raise study.source.error(("runs", table.name), f"{table.name}: {error}") from error


def repeat_of(settings: Any) -> str:
    """What tells a run from the others of its cell: seed 0 fold 1."""
    return " ".join(f"{key} {settings.flat()[key]}" for key in REPEATS)


def _values(key: str, values: Sequence[Any], settings: Mapping[str, Any]) -> Sequence[Any]:
    return range(int(settings.get("folds", 5))) if key == "fold" and values == (EVERY,) else values


def _planned(table: RunTable, base: Recipe, axes: Mapping[str, Any], folds: Mapping[str, object]) -> Planned:
    """folds: how many, if all runs are to have others than the file says."""
    parts = {key: f"-{key}{_short(value)}" for key, value in axes.items()}
    cell = table.name + "".join(part for key, part in parts.items() if key not in REPEATS)
    recipe = recipes.of_layers(
        table.name + "".join(parts.values()), [base.settings, folds, axes], base.starts_from, base.about
    )
    return Planned(recipe, table.name, cell, axes, table.packs)


def _short(value: Any) -> str:
    """A value in a name of files: without a point, 3e-4 for 0.0003."""
    if isinstance(value, float):
        sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
        number = "-" * sign + "".join(map(str, digits))
        return f"{number}e{exponent}" if exponent else number
    text = "+".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text)


def _linked(study: Study, planned: Planned, runs: Mapping[str, Planned]) -> Planned:
    """What it starts from, and whose AP it reads, as names of runs: of a grid, the run with the same values."""
    recipe = planned.recipe
    links = {"starts_from": recipe.starts_from, "oversample_from": recipe.settings.get("oversample_from")}
    found: dict[str, str] = {}
    for key, name in links.items():
        if name is None or name in runs:
            continue
        inside = members(runs, name)
        same = [each for each in inside if all(planned.axes.get(k) == v for k, v in runs[each].axes.items())]
        at = ("runs", planned.table, key)
        if not inside:
            raise study.source.error(at, f"{recipe.name}: no run {name!r}; {choices(name, runs, 'there are')}")
        if len(same) != 1:
            raise study.source.error(
                at, f"{recipe.name}: {key} {name!r} stands for {len(inside)} runs, of which {len(same)} have the same "
                f"values; give one of {', '.join(inside[:3])}{' ...' if len(inside) > 3 else ''}"
            )  # fmt: skip
        found[key] = same[0]
    settings = {**recipe.settings, **{key: found[key] for key in found if key != "starts_from"}}
    return replace(
        planned, recipe=replace(recipe, settings=settings, starts_from=found.get("starts_from", recipe.starts_from))
    )


def groups(study: Study, models: Mapping[str, tuple[Any, dict]]) -> tuple[dict[str, list[str]], str]:
    """Runs by group, and the run that the first group with `like` is like ("" without one).

    Raises UserError if a group is like a run, and every run is frozen.
    """
    found: dict[str, list[str]] = {}
    reference = ""
    for name, group in study.groups.items():
        if group.of is not None:
            continue
        alike = list(models)
        if group.like is not None:
            like = _like(group.like, models)
            reference = reference or like
            alike = [each for each in alike if all(_same(models[each][0], models[like][0], key) for key in group.same)]
        found[name] = [each for each in alike if _has(models[each][0], group.where)]
    for name, group in study.groups.items():
        if group.of is not None:
            found[name] = _one(study, name, group, found, models)
    return found, reference


def roles(study: Study, models: Mapping[str, tuple[Any, dict]]) -> dict[str, Any]:
    """What the models of the loss-design paper's study are there for, as its page has them."""
    found, reference = groups(study, models)
    known = {name: found[name] for name in ("losses", "backbones", "retrained")}
    inside = {each for names in known.values() for each in names}
    others = [each for each in models if each not in inside]
    return {"reference": reference, **known, "main": found["main"][0], "others": others}


def _like(name: str, models: Mapping[str, tuple[Any, dict]]) -> str:
    whole = [each for each, (settings, _) in models.items() if not settings.model.frozen]
    if not whole:
        raise UserError(f"models {', '.join(models)}: all are frozen; add one that is trained as a whole to --models")
    return name if name in whole else whole[0]


def _same(one: Any, other: Any, key: str) -> bool:
    """Of a loss, a sampler or a head all parameters count too."""
    groups_ = next(
        ((a, b) for a, b in ((one, other), (one.model, other.model), (one.data, other.data)) if hasattr(a, key)), None
    )
    return getattr(groups_[0], key) == getattr(groups_[1], key) if groups_ else one.flat()[key] == other.flat()[key]


def _has(settings: Any, wanted: Mapping[str, Any]) -> bool:
    flat = settings.flat() if wanted else {}
    return all(flat.get(key) == value for key, value in wanted.items())


def _one(study: Study, name: str, group: Group, found: Mapping[str, list[str]], models: Mapping) -> list[str]:
    for key in ("of", "started"):
        other = getattr(group, key)
        if other is not None and other not in found:
            raise study.source.error(("groups", name, key), f"no group {other!r}; {choices(other, found, 'there are')}")
    starts = [models[each][1]["starts_from"] for each in found.get(group.started or "", [])]
    inside = found[group.of or ""]
    return [next((start for start in starts if start in inside), inside[-1])] if inside else []
