"""The options of a command that trains, made from the fields of its settings; --set and --plugins."""

from collections.abc import Callable, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import click

from cxrdali.runs.settings import assigned, names
from cxrdali.setting import plain_types, spelled

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
        for name in reversed([each for each in names().all() if each != "stage"]):
            if only is None or name in only or ("loss" in only and names().group(name) == "loss"):
                command = _option(name, (defaults or {}).get(name, ""))(command)
        return command

    return add


def given_settings(given: Mapping[str, Any], assignments: tuple[str, ...]) -> dict[str, Any]:
    """What a command line sets, by flat name."""
    return {name: value for name, value in given.items() if value is not None} | dict(map(assigned, assignments))


def _option(name: str, default: str) -> Callable:
    each, spelling = names().field(name), f"--{spelled(name)}"
    about, having, given = each.metadata, ", ".join(names().having(name)), {}
    default = default or about["otherwise"] or _in_words(each.default)
    if names().kind(name) is bool:
        given["is_flag"] = True
        spelling, default = (f"{spelling}/--no-{spelled(name)}", default) if each.default else (spelling, "")
    else:
        given |= {"type": _type(name), "metavar": about["metavar"] or None}
    text = (f"{having}: " if having else "") + about["help"] + (f"  [default: {default}]" if default else "")
    heading = names().group(name).capitalize() or "Options"
    return click.option(spelling, name, cls=SettingOption, heading=heading, help=text, default=None, **given)


def _type(name: str) -> click.ParamType:
    legal, types = names().field(name).metadata["legal"], plain_types(names().kind(name))
    if name in names().choices:
        return NameOf(list(names().choices[name]))
    if legal and legal.choices:
        return click.Choice(legal.choices)
    if types == (tuple[str, ...],):
        return Texts()
    return _TYPES[types[0]] if len(types) == 1 else CountOrWord()


def _in_words(default: Any) -> str:
    if default is MISSING or default is None:
        return ""
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"{default:g}" if isinstance(default, float) else str(default)
