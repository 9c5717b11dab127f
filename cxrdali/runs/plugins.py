"""Losses, samplers, heads and augmentations from files outside the package.

A plugin is a Python file that defines subclasses of `cxrdali.models.loss.Loss`, `cxrdali.data.sampler.Sampler`,
`cxrdali.models.head.Head` or `cxrdali.data.augment.Augmentation`, each a frozen dataclass with a `name`. Loading one
runs its code.
"""

import importlib.util
import sys
from pathlib import Path

from cxrdali.data.augment import AUGMENTATIONS
from cxrdali.registry import Named, Registry, defined_in, parameter_names
from cxrdali.runs.settings import names
from cxrdali.setting import spelled
from shards.errors import UserError
from shards.storage.files import sha256_file

_loaded: dict[Path, str] = {}


def load(path: Path) -> None:
    """Make what a file defines known by name; a file that is loaded already is left as it is.

    Raises UserError for a file that cannot be run, that defines nothing, or whose names are taken.
    """
    file = path.resolve()
    if file in _loaded:
        return
    if not file.is_file():
        raise UserError(f"{path}: no such plugin; give a Python file")
    name = f"cxrdali_plugin_{len(_loaded)}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: not a Python file; a plugin's name ends in .py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path}: cannot be run ({error!r}); correct the plugin") from error
    kinds = (*names().choices.values(), AUGMENTATIONS)
    found = [(registry, made) for registry in kinds for made in defined_in(module, registry.base)]
    if not found:
        raise UserError(f"{path}: defines no loss, sampler, head or augmentation with a name; see CONTRIBUTING.md")
    for registry, made in found:  # all of them before any is added
        _check_names(path, registry, made)
    for registry, made in found:
        registry.add(made)
    _loaded[file] = sha256_file(file)


def _check_names(path: Path, registry: Registry, made: type[Named]) -> None:
    if made.name in registry:
        raise UserError(f"{path}: {registry.what} {made.name!r}: there is one already; give the plugin's another name")
    if registry is AUGMENTATIONS:  # whose parameters are no settings
        return
    others = [each.parameters() for each in names().choices.values() if each is not registry]
    for parameter in parameter_names(made):
        if parameter in names().settings or any(parameter in each for each in others):
            raise UserError(
                f"{path}: {made.name} has a parameter {spelled(parameter)}, which is another setting's name; rename it"
            )


def loaded() -> list[dict[str, str]]:
    """What config.json keeps of the plugins that were loaded: path and SHA-256."""
    return [{"path": str(path), "sha256": sha256} for path, sha256 in _loaded.items()]
