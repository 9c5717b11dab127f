"""Options of the command line, made from the fields of dataclasses (`cxrdali.setting`)."""

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, get_type_hints

import click

from cxrdali.setting import plain_types, spelled
from shards.words import choices

_TYPES: dict[type, click.ParamType] = {int: click.INT, float: click.FLOAT, str: click.STRING}


class Texts(click.ParamType):
    """Texts with commas between them, those in parentheses aside; nothing is an empty list."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> tuple[str, ...]:
        given = re.split(r",(?![^(]*\))", value) if isinstance(value, str) else value
        return tuple(each.strip() for each in given if each.strip())


class Choice(click.Choice):
    """Names, of which a mistyped one gets the nearest."""

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        try:
            return super().convert(value, param, context)
        except click.BadParameter:
            self.fail(f"{value!r}: {choices(value, self.choices)}", param, context)


class NumberOrWord(click.ParamType):
    """A number of the kind `number`, or a word that the settings know."""

    name = "number|text"

    def __init__(self, number: type[int] | type[float]):
        self.number = number

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> float | str:
        try:
            return self.number(value)
        except ValueError:
            return value


class _Switch(click.ParamType):
    """On where it stands alone, or a word that the settings know."""

    name = "switch"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> bool | str:
        return {"true": True, "false": False}.get(value, value)


def field_options(kind: type, *only: str, **help: str) -> Callable:
    """An option for the fields of `kind` that are named; None if it is not given. help: where a command has its own."""
    kinds, known = get_type_hints(kind), {each.name: each for each in fields(kind)}

    def add(command):
        for name in reversed(only):
            command = option_of(known[name], kinds[name], help=help.get(name, ""))(command)
        return command

    return add


def filled(kind: type, given: Mapping[str, Any], **more: Any) -> Any:
    """The dataclass `kind` of those options that are its fields and were given."""
    found = {each.name: given[each.name] for each in fields(kind) if given.get(each.name) is not None}
    return kind(**found, **more)


def option_of(
    each: Field, kind: Any, *, help: str = "", default: str = "", type: click.ParamType | None = None, **given: Any
) -> Callable:
    """The option of a field.

    Args:
        each: The field, made by `cxrdali.setting.setting`.
        kind: Its type.
        help: In place of the field's.
        default: In words, in place of the field's.
        type: In place of what the field's type and legal values say.
        given: What `click.option` takes besides.
    """
    about, spelling = each.metadata, f"--{spelled(each.name)}"
    default = default or about["otherwise"] or _in_words(each.default)
    if plain_types(kind) == (tuple[str, ...],):
        given |= {"multiple": True, "callback": _all_texts}
    if bool in plain_types(kind) and kind is not bool:
        given |= {"type": _Switch(), "is_flag": False, "flag_value": "true", "metavar": about["metavar"]}
    elif kind is bool:
        given["is_flag"] = True
        spelling, default = (f"{spelling}/--no-{spelled(each.name)}", default) if each.default else (spelling, "")
    else:
        given |= {"type": type or _type(about["legal"], kind), "metavar": about["metavar"] or None}
    text = (help or about["help"]) + (f"  [default: {default}]" if default else "")
    return click.option(spelling, each.name, help=text, default=None, **given)


def _all_texts(context: click.Context, param: click.Parameter, value: Any) -> tuple[str, ...] | None:
    """Of an option that was given once or more often; None if it was not."""
    return tuple(itertools.chain(*value)) if value else None


def _type(legal: Any, kind: Any) -> click.ParamType:
    types = plain_types(kind)
    if legal and legal.choices:
        return Choice(legal.choices)
    if types == (tuple[str, ...],):
        return Texts()
    return _TYPES[types[0]] if len(types) == 1 else NumberOrWord(types[0])


def _in_words(default: Any) -> str:
    if default is MISSING or default is None:
        return ""
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"{default:g}" if isinstance(default, float) else str(default)
