"""The options of a command that trains, made from the fields of its settings; --set and --plugins."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any, get_type_hints

import click

from cxrdali.registry import Registry
from cxrdali.runs.names import leaves
from cxrdali.runs.settings import TrainSettings, names
from cxrdali.setting import plain_types, spelled

Made = tuple[str, str, Callable]  # an option's name, its heading, and what adds it to a command
_TYPES: dict[type, click.ParamType] = {int: click.INT, float: click.FLOAT, str: click.STRING}

set_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="[GROUP.]NAME=VALUE",
    help="Any setting, as in a recipe: --set optimizer.lr=3e-4. May be repeated; counts more than the options below.",
)
plugins_option = click.option(
    "--plugins",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A Python file that defines losses, samplers or heads (CONTRIBUTING.md), which --loss, --sampler and --head "
    "then know; --set gives their parameters. May be repeated.",
)


class GroupedCommand(click.Command):
    """Its --help lists the options of each group of settings under a heading."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for option in self.get_params(context):
            if record := option.get_help_record(context):
                heading = option.heading if isinstance(option, SettingOption) else "Options"
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class SettingOption(click.Option):
    """heading: the group of its setting."""

    def __init__(self, *arguments: Any, heading: str = "Options", **given: Any):
        super().__init__(*arguments, **given)
        self.heading = heading


class NameOf(click.Choice):
    """A name of a registry, or of a plugin that is not loaded yet: the settings refuse what there is not."""

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        return value


class Texts(click.ParamType):
    """Texts with commas between them; nothing is an empty list."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> tuple[str, ...]:
        given = value.split(",") if isinstance(value, str) else value
        return tuple(each.strip() for each in given if each.strip())


class CountOrWord(click.ParamType):
    """A whole number, or a word that the settings know."""

    name = "integer|text"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> int | str:
        return int(value) if str(value).lstrip("-").isdigit() else value


def setting_options(only: tuple[str, ...] | None = None, defaults: Mapping[str, str] | None = None):
    """An option for every setting but the stage, or for those named; None if it is not given.

    defaults: in words, where a command has others than `TrainSettings`.
    """

    def add(command):
        for name, heading, option in reversed([*_options(defaults or {})]):
            if only is None or name in only or ("loss" in only and heading == "Loss"):
                command = option(command)
        return command

    return add


def given_settings(given: Mapping[str, Any], assignments: tuple[str, ...]) -> dict[str, Any]:
    """What a command line sets, by flat name."""
    from cxrdali.runs.settings import assigned

    return {name: value for name, value in given.items() if value is not None} | dict(map(assigned, assignments))


def _options(defaults: Mapping[str, str]) -> Iterator[Made]:
    for path, each in leaves(TrainSettings):
        name, heading = path[-1], path[0].capitalize() if path[0] in names().groups else "Options"
        registry = each.metadata.get("registry")
        if registry is not None:
            default = defaults.get(name, each.metadata["name"])
            yield _option(name, NameOf(list(registry)), each.metadata["help"], default, heading)
            yield from _parameters(registry, heading)
        elif name != "stage":
            yield _plain(each, get_type_hints(_holder(path))[name], heading, defaults)


def _parameters(registry: Registry, heading: str) -> Iterator[Made]:
    """Of all losses (samplers, heads); which of them have a parameter is said in its help."""
    for name, having in registry.parameters().items():
        made = registry[having[0]]
        each = made.__dataclass_fields__[name]  # type: ignore[attr-defined]
        yield _plain(each, get_type_hints(made)[name], heading, {}, f"{', '.join(having)}: ")


def _plain(each: Field, kind: Any, heading: str, defaults: Mapping[str, str], before: str = "") -> Made:
    about, name = each.metadata, each.name
    default = defaults.get(name) or about["otherwise"] or _in_words(each.default)
    if kind is bool:
        spellings = f"--{spelled(name)}/--no-{spelled(name)}" if each.default else f"--{spelled(name)}"
        return _option(name, None, about["help"], default if each.default else "", heading, spellings)
    legal, types = about["legal"], plain_types(kind)
    taken: click.ParamType = click.Choice(legal.choices) if legal and legal.choices else Texts()
    if not isinstance(taken, click.Choice) and types != (tuple[str, ...],):
        taken = _TYPES[types[0]] if len(types) == 1 else CountOrWord()
    return _option(name, taken, f"{before}{about['help']}", default, heading, metavar=about["metavar"] or None)


def _option(
    name: str, taken: click.ParamType | None, text: str, default: str, heading: str, spellings: str = "", **more: Any
) -> Made:
    text += f"  [default: {default}]" if default else ""
    kind = {"is_flag": True} if taken is None else {"type": taken}
    declared = (spellings or f"--{spelled(name)}", name)
    made = click.option(*declared, cls=SettingOption, help=text, default=None, heading=heading, **kind, **more)
    return name, heading, made


def _holder(path: tuple[str, ...]) -> Any:
    kind: Any = TrainSettings
    for key in path[:-1]:
        kind = get_type_hints(kind)[key]
    return kind


def _in_words(default: Any) -> str:
    if default is MISSING or default is None:
        return ""
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"{default:g}" if isinstance(default, float) else str(default)
