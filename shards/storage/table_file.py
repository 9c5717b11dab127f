"""The bytes of a table's file: what it is, detected from its content and not its name, and unpacked within bounds."""

import bz2
import gzip
import io
import lzma
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from shards.errors import UserError
from shards.storage.location import Location
from shards.storage.places import storage_of

DOWNLOAD = "download it again"  # for a release's table
SAVE = "save it again as a CSV in UTF-8 or as parquet"  # for a table of the user's own

PARQUET = b"PAR1"
JSON = "JSON"
_JSON = rb'\s*(\{\s*["}]|\[\s*[\[{"\]])'
MOST = 2**31 - 1  # bytes of a table, unpacked: Arrow reads a text as one block
CELLS = 2**28  # values of a table: 4 million rows of 60 columns; empty ones take memory too
RATIO, ALWAYS = 100, 2**28  # a packed table may hold so many times its bytes, and so many bytes in any case

_PACKED: dict[bytes, Callable[[io.BytesIO], Any]] = {
    rb"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    rb"BZh[1-9]1AY&SY": bz2.BZ2File,
    rb"\xfd7zXZ\0": lzma.LZMAFile,
    rb"\x28\xb5\x2f\xfd": lambda file: pa.CompressedInputStream(pa.BufferReader(file.getvalue()), "zstd"),
}
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_UNPACK = "unpack it and give the table"
_FETCH = "log in where it is published and download the file itself"
# The start of a file, what it is, and how to fix it where saving or downloading it again would not.
_OTHERS: tuple[tuple[bytes, str, str | None], ...] = (
    (rb"\xd0\xcf\x11\xe0", "an old Excel or Office file", None),
    (rb"ARROW1|FEA1", "a Feather (Arrow) file", None),
    (rb"(?s)<stata_dta>|[\x66-\x73][\x01\x02]\x01\0", "a Stata file", None),
    (rb"\$FL[23]", "an SPSS file", None),
    (rb"\0{12}\xc2\xea\x81\x60", "a SAS file", None),
    (rb"RD[AX][1-5]\n|[XB]\n\0\0\0", "an R data file", None),
    (rb"SQLite format 3\0", "an SQLite database", None),
    (rb"\x89HDF\r\n", "an HDF5 file", None),
    (rb"\x93NUMPY|\x80[\x02-\x05]|MATLAB 5\.0", "a file of arrays or objects", None),
    (rb"ORC|Obj\x01|PARE", "an ORC, Avro or encrypted parquet file", None),
    (rb"%PDF-", "a PDF", None),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|II\*\0|MM\0\*|(?s:.{128})DICM", "an image", None),
    (rb"\s*(<\?xml[^>]*>\s*)?<Error>", "an error message of a store (XML)", _FETCH),
    (
        rb"(?i)\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<(!doctype|html|head|body|script|table)\b",
        "a web page (HTML)",
        _FETCH,
    ),
    (rb"\s*<\?xml", "XML", None),
    (_JSON, JSON, None),
    (rb"version https://git-lfs", "a Git LFS pointer, which only names the file", "fetch the file with git lfs pull"),
    (rb"(?s).{257}ustar|7z\xbc\xaf|Rar!|\x04\x22\x4d\x18", "an archive", _UNPACK),
    (rb"sep=.\r?\n", "a CSV after Excel's line 'sep='", "remove its first line"),
    (rb"(?s)([^\0]\0){4}|(\0[^\0]){4}", "UTF-16 without a byte order mark", None),
)


def table_bytes(path: Location, again: str, json: bool = False) -> bytes | bytearray:
    """A table's bytes: parquet, or text in UTF-8 without a byte order mark. gzip, bzip2, xz, zstd, and a zip that holds
    one file are unpacked.

    again: how to fix a file that is damaged or no table, for messages.
    json: let JSON pass, which is refused else.
    Raises UserError if it is absent, no table, damaged, or larger than MOST or RATIO allow.
    """
    packed = _read(path, again)
    unpacked = _unpacked(path, packed, again)
    data = packed if unpacked is None else unpacked
    if unpacked is not None and (_stream(data) or data[:4] in _ZIP):
        raise UserError(f"{path}: is packed twice; {_UNPACK}")
    start = bytes(data[:4096])
    if start[:4] == PARQUET:
        return data
    bare = start.removeprefix(b"\xef\xbb\xbf")
    for pattern, what, fix in _OTHERS:
        if re.match(pattern, bare) and not (json and what == JSON):
            raise UserError(f"{path}: not a CSV table or parquet, but {what}; {fix or again}")
    return _utf8(path, data, again)


def text_start(path: Location, num_bytes: int) -> bytes:
    """The first line of a table's text and some more, from so many bytes of its file."""
    data = storage_of(path).read_bytes(stop=num_bytes)
    if stream := _stream(data):
        with stream(io.BytesIO(data)) as file:
            data = file.read(2**12)
            while b"\n" not in data and len(data) < ALWAYS and (more := file.read(2**12)):
                data += more
    elif data[:4] in _ZIP:  # its list of files is at its end
        data = bytes(_unpacked(path, storage_of(path).read_bytes(), "") or b"")[:num_bytes]
    return bytes(_utf8(path, data, ""))


def is_json(data: bytes | bytearray) -> bool:
    return re.match(_JSON, bytes(data[:4096])) is not None


def packing(path: Location) -> str:
    """How a table's file is packed, for people: "gzip, ", or nothing."""
    start = storage_of(path).read_bytes(stop=16)
    known = zip(_PACKED, ("gzip, ", "bzip2, ", "xz, ", "zstd, "), strict=True)
    return next((name for magic, name in known if re.match(magic, start)), "zip, " if start[:4] in _ZIP else "")


def too_large(path: Location, what: str) -> UserError:
    """A table that would take all memory, and how it may be read."""
    return UserError(
        f"{path}: {what}; at most {MOST:,} bytes and {CELLS:,} values are read, and a packed table unpacks at most "
        f"{RATIO}-fold or to {ALWAYS:,} bytes; unpack it yourself, and leave only the columns that are needed"
    )


def _read(path: Location, again: str) -> bytes:
    store = storage_of(path)
    if not path.name.encode(errors="replace").decode() == path.name:
        raise UserError(f"{path}: its name is not UTF-8, so it cannot be written down; rename the file")
    if isinstance(path, Path) and path.is_dir():
        raise UserError(f"{path}: is a folder; give one file (of a folder of parquet files, joined into one)")
    if isinstance(path, Path) and path.exists() and not path.is_file():
        raise UserError(f"{path}: is no regular file; give a file")
    try:
        found = store.fingerprint()
        if found and isinstance(found[0], int) and found[0] > MOST:
            raise too_large(path, f"it has {found[0]:,} bytes")
        return store.read_bytes()
    except FileNotFoundError:
        fix = "download it from the release's page" if again == DOWNLOAD else "give the file's right name"
        raise UserError(f"{path}: no such file; {fix}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); {again}") from error


def _stream(data: bytes | bytearray) -> Callable[[io.BytesIO], Any] | None:
    start = bytes(data[:16])
    return next((stream for pattern, stream in _PACKED.items() if re.match(pattern, start)), None)


def _unpacked(path: Location, data: bytes, again: str) -> bytearray | None:
    """None if it is not packed."""
    try:
        if stream := _stream(data):
            with stream(io.BytesIO(data)) as file:
                return _bounded(path, file, len(data))
        if data[:4] in _ZIP:
            return _from_zip(path, data, again)
    except UserError:
        raise
    except Exception as error:  # a damaged zip raises many kinds
        raise UserError(f"{path}: cannot be read ({error}); {again}") from error
    return None


def _from_zip(path: Location, data: bytes, again: str) -> bytearray:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        names = file.namelist()
        if {"xl/workbook.xml", "xl/workbook.bin", "mimetype", "word/document.xml"} & set(names):
            raise UserError(f"{path}: not a CSV table or parquet, but an Excel or OpenDocument file; {again}")
        inside = [each for each in file.infolist() if not each.is_dir() and not each.filename.startswith("__MACOSX/")]
        if len(inside) != 1:
            raise UserError(f"{path}: a zip of {len(inside)} files; {_UNPACK if inside else again}")
        if inside[0].flag_bits & 1:
            raise UserError(f"{path}: a zip with a password; {_UNPACK}")
        with file.open(inside[0]) as table:
            return _bounded(path, table, len(data))


def _bounded(path: Location, file: IO[bytes], packed: int) -> bytearray:
    allowed, data = min(MOST, max(ALWAYS, RATIO * packed)), bytearray()
    while part := file.read(2**16):  # of larger pieces, Arrow keeps the address space of each that fails
        data += part
        if len(data) > allowed:
            raise too_large(path, f"its {packed:,} bytes unpack to more than {allowed:,}")
    return data


def _utf8(path: Location, data: bytes | bytearray, again: str) -> bytes | bytearray:
    if data[:3] == b"\xef\xbb\xbf":
        return data[3:]
    coding = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    if coding is None:
        return data
    try:
        return bytes(data).decode(coding).encode()
    except UnicodeError as error:
        raise UserError(f"{path}: not a CSV table ({error}); {again}") from error


_MARKS = ((b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
