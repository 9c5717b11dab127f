"""dataset.json: the description that publishes a packed dataset, and the seal over it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from shards.errors import UserError
from shards.storage.files import json_bytes, sha256_bytes
from shards.storage.location import Location
from shards.storage.sealed import seal

DATASET = "dataset.json"
FORMAT = 1


def labels_name(name: str) -> str:
    """The file of a label release in a packed dataset."""
    return f"labels/{name}.parquet"


def dataset_identity(info: Mapping) -> str:
    """The hash over catalog and shard hashes: equal for equal pixels and rows, whatever the labels."""
    shards = {name: [shard["sha256"] for shard in size["shards"]] for name, size in info["sizes"].items()}
    return sha256_bytes(json_bytes([info["catalog_sha256"], shards]))


_DESCRIPTION: dict[str, type] = {
    "id": str,
    "catalog_sha256": str,
    "rejects_sha256": str,
    "labels": dict,
    "sizes": dict,
    "counts": dict,
}
_SIZE: dict[str, type] = {"pixels": int, "encoding": str, "shards": list}
_SHARD: dict[str, type] = {"name": str, "samples": int, "bytes": int, "sha256": str, "index_sha256": str}


def read_description(root: Path) -> tuple[dict, bool]:
    """dataset.json, and whether its checksum matches; if so, and in this format, it has every entry that is read here.

    Raises UserError if it cannot be read or was not written by cxrdali.
    """
    path = root / DATASET
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); restore it or pack again") from error
    return parse_description(path, data)


def parse_description(path: Location, data: bytes) -> tuple[dict, bool]:
    """`read_description` of bytes that were read from `path`."""
    try:
        info = json.loads(data)
        sealed = seal(info) == info
        if "checksum" not in info:
            raise ValueError("it has no checksum")
        if sealed and info.get("format") == FORMAT:
            _check_description(info)
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not readable ({error}); restore it or pack again") from error
    return info, sealed


def _check_description(info: dict) -> None:
    """Raises ValueError naming the first entry that packing does not write: a seal can be made by anyone."""
    _check_entries(info, _DESCRIPTION, "")
    _check_entries(info["counts"], {"planned": int}, "counts.")
    if "default_labels" not in info or not isinstance(info["default_labels"], str | None):
        raise ValueError("default_labels is missing or of another kind")
    for name, sha256 in info["labels"].items():
        if not isinstance(sha256, str) or "/" in name or not name.isprintable():
            raise ValueError(f"labels.{name!r} is not a hash of a table")
    for name, size in info["sizes"].items():
        _check_entries(size, _SIZE, f"sizes.{name!r}.")
        if name != str(size["pixels"]) or size["encoding"] not in ("jpeg", "raw"):
            raise ValueError(f"sizes.{name!r} is not the size it describes")
        for shard in size["shards"]:
            _check_entries(shard, _SHARD, f"sizes.{name!r}.shards: ")
            if not re.fullmatch(rf"{name}/[0-9]{{6,9}}\.tar", shard["name"]) or not shard["bytes"]:
                raise ValueError(f"sizes.{name!r}.shards: {shard['name']!r} is no shard")


def _check_entries(entries: object, kinds: dict[str, type], where: str) -> None:
    for key, kind in kinds.items():
        value = entries.get(key) if isinstance(entries, dict) else None
        if type(value) is not kind or (isinstance(value, int) and value < 0):
            raise ValueError(f"{where}{key} is missing or of another kind")
