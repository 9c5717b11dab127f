"""Images that a run leaves out of training because another pack has them too: the lists that `cxrdali overlap` writes.

A list is a CSV of pairs, bound to both packs by their ids. Of a pair whose other image is in no pack of the run, the
image is left out of training. Of one whose images are both there, the second pack's is, if it would be trained on; else
the first pack's: so an image is trained on once, and not if its copy is validated or tested on. Validation images stay.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxrdali.runs.layout import EXCLUDED
from cxrdali.runs.reader import Run
from shards.dataset.dataset import Dataset, Part
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.storage.csv import read_table
from shards.storage.files import read_regular, sha256_bytes, write_bytes
from shards.storage.sealed import check_kinds, parse_json
from shards.storage.sidecar import beside, check_hash, write_with_hash
from shards.storage.table_file import MOST
from shards.words import counted

log = logging.getLogger(__name__)

COLUMNS = ("pack_a", "image_id_a", "pack_b", "image_id_b", "kind", "distance", "correlation")
_ABOUT = {"packs": [{"name": str, "id": str}]}


@dataclass(frozen=True)
class Excluded:
    """image_ids: of the images that are left out, as the dataset has them, sorted; lists: file name and hash of each
    list that names them."""

    image_ids: tuple[str, ...]
    lists: tuple[tuple[str, str], ...]

    def as_json(self) -> dict:
        """What config.json says; the ids are in a file beside."""
        lists = [{"name": name, "sha256": sha256} for name, sha256 in self.lists]
        return {"images": len(self.image_ids), "sha256": sha256_bytes(self._data), "lists": lists}

    def write(self, run: Path) -> None:
        write_bytes(run / EXCLUDED, self._data)

    @property
    def _data(self) -> bytes:
        return "".join(f"{each}\n" for each in self.image_ids).encode()


def write_list(path: Path, pairs: pd.DataFrame, packs: Sequence[tuple[str, PackedDataset]]) -> None:
    """A list of pairs (COLUMNS) of two packs, with its hash and the packs' ids beside it."""
    about = json.dumps({"packs": [{"name": name, "id": pack.id} for name, pack in packs]})
    write_with_hash(path, pairs[[*COLUMNS]].to_csv(index=False, lineterminator="\n").encode(), about)


def left_out(paths: Sequence[str], dataset: Dataset, train: np.ndarray, val: np.ndarray) -> tuple[np.ndarray, Excluded]:
    """Which training images some lists leave out: int64 [n], catalog rows, and what is noted of them.

    train, val: int64 [n], int64 [m], catalog rows. Raises UserError for a file that is no list, or of other packs.
    """
    training, out, lists = np.zeros(len(dataset.packed), dtype=bool), np.zeros(len(dataset.packed), dtype=bool), []
    training[train] = True
    for path in map(Path, paths):
        rows, staying, sha256 = _of_list(path, dataset, training, val)
        lists.append((path.name, sha256))
        before = int(out.sum())
        out[rows] = True  # an image may stand in several pairs
        added = int(out.sum()) - before
        stays = "stays, and chooses" if staying == 1 else "stay, and choose"
        stay = f"; {counted(staying, 'validation image')} of it {stays} the best epoch" if staying else ""
        log.info(f"{path}: {counted(added, 'training image')} of {len(train):,} left out{stay}")
    for part in dataset.parts:
        if (own := part.own(train)).size and out[part.start + own].all():
            raise UserError(
                f"{part.dataset.root}: every training image is in {', '.join(map(str, paths))}; leave the pack "
                "out, or give another --exclude"
            )
    rows = np.flatnonzero(out)
    ids = dataset.of_rows(rows, "image_id")["image_id"]
    return rows, Excluded(tuple(sorted(ids)), tuple(lists))


def trained_rows(run: Run, dataset: Dataset, train: np.ndarray) -> np.ndarray:
    """The training rows of a run's fold without those that it left out: int64 [n].

    dataset: one pack of the run, or all. Raises UserError if the run's list of them is lost or damaged.
    """
    noted = run.config.get("excluded")
    if not noted:
        return train
    ids = pd.Series(_noted(run.path / EXCLUDED, noted["sha256"]), dtype=object)
    if prefix := run.config["dataset"].get("name", ""):  # one of several packs
        ids = ids[ids.str.startswith(f"{prefix}:")].str.removeprefix(f"{prefix}:")
    own = dataset.of_rows(train, "image_id")["image_id"]
    return train[~own.isin(ids).to_numpy()]


def noted_rows(run: Path, noted: dict, dataset: Dataset, train: np.ndarray) -> tuple[np.ndarray, Excluded]:
    """As `left_out`, of a run that has begun, whose lists are gone."""
    ids = _noted(run / EXCLUDED, noted["sha256"])
    own = dataset.of_rows(train, "image_id")["image_id"]
    lists = tuple((each["name"], each["sha256"]) for each in noted["lists"])
    return train[own.isin(ids).to_numpy()], Excluded(tuple(ids), lists)


def _noted(path: Path, sha256: str) -> list[str]:
    try:
        data = read_regular(path, MOST)
        if sha256_bytes(data) != sha256:
            raise ValueError("it is not what the run wrote")
        return data.decode().splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: which images the run left out is not known ({error}); restore the file") from error


def _of_list(path: Path, dataset: Dataset, training: np.ndarray, val: np.ndarray) -> tuple[np.ndarray, int, str]:
    """Training rows that a list leaves out, how many validation images stand in it, and its hash."""
    data, pairs, ids = _read(path)
    parts = {part.dataset.id: part for part in dataset.parts}
    sides = [_rows(path, parts[pack], pairs[f"image_id_{side}"]) if pack in parts else None for side, pack in ids]
    there = [each for each in sides if each is not None]
    if not there:
        names = " and ".join(str(pairs[f"pack_{side}"].iloc[0]) if len(pairs) else pack[:12] for side, pack in ids)
        raise UserError(
            f"{path}: lists images of {names}, as they were packed then, and none of them is in --data; write one of "
            "the packs in use with `cxrdali overlap A B --out FILE`"
        )
    first, second = there[0], there[-1]
    if len(there) == 1:
        rows = first[training[first]]
    else:
        rows = np.concatenate([first[training[first] & ~training[second]], second[training[second]]])
    return rows, len(np.intersect1d(np.concatenate(there), val)), sha256_bytes(data)


def _read(path: Path) -> tuple[bytes, pd.DataFrame, list[tuple[str, str]]]:
    """A list's bytes, its pairs as texts, and each side's pack id."""
    fix = "write it with `cxrdali overlap A B --out FILE`"
    try:
        data = read_regular(path, MOST)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot be read ({reason}); {fix}") from error
    if not beside(path).exists():
        raise UserError(f"{path}: {beside(path).name}, which says what packs it is of, is not beside it; {fix}")
    try:
        about = check_hash(path, data)
    except UserError as error:  # what it says of deleting the hash does not go for a list
        raise UserError(f"{str(error).split(';')[0]}; restore it, or {fix}") from error
    pairs = read_table(path, COLUMNS, again=fix)
    try:
        content = parse_json(about)
        check_kinds(content, _ABOUT)
        (a, b) = content["packs"]
    except ValueError as error:
        raise UserError(f"{path}: no list of images that two packs share ({error}); {fix}") from error
    return data, pairs, [("a", a["id"]), ("b", b["id"])]


def _rows(path: Path, part: Part, image_ids: pd.Series) -> np.ndarray:
    """The whole's rows of a pack's images: int64 [n]."""
    found = pd.Index(part.dataset.arrow("image_id")["image_id"].to_pandas()).get_indexer(image_ids)
    if (found < 0).any():
        missing = image_ids.iloc[int(np.flatnonzero(found < 0)[0])]
        raise UserError(f"{path}: image {missing!r} is not in {part.dataset.root}; write the list again")
    return part.start + found
