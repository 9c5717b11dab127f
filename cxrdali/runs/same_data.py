"""Whether a dataset holds what another one held: the same images, with the same pixels in the size in use.

A dataset's id follows its shards. The same release packed again, in other shards or with further sizes, is the same
data in other files: a run depends on which images it trains and validates on, in which order, on their pixels and their
labels. config.json notes these, and they are compared. What earlier versions did not note, the id decides.
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cxrdali.data.options import patient_groups
from cxrdali.data.packs import as_one
from cxrdali.data.splits import rows_sha256, train_and_validation
from cxrdali.data.targets import counts, targets
from cxrdali.predictions import Provenance, read
from cxrdali.runs.exclusion import trained_rows
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import TrainSettings
from shards.dataset.content import content
from shards.dataset.dataset import Dataset, Part
from shards.dataset.description import decoded_for
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset
from shards.dataset.synonyms import FindingsMap
from shards.dataset.tables import PIECE, sorted_rows, take
from shards.dataset.union import Union, UnionOptions
from shards.errors import UserError
from shards.storage.files import sha256_bytes

log = logging.getLogger(__name__)

FACTS = ("image_id", "study_id", "subject_id", "view", "height", "width")  # of an image's file, however it is packed
OTHER_IMAGES = "other images"
SORTED = ("train_sorted", "val_sorted")  # `which` of a run's images in the order of their ids


def which(dataset: Dataset, *selections: np.ndarray) -> list[str]:
    """Which images some rows are, in their order: a hash of FACTS for each selection (int64 [n])."""
    made = [sha256(b"[") for _ in selections]
    for name in FACTS:
        column = dataset.arrow(name)[name]
        for each, rows in zip(made, selections, strict=True):
            each.update(b"[" if name == FACTS[0] else b", [")
            _add(each, column, rows)
            each.update(b"]")
    for each in made:
        each.update(b"]")
    return [each.hexdigest() for each in made]


def with_images(provenance: Provenance, dataset: Dataset, rows: np.ndarray) -> Provenance:
    """That of a table of these rows, saying which images they are, in whatever order the dataset has them."""
    return replace(provenance, images=which(dataset, *_by_id(dataset, rows))[0])


def pixels(dataset: PackedDataset, rows: np.ndarray, size: int, *earlier: int) -> dict:
    """What is known of these rows' pixels in the stored size that is read for images of `size`; nothing without one.

    content: of all images of the size, by the bytes that are stored. hashes: of these rows, before they were encoded;
    packed: what else decides their bytes. Either tells that pixels are the same; None: of an earlier version. earlier:
    the same of smaller sizes, that a schedule begins with.
    """
    larger = [each for each in dataset.sizes if each >= size]
    if not larger:
        return {}
    info, size = dataset.info, min(larger)
    entry = info["sizes"][str(size)]
    contents, hashed = [shard.get("content") for shard in entry["shards"]], info.get("hashed")
    names = ("fit", "window", "quality") if entry["encoding"] == "jpeg" else ("fit", "window")
    return {
        **({"earlier": [pixels(dataset, rows, each) for each in earlier]} if earlier else {}),
        "size": size,
        "content": None if None in contents else content(contents),
        "hashes": _hash_of(dataset.arrow("pixels")["pixels"], rows) if hashed else None,
        "packed": {"encoding": entry["encoding"], **{name: info["options"].get(name) for name in names}}
        | {"decoded_for": decoded_for(info)[str(size)], "hashed": hashed, **info["encoders"]},
    }


def described(
    settings: TrainSettings, dataset: Dataset, labels: Labels, train: np.ndarray, val: np.ndarray
) -> dict[str, dict]:
    """What config.json says of a run's dataset and labels; of several packs, the same of each."""
    known: dict[str, Any] = {}
    if isinstance(dataset, PackedDataset):
        known = pixels(dataset, np.concatenate([train, val]), *settings.sizes)
        if known and settings.data.order == "windowed":
            known["shards"] = rows_sha256(dataset.stored(known["size"]).shard[train])
    else:
        known["packs"], wanted = [], targets(labels, settings.data.uncertain)
        for part, own, pack in zip(dataset.parts, labels.apart(), labels.packs, strict=True):
            about = _described_pack(settings, part, own, pack.places, (part.own(train), part.own(val)))
            positives = counts(wanted, part.start + part.own(train))[0][list(pack.places)]
            known["packs"].append({**about, "train_positives": positives.tolist()})
    by_id = _by_id(dataset, train, val)
    images = dict(zip(("train", "val", *SORTED), which(dataset, train, val, *by_id), strict=True))
    values = {"values": _values(labels, train, val), "values_sorted": _values(labels, *by_id)}
    return {
        "dataset": {"id": dataset.id, **images, **known},
        "labels": {"name": labels.name, "sha256": labels.sha256, **values},
    }


def _described_pack(
    settings: TrainSettings, part: Part, labels: Labels, places: Sequence[int], rows: tuple[np.ndarray, np.ndarray]
) -> dict:
    """What config.json says of one of several packs: as of one alone, and which of the run's findings its own are."""
    train, val = rows
    about = described(settings, part.dataset, labels, train, val)
    return {
        "name": part.name,
        "root": Path(str(part.dataset.root)).name,
        **about["dataset"],
        "labels": about["labels"],
        "findings": list(labels.findings),
        "places": list(places),
        "selection": {
            "train_images": len(train),
            "val_images": len(val),
            "train_sha256": rows_sha256(train),
            "val_sha256": rows_sha256(val),
        },
    }


def other_packs(there: Mapping, here: Mapping) -> str | None:
    """Which packs there were and are, in words, where these are not the same in the same order; else None."""
    before, now = ([each["name"] for each in of.get("packs", [])] for of in (there, here))
    names = (", ".join(each) or "one without a name" for each in (before, now))
    return None if before == now else "packs {} there, {} here".format(*names)


def difference(there: Mapping, here: Mapping) -> str | None:
    """What is otherwise here than it was there, in words; None if the data is the same.

    Both have an id, train and val or images (`which`), and, where pixels matter, `pixels`; older ones the id alone.
    """
    if words := other_packs(there, here):
        return words
    for before, now in zip(there.get("packs", []), here.get("packs", []), strict=True):
        if words := difference(before, now):
            return f"{now['name']}: {words}"
    return None if "packs" in here else _difference(there, here)


def _difference(there: Mapping, here: Mapping) -> str | None:
    """Of one pack."""
    same_files, parts = there.get("id") == here["id"], {"train", "val", "images"} & set(there)
    if not parts:
        return None if same_files else f"dataset {there.get('id')!r} there, {here['id']!r} here"
    if any(there[part] != here.get(part) for part in parts):
        return OTHER_IMAGES
    if "size" not in here:
        return None
    for before, now in zip(there.get("earlier", []), here.get("earlier", []), strict=False):
        if words := _difference({**there, **before, "earlier": []}, {**here, **now, "earlier": []}):
            return words
    if there.get("size") != here["size"]:
        return f"images are read from {here['size']} px here, from {there.get('size')} px there"
    if there.get("shards") != here.get("shards"):
        return "the same images lie in other shards here, and --order windowed follows the shards"
    if same_files or (here["content"] is not None and there.get("content") == here["content"]):
        return None
    packed = there.get("packed") or {}
    for name, now in here["packed"].items():
        if packed.get(name) != now:
            return f"the same images packed otherwise: {name} {packed.get(name)!r} there, {now!r} here"
    if here["hashes"] is None:
        return "the same images, but an earlier version packed them: whether their pixels are the same is not known"
    return None if there.get("hashes") == here["hashes"] else "the same images with other pixels: their files changed"


def same_labels(run: Run, labels: Labels, train: np.ndarray, val: np.ndarray) -> bool:
    """Whether labels say of a run's images what they said in training: in its order, or in that of their ids."""
    known = run.config["labels"]
    values = (known.get("values"), known.get("values_sorted"))
    return known.get("sha256") == labels.sha256 or _values(labels, train, val) in values


def as_trained(run: Run, packs: Mapping[str, PackedDataset]) -> Dataset:
    """Packs by name as one dataset as a run has them: in its order, with its names (a pack of the same images under
    another name gets it), findings and patients. One alone is itself."""
    called = {each["id"]: each["name"] for each in run.packs}
    order = [each["name"] for each in run.packs]
    named = {name if name in order else called.get(pack.id, name): pack for name, pack in packs.items()}
    if len(named) < len(packs):
        raise UserError(
            f"{run.path}: two packs have the images of one of its packs ({', '.join(order)}); give one of them"
        )
    if len(named) == 1:
        return next(iter(named.values()))
    names = sorted(named, key=lambda name: order.index(name) if name in order else len(order))
    packs = {name: named[name] for name in names}
    if not run.packs:
        return as_one(packs)
    known = {each["name"]: each["findings"] for each in run.packs if each["name"] in named}
    groups = patient_groups(run.settings.data.same_patients)
    there = (tuple(name for name in group if name in named) for group in groups)  # of all packs of the run, or some
    findings = FindingsMap.read(run.settings.data.findings).among(known)
    return Union.of(packs, UnionOptions(findings, tuple(group for group in there if len(group) > 1)))


def own_run(run: Run, part: Part) -> Run | None:
    """A run as if it had trained on this pack alone: by the pack's name, else by its images; None if it has not.

    One that was trained on a single pack is itself.
    """
    if not run.packs:
        return run
    dataset = part.dataset
    for entry in sorted(run.packs, key=lambda each: each["id"] != dataset.id):
        own = run.of_pack(entry)
        if entry["name"] == part.name or (not part.name and entry["id"] == dataset.id):
            return own
        with suppress(UserError):
            if not part.name:
                run_rows(own, dataset, dataset.labels(own.labels), "")
                return own
    return None


def labels_of(run: Run, dataset: Dataset, name: str | None = None) -> Labels:
    """A dataset's labels by name; without one, the release that the run was trained on, of each pack that has it, and
    the default one of every other pack, which is said."""
    if name is not None or (not run.packs and dataset.id == run.dataset_id):
        return dataset.labels(name or run.labels)
    known = {}
    for part in dataset.parts:
        own = own_run(run, part)
        if own is not None and own.labels in part.dataset.label_names:
            known[part.name] = own.labels
        elif part.dataset.label_names:
            what = f"labels {own.labels!r}, on which" if own else "labels on which"
            log.info(f"note: {part.dataset.root} has no {what} the run was trained; its default ones count")
    return dataset.labels(",".join(f"{pack}={each}" if pack else each for pack, each in known.items()) or None)


def labels_in_run(run: Run, dataset: Dataset, name: str | None = None) -> Labels:
    """`labels_of`, of one pack of several with the run's findings in the run's order: unknown where it has them not."""
    labels, own = labels_of(run, dataset, name), own_run(run, dataset.parts[0])
    if labels.packs or not run.packs or own is None or own.findings != labels.findings:
        return labels
    values = np.full((len(labels.values), len(run.findings)), Labels.UNKNOWN, dtype=np.int8)
    values[:, own.config["places"]] = labels.values
    return replace(labels, findings=run.findings, values=values)


def run_rows(run: Run, dataset: Dataset, labels: Labels, fix: str) -> tuple[np.ndarray, np.ndarray]:
    """Catalog rows of a run's training and validation images: int64 [n], int64 [m].

    The dataset may have another order, or be some of the packs that it was trained on. Raises UserError, ending in
    `fix` ("; give ..."), for other images or labels.
    """
    if not isinstance(dataset, PackedDataset) or run.packs:
        return _rows_of_packs(run, dataset, labels, fix)
    there = run.config["dataset"]
    if (labels.name, labels.findings) != (run.labels, run.findings):
        raise UserError(f"{run.path}: was trained on labels {run.labels!r}, not on {labels.name!r} as they are{fix}")
    if "train" not in there and dataset.id != there["id"]:
        raise UserError(f"{run.path}: was trained on another dataset than {dataset.root}{fix}")
    train, val = train_and_validation(dataset, labels, run.fold)
    train = trained_rows(run, dataset, train)
    limited = run.settings.runtime.limit_batches
    own = val[: limited * run.settings.optimizer.batch] if limited else val
    compared, names = [train, own], ("train", "val")
    if SORTED[0] in there:  # an older version noted their order alone
        compared, names = _by_id(dataset, train, own), SORTED
    if "train" in there:
        changed = which(dataset, *compared) != [there.get(name) for name in names]
    else:
        changed = rows_sha256(train) != run.needed("selection", "train_sha256")
    if changed:
        words = f"fold {run.fold.fold} comes out differently here than where it was trained"
        raise UserError(f"{run.path}: {words}: {other_images(run, dataset, train, own)}{fix}")
    if not same_labels(run, labels, *compared):
        words = f"labels {labels.name!r} of {dataset.root} are not those that it was trained on"
        raise UserError(f"{run.path}: {words}{fix}")
    return train, val


def _rows_of_packs(run: Run, dataset: Dataset, labels: Labels, fix: str) -> tuple[np.ndarray, np.ndarray]:
    """`run_rows` of a run of several packs, for some of them or one."""
    found = []
    if not run.packs:
        raise UserError(f"{run.path}: was trained on one pack, not on several{fix}")
    for part, own_labels in zip(dataset.parts, labels.apart(), strict=True):
        own = own_run(run, part)
        if own is None:
            names = ", ".join(each["name"] for each in run.packs)
            what = part.name or part.dataset.root
            raise UserError(f"{run.path}: was not trained on {what} (its packs: {names}){fix}")
        found.append([part.start + rows for rows in run_rows(own, part.dataset, own_labels, fix)])
    return np.concatenate([each[0] for each in found]), np.concatenate([each[1] for each in found])


def other_images(run: Run, dataset: Dataset, train: np.ndarray, val: np.ndarray) -> str:
    """In which images these rows are not those of a run, in words. Its validation images are known by its table."""
    with suppress(UserError):
        there, here = read(run.val_predictions).ids["image_id"], dataset.of_rows(val, "image_id")["image_id"]
        if prefix := run.config["dataset"].get("name", ""):  # one of several packs
            there = there[there.str.startswith(f"{prefix}:")].str.removeprefix(f"{prefix}:")
        if len(gone := there[~there.isin(here)]):
            return f"{len(gone)} of its {len(there)} validation images are not among those here, first {gone.iloc[0]!r}"
    before, now = (run.selection.get("train_images"), run.selection.get("val_images")), (len(train), len(val))
    if before != now:
        return f"{before[0]} images to train on and {before[1]} to validate on there, {now[0]} and {now[1]} here"
    return "as many images, but others, in another order, or with other patients, views or sides of their files"


def _by_id(dataset: Dataset, *selections: np.ndarray) -> list[np.ndarray]:
    """The same rows in the order of their images' ids, which no packing changes."""
    return sorted_rows(dataset.arrow("image_id")["image_id"], *selections)


def _values(labels: Labels, *selections: np.ndarray) -> str:
    hashes = [sha256() for _ in selections]
    for made, rows in zip(hashes, selections, strict=True):
        for at in range(0, len(rows), PIECE):
            made.update(labels.values[rows[at : at + PIECE]])
            if labels.soft is not None:
                made.update(labels.soft[rows[at : at + PIECE]])
    return sha256_bytes(json.dumps([labels.findings, *(made.hexdigest() for made in hashes)]).encode())


def _hash_of(column: pa.ChunkedArray, rows: np.ndarray) -> str:
    """Of some values' JSON."""
    made = sha256(b"[")
    _add(made, column, rows)
    made.update(b"]")
    return made.hexdigest()


def _add(made: Any, column: pa.ChunkedArray, rows: np.ndarray) -> None:
    """Add some values to a hash, as JSON without the brackets, some rows at a time."""
    missing = "<NA>" if pa.types.is_integer(column.type) else math.nan  # as pandas spells them
    for at in range(0, len(rows), PIECE):
        values = take(column, rows[at : at + PIECE]).to_pylist()
        if column.null_count:
            values = [missing if value is None else value for value in values]
        made.update((b", " if at else b"") + json.dumps(values)[1:-1].encode())
