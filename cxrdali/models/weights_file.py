"""Our weights files: safetensors whose metadata has a checksum over the header and all tensors. Needs no torch.

Their headers are sorted (safetensors leaves the order of the metadata to chance), so equal trainings write equal bytes.
"""

import hashlib
import json
import mmap
from pathlib import Path

from safetensors import SafetensorError, safe_open

from shards.errors import UserError
from shards.storage.files import json_bytes, open_regular, sha256_file
from shards.storage.sealed import CHANGED, CHECKSUM

METADATA, ALIGNMENT = "__metadata__", 8


def sealed(data: bytes) -> tuple[bytes, str]:
    """A safetensors file with its header sorted and a checksum in its metadata; and that checksum."""
    with memoryview(data) as view:
        header, tensors = _parts(view)
        checksum = _checksum(header, tensors)
        header[METADATA] = {**header.get(METADATA, {}), CHECKSUM: checksum}
        text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
        text += b" " * (-len(text) % ALIGNMENT)
        return b"".join([len(text).to_bytes(8, "little"), text, tensors]), checksum


def metadata(path: Path) -> dict[str, str]:
    """Raises OSError or SafetensorError if it is no safetensors file, or cut off."""
    open_regular(path).close()  # of a pipe, safetensors would wait
    with safe_open(path, framework="np") as file:
        return file.metadata() or {}


def check(path: Path) -> dict[str, str]:
    """The metadata. Raises UserError if the checksum in it is not that of the content, else as `metadata`."""
    about = metadata(path)
    if CHECKSUM in about and about[CHECKSUM] != _content(path):
        raise UserError(f"{path}: {CHANGED}; restore it, or train the run again")
    return about


def identity(path: Path) -> str:
    """What tells these weights from others, whatever the order in a header: the checksum that the file states, or would
    state; of a file that is no safetensors, its hash."""
    try:
        return metadata(path).get(CHECKSUM) or _content(path)
    except (OSError, SafetensorError):
        return sha256_file(path)


def _content(path: Path) -> str:
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as view,
    ):
        header, tensors = _parts(view)
        with tensors:
            return _checksum(header, tensors)


def _parts(data: memoryview) -> tuple[dict, memoryview]:
    """The header, and the bytes of the tensors."""
    start = 8 + int.from_bytes(data[:8], "little")
    return json.loads(bytes(data[8:start])), data[start:]


def _checksum(header: dict, tensors: memoryview) -> str:
    """Of everything but the order of names and the checksum itself."""
    about = {name: value for name, value in header.get(METADATA, {}).items() if name != CHECKSUM}
    made = hashlib.sha256(json_bytes({**header, METADATA: about}))
    made.update(tensors)
    return made.hexdigest()
