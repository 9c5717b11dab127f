"""Which images a run has seen: those that it trained on, and every run that its weights come from.

seen.parquet in a run's folder has a row per image: hashes of its id, its study, its patient and its pixels, and as bits
which of the runs trained on it; the metadata says which runs these are. It is complete in itself: the earlier runs may
be gone. Ids decide within a dataset. Between two datasets pixels decide where both know them by the same size, since
hospitals call their images alike; else equal ids count.
"""

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxrdali.data.options import FOLDS, FoldOptions
from cxrdali.data.splits import rows_sha256, train_and_validation
from cxrdali.models import weights_file
from cxrdali.predictions import ABOUT, CHECKSUM
from cxrdali.runs.layout import BEST, CONFIG, SEEN
from cxrdali.runs.reader import Run
from shards.dataset.dataset import Dataset
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset
from shards.dataset.pixels import constant_hashes
from shards.errors import UserError
from shards.storage.csv import one_line
from shards.storage.files import read_regular, sha256_file, write_bytes
from shards.storage.parquet import bounded
from shards.storage.sealed import CHANGED, check_kinds, maybe, parse_json
from shards.storage.table_file import MOST

log = logging.getLogger(__name__)

IDS = ["image", "study", "patient", "pixels"]
BITS = 63  # runs that are told apart; later ones of a longer chain share the last bit
_RUN = {"name": str, "fold": int, "folds": int, "group": str, "labels": str, "labels_sha256": str, "dataset": str}
_RULE = {"fold_seed?": int, "stratify?": bool, "fold_rule?": str, "view?": str}
_ABOUT = {"runs": [{**_RUN, **_RULE, "rows_sha256": str, "hashed": maybe(int)}], "unknown": [str]}


@dataclass(frozen=True)
class Trained:
    """A run that trained on images. hashed: the size by whose pixels its dataset knows them (None: it does not). The
    last four are as a list of an older version, which does not say it, means them."""

    name: str
    fold: int
    folds: int
    group: str
    labels: str
    labels_sha256: str
    dataset: str
    rows_sha256: str
    hashed: int | None
    fold_seed: int = 0
    stratify: bool = False
    fold_rule: str = "catalog"
    view: str = "all"

    @classmethod
    def of(cls, name: str, dataset: PackedDataset, labels: Labels, split: FoldOptions, rows: np.ndarray) -> "Trained":
        """rows: int64 [n], the catalog rows that it trained on."""
        how = (split.fold, split.folds, split.group, labels.name, labels.sha256)
        rule = (split.fold_seed, split.stratify, split.fold_rule, split.view)
        return cls(name, *how, dataset.id, rows_sha256(rows), dataset.info.get("hashed"), *rule)

    @property
    def split(self) -> FoldOptions:
        return FoldOptions(**{field: getattr(self, field) for field in FOLDS})

    def words(self, dataset: PackedDataset, labels: Labels, group: str) -> str:
        """Its name and split; of group, labels and dataset what differs from these."""
        by = "" if self.group == group else f" by {self.group}"
        other = "" if self.labels == labels.name else f" of {self.labels}"
        if self.dataset != dataset.id:  # whose labels, in the order of its rows, have another hash
            other += ", in another pack"
        elif not other and self.labels_sha256 != labels.sha256:
            other = f" of {self.labels} as it was"
        return f"{self.name} (fold {self.fold} of {self.folds}{by}{other}{self.split.how})"


@dataclass(frozen=True)
class Seen:
    """runs: in the order of training; unknown: weights of which nobody knows what they were trained on; images: IDS and
    `by`, uint64, a row per image."""

    runs: tuple[Trained, ...] = ()
    unknown: tuple[str, ...] = ()
    images: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=[*IDS, "by"], dtype=np.uint64))

    def after(self, run: Trained, dataset: PackedDataset, rows: np.ndarray) -> "Seen":
        """With a further run, which trained on these catalog rows."""
        own, bit = hashes_of(dataset).iloc[rows], np.uint64(1 << min(len(self.runs), BITS - 1))
        if not len(self.images):
            images = own.assign(by=bit).reset_index(drop=True)
            return replace(self, runs=(*self.runs, run), images=images)
        known, by = pd.MultiIndex.from_frame(self.images[IDS]), self.images["by"].to_numpy(copy=True)
        places = known.get_indexer(pd.MultiIndex.from_frame(own))
        by[places[places >= 0]] |= bit
        images = pd.concat([self.images.assign(by=by), own[places < 0].assign(by=bit)], ignore_index=True)
        return replace(self, runs=(*self.runs, run), images=images)

    def after_all(self, name: str, dataset: Dataset, labels: Labels, split: FoldOptions, rows: np.ndarray) -> "Seen":
        """With a run `name` that trained on these catalog rows, of one pack or several."""
        seen = self
        for part, own in zip(dataset.parts, labels.apart(), strict=True):
            its = part.own(rows)
            seen = seen.after(Trained.of(name, part.dataset, own, split, its), part.dataset, its)
        return seen

    def among(
        self, dataset: Dataset, labels: Labels, rows: np.ndarray, group: str, what: str
    ) -> tuple[str, ...] | None:
        """Whether these catalog rows were trained on, in a sentence that calls them `what` ("test images").

        An image was, too, if others of its study were, or with group "subject" others of its patient.

        Returns:
            () if none was, and None if none was of those that are known of.
        """
        found: list[tuple[int, str]] = []
        sides = [
            self._among(part.dataset, own, part.own(rows), group, found)
            for part, own in zip(dataset.parts, labels.apart(), strict=True)
        ]
        if not found:
            return None if self.unknown else ()
        itself, related = (np.concatenate(each) for each in zip(*sides, strict=True))
        if len(sides) > 1:  # a run may be found in each of several packs
            counts: dict[str, int] = {}
            for count, words in found:
                counts[words] = counts.get(words, 0) + count
            found = [(count, words) for words, count in counts.items()]
        return (_sentence(itself, related, found, group, what),)

    def _among(
        self, dataset: PackedDataset, labels: Labels, rows: np.ndarray, group: str, found: list[tuple[int, str]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which of a pack's rows were trained on, and of which others only the study or the patient: bool [n] each.
        Adds to `found` how many each run trained on, and its words."""
        if not self.runs or not len(rows):
            return np.zeros(len(rows), dtype=bool), np.zeros(len(rows), dtype=bool)
        own = hashes_of(dataset)
        itself, related = np.zeros(len(own), dtype=bool), np.zeros(len(own), dtype=bool)
        for place, run in enumerate(self.runs):
            its = self.images[(self.images["by"].to_numpy() >> np.uint64(min(place, BITS - 1))) & np.uint64(1) == 1]
            same, others, by = _met(own, its, run, dataset, group)
            itself, related = itself | same, related | others
            if (same | others)[rows].any():
                found.append((int(same[rows].sum()), run.words(dataset, labels, group) + by))
        return itself[rows], (related & ~itself)[rows]

    def trained_on(self, dataset: PackedDataset, by: str) -> tuple[np.ndarray, bool]:
        """Which of a pack's catalog rows were trained on, by their "pixels" or the id of the "image" alone: bool
        [rows], and whether that is known of all images that were trained on."""
        own, its = hashes_of(dataset)[by].to_numpy(), self.images[by].to_numpy()
        known = bool(self.runs) and not self.unknown
        if by == "pixels":
            size = dataset.info.get("hashed")
            known = known and size is not None and all(run.hashed == size for run in self.runs)
        return np.isin(own, its[its != 0]), known

    def tell(self, found: tuple[str, ...] | None) -> None:
        """Say what `among` found, and of which weights it is not known what they have seen."""
        unknown = "it is not known which images {} was trained on, and so whether these are among them"
        for text in (*(found or ()), *map(unknown.format, self.unknown)):
            log.info(f"note: {text}")

    def write(self, run: Path) -> None:
        write_bytes(run / SEEN, self.as_bytes())

    def as_bytes(self) -> bytes:
        """As seen.parquet has it."""
        about = json.dumps({"runs": [asdict(each) for each in self.runs], "unknown": self.unknown}).encode()
        table = pa.Table.from_pandas(self.images, preserve_index=False)
        table = table.replace_schema_metadata({ABOUT: about, CHECKSUM: _checksum(about, self.images)})
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        return buffer.getvalue()


def seen_by(run: Run, dataset: Dataset, below: tuple[Path, ...] = ()) -> Seen:
    """What a run has seen: by its list, or of an older version, which has none, by its config.json where that tells.

    below: runs that started from this one. Raises UserError if the list is damaged or another run's.
    """
    path, name = run.path / SEEN, run.path.resolve().name
    if path.exists():
        found = read_list(path)
        own = [each["selection"]["train_sha256"] for each in run.packs] or [run.selection.get("train_sha256")]
        earlier, its = found.runs[: -len(own)], found.runs[-len(own) :]
        if [each.rows_sha256 for each in its] != own:
            raise UserError(f"{path}: is another run's; restore it, or delete it to go by {CONFIG}")
        return replace(found, runs=(*earlier, *(replace(each, name=name) for each in its)))
    before = seen_by_weights(run.setting("init"), dataset, run, (*below, run.path.resolve()))
    for pack in (part.dataset for part in dataset.parts):  # an older version trained on one
        attached = pack.info["labels"].get(run.labels)
        if run.dataset_id == pack.id and attached is not None and attached == (run.labels_sha256 or attached):
            labels = pack.labels(run.labels)
            rows, _ = train_and_validation(pack, labels, run.fold)
            if rows_sha256(rows) == run.selection.get("train_sha256"):
                return before.after(Trained.of(name, pack, labels, run.fold, rows), pack, rows)
    return replace(before, unknown=(*before.unknown, name))


def seen_by_weights(
    init: str | None, dataset: Dataset, starting: Run | None = None, below: tuple[Path, ...] = ()
) -> Seen:
    """What initial weights have seen: a run's, or a file's in a run's folder.

    starting: the run that began with them, in an earlier session: they are theirs if they are still the same.
    """
    if init is None:
        return Seen()
    for path in _places(Path(init), starting):
        for folder in (path, path.parent, path.resolve().parent):
            try:
                run = Run.open(folder)
            except UserError:  # no run: other programs have a config.json beside their weights, too
                if not (folder / SEEN).exists():
                    continue
                if (folder / CONFIG).exists():
                    raise
                return read_list(folder / SEEN)
            if folder.resolve() not in below:
                return seen_by(run, dataset, below)
    return Seen(unknown=(init,)) if starting or Path(init).is_file() else Seen()  # the trainer says what is not there


def _places(init: Path, starting: Run | None) -> Iterator[Path]:
    """Where initial weights may be; of a run of before, there and beside it, and only if nobody trained them anew."""
    if starting is None:
        yield init
        return
    beside, known = starting.path.resolve().parent, starting.config.get("init_sha256")
    for path in (init, beside / init.name, beside / init.parent.name / init.name):
        file = path / BEST if path.is_dir() else path
        if file.is_file() and known in (weights_file.identity(file), sha256_file(file)):
            yield path


def read_list(path: Path, data: bytes | None = None) -> Seen:
    """A run's seen.parquet, or what is in another file, `data`. Raises UserError if it is not what was written."""
    try:
        table = bounded(path, read_regular(path, MOST) if data is None else data)
        about, images = table.schema.metadata[ABOUT], table.to_pandas()
        content = parse_json(about)
        check_kinds(content, _ABOUT)
        if not content["runs"] or list(images) != [*IDS, "by"] or set(images.dtypes) != {np.dtype(np.uint64)}:
            raise ValueError("it is no list of images")
        if _checksum(about, images) != table.schema.metadata[CHECKSUM]:
            raise ValueError(CHANGED)
        return Seen(tuple(Trained(**each) for each in content["runs"]), tuple(content["unknown"]), images)
    except Exception as error:  # arrow raises many kinds on damage
        raise UserError(
            f"{path}: not the images that a run has seen ({one_line(str(error))}); restore it, or delete it to go by "
            f"{CONFIG}"
        ) from error


def _checksum(about: bytes, images: pd.DataFrame) -> bytes:
    made = sha256(about + b"\n")
    for name in images:
        made.update(images[name].to_numpy(dtype="<u8").tobytes())
    return made.hexdigest().encode()


def hashes_of(dataset: PackedDataset) -> pd.DataFrame:
    """IDS of every catalog row, hashed, uint64; pixels are 0 where they are not known, or of a single gray."""
    hashed = dataset.info.get("hashed")
    made, at = {name: np.zeros(len(dataset.packed), dtype=np.uint64) for name in IDS}, 0
    blank = pa.array(["", *constant_hashes(hashed)] if hashed else [""])
    for piece in dataset.pieces("image_id", "subject_id", "study_id", *(["pixels"] if hashed else [])):
        study = pc.binary_join_element_wise(
            piece["subject_id"], piece["study_id"], pa.scalar("/", piece["study_id"].type)
        )
        texts = {"image": piece["image_id"], "study": study, "patient": piece["subject_id"]}
        if hashed:
            texts["pixels"] = pc.fill_null(piece["pixels"], "")
        for name, each in texts.items():
            plain = each.to_numpy(zero_copy_only=False)
            made[name][at : at + len(piece)] = pd.util.hash_array(plain, categorize=False)  # few are equal
        if hashed:
            nothing = pc.is_in(texts["pixels"], value_set=blank.cast(texts["pixels"].type))
            made["pixels"][at : at + len(piece)][nothing.to_numpy(zero_copy_only=False)] = 0
        at += len(piece)
    return pd.DataFrame(made, copy=False)


def _met(
    own: pd.DataFrame, its: pd.DataFrame, run: Trained, dataset: PackedDataset, group: str
) -> tuple[np.ndarray, np.ndarray, str]:
    """Which of a dataset's images a run trained on, bool [rows], of which others it knows study or patient, bool
    [rows], and words for what that is known by, where ids alone say so."""
    same, study, patient = (np.isin(own[name], its[name]) for name in IDS[:3])
    words = ""
    if run.dataset != dataset.id:
        equal = np.zeros(len(own), dtype=bool)
        if run.hashed is not None and run.hashed == dataset.info.get("hashed"):
            equal = np.isin(own["pixels"], its.loc[its["pixels"] != 0, "pixels"])
            there = its.drop_duplicates("image").set_index("image")["pixels"]
            compared = np.stack([own["pixels"][same], there.reindex(own["image"][same])])
            compared = compared[:, (compared != 0).all(axis=0)]
            differing = int((compared[0] != compared[1]).sum())
            if 2 * differing > compared.shape[1]:
                log.info(
                    f"note: {differing:,} images have ids of images that {run.name} was trained on, and other pixels: "
                    "they count as others"
                )
                same[:] = study[:] = False
        elif same.any():
            words = ", by their ids: pixels of other sizes do not compare"
        if not (same | study).any():  # other hospitals have a patient 1, too
            patient[:] = False
        same |= equal
        if not same.any():
            words = ", by the ids of studies alone"
    study |= np.isin(own["study"], own["study"][same])
    patient |= np.isin(own["patient"], own["patient"][same])
    return same, (study | patient if group == "subject" else study) & ~same, words


def _sentence(itself: np.ndarray, related: np.ndarray, found: list[tuple[int, str]], group: str, what: str) -> str:
    """itself, related: bool [n]; found: how many images each run trained on, and its words."""
    trained, others, of = int(itself.sum()), int(related.sum()), f"{len(itself):,} {what}"
    related_to = f"other images of {'patients' if group == 'subject' else 'studies'} that were trained on"
    if not trained:
        return f"{others:,} of {of} are {related_to} by {', '.join(words for _, words in found)}"
    runs = [(count, words) for count, words in found if count]
    by = f" by {runs[0][1]}" if len(runs) == 1 else ": " + ", ".join(f"{count:,} by {words}" for count, words in runs)
    return f"{trained:,} of {of} were trained on{by}" + (f", and {others:,} more are {related_to}" if others else "")
