"""Buckets and web servers, through fsspec.

Credentials come from where the store's own tools look for them (environment, profile, instance), never from an address:
addresses end up in logs and shell histories.
"""

import contextlib
import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from shards.errors import UserError
from shards.storage.location import Entry, Location

if TYPE_CHECKING:
    from upath import UPath

# The protocols that are read here, and the extra that installs what fsspec needs for them.
PROTOCOLS = {"s3": "s3", "gs": "gs", "https": "http", "http": "http", "memory": None}
WRITABLE = ("s3", "gs")
# A listing that was kept would not show what another process has written since.
# Several requests for parts of one object would each fail the whole at the first cut, and ask for its size before.
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"use_listings_cache": False, "max_concurrency": 1},
    "gs": {"use_listings_cache": False},
}
UPLOAD_PART = 2**24  # bytes of a file in memory while it is uploaded
_LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "requests", "urllib3", "fsspec", "s3fs")
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the instance's role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or the instance's account",
}


def place(text: str | Location) -> Location:
    """A local path as pathlib's Path; `s3://`, `gs://`, `https://` (or `http://`) as a UPath, which has its methods.

    Raises UserError for another protocol, credentials in the address, or a store whose extra is not installed.
    """
    text = str(text)
    protocol, address, rest = text.partition("://")
    if not address:
        return Path(text)
    parts = urlsplit(text)
    # a secret may hold a slash, at which a server's name ends, or a question mark
    if parts.username is not None or parts.query or (protocol in _CREDENTIALS and "@" in rest):
        safe = f"{protocol}://{rest.rpartition('@')[2].partition('?')[0]}"
        fix = f"give them by {_CREDENTIALS[protocol]}" if protocol in _CREDENTIALS else "a server must need none"
        raise UserError(f"{safe}: credentials do not belong in an address; {fix}")
    if protocol not in PROTOCOLS:
        raise UserError(f"{text}: protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}, or a local path")
    if not parts.netloc:
        raise UserError(f"{text}: names no bucket or server; for example s3://bucket/folder")
    import fsspec
    from upath import UPath

    try:
        fsspec.get_filesystem_class(protocol)
        return UPath(text.rstrip("/"), **_OPTIONS.get(protocol, {}))
    except ImportError as error:
        extra = PROTOCOLS[protocol]
        raise UserError(f"{text}: {protocol}:// needs an extra: pip install 'cxrdali[{extra}]'") from error


@dataclass(frozen=True)
class Bucket:
    """As `shards.storage.disk.Disk`, in a bucket or on a web server."""

    path: "UPath"
    local = False

    def read_bytes(self, start: int = 0, stop: int | None = None) -> bytes:
        whole = start == 0 and stop is None
        with reaching(self.path):
            try:
                return self.path.fs.cat_file(self.path.path, **({} if whole else {"start": start, "end": stop}))
            except FileNotFoundError:
                pass
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))

    def read_into(self, room: Callable[[int], memoryview]) -> memoryview:
        data = self.read_bytes()
        place = room(len(data))
        place[:] = data
        return place

    def read_each(self, names: Sequence[str]) -> list[bytes]:
        paths = [(self.path / name).path for name in names]
        with reaching(self.path):
            found = self.path.fs.cat(paths)
        return [found[path] for path in paths]

    def sha256(self) -> str:
        with reaching(self.path), self.path.fs.open(self.path.path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def exists(self) -> bool:
        if not self._has_folders:  # whose library calls every failure absent when asked for a description
            with contextlib.suppress(FileNotFoundError):
                self.read_bytes(stop=1)
                return True
            return False
        return self.fingerprint() is not None

    @property
    def _has_folders(self) -> bool:
        return self.path.protocol not in ("http", "https")

    def has_folder(self) -> bool:
        return not self._has_folders or any(True for _ in self.entries())

    def entries(self) -> Iterator[Entry]:
        """Nothing for a folder that is not there."""
        with reaching(self.path):
            try:
                found = self.path.fs.ls(self.path.path, detail=True)
            except FileNotFoundError:
                return
        own = self.path.path.rstrip("/")
        for entry in found:
            name, folder = entry["name"].rstrip("/"), entry["type"] == "directory" or entry["name"].endswith("/")
            if name != own:  # the empty object by which some tools mark a folder
                size = entry.get("size") or 0
                yield Entry(name.rpartition("/")[2], partial(bool, folder), partial(int, size))

    def stat(self) -> None:
        return None

    def fingerprint(self) -> list | None:
        """Size in bytes and tag."""
        with reaching(self.path):
            try:
                found = self.path.fs.info(self.path.path)
            except FileNotFoundError:
                return None
        tags = ("ETag", "etag", "Last-Modified", "LastModified", "mtime", "created")
        return [found.get("size"), next((str(found[tag]) for tag in tags if found.get(tag)), "")]

    def write_bytes(self, data: bytes) -> None:
        with reaching(self.path):
            self.path.fs.pipe_file(self.path.path, data)

    def publish(self, aside: Path, moved: Callable[[], object] | None = None) -> None:
        """`moved` is called whenever a part has arrived."""
        from fsspec.callbacks import Callback

        class Parts(Callback):
            def relative_update(self, inc: int = 1) -> None:
                if moved:
                    moved()

        parts = {"chunksize": UPLOAD_PART} if self.path.protocol in WRITABLE else {}
        with reaching(self.path):
            self.path.fs.put_file(str(aside), self.path.path, callback=Parts(), **parts)
        aside.unlink()

    def make_folder(self) -> None:
        """A bucket has no folders to make."""

    def remove_tree(self) -> None:
        with contextlib.suppress(UserError, FileNotFoundError), reaching(self.path):
            self.path.fs.rm(self.path.path, recursive=True)

    def remove_parts(self) -> None:
        """An object is whole or not there."""

    def contains(self, other: Location) -> bool:
        return f"{other}/".startswith(f"{str(self.path).rstrip('/')}/")  # a bucket itself ends in a slash

    def real_path(self) -> None:
        return None

    def check_writable(self) -> None:
        if self.path.protocol not in WRITABLE:
            protocols = ", ".join(f"{protocol}://" for protocol in WRITABLE)
            raise UserError(
                f"{self.path}: {self.path.protocol}:// is only read; give --out a folder, or one of {protocols}"
            )

    def work_folder(self, name: str) -> Path:
        """Among the temporary files, under a name by which the next run finds what a kill left."""
        known = hashlib.sha256(str(self.path).encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"cxrdali-{os.getuid()}-{known}"


@contextlib.contextmanager
def reaching(path: object) -> Iterator[None]:
    """Turn what a store's library raises about `path` into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not _of_the_store(error):
            raise
        raise UserError(f"{path}: {_explained(path, error)}") from error


def _of_the_store(error: Exception) -> bool:
    # gcsfs raises plain errors for some answers
    plain = isinstance(error, ValueError) and str(error).startswith(("Bad Request", "Bucket is requester pays"))
    return plain or isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _LIBRARIES


def _explained(path: object, error: Exception) -> str:
    credentials = _CREDENTIALS.get(str(path).split("://")[0], "")
    if isinstance(error, FileNotFoundError):
        return "not there; check the bucket and the name"
    denied = isinstance(error, PermissionError) or "Credentials" in type(error).__name__
    if denied or str(error).startswith("Forbidden") or str(getattr(error, "code", "")) == "401":
        return "access denied; " + (f"check the credentials ({credentials})" if credentials else "the server refuses")
    words = " ".join(str(error).split())
    words = re.sub(r"\?\S*", "?...", words)  # a signed address holds a signature
    return (
        f"the store does not answer as it should ({type(error).__name__}: {words[:200]}); check the connection; "
        "the same command continues"
    )
