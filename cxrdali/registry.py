"""Losses, samplers, heads and augmentations by name: a class each in a file, found in its folder or in a plugin."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

from cxrdali.setting import check
from shards.errors import UserError
from shards.words import choices

T = TypeVar("T", bound="Named")


@dataclass(frozen=True)
class Named:
    """Base of what a run chooses by name: a frozen dataclass whose fields are its parameters.

    Parameters are settings of a run, so their names differ from all others; classes of one kind may share a parameter.
    """

    name: ClassVar[str]

    def __post_init__(self):
        check(self)

    @property
    def parameters(self) -> dict[str, Any]:
        """Its parameters' values; lists for tuples, as JSON has them."""
        given = {name: getattr(self, name) for name in parameter_names(type(self))}
        return {name: [*each] if isinstance(each, tuple) else each for name, each in given.items()}

    def as_json(self) -> dict[str, Any]:
        """Its name and parameters."""
        return {"name": self.name, **self.parameters}


class Registry(Generic[T]):
    """Classes of one kind: those in the files of `package`, and those of plugins. Iterating gives their names."""

    def __init__(self, what: str, package: str, base: type[T]):
        self.what, self.package, self.base = what, package, base
        self._added: dict[str, type[T]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes())

    def __getitem__(self, name: str) -> type[T]:
        """Raises UserError that lists the names there are."""
        known = self._classes()
        if name not in known:
            raise UserError(f"{self.what} {name!r}: {choices(name, known)}")
        return known[name]

    def read(self, stored: Mapping[str, Any], stand_ins: bool) -> T:
        """What `as_json` wrote. stand_ins: one that is not installed keeps its name and parameters, and no more."""
        name: str = stored["name"]
        rest = {key: value for key, value in stored.items() if key != "name"}
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in rest.items()}
        if name in self or not stand_ins:
            return self[name](**given)
        made = make_dataclass("StandIn", [(key, Any) for key in given], bases=(self.base,), frozen=True)
        made.name = name  # type: ignore[attr-defined]
        return made(**given)

    def add(self, made: type[T]) -> None:
        """A class of a plugin."""
        self._added[made.name] = made

    def parameters(self) -> dict[str, tuple[str, ...]]:
        """Every parameter and the names of the classes that have it."""
        found: dict[str, list[str]] = {}
        for name, each in self._classes().items():
            for parameter in parameter_names(each):
                found.setdefault(parameter, []).append(name)
        return {parameter: tuple(names) for parameter, names in found.items()}

    def _classes(self) -> dict[str, type[T]]:
        return {**self._shipped, **self._added}

    @cached_property  # a recipe asks a thousand times, and looking into a folder takes a millisecond
    def _shipped(self) -> dict[str, type[T]]:
        package = importlib.import_module(self.package)
        found: dict[str, type[T]] = {}
        for module in pkgutil.iter_modules(package.__path__, f"{self.package}."):
            found |= {each.name: each for each in defined_in(importlib.import_module(module.name), self.base)}
        return found


def choice(registry: Registry, default: str, help: str) -> Any:
    """A field whose value is chosen from a registry by name."""
    about = {"registry": registry, "help": help, "legal": None, "otherwise": default, "metavar": ""}
    return field(default_factory=lambda: registry[default](), metadata=about)


def defined_in(module: Any, base: type[T]) -> list[type[T]]:
    """The classes with a name of their own that a module defines, not those that it imports."""
    return [
        each
        for each in vars(module).values()
        if isinstance(each, type)
        and issubclass(each, base)
        and each.__module__ == module.__name__
        and "name" in vars(each)
    ]


def parameter_names(made: type[Named]) -> tuple[str, ...]:
    """Names of a class's parameters."""
    return tuple(each.name for each in fields(made))
