"""NAME.csv.sha256 beside a CSV, as `sha256sum -c` reads it: the table itself stays plain, for spreadsheets.

Before the line of the hash may be a comment, which says what the table is, and has a hash over itself and the table.
"""

import re
from pathlib import Path

from shards.errors import UserError
from shards.storage.files import cannot_write, read_regular, sha256_bytes, sha256_file, write_bytes
from shards.storage.sealed import note_unsealed

DIGITS, MOST = 64, 2**22  # of a hash; bytes of the file beside
COMMENT = b"# "


def beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def write_with_hash(path: Path, data: bytes, about: str = "") -> None:
    """Write a file and its hash beside it, with what it is `about`, a line of text.

    A kill or a full disk leaves the old file or the new one, and a hash file that has the lines of either.

    Raises UserError as `write_bytes`.
    """
    line, there = _comment(about.encode(), data) + _line(path, sha256_bytes(data)), b""
    try:
        if path.exists():
            there = read_regular(beside(path), MOST) if beside(path).exists() else _line(path, sha256_file(path))
    except OSError as error:
        raise cannot_write(path, error) from error
    except ValueError as error:
        raise UserError(f"{beside(path)}: no hash of a table ({error}); move it away") from error
    if there not in (b"", line):
        write_bytes(beside(path), line + there)  # before the rename of the file, both are right
        write_bytes(path, data)
        write_bytes(beside(path), line)
    else:
        write_bytes(beside(path), line)
        write_bytes(path, data)


def check_hash(path: Path, data: bytes) -> str:
    """What the file is about, "" if that is not said; notes a file without a hash.

    Raises UserError if `data`, read from `path`, is not what was written there, or what it is about is not.
    """
    try:
        lines = read_regular(beside(path), MOST).splitlines()
    except FileNotFoundError:
        note_unsealed(path)
        return ""
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{beside(path)}: cannot be read ({reason}); restore it or delete it") from error
    hashes, own = [line[:DIGITS] for line in lines], sha256_bytes(data).encode()
    if own not in hashes:
        raise UserError(
            f"{path}: its SHA-256 is not the one in {beside(path).name}: it is damaged, or was changed; restore it, or "
            f"delete {beside(path).name} if you changed it yourself"
        )

    place = hashes.index(own)
    before = lines[place - 1] if place else b""
    if not before or re.fullmatch(rb"[0-9a-f]{%d}" % DIGITS, before[:DIGITS]):  # of what was there before a kill
        return ""
    about = before[len(COMMENT) : -DIGITS - 1]
    if _comment(about, data) != before + b"\n":
        raise UserError(
            f"{beside(path)}: what it says of the table is damaged, or was changed; restore it, or delete it, and then "
            "nobody knows what was done to the table"
        )
    return about.decode(errors="replace")


def _comment(about: bytes, data: bytes) -> bytes:
    return COMMENT + about + f" {sha256_bytes(about + data)}\n".encode() if about else b""


def _line(path: Path, sha256: str) -> bytes:
    return f"{sha256}  {path.name}\n".encode()
