"""Augmentations as they are written in settings: a name, or a name and parameters, "affine(degrees=10, p=0.3)"."""

import re
from typing import get_type_hints

from cxrdali.data.augment.augmentation import AUGMENTATIONS, Augmentation
from cxrdali.registry import parameter_names
from cxrdali.setting import literal, read_value
from shards.errors import UserError
from shards.words import choices

_FORM = re.compile(r"([\w-]+)\s*(?:\(([^()]*)\))?")


def canonical(text: str) -> str:
    """The same text as it is kept: one space after each comma.

    Raises UserError for another form, and for wrong parameters of an augmentation that there is. One that there is not
    may be a plugin's.
    """
    name, given = _parts(text)
    if name in AUGMENTATIONS:
        read(text)
    return f"{name}({', '.join(f'{key}={value}' for key, value in given.items())})" if given else name


def read(text: str) -> Augmentation:
    """The augmentation. Raises UserError for a name or parameter that there is not, or an illegal value."""
    name, given = _parts(text)
    made = AUGMENTATIONS[name]
    try:
        for key in given:
            if key not in parameter_names(made):
                raise UserError(f"parameter {key!r}: {choices(key, parameter_names(made), f'{name} has')}")
        kinds = get_type_hints(made)
        return made(**{key: read_value(key, literal(value), kinds[key]) for key, value in given.items()})
    except UserError as error:
        raise UserError(f"augment {text!r}: {error}") from error


def _parts(text: str) -> tuple[str, dict[str, str]]:
    found = _FORM.fullmatch(text.strip())
    pairs = [each.split("=") for each in (found[2] or "").split(",") if each.strip()] if found else []
    given = {pair[0].strip(): pair[-1].strip() for pair in pairs}
    if not found or any(len(pair) != 2 for pair in pairs) or len(given) < len(pairs):
        raise UserError(f"augment {text!r}: write a name, or a name and parameters, as affine(degrees=10, p=0.3)")
    return found[1], given
