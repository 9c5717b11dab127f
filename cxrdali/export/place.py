"""Where an export goes: what may be replaced there, and a folder that is published in one rename."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from cxrdali.export.card import is_untouched
from cxrdali.export.options import SUFFIXES
from shards.errors import UserError
from shards.storage.files import cannot_write, only_one, read_regular, sync_folder, sync_tree, write_bytes

MARK = "cxrdali.export"  # stands, as these letters, in every file that an export writes
MOST = 2**36  # bytes of a file that is there already


def check_place(out: Path, to: str) -> None:
    """Raises UserError if an export to `out` would replace anything but an earlier export, which nobody has changed."""
    suffix = SUFFIXES.get(to, "")
    if suffix and (out.suffix != suffix or out.is_dir()):
        raise UserError(f"{out}: an export to {to} is a file {suffix}; name one, as {out.with_suffix(suffix)}")
    if not out.absolute().parent.is_dir():
        raise UserError(f"{out.parent}: no such folder; make it, or give another --out")
    if to == "hub-folder":
        if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
            raise UserError(f"{out}: is there already, and not empty; give a new folder, or move it away first")
        return
    for path in (out, *([out.with_suffix(".json")] if to == "card" else [])):
        if not (path.exists() or path.is_symlink()):
            continue
        try:
            data = read_regular(path, MOST)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: is there already ({error}); give another --out") from error
        if not (is_untouched(data) if path.suffix == ".md" else MARK.encode() in data):
            what = "a card that was changed by hand, or another file" if path.suffix == ".md" else "no export of cxrdali"
            raise UserError(f"{path}: is there already, {what}; move it away, or give another --out")


def publish_folder(out: Path, files: Mapping[str, bytes], check: Callable[[Path], None]) -> None:
    """Write files by name into a folder aside, `check` it, and give it its name in one rename.

    What a killed export left aside is removed first. Raises UserError if another one is writing there.
    """
    aside, lock = (out.absolute().with_name(f".{out.name}.{kind}") for kind in ("part", "lock"))
    try:
        with only_one(lock, f"exporting to {out.name}"):
            try:
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir(0o700)
                for name, data in files.items():
                    write_bytes(aside / name, data)
                check(aside)
                sync_tree(aside)
                aside.replace(out)
                sync_folder(aside.parent)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
                lock.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
