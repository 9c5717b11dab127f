"""cxrdali recipes: named training settings."""

from pathlib import Path

import click

file_option = click.option(
    "--recipes",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="TOML",
    help="Recipes of your own, beside the paper's. `cxrdali recipes model3` prints one to begin with.",
)


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
        start = recipe.starts_from or ("timm's weights" if settings.pretrained else "scratch")
        below = settings.oversample_below
        doubled = (
            f"AP < {below:.2f} in {recipe.settings['oversample_from']}" if below else ", ".join(settings.oversample)
        )
        if settings.sampler != "natural":
            doubled = f"{settings.sampler} draws"
        rows.append((
            recipe.name, str(settings.stage), start, str(settings.size), str(settings.batch), f"{settings.lr:g}",
            str(settings.epochs), settings.loss, doubled or "-", recipe.about,
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def as_toml(recipe) -> str:
    """Every setting; those that the recipe does not give are marked as defaults."""
    settings, _ = recipe.resolve(Path())
    values = {**settings.as_json(), "oversample_from": recipe.settings.get("oversample_from")}
    values.pop("init")
    lines = [f"[{recipe.name}]"]
    for key, value in (("about", recipe.about), ("starts_from", recipe.starts_from)):
        if value:
            lines.append(f"{key} = {_toml(value)}")
    for key, value in values.items():
        if value is None:  # TOML has no null
            lines.append(f"# {key} is not set")
        else:
            lines.append(f"{key} = {_toml(value)}" + ("" if key in recipe.settings else "  # default"))
    return "\n".join(lines)


def _toml(value) -> str:
    import json

    if isinstance(value, float):
        return repr(value)  # 1e-06 is a float in TOML too
    return json.dumps(value, ensure_ascii=False)  # TOML's strings, numbers, booleans and lists are JSON's
