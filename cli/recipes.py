"""cxrdali recipes: named training settings."""

from pathlib import Path

import click

from cli.options.scores import aligned
from cli.options.training import file_option
from shards.words import counted


@click.command()
@click.argument("name", required=False)
@file_option
def recipes(name, file):
    """List the recipes, or every setting of one (as TOML, so that it can begin a file of your own).

    A run is `cxrdali train --recipe NAME`; the runs that it starts from are looked for beside it.
    """
    from cxrdali.runs.recipes import find, load

    known = load(file)
    if name:
        click.echo(as_toml(find(known, name)))
    else:
        click.echo(as_table(known.values()))


def as_table(known) -> str:
    columns = ("recipe", "stage", "starts from", "size", "batch", "max LR", "epochs", "loss", "oversampling", "what")
    rows = [columns]
    for recipe in known:
        settings, _ = recipe.resolve(Path())
        data, optimizer = settings.data, settings.optimizer
        start = recipe.starts_from or ("timm's weights" if settings.model.pretrained else "scratch")
        below = data.oversample_below
        doubled = f"AP < {below:.2f} in {recipe.settings['oversample_from']}" if below else ""
        doubled = counted(len(data.oversample), "named finding") if data.oversample else doubled
        if data.sampler.name != "natural":
            doubled = f"{data.sampler.name} samples"
        rows.append((
            recipe.name, str(settings.stage), start, str(data.size), str(optimizer.batch), f"{optimizer.lr:g}",
            str(optimizer.epochs), settings.loss.name, doubled or "-", recipe.about,
        ))  # fmt: skip
    return aligned(rows, left=range(len(columns)))


def as_toml(recipe) -> str:
    """Every setting in its group; those that the recipe does not give are marked as defaults."""
    nested = recipe.resolve(Path())[0].as_json()
    del nested["model"]["init"]
    nested["data"]["oversample_from"] = recipe.settings.get("oversample_from")
    lines = [f"[{recipe.name}]"]
    for key, value in (("about", recipe.about), ("starts_from", recipe.starts_from)):
        if value:
            lines.append(f"{key} = {_toml(value)}")
    lines += [_line(key, key, value, recipe) for key, value in nested.items() if not isinstance(value, dict)]
    for group, settings in nested.items():
        if isinstance(settings, dict):
            lines += ["", f"[{recipe.name}.{group}]"]
            lines += [line for key, value in settings.items() for line in _lines(group, key, value, recipe)]
    return "\n".join(lines)


def _lines(group: str, key: str, value, recipe) -> list[str]:
    """A setting; of a choice in a group its name and its parameters."""
    if not isinstance(value, dict):
        return [_line(key, group if key == "name" else key, value, recipe)]
    if value.keys() == {"name"}:
        return [_line(key, key, value["name"], recipe)]
    return [_line(f"{key}.{each}", key if each == "name" else each, value[each], recipe) for each in value]


def _line(key: str, name: str, value, recipe) -> str:
    if value is None:  # TOML has no null
        return f"# {key} is not set"
    return f"{key} = {_toml(value)}" + ("" if name in recipe.settings else "  # default")


def _toml(value) -> str:
    import json

    if isinstance(value, float):
        return repr(value)  # 1e-06 is a float in TOML too
    return json.dumps(value, ensure_ascii=False)  # TOML's strings, numbers, booleans and lists are JSON's
