"""The folder that a dataset is packed into: who may write there, what is there already."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import cv2

from shards.dataset.description import DATASET, FORMAT, parse_description
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.make_shard import WORK, record_path
from shards.packing.options import PackOptions, PackSummary
from shards.packing.records import _recorded
from shards.releases.checksums import CHECKSUMS
from shards.releases.release import Release
from shards.storage.files import (
    json_bytes,
    make_folder,
    remove_parts,
    sha256_bytes,
    sha256_file,
    write_bytes,
)
from shards.storage.remote import WRITABLE, entries, is_remote, is_there, read_bytes, remove_tree


@contextlib.contextmanager
def _removed_at_the_end(folder: Path, wanted: bool) -> Iterator[None]:
    try:
        yield
    finally:
        if wanted:
            shutil.rmtree(folder, ignore_errors=True)


def _identity(release: Release, options: PackOptions) -> dict:
    """Everything that decides the bytes; compared on every rerun."""
    versions = {"simplejpeg": version("simplejpeg"), "opencv": cv2.__version__}
    inputs = {}
    for path in release.inputs:
        inputs[path.name] = sha256_file(path)
    for table in release.labels:
        for path in table.inputs:
            inputs[f"{table.name}/{path.name}"] = sha256_file(path)
    if options.check_hashes and is_there(release.root / CHECKSUMS):
        inputs[CHECKSUMS] = sha256_file(release.root / CHECKSUMS)
    return {"options": {**options.as_json(), **release.reading}, "inputs": inputs, "encoders": versions}


def _refuse_difference(out: Path, found: dict, wanted: dict) -> None:
    for group, values in wanted.items():
        for name in sorted({*values, *found[group]}):
            before, now = found[group].get(name), values.get(name)
            if before == now:
                continue
            what = {"options": "option", "inputs": "input table", "encoders": "encoder version"}[group]
            if group == "inputs":
                before, now = (v[:12] if v else "not given" for v in (before, now))
            raise UserError(
                f"{out}: was packed with another {what} {name!r}: {before} there, {now} now; "
                "give the same again, or another --out folder"
            )


def _with_window(found: dict, wanted: dict, deep: Callable[[], bool]) -> dict:
    """What was packed before --window existed is packed with any window, unless it has 16-bit images (`deep`)."""
    if "window" in found["options"]:
        return found
    window = "the bits in use (by an older cxrdali)" if deep() else wanted["options"]["window"]
    return {**found, "options": {**found["options"], "window": window}}


def _has_deep(out: Path) -> bool:
    """Whether a finished shard of an unfinished dataset has an image that was 16-bit."""
    records = (json.loads(read_bytes(record_path(out, shard))) for shard in _recorded(out))
    return any("16-bit" in (words or "") for record in records for words in record["converted"])


def _finished(out: Path, identity: dict) -> PackSummary:
    # both refuse a damaged description, a missing or cut shard
    info = _stored_whole(out) if is_remote(out) else PackedDataset.open(out).info
    found = _with_window(info, identity, lambda: "16-bit" in _summary(info)["converted"])
    _refuse_difference(out, found, identity)
    for name in info["sizes"]:
        if not is_remote(out) and not (out / name).is_dir():
            raise UserError(f"{out / name}: the folder is missing; restore it, or delete {out} and pack again")
    _remove_work(out)  # left by a kill between publication and clean-up
    return PackSummary(**_summary(info), already_finished=True)


def _stored_whole(out: Path) -> dict:
    """The description of a finished dataset in a bucket, with one listing per size instead of a copy of anything."""
    path = out / DATASET
    info, sealed = parse_description(path, read_bytes(path))
    if not sealed or info.get("format") != FORMAT:
        raise UserError(f"{path}: damaged, or of another version of cxrdali; delete it and pack again")
    for name, size in info["sizes"].items():
        found = {f"{name}/{entry}": held for entry, _, held in entries(out / name)}
        for shard in size["shards"]:
            held = found.get(shard["name"])
            if held != shard["bytes"]:
                what = "is missing" if held is None else f"has {held} bytes"
                raise UserError(
                    f"{out / shard['name']}: {what}, {DATASET} says {shard['bytes']}; put it there again, or delete "
                    f"{path} and pack again"
                )
    return info


def _summary(info: dict) -> dict:
    return {
        "planned": info["counts"]["planned"],
        "packed": info["counts"]["packed"],
        "rejected": info["counts"]["rejected"],
        "converted": info["counts"].get("converted", {}),
        "shards": len(next(iter(info["sizes"].values()))["shards"]),
        "bytes": sum(shard["bytes"] for size in info["sizes"].values() for shard in size["shards"]),
    }


def work_folder(out: Path) -> Path:
    """Where unfinished files and the lock are, on this machine: in the dataset, or of one in a bucket among the
    temporary files, under a name by which the next run finds what a kill left."""
    if not is_remote(out):
        return out / WORK
    return Path(tempfile.gettempdir()) / f"cxrdali-{os.getuid()}-{sha256_bytes(str(out).encode())[:16]}"


def _check_writable(out: Path) -> None:
    if is_remote(out) and out.protocol not in WRITABLE:
        protocols = ", ".join(f"{protocol}://" for protocol in WRITABLE)
        raise UserError(f"{out}: {out.protocol}:// is only read; give --out a folder, or one of {protocols}")


def _lies_in(out: Path, root: Path) -> bool:
    if is_remote(out) or is_remote(root):
        return f"{out}/".startswith(f"{str(root).rstrip('/')}/")  # a bucket itself ends in a slash
    return out.resolve().is_relative_to(root.resolve())


def _make_folder(out: Path, work: Path) -> None:
    try:
        work.mkdir(0o700 if is_remote(out) else 0o777, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{work if is_remote(out) else out}: is no folder; give another --out") from error
    if is_remote(out) and work.lstat().st_uid != os.getuid():  # in a folder that all users may write to
        raise UserError(f"{work}: belongs to another user; set TMPDIR to a folder of yours")
    names = (name for name, _, _ in entries(out)) if is_remote(out) else (path.name for path in out.iterdir())
    strangers = sorted(name for name in names if name != WORK)
    if strangers and DATASET not in strangers and not is_there(out / WORK / "options.json"):
        with contextlib.suppress(OSError):  # of a bucket's, a killed run may have left something in it
            work.rmdir()
        raise UserError(f"{out}: holds {strangers[0]!r}, which is no packed dataset; give an empty folder")


def _claim(out: Path, work: Path, identity: dict, alone: bool) -> None:
    """Say what the folder is packed with, and remove what killed runs left, unless other parts may be at work."""
    options, before = out / WORK / "options.json", None
    if is_there(options):
        before = json.loads(read_bytes(options))
        _refuse_difference(out, _with_window(before, identity, lambda: _has_deep(out)), identity)
    if before != identity:
        write_bytes(options, json_bytes(identity))
    if alone:
        shutil.rmtree(work / "tmp", ignore_errors=True)
    if alone and not is_remote(out):  # where an object is whole or not there
        for folder in (out, *(path for path in out.iterdir() if path.is_dir()), work / "records"):
            remove_parts(folder)
    make_folder(out / WORK / "records")
    make_folder(work / "tmp")


def _remove_work(out: Path) -> None:
    """The dataset is published: what cannot be removed must not make an error of it."""
    if not is_remote(out):
        shutil.rmtree(out / WORK, ignore_errors=True)
        return
    with contextlib.suppress(UserError):
        remove_tree(out / WORK)
