"""Counting what a packed dataset holds: images, findings, what occurs together, what is in two splits.

Everything about images is counted over packed ones (a reject trains nothing), unless a name says planned.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxrdali.data.splits import group_codes
from cxrdali.report.dataset.same import SamePixels, find
from shards.dataset.description import labels_name
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset
from shards.dataset.people import known_people
from shards.dataset.tables import checked_bytes
from shards.errors import UserError
from shards.progress import progress_bar
from shards.releases.release import SPLITS, VIEWS
from shards.storage.files import sha256_bytes
from shards.storage.for_people import unguarded

NO_SPLIT = "no split"
BLANK_POSITION = "(blank)"
VALUES = {"positive": 1, "negative": 0, "uncertain": -1, "blank": Labels.BLANK, "not known": Labels.UNKNOWN}
FIRST_IDS = 3  # of the rejects of one reason


@dataclass(frozen=True)
class ReleaseFacts:
    """One label release over the packed images; findings are the most frequent of `counted` first.

    splits: by split (that has a planned image): images, studies, subjects, unlabelled (every finding blank or not
    known), rejected.
    counts: by split a table of images by finding: positive, negative, uncertain, blank, not known (of pseudo-labels).
    counted: "train", or "all" if train has no label; rows: int64 [N], its catalog rows; positive: bool [N, F].
    together: int64 [F, F], images of `counted` with both findings; its diagonal is images with the one. pseudo: of
    labels that a run predicted, in words.
    """

    name: str
    sha256: str
    splits: pd.DataFrame
    counts: dict[str, pd.DataFrame]
    counted: str
    rows: np.ndarray
    positive: np.ndarray
    together: np.ndarray
    pseudo: str = ""

    @property
    def findings(self) -> list[str]:
        return list(next(iter(self.counts.values())).index)


@dataclass(frozen=True)
class DatasetFacts:
    """What a packed dataset holds; studies and subjects are those with a packed image.

    images_per_study: studies by number of packed images (index 1, 2, ...). positions: images by raw ViewPosition
    (rows) and view (columns). native: min, median, max of height and width in pixels. sizes: by pixels: encoding,
    shards, samples, bytes (of the tars), here (on this disk). rejects: by reason (without its detail): images, ids (the
    first few, with the detail).
    absent: label releases that dataset.json names and the disk lacks. overlap: see `overlaps`. twins: label releases
    with the very splits of an earlier one, which alone is in `overlap`. largest: images of the patient with the most.
    same: images with the same pixels; None if that is not known. people: `shards.dataset.people.known_people`.
    """

    root: str
    info: dict
    studies: int
    subjects: int
    images_per_study: pd.Series
    positions: pd.DataFrame
    native: pd.DataFrame
    sizes: pd.DataFrame
    rejects: pd.DataFrame
    releases: list[ReleaseFacts]
    absent: list[str]
    overlap: pd.DataFrame
    twins: dict[str, str]
    largest: int
    same: SamePixels | None
    people: list[tuple[str, int, str]]


def read_facts(dataset: PackedDataset, names: Sequence[str] = ()) -> DatasetFacts:
    """Count everything; `names` are the label releases to look at, all attached ones by default.

    Raises UserError for a label release that is not attached and for a damaged table.
    """
    names_here = dataset.label_names if dataset.mirror is None else ()  # from a bucket, a table comes when it is read
    absent = [name for name in names_here if not (dataset.root / labels_name(name)).exists()]
    wanted = list(dict.fromkeys(names)) or [name for name in dataset.label_names if name not in absent]
    releases, parts, twins, seen, apart = [], {}, {}, {}, {}
    with progress_bar("counting", 1 + len(wanted), " tables", delay=1) as bar:
        packed, catalog = dataset.packed, dataset.catalog
        study, subject = group_codes(dataset, "study"), group_codes(dataset, "subject")
        bar.update()
        for name in wanted:
            labels = dataset.labels(name)
            masks = _split_masks(labels)
            releases.append(_release(labels, masks, packed, study, subject))
            fingerprint = sha256_bytes(b"".join(key.encode() + mask.tobytes() for key, mask in masks.items()))
            if fingerprint in seen:
                twins[name] = seen[fingerprint]
            else:
                seen[fingerprint] = name
                apart[name] = labels
                parts |= {(name, key): mask & packed for key, mask in masks.items() if key != NO_SPLIT}
            bar.update()
    per_study = np.bincount(np.bincount(study[packed]), minlength=1)[1:]
    return DatasetFacts(
        root=str(dataset.root),
        info=dataset.info,
        studies=_distinct(study[packed]),
        subjects=_distinct(subject[packed]),
        images_per_study=pd.Series(per_study, index=range(1, len(per_study) + 1)),
        positions=_positions(catalog[packed]),
        native=catalog.loc[packed, ["height", "width"]].astype(float).agg(["min", "median", "max"]),
        sizes=_sizes(dataset),
        rejects=_rejects(dataset),
        releases=releases,
        absent=absent,
        overlap=overlaps({key: mask for key, mask in parts.items() if mask.any()}, study, subject),
        twins=twins,
        largest=int(np.bincount(subject[packed]).max(initial=0)),
        same=find(dataset, subject, apart),
        people=known_people(dataset),
    )


def _split_masks(labels: Labels) -> dict[str, np.ndarray]:
    """bool [rows] by split, train, dev and test first, then the rows without one; only splits that have a row."""
    codes, found = pd.factorize(np.asarray(labels.split))
    known = {name: codes == code for code, name in enumerate(found)}
    masks = {name: known.pop(name) for name in SPLITS if name in known} | known
    without = codes == -1
    return masks | {NO_SPLIT: without} if without.any() else masks


def _release(
    labels: Labels, masks: dict[str, np.ndarray], packed: np.ndarray, study: np.ndarray, subject: np.ndarray
) -> ReleaseFacts:
    labelled = (labels.values < Labels.UNKNOWN).any(axis=1)
    train = masks.get("train", np.zeros_like(packed)) & packed
    in_train = bool((train & labelled).any())
    rows = np.flatnonzero(train if in_train else packed & labelled)
    positive = labels.values[rows] == 1
    order = np.argsort(-positive.sum(axis=0), kind="stable")
    positive = positive[:, order]
    names = pd.Index(np.array(labels.findings, dtype=object)[order], name="finding")
    numbers = positive.astype(np.float32)  # a float product runs in BLAS, an integer one does not; exact to 2**24
    splits, counts = {}, {}
    for name, mask in masks.items():
        inside = mask & packed
        splits[name] = {
            "images": int(inside.sum()),
            "studies": _distinct(study[inside]),
            "subjects": _distinct(subject[inside]),
            "unlabelled": int((inside & ~labelled).sum()),
            "rejected": int((mask & ~packed).sum()),
        }
        values = labels.values[inside][:, order]
        counts[name] = pd.DataFrame({word: (values == value).sum(axis=0) for word, value in VALUES.items()}, names)
    return ReleaseFacts(
        name=labels.name,
        sha256=labels.sha256,
        splits=pd.DataFrame.from_dict(splits, orient="index"),
        counts=counts,
        counted="train" if in_train else "all",
        rows=rows,
        positive=positive,
        together=np.rint(numbers.T @ numbers).astype(np.int64),
        pseudo=f"pseudo-labels by {labels.pseudo['run']}, {labels.pseudo['how']}" if labels.pseudo else "",
    )


def pairs(release: ReleaseFacts) -> pd.DataFrame:
    """Every two findings that meet: first (the more frequent), second, images, given_first, given_second, lift.

    given_first is P(second | first); lift is how many times oftener they meet than if independent.
    """
    one = np.diag(release.together)
    first, second = (place for place in np.triu_indices(len(one), k=1))
    images = release.together[first, second]
    first, second, images = (each[images > 0] for each in (first, second, images))
    names = np.array(release.findings, dtype=object)
    return pd.DataFrame(
        {
            "first": names[first],
            "second": names[second],
            "images": images,
            "given_first": images / one[first],
            "given_second": images / one[second],
            "lift": images * float(len(release.rows)) / (one[first] * one[second].astype(float)),
        }
    )


def overlaps(parts: dict[tuple[str, str], np.ndarray], study: np.ndarray, subject: np.ndarray) -> pd.DataFrame:
    """What every two parts share. `parts`: bool [rows] by (release, split); `study`, `subject`: a code per row.

    A row per ordered pair: seen_release, seen_split, release, split, then images, studies and subjects in both, and
    known: images of (release, split) whose subject has an image in (seen_release, seen_split); of: its images.
    """
    masks = np.array(list(parts.values())).reshape(len(parts), len(study))
    by_subject = _members(masks, subject)
    common = {
        "images": _product(masks, masks),
        "studies": _product(*[_members(masks, study)] * 2),
        "subjects": _product(by_subject, by_subject),
        "known": _product(by_subject[:, subject], masks),
    }
    return pd.DataFrame(
        [
            (*seen, *part, *(int(table[a, b]) for table in common.values()), int(masks[b].sum()))
            for a, seen in enumerate(parts)
            for b, part in enumerate(parts)
            if a != b
        ],
        columns=("seen_release", "seen_split", "release", "split", *common, "of"),
    )


def _members(masks: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """bool [parts, groups]: whether a group has a row in the part."""
    found = np.zeros((len(masks), codes.max(initial=-1) + 1), dtype=bool)
    for place, mask in enumerate(masks):
        found[place, codes[mask]] = True
    return found


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.rint(left.astype(np.float32) @ right.astype(np.float32).T).astype(np.int64)


def _distinct(codes: np.ndarray) -> int:
    return int((np.bincount(codes) > 0).sum())


def _positions(catalog: pd.DataFrame) -> pd.DataFrame:
    position = catalog["view_position"].fillna("").replace("", BLANK_POSITION)
    table = pd.crosstab(position, catalog["view"]).reindex(columns=list(VIEWS), fill_value=0)
    return table.loc[table.sum(axis=1).sort_values(ascending=False, kind="stable").index]


def _sizes(dataset: PackedDataset) -> pd.DataFrame:
    rows = {}
    for entry in dataset.info["sizes"].values():
        shards = entry["shards"]
        rows[entry["pixels"]] = {
            "encoding": entry["encoding"],
            "shards": len(shards),
            "samples": sum(shard["samples"] for shard in shards),
            "bytes": sum(shard["bytes"] for shard in shards),
            "here": entry["pixels"] in dataset.sizes,
        }
    return pd.DataFrame.from_dict(rows, orient="index").sort_index()


def _rejects(dataset: PackedDataset) -> pd.DataFrame:
    sha256 = dataset.info["rejects_sha256"]
    path = dataset.file("rejects.csv", sha256)
    data = checked_bytes(path, sha256)
    ids = {}
    try:
        for line in csv.DictReader(io.StringIO(data.decode(), newline="")):
            reason, _, detail = line["reason"].partition(": ")
            image = unguarded(line["id"])
            ids.setdefault(reason, []).append(f"{image} ({detail})" if detail else image)
    except (AttributeError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: not as packing writes it ({error}); restore it or pack again") from error
    rows = {reason: {"images": len(each), "ids": each[:FIRST_IDS]} for reason, each in ids.items()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["images", "ids"])
    return table.sort_values("images", ascending=False, kind="stable")
