"""dataset.json: the description that publishes a packed dataset, and the seal over it."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shards.errors import UserError
from shards.storage.files import json_bytes, open_regular, sha256_bytes
from shards.storage.location import Location
from shards.storage.places import storage_of
from shards.storage.sealed import check_kinds, maybe, parse_json, seal

DATASET = "dataset.json"
ASIDE = ".changing"  # the folder in a packed dataset for a change of it that is being made, or published
FORMAT = 1
LONGEST = 200  # bytes of a label release's name: a file system takes 255, with suffix and temporary name


def labels_name(name: str) -> str:
    """The file of a label release in a packed dataset."""
    return f"labels/{name}.parquet"


def subjects_name(name: str) -> str:
    """The file of a table of people in a packed dataset."""
    return f"subjects/{name}.parquet"


def check_label_name(
    name: str,
    source: Location | str,
    others: Iterable[str] = (),
    what: str = "labels",
    fix: str = "rename the file",
) -> None:
    """What a new label release, or table of people, may be called, beside others. fix: how it gets another name. Raises
    UserError naming its file, `source`."""
    safe = name.isprintable() and name == name.strip() and "/" not in name and name[:1] not in ("", ".")
    if not safe or len(name.encode()) > LONGEST:
        raise UserError(
            f"{source}: {ascii(name)[:LONGEST]} cannot be the name of {what}; {fix}: 1 to {LONGEST} bytes, "
            "printable, no / and no dot or blank at its start"
        )
    for other in others:
        if other != name and other.casefold() == name.casefold():  # one file, on some disks
            raise UserError(f"{source}: {what} {other!r} and {name!r} differ in upper and lower case; {fix}")


def dataset_identity(info: Mapping) -> str:
    """The hash over catalog and shard hashes: equal for equal pixels and rows, whatever the labels."""
    shards = {name: [shard["sha256"] for shard in size["shards"]] for name, size in info["sizes"].items()}
    return sha256_bytes(json_bytes([info["catalog_sha256"], shards]))


def with_id_of(before: Mapping, info: Mapping) -> dict:
    """A description after a change, with the id of the dataset that it was if its images and their pixels are the same:
    sizes come and go, and the runs that were trained on one of them go on.

    "content" is then the hash that an id is otherwise, and "ever" has that of the shards of every size there ever was:
    one that comes back with other bytes makes another dataset.
    """
    content, now = dataset_identity(info), _shards_hashes(info)
    if content == content_of(before):
        return {**info, "id": before["id"]}
    plain = {key: value for key, value in info.items() if key not in ("content", "ever")}
    ever = {**before.get("ever", {}), **_shards_hashes(before)}
    changed = before["counts"]["packed"] != info["counts"]["packed"]
    if changed or any(ever.get(name, sha256) != sha256 for name, sha256 in now.items()):
        return {**plain, "id": content}
    return {**plain, "id": before["id"], "content": content, "ever": {**ever, **now}}


def content_of(info: Mapping) -> str:
    """What `dataset_identity` is by what the description says."""
    return info.get("content", info["id"])


def _shards_hashes(info: Mapping) -> dict[str, str]:
    sizes = info["sizes"].items()
    return {name: sha256_bytes(json_bytes([shard["sha256"] for shard in size["shards"]])) for name, size in sizes}


def decoded_for(info: Mapping) -> dict[str, int]:
    """Per stored size what its images were decoded for, on which their bytes depend: the largest size of the packing
    that made it. Before this was written down all sizes of a dataset were made at once."""
    largest = max(size["pixels"] for size in info["sizes"].values())
    return {name: size.get("decoded_for", largest) for name, size in info["sizes"].items()}


def description_bytes(path: Location, info: dict) -> bytes:
    """dataset.json as it is written, sealed, and read once by what will read it: it is written when hours are spent.

    Raises UserError if it could not be read.
    """
    try:
        data = json_bytes(seal(info))
    except UnicodeEncodeError as error:
        raise UserError(f"{path}: a name in it is not UTF-8 ({error}); rename the file or folder") from error
    parse_description(path, data)
    return data


def write_description(root: Location, info: dict) -> None:
    """Publish a packed dataset, or a change of it (`description_bytes`)."""
    storage_of(root / DATASET).write_bytes(description_bytes(root / DATASET, info))


def stored_otherwise(info: Mapping) -> dict[str, str]:
    """Per label release of which the shards' KEY.json hold other findings than labels/, what is to be said about it.

    A shard is never changed, so its KEY.json keep the findings of the packing. Datasets of earlier versions do not say
    which those are; of them, nothing is known.
    """
    said = {}
    for name, sha256 in sorted(info.get("stored_labels", {}).items()):
        now = info["labels"].get(name)
        if now != sha256:
            said[name] = (
                f"labels {name}: {'were attached anew' if now else 'are not attached'}, but the .json in the shards "
                f"still hold them as they were packed (sha256 {sha256[:12]}): who reads the shards with webdataset "
                "sees those. cxrdali reads labels/ only"
            )
    return said


LARGEST = 2**26  # bytes of a dataset.json: 200,000 shards
LARGEST_PIXELS = 4096
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # a terminal may obey them


def _text(value: Any, where: str) -> None:
    check_kinds(value, str, where)
    if _CONTROL.search(value):
        raise ValueError(f"{where} holds control characters")


def _count(value: Any, where: str) -> None:
    check_kinds(value, int, where)
    if value < 0:
        raise ValueError(f"{where} is no count")


# What packing writes, as `check_kinds` takes it; earlier versions did not write what may be absent.
_DESCRIPTION = {
    "id": _text, "made_by": _text, "release": _text,
    "options": {
        "sizes": [_text], "fit": _text, "quality": _count, "seed": _count, "shard_images": _count,
        "limit?": maybe(_count), "check_hashes?": bool, "allow_links?": bool, "window?": _text, "synthetic?": bool,
    },
    "inputs": {str: _text}, "encoders": {str: _text},
    "counts": {
        "planned": _count, "packed": _count, "studies": _count, "subjects": _count, "rejected": {str: _count},
        "converted?": {str: _count}, "same_pixels?": _count, "same_pixels_of_patient?": _count,
    },
    "catalog_sha256": _text, "rejects_sha256": _text, "content?": _text, "ever?": {str: _text}, "hashed?": _count,
    "staged?": [_text], "dropped?": [_text],
    "labels": {str: _text}, "default_labels": maybe(str), "stored_labels?": {str: _text},
    "subjects?": {str: _text},
    "sizes": {str: {
        "pixels": _count, "encoding": _text, "decoded_for?": _count,
        "shards": [{
            "name": _text, "samples": _count, "bytes": _count, "sha256": _text, "index_sha256": _text,
            "content?": _count,
        }],
    }},
}  # fmt: skip


def read_description(root: Path) -> tuple[dict, bool]:
    """dataset.json, and whether its checksum matches; if so, and in this format, it has every entry that is read here.

    Raises UserError if it cannot be read or was not written by cxrdali.
    """
    path = root / DATASET
    try:
        with open_regular(path) as file:
            data = file.read(LARGEST + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); restore it or pack again") from error
    return parse_description(path, data)


def parse_description(path: Location, data: bytes) -> tuple[dict, bool]:
    """`read_description` of bytes that were read from `path`."""
    try:
        if len(data) > LARGEST:
            raise ValueError(f"it has more than {LARGEST:,} bytes")
        info = parse_json(data)
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
    check_kinds(info, _DESCRIPTION)
    for kind in ("labels", "stored_labels", "subjects"):
        for name in info.get(kind, {}):
            if not _stays_in_its_folder(name):
                raise ValueError(f"{kind}.{name!r} is not a hash of a table")
    if (default := info["default_labels"]) not in (None, *info["labels"]):
        raise ValueError(f"default_labels {default!r} is not among the labels")
    counts = info["counts"]
    if counts["packed"] > counts["planned"]:
        raise ValueError("counts.packed is more than counts.planned")
    for name in (*counts["rejected"], *counts.get("converted", {})):
        _text(name, "counts")
    if not info["sizes"]:
        raise ValueError("sizes is empty")
    sides = [info.get("hashed", 0), *(size.get("decoded_for", 0) for size in info["sizes"].values())]
    if max(sides) > LARGEST_PIXELS:
        raise ValueError(f"hashed or decoded_for is {max(sides)}, which no image is")
    for name, size in info["sizes"].items():
        _check_size(name, size)


def _check_size(name: str, size: dict) -> None:
    known = name == str(size["pixels"]) and 0 < size["pixels"] <= LARGEST_PIXELS
    if not known or size["encoding"] not in ("jpeg", "raw"):
        raise ValueError(f"sizes.{name!r} is not the size it describes")
    for shard in size["shards"]:
        if not re.fullmatch(rf"{name}/[0-9]{{6,9}}\.tar", shard["name"]) or not shard["bytes"]:
            raise ValueError(f"sizes.{name!r}.shards: {shard['name']!r} is no shard")
    names = [shard["name"] for shard in size["shards"]]
    if len(set(names)) < len(names):
        raise ValueError(f"sizes.{name!r}.shards: {max(names, key=names.count)!r} is there twice")


def _stays_in_its_folder(name: str) -> bool:
    """Of labels: older versions took the name of any file, so no-break and invisible characters are read; controls
    would steer the terminal that shows them. Of people, too."""
    return "/" not in name and not any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n" for c in name)
