"""A setting: a dataclass field that carries its help, its legal values, and what it is when it is not given.

Groups of settings, losses, samplers and heads are frozen dataclasses of such fields. The command line, recipes and
`--set` are made from the fields, so a setting is described in one place.
"""

import functools
import math
import tomllib
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Union, get_args, get_origin

from shards.errors import UserError
from shards.words import did_you_mean

_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


@dataclass(frozen=True)
class Legal:
    """Values that a setting may have. words: which ones, for messages; choices: all, if they are a few names; read:
    what is kept of a value (None: the value itself), or it raises UserError; sets: other settings, by flat name, that a
    choice stands for where the same layer of settings does not have them."""

    fits: Callable[[Any], bool]
    words: str
    choices: tuple[str, ...] = ()
    read: Callable[[Any], Any] | None = None
    sets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def one_of(choices: Iterable[str]) -> Legal:
    names = tuple(choices)
    return Legal(lambda value: value in names, f"choose one of {', '.join(names)}", names)


def at_least(low: float) -> Legal:
    return Legal(lambda value: value >= low, "0 or more" if low == 0 else f"at least {low}")


def above(low: float, *, below: float | None = None, at_most: float | None = None) -> Legal:
    """Numbers above `low` and below, or at most, the other bound."""
    upper = f", below {below}" if below is not None else f", at most {at_most}" if at_most is not None else ""
    return Legal(
        lambda value: value > low and (below is None or value < below) and (at_most is None or value <= at_most),
        f"above {low}{upper}",
    )


def from_zero_below(high: float) -> Legal:
    return Legal(lambda value: 0 <= value < high, f"0 or more, below {high}")


PART = Legal(lambda value: 0 <= value <= 1, "0 to 1")
CAP = Legal(lambda value: value == 0 or 1 <= value < 1e9, "1 or more, or 0 for none")


def setting(
    default: Any = MISSING,
    help: str = "",
    legal: Legal | None = None,
    *,
    otherwise: str = "",
    metavar: str = "",
    before: Any = MISSING,
) -> Any:
    """A field of a group of settings.

    Args:
        default: The value when it is not given; without one the field must be given.
        help: What it is, with its unit, for the command line.
        legal: Values that `check` lets pass. None always passes: whether it may be there is the type's matter.
        otherwise: The default in words, where its value does not say it ("the stage's").
        metavar: What the command line shows in the value's place.
        before: What runs had before there was this setting, if that is not the default.
    """
    about = {"help": help, "legal": legal, "otherwise": otherwise, "metavar": metavar, "before": before}
    return field(default=default, metadata=about)


def as_in(group: type, name: str, **changes: Any) -> Any:
    """A field like another group's; changes: what `setting` is given otherwise."""
    other = next(each for each in fields(group) if each.name == name)
    return setting(**{"default": other.default, **other.metadata, **changes})


def check(group: Any) -> None:
    """Called by a group's `__post_init__`. Raises UserError naming setting, value and the legal values."""
    for each in fields(group):
        legal, value = each.metadata.get("legal"), getattr(group, each.name)
        if legal is not None and legal.read and value is not None:
            object.__setattr__(group, each.name, legal.read(value))  # groups are frozen, once they are made
        if legal is not None and value is not None and not legal.fits(value):
            hint = did_you_mean(str(value), legal.choices)
            raise UserError(f"{spelled(each.name)} {value!r}: {hint}{legal.words}")
        if isinstance(value, float) and not math.isfinite(value):  # no JSON has it, so no run could be opened again
            raise UserError(f"{spelled(each.name)} {value!r}: give a finite number, or leave it out")


def spelled(name: str) -> str:
    """A setting as the command line spells it."""
    return name.replace("_", "-")


def option_words(name: str, value: object) -> str:
    """A setting and its value as the command line takes them."""
    if value is True:
        return f"--{spelled(name)}"
    if value is None:
        return f"--set {name}=none"
    value = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
    return f"--set {name}=false" if value is False else f"--{spelled(name)} {value}"


def read_value(name: str, value: object, kind: Any) -> Any:
    """A value from TOML, JSON or Python as the setting's type; lists become tuples, whole numbers floats.

    Raises UserError if it is of another kind: text is not read as a number.
    """
    converter = strict_converter()
    try:
        return converter.structure(value, kind)
    except Exception as error:  # cattrs groups what its hooks raise
        raise UserError(f"{name} = {value!r} is of the wrong kind; {name} is {kind_in_words(kind)}") from error


def literal(text: str) -> object:
    """A value as TOML writes it; what TOML cannot read is text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def kind_in_words(kind: Any) -> str:
    """A type, for messages: `int | None` is "a whole number"."""
    if get_origin(kind) is tuple:
        return "a list of names"
    return " or ".join(_KINDS[each] for each in plain_types(kind) if each in _KINDS)


def plain_types(kind: Any) -> tuple[type, ...]:
    """The types of a union, without None; of any other type itself."""
    parts = get_args(kind) if isinstance(kind, types.UnionType) or get_origin(kind) is Union else (kind,)
    return tuple(part for part in parts if part is not type(None))


@functools.cache
def strict_converter() -> Any:
    """A cattrs converter that makes no number of text, refuses unknown keys, and writes tuples as lists."""
    import cattrs
    from cattrs.strategies import configure_union_passthrough

    made = cattrs.Converter(
        detailed_validation=False, forbid_extra_keys=True, unstruct_collection_overrides={tuple: list}
    )
    for kind in _KINDS:  # cattrs would make the number 224 of the text "224"
        made.register_structure_hook(kind, _strict)
    made.register_structure_hook_func(lambda kind: kind == tuple[str, ...], _texts)
    configure_union_passthrough(int | float | str | bool | None, made, accept_ints_as_floats=True)
    return made


def _strict(value: object, kind: type) -> object:
    if type(value) is kind or (kind is float and type(value) is int):
        return value
    raise TypeError(f"{value!r} is no {kind.__name__}")


def _texts(value: object, kind: type) -> tuple[str, ...]:
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        return tuple(value)
    raise TypeError(f"{value!r} is no list of text")
