"""The hashes that a release ships, as PhysioNet's SHA256SUMS.txt: the only way to see a flipped bit in a source
image, because most flips still decode, without a warning, to other pixels."""

import re
from typing import TYPE_CHECKING

import numpy as np

from shards.errors import UserError
from shards.storage.location import Location
from shards.storage.places import storage_of

if TYPE_CHECKING:  # a packing worker needs the name of the file alone, and loads no pandas
    from shards.releases.release import Release

CHECKSUMS = "SHA256SUMS.txt"
_LINE = re.compile(r"^([0-9a-fA-F]{64}) [ *]?(?:\./)?(.+)$")


def published(root: Location) -> dict[str, str]:
    """Relative path -> sha256 (hex, lower case). Raises UserError if the release ships none, or on a cut line."""
    path = root / CHECKSUMS
    try:
        lines = storage_of(path).read_bytes().decode().splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, so there is nothing to check; leave --check-hashes out") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); download it again") from error
    found = {}
    for number, line in enumerate(lines, 1):
        if not (match := _LINE.match(line)):
            raise UserError(f"{path}: line {number} is no sha256 and path: {line[:80]!r}; download it again")
        found[match.group(2)] = match.group(1).lower()
    return found


def of_images(release: "Release") -> np.ndarray:
    """The published hash of every image of the release: object [images], "" for one that is not listed.

    Raises UserError if the file is absent or unreadable, names no image, or if a table of the release differs.
    """
    known = published(release.root)
    for path in {*release.inputs, *(path for table in release.labels for path in table.inputs)}:
        if not storage_of(release.root).contains(path):
            continue
        expected = known.get(str(path).removeprefix(f"{release.root}/"))
        if expected is not None and storage_of(path).sha256() != expected:
            raise UserError(f"{path}: its sha256 differs from {CHECKSUMS}; download it again")
    hashes = release.images["path"].map(known).fillna("").to_numpy(dtype=object)
    if not (hashes != "").any():
        first = release.images["path"].iloc[0]
        raise UserError(
            f"{release.root / CHECKSUMS}: lists no image of the release, for example not {first!r}; "
            "download it again, or leave --check-hashes out"
        )
    return hashes
