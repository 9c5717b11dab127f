"""JSON files that carry a checksum over themselves, and reading them strictly: whole, unchanged and of the right kinds.

Parquet and safetensors carry theirs in their metadata (`cxrdali.predictions`, `cxrdali.models.weights_file`), a CSV has
one beside it (`shards.storage.sidecar`). A file without one, of an older version or another program, is read and noted.
"""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

from shards.storage.files import json_bytes, read_regular, sha256_bytes

log = logging.getLogger(__name__)

CHECKSUM = "checksum"
CHANGED = "its checksum is not that of its content: it is damaged, or was changed"
LARGEST_FILE = 2**26  # bytes
_LARGEST = 2**63
_NAMES = {
    str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "an object",
}  # fmt: skip
noted: list[Path] = []  # the file without a checksum that was spoken of: one a process


def seal(body: Mapping) -> dict:
    """The content with a checksum over itself, so that a flipped bit in it is found too."""
    plain = {key: value for key, value in body.items() if key != CHECKSUM}
    return {**plain, CHECKSUM: sha256_bytes(json_bytes(plain))}


def sealed_json(body: Mapping) -> bytes:
    return json_bytes(seal(body))


def read_json(path: Path) -> dict[str, Any]:
    """A sealed file's content, without the checksum; notes a file that has none.

    Raises OSError, or ValueError if it has more than LARGEST_FILE bytes, is no JSON object, is not what its checksum
    was made of, or holds a name twice, NaN, or a number that does not fit 64 bits.
    """
    try:
        stored = parse_json(read_regular(path, LARGEST_FILE))
        if not isinstance(stored, dict):
            raise ValueError("it is no JSON object")
        right = seal(stored)[CHECKSUM]
    except RecursionError as error:  # of its checksum
        raise ValueError("it is nested too deeply") from error
    if CHECKSUM not in stored:
        note_unsealed(path)
    elif stored.pop(CHECKSUM) != right:
        raise ValueError(f'{CHANGED}; to keep a change of your own, delete its entry "{CHECKSUM}"')
    return stored


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON text. Raises ValueError, also for what no writer of ours writes: a name given twice, NaN,
    infinity, a number that does not fit 64 bits."""
    try:
        return json.loads(
            data, object_pairs_hook=no_name_twice, parse_int=_whole, parse_float=_finite, parse_constant=_finite
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def note_unsealed(path: Path) -> None:
    """Say once in a process that a file has no checksum."""
    if not noted:
        noted.append(path)
        log.info(
            f"note: {path} has no checksum, as files of older versions or other programs; damage to such files would "
            "go unnoticed"
        )


def maybe(kinds: Any) -> Any:
    """For `check_kinds`: null, or of these kinds."""
    return (kinds,)


def check_kinds(value: object, kinds: Any, where: str = "it") -> None:
    """Raises ValueError naming the first entry that is missing or of another kind: a checksum can be made by anyone.

    kinds: str, int, float (whole numbers too), bool, dict, list or object (anything); [kinds] for a list of such;
    {"name": kinds} for an object with these names and any others, "name?" for one that may be absent; {str: kinds} for
    an object by any names; `maybe(kinds)`; or a function of a value and its place, which raises ValueError.
    """
    if isinstance(kinds, FunctionType):
        kinds(value, where)
        return
    if isinstance(kinds, tuple):
        if value is not None:
            check_kinds(value, kinds[0], where)
        return
    kind = kinds if isinstance(kinds, type) else type(kinds)
    fits = kind is object or type(value) is kind or (kind is float and type(value) is int)
    if not fits:
        shown = repr(value)
        raise ValueError(f"{where} is {shown if len(shown) <= 40 else f'{shown[:40]}...'}, not {_NAMES[kind]}")
    if isinstance(kinds, list):
        for place, each in enumerate(value):  # type: ignore[arg-type, var-annotated]
            check_kinds(each, kinds[0], f"{where}[{place}]")
    elif isinstance(kinds, dict):
        _check_entries(value, kinds, where)  # type: ignore[arg-type]


def _check_entries(value: dict, kinds: dict, where: str) -> None:
    prefix = "" if where == "it" else f"{where}."
    if str in kinds:
        for name, each in value.items():
            check_kinds(each, kinds[str], f"{prefix}{name!r}")
        return
    for name, inside in kinds.items():
        key = name.removesuffix("?")
        if key in value:
            check_kinds(value[key], inside, f"{prefix}{key}")
        elif not name.endswith("?"):
            raise ValueError(f"{prefix}{name} is missing")


def no_name_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is duplicated")
    return made


def _whole(text: str) -> int:
    value = int(text)
    if not -_LARGEST <= value < _LARGEST:
        raise ValueError(f"the number {text[:20]}... does not fit 64 bits")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value
