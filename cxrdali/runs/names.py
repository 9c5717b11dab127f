"""Settings by name: nested groups in files, flat unique names in Python and on the command line.

A name has a path in the groups: lr is optimizer.lr, asl_clip is loss.asl_clip if the loss is asl. Where a run chooses a
loss, a sampler or a head, the group holds its name and its parameters: {"name": "asl", "asl_clip": 0.05, ...}.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import Field, fields, is_dataclass
from typing import Any, get_type_hints

from cxrdali.registry import Named, Registry, own_parameters, parameter_names
from cxrdali.setting import read_value, spelled
from shards.errors import UserError

Path = tuple[str, ...]


def leaves(group: type, path: Path = ()) -> Iterator[tuple[Path, Field]]:
    """The settings of a group and of the groups in it, with their paths; a choice counts as one setting."""
    hints = get_type_hints(group)
    for each in fields(group):
        if is_dataclass(hints[each.name]) and "registry" not in each.metadata:
            yield from leaves(hints[each.name], (*path, each.name))
        else:
            yield (*path, each.name), each


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


class Names:
    """The names that a class of settings has, and where each belongs."""

    def __init__(self, top: type):
        self.top = top
        self.paths: dict[str, Path] = {}
        self.choices: dict[str, Registry] = {}
        self._fields: dict[str, Field] = {}
        for path, each in leaves(top):
            self.paths[path[-1]], self._fields[path[-1]] = path, each
            if "registry" in each.metadata:
                self.choices[path[-1]] = each.metadata["registry"]

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, the loss among them."""
        return tuple(name for name, kind in get_type_hints(self.top).items() if is_dataclass(kind))

    def all(self) -> tuple[str, ...]:
        """Every flat name, parameters included."""
        own = (parameter for registry in self.choices.values() for parameter in registry.parameters())
        return tuple(dict.fromkeys((*self.paths, *own)))

    def flat_name(self, name: str, others: tuple[str, ...] = ()) -> str:
        """lr of lr and of optimizer.lr.

        Raises UserError for a name that there is not, or not in that group; others: names to suggest besides.
        """
        *group, last = name.split(".")
        if last == "name" and group and group[-1] in self.choices:  # loss.name is the loss
            *group, last = group
        homes = self._homes(last)
        if not homes:
            every = (*others, *self.all())
            near = difflib.get_close_matches(last, every, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(every)}"
            raise UserError(f"unknown setting {name!r}{hint}")
        if group and tuple(group) not in homes:
            raise UserError(f"unknown setting {name!r}; did you mean {'.'.join((*homes[0], last))}?")
        return last

    def _homes(self, last: str) -> list[Path]:
        """Groups in which a name can be."""
        if last in self.paths:
            return [self.paths[last][:-1]]
        return [self.paths[what] for what, registry in self.choices.items() if last in registry.parameters()]

    def read(self, name: str, value: Any) -> Any:
        """A value by flat name, of the setting's type. Raises UserError for one of another type."""
        if name in self.choices:
            return read_value(name, value, str)
        return read_value(name, value, self.kind(name))

    def put(self, nested: dict[str, Any], given: Mapping[str, Any]) -> None:
        """Write values by flat or dotted name into groups; None where a setting cannot be None is its default.

        A newly chosen loss, sampler or head keeps what it shares with the one before. Raises UserError for a name that
        there is not, a parameter that the choice does not have, or a value of another type.
        """
        values = {self.flat_name(name): value for name, value in given.items()}
        for what in self.choices:
            if values.get(what) is not None:
                self._choose(nested, what, values[what])
        for name, value in values.items():
            if name in self.choices or (value is None and not _may_be_none(self.kind(name))):
                continue
            if name in self.paths:
                _inside(nested, self.paths[name][:-1])[name] = self.read(name, value)
            else:
                self._put_parameter(nested, name, value)

    def grouped(self, *layers: Mapping[str, Any]) -> dict[str, Any]:
        """Layers of values by name, each over those before, in nested groups."""
        nested: dict[str, Any] = {}
        for layer in layers:
            self.put(nested, layer)
        return nested

    def _choose(self, nested: dict[str, Any], what: str, value: Any) -> None:
        chosen = value.as_json() if isinstance(value, Named) else {"name": value}
        made = self.choices[what][chosen["name"]]
        holder = _inside(nested, self.paths[what][:-1])
        kept = {name: each for name, each in holder.get(what, {}).items() if name in parameter_names(made)}
        holder[what] = {**kept, **chosen}

    def _put_parameter(self, nested: dict[str, Any], name: str, value: Any) -> None:
        what = next(each for each, registry in self.choices.items() if name in registry.parameters())
        chosen = _inside(nested, self.paths[what])
        made = self.choices[what][chosen.setdefault("name", self._fields[what].metadata["otherwise"])]
        if name not in parameter_names(made):
            raise UserError(
                f"{spelled(name)} {value}: the {what} {made.name} has no such parameter; it has {own_parameters(made)}"
            )
        chosen[name] = self.read(name, value)

    def group(self, name: str) -> str:
        """The group of a setting or of a parameter; "" for one in none."""
        path = (*self._homes(name)[0], "")
        return name if name in self.groups else path[0]

    def field(self, name: str) -> Field:
        """Of a setting or of a parameter, with its help and legal values as metadata (`cxrdali.setting`)."""
        return self._fields[name] if name in self._fields else self._owner(name).__dataclass_fields__[name]

    def kind(self, name: str) -> Any:
        """The type of a setting or of a parameter."""
        owner = self._owner(name)
        for key in self.paths.get(name, ())[:-1]:
            owner = get_type_hints(owner)[key]
        return get_type_hints(owner)[name]

    def having(self, name: str) -> tuple[str, ...]:
        """Names of the losses (samplers, heads) that have a parameter; none for a setting of every run."""
        return next((each.parameters()[name] for each in self.choices.values() if name in each.parameters()), ())

    def _owner(self, name: str) -> Any:
        """The class whose field it is; for a setting in a group the class of all groups."""
        if name in self.paths:
            return self.top
        registry = next(each for each in self.choices.values() if name in each.parameters())
        return registry[self.having(name)[0]]


def _may_be_none(kind: Any) -> bool:
    return type(None) in getattr(kind, "__args__", ())


def _inside(nested: dict[str, Any], path: Path) -> dict[str, Any]:
    for key in path:
        nested = nested.setdefault(key, {})
    return nested
