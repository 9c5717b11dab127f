"""Which images are meant by paths: files, folders, patterns and lists of paths, each image with an id of its own."""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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
_MAGIC = re.compile(r"[*?[]")
_HIDDEN = re.compile(r"(^|/)\.")
_START = 4096  # bytes of a file that say what it is


@dataclass(frozen=True)
class ImageFile:
    """path: where it is; image_id: no other has it."""

    path: Location
    image_id: str


@dataclass(frozen=True)
class _Found:
    """names: what it may be called, the shortest first; one, if a list says so."""

    path: Location
    names: tuple[str, ...]


@dataclass
class _Search:
    """others: files in folders that are no images; folders: the real places of those that were looked into."""

    others: list[str] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)

    def walk(self, folder: Location, inside: str = "") -> Iterator[_Found]:
        """The images in a folder and the folders in it, by name; links to folders are followed, each folder once."""
        real = storage_of(folder).real_path() or str(folder)
        if real in self.folders:
            return
        self.folders.add(real)
        try:
            entries = sorted(storage_of(folder).entries(), key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"{folder}: cannot be listed ({error.strerror}); mend its permissions") from error
        for entry in entries:
            path, relative = folder / entry.name, f"{inside}{entry.name}"
            if entry.is_folder() and not _HIDDEN.search(entry.name):
                yield from self.walk(path, f"{relative}/")
            else:
                yield from self.image(path, relative)

    def image(self, path: Location, relative: str) -> Iterator[_Found]:
        """The file, if it is an image by its name or its first bytes."""
        if not _HIDDEN.search(relative) and (_IMAGE.search(path.name) or _begins_as_one(path)):
            yield _found(path, relative)
        else:
            self.others.append(str(path))


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
    search = _Search()
    found = [each for text in given for each in _of(text, search)]
    once: dict[tuple, _Found] = {}
    for each in found:
        here = each.path.absolute() if isinstance(each.path, Path) else each.path
        once.setdefault((here, _own(each)), each)
    if len(once) < len(found):
        log.info(f"note: {counted(len(found) - len(once), 'file')} given more than once: judged once")
    if search.others:
        what = f"{counted(len(search.others), 'file')}, first {search.others[0]!r}"
        log.info(f"note: left out, as hidden or no images by name or first bytes: {what}")
    return _named(list(once.values()))


def _own(each: _Found) -> str:
    return each.names[0] if len(each.names) == 1 else ""


def _found(path: Location, relative: str) -> _Found:
    return _Found(path, (without_suffix(relative), relative, str(path)))


def _of(text: str, search: _Search) -> Iterator[_Found]:
    path, before = place(text), len(search.others)
    search.folders.clear()  # what another argument has shown is found again, and judged once
    local = storage_of(path).local
    if storage_of(path).has_folder() and (local or not path.suffix):  # a web server cannot tell its folders
        found = list(search.walk(path))
        if not found:
            others = f", but {counted(len(search.others) - before, 'other file')}" * (len(search.others) > before)
            raise UserError(f"{text}: no image is in this folder{others}; give the folder of the images")
    elif local and not path.exists() and _MAGIC.search(text):
        found = list(_matches(text, search))
        if not found:
            raise UserError(f"{text}: matches no image; give a file, a folder or another pattern")
    elif local and not path.exists():
        raise UserError(f"{text}: no such file or folder; give --images another")
    elif _LIST.search(path.name):
        found = _listed(path)
    else:
        found = [_found(path, path.name)]
    return iter(found)


def _matches(pattern: str, search: _Search) -> Iterator[_Found]:
    parts = Path(pattern).parts
    fixed = next(place for place, part in enumerate(parts) if _MAGIC.search(part))
    root = Path(*parts[:fixed])
    for path in sorted(root.glob("/".join(parts[fixed:]))):
        relative = path.relative_to(root).as_posix()
        if path.is_dir() and not _HIDDEN.search(relative):
            yield from search.walk(path, f"{relative}/")
        else:
            yield from search.image(path, relative)


def _listed(path: Location) -> list[_Found]:
    """The images that a table names."""
    table = read_table(path, again=SAVE)
    named = [name for name in table.columns if name.strip().lower() == "path"]
    column = named[0] if named else table.columns[0]
    if len(named) > 1 or (not named and len(table.columns) > 1):
        raise no_column(path, "path", table)
    paths = table[column].str.strip().tolist()
    if not named and storage_of(_below(path, column)).exists():  # a list without a header
        paths = [column, *paths]
    blank = next((row for row, text in enumerate(paths, 1) if not text), None)
    if blank or not paths:
        raise UserError(f"{path}: {f'the path in row {blank} is blank' if blank else 'has no path'}; mend the list")
    if "image_id" not in table.columns or column == "image_id":
        return [_found(_below(path, text), text) for text in paths]
    ids = table["image_id"].str.strip()
    wrong = ids[ids.duplicated() | (ids == "")]
    if len(wrong):
        raise UserError(f"{path}: image_id {wrong.iloc[0]!r} is {'in two rows' if wrong.iloc[0] else 'blank'}; mend it")
    return [_Found(_below(path, text), (image,)) for text, image in zip(paths, ids, strict=True)]


def _below(table: Location, text: str) -> Location:
    found = place(text)
    return table.parent / text if storage_of(found).local else found


def _begins_as_one(path: Location) -> bool:
    try:
        image_kind(storage_of(path).read_bytes(0, _START))
    except (RejectedImage, OSError, UserError):
        return False
    return True


def _named(found: list[_Found]) -> list[ImageFile]:
    """Each with the shortest of its names that no other has."""
    ids = [each.names[0] for each in found]
    for level in (1, 2):
        often = Counter(ids)
        ids = [
            each.names[min(level, len(each.names) - 1)] if often[own] > 1 else own
            for each, own in zip(found, ids, strict=True)
        ]
    doubled = next((own for own, times in Counter(ids).items() if times > 1), None)
    if doubled is not None:
        raise UserError(f"image_id {doubled!r}: is of two images; give one of the lists alone, or other ids in it")
    # a name that is no UTF-8 cannot stand in a table
    return [
        ImageFile(each.path, own.encode(errors="backslashreplace").decode())
        for each, own in zip(found, ids, strict=True)
    ]
