"""A hospital where a run is judged: its predictions there, and the labels that they meet."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cxrdali import predictions as tables
from cxrdali.data.splits import group_codes, group_ids, subject_is
from cxrdali.data.targets import check_labelled, targets
from cxrdali.evaluate.options import ExternalOptions
from cxrdali.fitted import overlap, sketch
from cxrdali.postprocess.aligned import Aligned, aligned
from cxrdali.postprocess.crossfit import check_not_calibrated, check_unseen
from cxrdali.runs.seen import hashes_of
from shards.dataset.dataset import Dataset
from shards.dataset.labels import Labels


@dataclass(frozen=True)
class Place:
    """path: a run's predictions there, raw logits; labels: one of the dataset's releases; copies: which of its images
    were trained on, as `cxrdali.evaluate.strangers` found it (None: not looked for)."""

    name: str
    path: Path
    dataset: Dataset
    labels: Labels
    copies: dict | None = None


@dataclass(frozen=True, eq=False)
class Judged:
    """A place's labelled images. sides: all findings of predictions and labels, by file and place; findings: those in
    common, by the run's names; rows: int64 [n], in the catalog; truth, logits: float32 [n, F]; subjects: ids, [n];
    left_out: how many images are not judged, by the reason."""

    place: Place
    both: Aligned
    sides: dict[str, tuple[str, ...]]
    findings: tuple[str, ...]
    rows: np.ndarray
    truth: np.ndarray
    logits: np.ndarray
    subjects: np.ndarray
    left_out: dict[str, int]

    @property
    def patient(self) -> np.ndarray:
        """A number for each image's patient, in the order of their ids: int64 [n]."""
        return np.unique(self.subjects, return_inverse=True)[1]

    def of(self, findings: Sequence[str]) -> "Judged":
        """With these findings alone, in this order."""
        columns = [self.findings.index(name) for name in findings]
        return replace(self, findings=tuple(findings), truth=self.truth[:, columns], logits=self.logits[:, columns])

    def counts(self, column: int) -> dict[str, int]:
        """Images and patients with a finding and without it."""
        found = {}
        for name, own in (("positive", self.truth[:, column] == 1), ("negative", self.truth[:, column] == 0)):
            found |= {f"{name}s": int(own.sum()), f"{name}_patients": len(np.unique(self.subjects[own]))}
        return found

    def about(self) -> dict:
        place, provenance = self.place, self.both.table.provenance
        study = group_codes(place.dataset, "study")[self.rows]
        return {
            **{"name": place.name, "labels": place.labels.name, "split": provenance.split, "dataset": place.dataset.id},
            **{"images": len(self.rows), "studies": len(np.unique(study)), "patients": len(np.unique(self.subjects))},
            "unit": subject_is(place.dataset),
            "seen": None if provenance.seen is None else list(provenance.seen),
            **{"copies": place.copies, "left_out": self.left_out},
            "common": self.both.shared and asdict(self.both.shared),
        }


def judge(place: Place, options: ExternalOptions) -> Judged:
    """Raises UserError for images that were trained on (unless allowed), no labelled image, or no finding in common."""
    table = tables.as_logits(tables.read(place.path), place.path)
    check_unseen(place.path, table.provenance, options.allow_leak)
    check_not_calibrated(place.path, table.provenance)
    both = aligned(place.path, table, place.labels, options.findings, pack=place.name)
    both.tell()
    rows = tables.catalog_rows(table, place.path, place.dataset)
    kept, left_out = _labelled(place.labels, rows)
    rows = rows[kept]
    check_labelled(both.labels, rows, str(place.path))
    truth = targets(place.labels, options.uncertain).of(both.places)[rows]
    logits = both.table.of(both.labels.findings).values[kept]
    subjects = group_ids(place.dataset, "subject")[rows]
    sides = {str(place.path): table.findings, place.name: place.labels.findings}
    return Judged(place, both, sides, both.labels.findings, rows, truth, logits, subjects, left_out)


def same_image(one: Judged, other: Judged) -> bool:
    """Whether two places have an image in common: by ids, but for two packs that know pixels of one size by these, as
    hospitals call their images alike."""
    if not overlap(sketch(one.both.table.ids), sketch(other.both.table.ids)):
        return False
    for parts in itertools.product(one.place.dataset.parts, other.place.dataset.parts):
        (here, size), (there, its_size) = ((each.dataset, each.dataset.info.get("hashed")) for each in parts)
        by = "image" if here.id == there.id or size is None or size != its_size else "pixels"
        mine, its = (
            hashes_of(part.dataset)[by].to_numpy()[part.own(judged.rows)]
            for part, judged in zip(parts, (one, other), strict=True)
        )
        if np.isin(mine[mine != 0], its).any():
            return True
    return False


def _labelled(labels: Labels, rows: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """Which rows have labels, bool [n], and how many have none: not listed, or of a split released without labels.

    Blanks are negatives where a release says so, but not in a split that has nothing else.
    """
    split, kept, left = labels.split[rows], np.ones(len(rows), dtype=bool), {}
    for name in pd.unique(split):
        own = pd.isna(split) if pd.isna(name) else split == name
        if pd.isna(name) or np.isin(labels.values[rows[own]], (Labels.BLANK, Labels.UNKNOWN)).all():
            kept &= ~own
            left["not listed" if pd.isna(name) else f"split {name}, released without labels"] = int(own.sum())
    return kept, left
