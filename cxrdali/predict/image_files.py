"""Which images are meant by paths: files, folders, patterns and lists of paths, each image with an id of its own."""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cxrdali.predict.rendering import without_suffix
from shards.decoding.decoded import RejectedImage
from shards.decoding.magic import image_kind
from shards.errors import UserError
from shards.storage.csv import no_column, read_table
from shards.storage.location import Location
from shards.storage.places import storage_of
from shards.storage.remote import place
from shards.storage.table_file import SAVE
from shards.words import counted

log = logging.getLogger(__name__)

_LIST = re.compile(r"(?i)\.(csv|tsv|txt|parquet)(\.(gz|bz2|xz|zst|zip))?$")
# what is named so is meant to be an image, also if nobody here can read it: then its reason is listed
_IMAGE = re.compile(r"(?i)\.(jpe?g|jfif|png|dcm|dicom|dic|ima|tiff?|bmp|gif|webp|avif|hei[cf]|jp2|j2k|jxl|pgm)$")
_HIDDEN, _PATTERN = re.compile(r"(^|/)\."), re.compile(r"[*?[]")
_START = 4096  # bytes of a file that say what it is


@dataclass(frozen=True)
class ImageFile:
    """path: where it is; image_id: no other has it."""

    path: Location
    image_id: str


@dataclass(frozen=True)
class _Found:
    """relative: its path below what was given; own: the id that a list gives it, or ""."""

    path: Location
    relative: str
    own: str = ""


def find(given: Sequence[str]) -> list[ImageFile]:
    """The images that are meant, in the order given.

    Args:
        given: Of each a file; a folder, with all images below it; a pattern with *, ? or [; or a list, a table of
            paths relative to its own folder in the column `path` or its only one, with their ids in the column
            `image_id` if it has it.

    Returns:
        Each file once. An id that no list gives is the path below the folder or list given, without its suffix; where
        two would be the same, with it, or the whole path.

    Raises:
        UserError: There is no such file or folder, nothing matches a pattern, no image is in a folder, or a list has
            no column of paths, a blank one, or an id twice.
    """
    others: list[Location] = []
    found = [each for text in given for each in _of(text, others)]
    once: dict[tuple, _Found] = {}
    for each in found:
        once.setdefault((each.path.absolute() if storage_of(each.path).local else each.path, each.own), each)
    if len(once) < len(found):
        log.info(f"note: {counted(len(found) - len(once), 'file')} given more than once: judged once")
    if others:
        what = f"{counted(len(others), 'file')}, first {str(others[0])!r}"
        log.info(f"note: left out, as hidden or no images by name or first bytes: {what}")
    return _named(list(once.values()))


def _of(text: str, others: list[Location]) -> Sequence[_Found]:
    """others: what is in folders and is no image is added to it."""
    if not text:
        raise UserError("a blank path, as of a variable that is not set; give a file, a folder, a pattern or a list")
    path, before = place(text), len(others)
    local = storage_of(path).local
    if storage_of(path).has_folder() and (local or not path.suffix):  # a web server cannot tell its folders
        found = list(_below(path, "", others, set()))
        more = f", but {counted(len(others) - before, 'other file')}" * (len(others) > before)
        what = f"no image is in this folder{more}; give the folder of the images"
    elif local and not path.exists() and _PATTERN.search(text):
        fixed = next(at for at, part in enumerate(path.parts) if _PATTERN.search(part))
        root, visited = Path(*path.parts[:fixed]), set[str]()
        matches = sorted(root.glob("/".join(path.parts[fixed:])))
        found = [each for match in matches for each in _image(match, str(match.relative_to(root)), others, visited)]
        what = "matches no image; give a file, a folder or another pattern"
    elif local and not path.exists():
        found, what = [], "no such file or folder; give another"
    else:
        found, what = _listed(path) if _LIST.search(path.name) else [_Found(path, path.name)], ""
    if not found:
        raise UserError(f"{text}: {what}")
    return found


def _below(folder: Location, inside: str, others: list[Location], visited: set[str]) -> Iterator[_Found]:
    """The images below a folder, by name; links to folders are followed, each folder once."""
    real = storage_of(folder).real_path() or str(folder)
    if real not in visited:
        visited.add(real)
        try:
            names = sorted(entry.name for entry in storage_of(folder).entries())
        except OSError as error:
            raise UserError(f"{folder}: cannot be listed ({error.strerror}); mend its permissions") from error
        for name in names:
            yield from _image(folder / name, f"{inside}{name}", others, visited)


def _image(path: Location, relative: str, others: list[Location], visited: set[str]) -> Iterator[_Found]:
    """The file, if it is an image by its name or its first bytes; or those below the folder."""
    if _HIDDEN.search(relative):
        others.append(path)
    elif path.is_dir():
        yield from _below(path, f"{relative}/", others, visited)
    elif _IMAGE.search(path.name) or _begins_as_one(path):
        yield _Found(path, relative)
    else:
        others.append(path)


def _begins_as_one(path: Location) -> bool:
    try:
        image_kind(storage_of(path).read_bytes(0, _START))
    except (RejectedImage, OSError, ValueError, UserError):
        return False
    return True


def _listed(path: Location) -> list[_Found]:
    """The images that a table names."""
    table = read_table(path, again=SAVE)
    named = [name for name in table.columns if name.strip().lower() == "path"]
    column = named[0] if named else table.columns[0]
    if len(named) > 1 or (not named and len(table.columns) > 1):
        raise no_column(path, "path", table)
    texts = table[column].str.strip().tolist()
    if not named and storage_of(_beside(path, column)).exists():  # a list without a header
        texts = [column, *texts]
    blank = next((row for row, text in enumerate(texts, 1) if not text), None)
    if blank or not texts:
        raise UserError(f"{path}: {f'the path in row {blank} is blank' if blank else 'has no path'}; mend the list")
    ids = table["image_id"].str.strip() if "image_id" in table.columns and column != "image_id" else None
    if ids is not None and len(wrong := ids[ids.duplicated() | (ids == "")]):
        raise UserError(f"{path}: image_id {wrong.iloc[0]!r} is {'in two rows' if wrong.iloc[0] else 'blank'}; mend it")
    owned = [""] * len(texts) if ids is None else ids.tolist()
    return [_Found(_beside(path, text), text, own) for text, own in zip(texts, owned, strict=True)]


def _beside(table: Location, text: str) -> Location:
    found = place(text)
    return table.parent / text if storage_of(found).local else found


def _named(found: Sequence[_Found]) -> list[ImageFile]:
    """Each with its own id, or the shortest name that no other has."""
    ids = [each.own or without_suffix(each.relative) for each in found]
    for longer in ([each.relative for each in found], [str(each.path) for each in found]):
        often = Counter(ids)
        ids = [
            name if often[short] > 1 and not each.own else short
            for each, short, name in zip(found, ids, longer, strict=True)
        ]
    if len(once := Counter(ids)) < len(ids):
        raise UserError(f"image_id {once.most_common(1)[0][0]!r}: is of two images; give other ids, or one list alone")
    # a name that is no UTF-8 cannot stand in a table
    names = [each.encode(errors="backslashreplace").decode() for each in ids]
    return [ImageFile(each.path, name) for each, name in zip(found, names, strict=True)]
