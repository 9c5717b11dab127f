"""Places that are not on this disk: buckets and web servers, through fsspec.

Credentials come from where the store's own tools look for them (environment, profile, instance), never from an address:
addresses end up in logs and shell histories.
"""

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from shards.errors import UserError

# The protocols that are read here, and the extra that installs what fsspec needs for them.
PROTOCOLS = {"s3": "s3", "gs": "gs", "https": "http", "http": "http", "memory": None}
# A listing that was kept would not show what another process has written since.
# Several requests for parts of one object would each fail the whole at the first cut, and ask for its size before.
_OPTIONS = {"s3": {"use_listings_cache": False, "max_concurrency": 1}, "gs": {"use_listings_cache": False}}
WRITABLE = ("s3", "gs")
_PART = 2**24  # bytes of a file in memory while it is uploaded
_LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "requests", "urllib3", "fsspec", "s3fs")
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the instance's role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or the instance's account",
}


def is_remote(path: object) -> bool:
    """Whether a path (a text, or what `place` made of it) is an address of a store, not of a file on this machine."""
    return "://" in str(path)


def place(text: str | Path) -> Path:
    """A local path as pathlib's Path; `s3://`, `gs://`, `https://` (or `http://`) as a UPath, which has its methods.

    Raises UserError for another protocol, credentials in the address, or a store whose extra is not installed.
    """
    text = str(text)
    if not is_remote(text):
        return Path(text)
    protocol, parts = text.split("://")[0], urlsplit(text)
    rest = text.partition("://")[2]
    # a secret may hold a slash, at which a server's name ends, or a question mark
    if parts.username is not None or parts.query or (protocol in _CREDENTIALS and "@" in rest):
        safe = f"{protocol}://{rest.rpartition('@')[2].partition('?')[0]}"
        way_out = f"give them by {_CREDENTIALS[protocol]}" if protocol in _CREDENTIALS else "a server must need none"
        raise UserError(f"{safe}: credentials do not belong in an address; {way_out}")
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


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """The bytes of a file here or in a store; only the first ones if `most` says how many are enough.

    Raises FileNotFoundError if it is absent, and nothing else of a store's: one that fails or refuses is a UserError.
    """
    if not is_remote(path):
        with path.open("rb") as file:
            return file.read(-1 if most is None else most)
    with reaching(path):
        try:
            return path.fs.cat_file(path.path) if most is None else path.fs.cat_file(path.path, start=0, end=most)
        except FileNotFoundError:
            pass
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))


def is_there(path: Path) -> bool:
    """Whether a file is there. Raises UserError where a store fails or refuses, which is no answer."""
    if not is_remote(path):
        return path.exists()
    if path.protocol in ("http", "https"):  # whose library calls every failure absent when asked for a description
        with contextlib.suppress(FileNotFoundError):
            read_bytes(path, 1)
            return True
        return False
    return seen(path) is not None


def entries(folder: Path) -> list[tuple[str, bool, int | None]]:
    """What a folder in a store holds: name, whether it is a folder, size in bytes. Empty for one that is not there."""
    with reaching(folder):
        try:
            found = folder.fs.ls(folder.path, detail=True)
        except FileNotFoundError:
            return []
    own = folder.path.rstrip("/")
    names = ((entry["name"].rstrip("/"), entry) for entry in found)
    return [
        (name.rpartition("/")[2], entry["type"] == "directory" or entry["name"].endswith("/"), entry.get("size"))
        for name, entry in names
        if name != own  # the empty object by which some tools mark a folder
    ]


def has_folder(path: Path) -> bool:
    """Whether a folder is there; of a web server, which has none, its files will tell."""
    if not is_remote(path):
        return path.is_dir()
    return path.protocol in ("http", "https") or bool(entries(path))


def remove_tree(folder: Path) -> None:
    """Remove all that is below a folder in a store. Nothing there is fine."""
    with reaching(folder), contextlib.suppress(FileNotFoundError):
        folder.fs.rm(folder.path, recursive=True)


def upload(file: Path, to: Path, moved: Callable[[], object] | None = None) -> None:
    """Put a file of this machine into a store under its name there, which it gets only when it is whole.

    `moved` is called whenever a part has arrived. Raises UserError if the store fails or refuses.
    """
    from fsspec.callbacks import Callback

    class Parts(Callback):
        def relative_update(self, inc=1):
            if moved:
                moved()

    parts = {"chunksize": _PART} if to.protocol in WRITABLE else {}
    with reaching(to):
        to.fs.put_file(str(file), to.path, callback=Parts(), **parts)


def seen(path: Path) -> list | None:
    """What tells one making of a file in a store from the next: its size and tag; None if it is not there."""
    with reaching(path):
        try:
            found = path.fs.info(path.path)
        except FileNotFoundError:
            return None
    tags = ("ETag", "etag", "Last-Modified", "LastModified", "mtime", "created")
    return [found.get("size"), next((str(found[tag]) for tag in tags if found.get(tag)), "")]


@contextlib.contextmanager
def reaching(path: object) -> Iterator[None]:
    """Turn what a store's library raises about `path` into a UserError; what concerns a local path stays as it is."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_remote(path) or not _of_the_store(error):
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
