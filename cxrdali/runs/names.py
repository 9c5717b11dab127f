"""Settings by name: nested groups in files, flat unique names in Python and on the command line.

A name has a path in the groups: lr is optimizer.lr, asl_clip is loss.asl_clip if the loss is asl. Where a run chooses a
loss, a sampler or a head, the group holds its name and its parameters: {"name": "asl", "asl_clip": 0.05, ...}.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from cxrdali.registry import Named, Registry, parameter_names
from cxrdali.setting import read_value, spelled
from shards.errors import UserError
from shards.words import near

RENAMED_VALUES = ("step", "epoch", "constant")  # that `schedule` had before it was lr_schedule


@dataclass(frozen=True)
class Place:
    """A setting, or a parameter of a choice. path: the groups that it is in; kind: its type; having: names of the
    losses (samplers, heads) that have the parameter, none for a setting."""

    path: tuple[str, ...]
    field: Field
    kind: Any
    having: tuple[str, ...] = ()


def present(name: str, value: object) -> str:
    """The name that a setting has today, flat or dotted: older runs, recipes, studies and command lines call the
    optimizer's lr_schedule `schedule`. The value tells, since another setting may have that name."""
    return re.sub(r"^(optimizer\.)?schedule$", r"\1lr_schedule", name) if value in RENAMED_VALUES else name


def under_present_names(stored: dict[str, Any]) -> dict[str, Any]:
    """Values by name, in groups or flat, as `present` has them."""
    return {
        present(name, value): under_present_names(value) if isinstance(value, dict) else value
        for name, value in stored.items()
    }


def leaves(group: type, path: tuple[str, ...] = ()) -> Iterator[Place]:
    """The settings of a group and of the groups in it; a choice counts as one setting."""
    hints = get_type_hints(group)
    for each in fields(group):
        if is_dataclass(hints[each.name]) and "registry" not in each.metadata:
            yield from leaves(hints[each.name], (*path, each.name))
        else:
            yield Place(path, each, hints[each.name])


def flatten(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Groups as JSON has them -> values by flat name; a choice is its name, followed by its parameters."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            rest = flatten({name: each for name, each in value.items() if name != "name"})
            flat |= {key: value["name"], **rest} if "name" in value else rest
        else:
            flat[key] = value
    return flat


@cache
def _hints(made: type) -> dict[str, Any]:
    return get_type_hints(made)


class Names:
    """The names that a class of settings has, and where each belongs. groups: of settings, the loss among them."""

    def __init__(self, top: type):
        self.settings = {each.field.name: each for each in leaves(top)}
        about = {name: each.field.metadata for name, each in self.settings.items()}
        self.choices: dict[str, Registry] = {
            name: each["registry"] for name, each in about.items() if "registry" in each
        }
        self.groups = tuple(name for name, kind in get_type_hints(top).items() if is_dataclass(kind))

    def all(self) -> dict[str, Place]:
        """Every flat name, parameters included, those of plugins too."""
        found = dict(self.settings)
        for what, registry in self.choices.items():
            for name, having in registry.parameters().items():
                made: Any = registry[having[0]]
                field, kind = made.__dataclass_fields__[name], _hints(made)[name]
                found[name] = Place((*self.settings[what].path, what), field, kind, having)
        return found

    def flat_name(self, name: str, others: tuple[str, ...] = ()) -> str:
        """lr of lr and of optimizer.lr.

        Raises UserError for a name that there is not, or not in that group; others: names to suggest besides.
        """
        *group, last = name.split(".")
        if last == "name" and group and group[-1] in self.choices:  # loss.name is the loss
            *group, last = group
        known = self.all()
        if name in self.groups and name not in known:
            raise UserError(f"{name!r} is a group of settings; give one of them, as {name}.NAME")
        if last not in known:
            inside = [".".join((*group, each)) for each in known if known[each].path == tuple(group)]
            every = inside if group and inside else (*others, *known)
            alike = near(name if group and inside else last, every)
            hint = f"; did you mean {alike[0]}?" if alike else f"; there are {', '.join(every)}"
            raise UserError(f"unknown setting {name!r}{hint}")
        if group and tuple(group) != known[last].path:
            raise UserError(f"unknown setting {name!r}; did you mean {'.'.join((*known[last].path, last))}?")
        return last

    def read(self, name: str, value: Any) -> Any:
        """A value by flat name, of the setting's type. Raises UserError for one of another type."""
        return read_value(name, value, str if name in self.choices else self.kind(name))

    def put(self, nested: dict[str, Any], given: Mapping[str, Any]) -> None:
        """Write values by flat or dotted name into groups; None where a setting cannot be None is its default.

        A choice that stands for other settings writes those too, where they are not given beside it.
        A newly chosen loss, sampler or head keeps what it shares with the one before. Raises UserError for a name that
        there is not, a parameter that the choice does not have, or a value of another type.
        """
        values = self._spelled_out({self.flat_name(present(name, value)): value for name, value in given.items()})
        for what in self.choices:
            if values.get(what) is not None:
                self._choose(nested, what, values[what])
        known = self.all()
        for name, value in values.items():
            place = known[name]
            if name in self.choices or (value is None and type(None) not in getattr(place.kind, "__args__", ())):
                continue
            group = _inside(nested, place.path)
            if place.having:
                self._check_parameter(group, place.path[-1], name, value)
            group[name] = self.read(name, value)

    def grouped(self, *layers: Mapping[str, Any]) -> dict[str, Any]:
        """Layers of values by name, each over those before, in nested groups."""
        nested: dict[str, Any] = {}
        for layer in layers:
            self.put(nested, layer)
        return nested

    def _spelled_out(self, values: dict[str, Any]) -> dict[str, Any]:
        """With the settings that a choice stands for (`Legal.sets`); those that are given count more."""
        for name in [each for each in values if each in self.settings]:
            legal = self.settings[name].field.metadata.get("legal")
            if legal and legal.sets:
                values = {**legal.sets.get(str(values[name]), {}), **values}
        return values

    def _choose(self, nested: dict[str, Any], what: str, value: Any) -> None:
        chosen = value.as_json() if isinstance(value, Named) else {"name": value}
        made = self.choices[what][chosen["name"]]
        holder = _inside(nested, self.settings[what].path)
        kept = {name: each for name, each in holder.get(what, {}).items() if name in parameter_names(made)}
        holder[what] = {**kept, **chosen}

    def _check_parameter(self, chosen: dict[str, Any], what: str, name: str, value: Any) -> None:
        default = self.settings[what].field.metadata["otherwise"]
        own = parameter_names(self.choices[what][chosen.setdefault("name", default)])
        if name not in own:
            has = ", ".join(map(spelled, own)) or "none"
            raise UserError(f"{spelled(name)} {value}: the {what} {chosen['name']} has no such parameter; it has {has}")

    def group(self, name: str) -> str:
        """The group of a setting or of a parameter; "" for one in none."""
        return name if name in self.groups else (*self._place(name).path, "")[0]

    def field(self, name: str) -> Field:
        """Of a setting or of a parameter, with its help and legal values as metadata (`cxrdali.setting`)."""
        return self._place(name).field

    def kind(self, name: str) -> Any:
        """The type of a setting or of a parameter."""
        return self._place(name).kind

    def _place(self, name: str) -> Place:
        return self.settings.get(name) or self.all()[name]


def _inside(nested: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for key in path:
        nested = nested.setdefault(key, {})
    return nested
