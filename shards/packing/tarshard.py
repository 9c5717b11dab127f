"""A shard: one tar and its index, written in one pass; reading back checks every entry.

The tar is GNU format, because DALI's reader does not know PAX headers; `webdataset.TarWriter` (1.0) takes a
format and ignores it, and reports no offsets, so the standard library's tarfile makes the headers here. Reading back
is webdataset's and DALI's job; `members` below is for verification alone.
"""

import contextlib
import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

BLOCK = 512
INDEX_VERSION = "v1.2"


class ShardWriter:
    """Writes samples to `path` (a temporary name) and counts, hashes and indexes them on the way.

    After `close`: `sha256`, `num_bytes`, `index` (the text of the .idx file that DALI reads).
    """

    def __init__(self, path: Path):
        self._file = path.open("wb")
        self._hash, self.num_bytes = hashlib.sha256(), 0
        self._lines: list[str] = []

    def write(self, key: str, parts: dict[str, bytes]) -> tuple[int, int]:
        """Append KEY.EXT for every part; returns offset and length in bytes of the first part's data.

        A name holds no blank and no control character (sample_key escapes them): they separate words in the index.
        """
        line, spans, blocks, end = [], [], [], self.num_bytes
        for extension, data in parts.items():
            name = f"{key}.{extension}"
            assert name.isprintable() and " " not in name, name
            # not TarFile.addfile: its copies cost three times the hash and the write
            header, padding = _header(name, len(data)), bytes(-len(data) % BLOCK)
            blocks += [header, data, padding]
            spans.append((end + len(header), len(data)))
            end += len(header) + len(data) + len(padding)
            line += [extension, *map(str, spans[-1]), name]
        self._append(b"".join(blocks))
        self._lines.append(" ".join(line))
        return spans[0]

    def _append(self, data: bytes) -> None:
        self._hash.update(data)  # so that no shard is read again for its sha256
        self._file.write(data)
        self.num_bytes += len(data)

    def close(self) -> None:
        end = self.num_bytes + 2 * BLOCK
        self._append(bytes(2 * BLOCK + -end % tarfile.RECORDSIZE))
        self._file.close()
        self.sha256 = self._hash.hexdigest()
        self.index = "\n".join([f"{INDEX_VERSION} {len(self._lines)}", *self._lines, ""])

    def abort(self) -> None:
        """Close the file without ending the archive; the temporary name is the caller's to remove."""
        with contextlib.suppress(OSError):  # what made it fail (a full disk) may fail it again
            self._file.close()


def _header(name: str, num_bytes: int) -> bytes:
    """As tarfile makes it, which takes five times as long and is asked for what is not plain."""
    encoded = name.encode()
    if len(encoded) <= tarfile.LENGTH_NAME and num_bytes < 8**11:
        return _plain_header(encoded, b"%011o\0" % num_bytes)
    return _member(name, num_bytes).tobuf(tarfile.GNU_FORMAT)


def _member(name: str, num_bytes: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)  # mtime 0, no owner: the same sample is the same bytes anywhere
    member.size, member.mode = num_bytes, 0o444
    return member


_EMPTY = _member("", 0).tobuf(tarfile.GNU_FORMAT)
_MODE, _TIME, _KIND = _EMPTY[100:124], _EMPTY[136:148], _EMPTY[156:]
_SUM = sum(_MODE) + sum(_TIME) + sum(b" " * 8) + sum(_KIND)


def _plain_header(name: bytes, size: bytes) -> bytes:
    check = b"%06o\0 " % (_SUM + sum(name) + sum(size))
    return b"".join((name.ljust(tarfile.LENGTH_NAME, b"\0"), _MODE, size, _TIME, check, _KIND))


def _info(header: bytes) -> tarfile.TarInfo:
    """What a header says. Raises HeaderError or UnicodeDecodeError."""
    name, size = header[:100].partition(b"\0")[0], header[124:135]
    if not size.strip(b"01234567") and header == _plain_header(name, size + b"\0"):
        return _member(name.decode(), int(size, 8))
    return tarfile.TarInfo.frombuf(header, "utf-8", "strict")


def index_name(shard: str) -> str:
    """The name of the index beside a shard, SIZE/NUMBER.tar or NUMBER.tar."""
    return f"{shard.removesuffix('tar')}idx"


def read_index(text: str) -> list[tuple[str, list[tuple[str, int, int]]]]:
    """An index as [(key, [(extension, offset, length), ...]), ...]. Raises ValueError on any deviation."""
    lines = text.split("\n")
    version, _, count = lines[0].partition(" ")
    if version != INDEX_VERSION or not _is_number(count) or lines[-1] != "":
        raise ValueError(f"not an index of version {INDEX_VERSION}")
    if len(lines) - 2 != int(count):
        raise ValueError(f"{len(lines) - 2} lines where the header says {count}")
    samples = []
    for line in lines[1:-1]:
        words = line.split(" ")
        if len(words) % 4:
            raise ValueError(f"line {line!r} is not made of extension, offset, length, name")
        parts, keys = [], set()
        for extension, offset, length, name in zip(*[iter(words)] * 4, strict=True):
            if not name.endswith(f".{extension}"):
                raise ValueError(f"line {line!r}: {name!r} does not end in .{extension}")
            if not _is_number(offset) or not _is_number(length):
                raise ValueError(f"line {line!r}: offset and length are whole numbers")
            keys.add(name.removesuffix(f".{extension}"))
            parts.append((extension, int(offset), int(length)))
        if len(keys) != 1:
            raise ValueError(f"line {line!r} does not belong to one sample")
        samples.append((keys.pop(), parts))
    return samples


def _is_number(word: str) -> bool:
    """Digits as the writer puts them: int() takes "-1", "1_0", "007" and the digits of every script too."""
    return word.isascii() and word.isdigit() and (word == "0" or word[0] != "0")


def members(data: memoryview) -> Iterator[tuple[str, int, int]]:
    """(name, offset, length) of every file in a tar. Raises ValueError naming the byte where it breaks.

    tarfile ends quietly at a broken header and returns the members before it; this walk does not.
    """
    position, long_name = 0, None
    while True:
        header = bytes(data[position : position + BLOCK])
        if len(header) < BLOCK:
            raise ValueError(f"cut at byte {position}: no end mark")
        if header == bytes(BLOCK):
            if bytes(data[position:]).strip(b"\0"):
                raise ValueError(f"bytes after the end mark at {position}")
            if long_name is not None:
                raise ValueError(f"{long_name!r} is the name of no member, at byte {position}")
            return
        try:
            info = _info(header)
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise ValueError(f"broken header at byte {position}: {error}") from error
        start = position + BLOCK
        if info.size < 0:  # the format can write it; the walk would go back, for ever
            raise ValueError(f"broken header at byte {position}: size {info.size}")
        if start + info.size > len(data):
            raise ValueError(f"cut at byte {len(data)}, in {info.name!r}")
        if info.type == tarfile.GNUTYPE_LONGNAME and long_name is None:
            long_name = bytes(data[start : start + info.size]).rstrip(b"\0").decode()
        elif info.type == tarfile.REGTYPE:
            yield long_name or info.name, start, info.size
            long_name = None
        else:
            raise ValueError(f"unexpected member of type {info.type!r} at byte {position}")
        position = start + -(-info.size // BLOCK) * BLOCK
