"""Which images two packs share: with the same pixels, and copies that were encoded, exposed, scaled or cropped anew."""

import io
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cxrdali.runs.exclusion import COLUMNS
from cxrdali.runtime.limits import cores
from shards.dataset.cache import default_folder
from shards.dataset.likeness import VERSION, Pictures, Signatures, candidates, signatures
from shards.dataset.packed import PackedDataset
from shards.dataset.pixels import is_constant
from shards.dataset.twins import agreement, is_same
from shards.errors import UserError
from shards.progress import progress_bar
from shards.storage.sidecar import check_hash, write_with_hash

log = logging.getLogger(__name__)

EXACT, NEAR = "exact", "near"
KEPT = "likeness"  # folder of signatures, beside the copies of datasets
CLEARLY = 0.02  # of correlation, by which one of two pictures of a patient is the copy and the other is not
TRIES = 3  # of an image's candidates, nearest first, that may turn out to be others


@dataclass(frozen=True)
class OverlapOptions:
    """near: whether to look for near pairs beside exact ones; cache: where signatures are kept (None: nowhere)."""

    near: bool = True
    cache: Path | None = None

    @classmethod
    def kept(cls) -> "OverlapOptions":
        """With signatures beside the copies of datasets."""
        return cls(cache=default_folder() / KEPT)


@dataclass(frozen=True)
class Overlap:
    """Images that packs a and b share.

    pairs: a row each: row_a, row_b (of their catalogs), kind (EXACT or NEAR), distance (bits of 256 in which their
    signatures differ) and correlation (both NaN if exact). exact, near: what was compared ("224 px"); None: nothing,
    for the reason in `why`.
    """

    a: PackedDataset
    b: PackedDataset
    pairs: pd.DataFrame
    exact: str | None
    near: str | None
    why: str = ""

    def rows(self, side: str, kind: str | None = None) -> np.ndarray:
        """Catalog rows of "a" or "b" that have a pair: int64 [n], ascending."""
        pairs = self.pairs if kind is None else self.pairs[self.pairs["kind"] == kind]
        return np.unique(pairs[f"row_{side}"].to_numpy(dtype=np.int64))

    def listed(self, names: tuple[str, str]) -> pd.DataFrame:
        """Its pairs by the packs' names and image ids (COLUMNS), as `cxrdali.runs.exclusion` writes them."""
        made = self.pairs.copy()
        for side, name, pack in (("a", names[0], self.a), ("b", names[1], self.b)):
            made[f"pack_{side}"] = name
            ids = pack.arrow("image_id")["image_id"].to_pandas()
            made[f"image_id_{side}"] = ids.to_numpy()[made[f"row_{side}"]]
        return made[[*COLUMNS]]


def overlap(a: PackedDataset, b: PackedDataset, options: OverlapOptions | None = None) -> Overlap:
    """Compare all images of one pack with all of another.

    Images of one gray, or nearly, are never a pair. A near pair was a candidate by its signature and compared by its
    pixels; each image's nearest candidates are compared until TRIES of them are other images.

    Raises UserError if both are one pack, or an image is damaged.
    """
    options = options or OverlapOptions.kept()
    if a.id == b.id:
        raise UserError(
            f"{b.root}: has the images of {a.root}; `cxrdali inspect` counts those that are in one pack twice"
        )
    said, why = _hashed_alike(a, b)
    exact, near = _exact(a, b) if said else _PAIRS, None
    if options.near:
        pictures = (Pictures(a), Pictures(b))
        near = " and ".join(dict.fromkeys(f"{each.size} px" for each in pictures))
        known = set(zip(exact["row_a"], exact["row_b"], strict=True))
        exact = pd.concat([exact, _near(a, b, pictures, known, options.cache)], ignore_index=True)
        exact = _without_lookalikes(exact, a, b)
    return Overlap(a, b, exact.sort_values(["row_a", "row_b"], ignore_index=True), said, near, why)


_PAIRS = pd.DataFrame(
    {
        **{name: np.empty(0, dtype=np.int64) for name in ("row_a", "row_b")},
        "kind": np.empty(0, dtype=object),
        **{name: np.empty(0) for name in ("distance", "correlation")},
    }
)


def _hashed_alike(a: PackedDataset, b: PackedDataset) -> tuple[str | None, str]:
    """By which size both know their images' pixels; else why exact pairs cannot be found."""
    sizes = a.info.get("hashed"), b.info.get("hashed")
    for pack, size in zip((a, b), sizes, strict=True):
        if not size:
            return None, f"{pack.root} was packed by a version that kept no hashes of pixels; pack it again"
    if sizes[0] != sizes[1]:
        words = f"{a.root} has hashes of its images at {sizes[0]} px, {b.root} at {sizes[1]} px"
        return None, f"{words}: they do not compare; pack one of them with the other's largest size"
    return f"{sizes[0]} px", ""


def _exact(a: PackedDataset, b: PackedDataset) -> pd.DataFrame:
    sides = []
    for name, pack in (("row_a", a), ("row_b", b)):
        hashes = pack.arrow("pixels")["pixels"].to_pandas().fillna("").astype(str)
        side = pd.DataFrame({name: np.arange(len(hashes)), "pixels": hashes.to_numpy()})[pack.packed]
        blank = is_constant(side["pixels"].to_numpy(), pack.info["hashed"]) | (side["pixels"] == "").to_numpy()
        sides.append(side[~blank])
    pairs = sides[0].merge(sides[1], on="pixels").drop(columns="pixels")
    return pairs.assign(kind=EXACT, distance=np.nan, correlation=np.nan)


def _near(
    a: PackedDataset, b: PackedDataset, pictures: tuple[Pictures, Pictures], known: set, cache: Path | None
) -> pd.DataFrame:
    """Pairs that are not `known` as (row_a, row_b)."""
    threads = cores()
    cv2.setNumThreads(1)  # each of ours has one image
    first, second = (_signatures(pack, own, threads, cache) for pack, own in zip((a, b), pictures, strict=True))
    with progress_bar("comparing signatures", len(first.rows), " images") as bar:
        found = candidates(first, second, threads, bar.update)
    groups = [group for _, group in found.groupby("row_a", sort=False)]
    pairs: list[dict] = []
    with progress_bar("comparing images", len(groups), " images") as bar, ThreadPoolExecutor(threads) as pool:
        for some in pool.map(partial(_compared, pictures, known), groups):
            pairs += some
            bar.update()
    return pd.DataFrame(pairs, columns=_PAIRS.columns).astype(_PAIRS.dtypes.to_dict())


def _without_lookalikes(pairs: pd.DataFrame, a: PackedDataset, b: PackedDataset) -> pd.DataFrame:
    """Without near pairs of an image where another picture of the same patient agrees clearly better: pictures of one
    patient can look alike (synthetic ones are the same drawing), and one of them is the copy."""
    kept, agreed = np.ones(len(pairs), dtype=bool), pairs["correlation"].fillna(1)
    for pack, row, other in ((a, "row_a", "row_b"), (b, "row_b", "row_a")):
        patient = pack.of_rows(pairs[row].to_numpy(dtype=np.int64), "subject_id")["subject_id"].to_numpy()
        best = agreed.groupby([pairs[other].to_numpy(), patient]).transform("max")
        kept &= (agreed >= best - CLEARLY).to_numpy()
    return pairs[kept]


def _compared(pictures: tuple[Pictures, Pictures], known: set, group: pd.DataFrame) -> list[dict]:
    """Which of one image's candidates it is."""
    pairs, failed, image = [], 0, pictures[0][int(group["row_a"].iloc[0])]
    for each in group.itertuples():
        if (each.row_a, each.row_b) in known:
            continue
        other = pictures[1][int(each.row_b)]
        found = agreement(image, other, bool(each.negative), (bool(each.inner_a), bool(each.inner_b)))
        if is_same(found, min(len(image), len(other)), each.distance):
            pair = {"row_a": each.row_a, "row_b": each.row_b, "kind": NEAR}
            pairs.append({**pair, "distance": float(each.distance), "correlation": round(found, 4)})
        elif (failed := failed + 1) == TRIES:
            break
    return pairs


def _signatures(pack: PackedDataset, pictures: Pictures, threads: int, cache: Path | None) -> Signatures:
    """Of a pack's images, from the file of a call before if there is one."""
    path = cache and cache / f"{pack.id}-{pictures.size}-{VERSION}.npy"
    if path and path.exists():
        try:
            data = path.read_bytes()
            check_hash(path, data)
            table = np.load(io.BytesIO(data))
            return Signatures(table[:, 0].astype(np.int64), table[:, 1] == 1, np.ascontiguousarray(table[:, 2:]))
        except (OSError, UserError, ValueError) as error:
            log.info(f"note: {path}: is damaged, and made again ({error})")
    rows = np.flatnonzero(pack.packed)
    with progress_bar(f"looking at {pack.root}", len(rows), " images") as bar:
        made = signatures(pictures, rows, threads, bar.update)
    if path:
        buffer = io.BytesIO()
        np.save(buffer, np.column_stack([made.rows.astype(np.uint64), made.inner.astype(np.uint64), made.words]))
        try:
            path.parent.mkdir(0o700, parents=True, exist_ok=True)
            write_with_hash(path, buffer.getvalue())
        except (OSError, UserError) as error:
            log.info(f"note: signatures are not kept for the next time ({error})")
    return made
