"""From a label release's values to what a loss and a metric see."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxrdali.data.uncertain import SMOOTHED, by_finding
from shards.dataset.labels import Labels
from shards.errors import UserError

PIECE = 2**16 - 1  # rows, whose number fits 16 bits


@dataclass(frozen=True)
class Targets:
    """float32 [rows, F]: 1 positive, 0 negative, NaN ignored; made of those rows that are asked for, by index. All of
    them would take four bytes for every value, more than all else that a run holds.

    stored: int8 [rows, F], as in the labels; meaning: float32 [F, 256], what each stored byte counts as; softened: what
    the training loss sees of it, 0 to 1, where that is another. soft: of soft labels, as `Labels.soft`: the training
    loss sees them, all else whether they are 0.5 or more, but for class counts, which are their sums.
    """

    stored: np.ndarray
    meaning: np.ndarray
    softened: np.ndarray | None = None
    soft: np.ndarray | None = None
    is_in_training: bool = False

    @property
    def in_training(self) -> "Targets":
        """As the training loss sees them."""
        if self.softened is None and self.soft is None:
            return self
        meaning = self.meaning if self.softened is None else self.softened
        return Targets(self.stored, meaning, soft=self.soft, is_in_training=True)

    def __getitem__(self, rows: np.ndarray | slice | int) -> np.ndarray:
        found = self.meaning[np.arange(len(self.meaning)), self.stored[rows].view(np.uint8)]
        if self.soft is None or not self.is_in_training:
            return found
        soft = self.soft[rows]
        return np.where(np.isnan(soft), found, soft)

    def of(self, places: Sequence[int]) -> "Targets":
        """Of the findings at these places alone."""
        if [*places] == [*range(len(self.meaning))]:
            return self
        softened = None if self.softened is None else self.softened[[*places]]
        soft = None if self.soft is None else self.soft[:, places]
        return Targets(self.stored[:, places], self.meaning[[*places]], softened, soft)

    def __len__(self) -> int:
        return len(self.stored)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)


def targets(labels: Labels, uncertain: str = "negative") -> Targets:
    """Blanks are negative, or ignored with "ignore-all"; what a pack's release does not know is always ignored.

    The label table keeps -1 and blank as they are; this choice is made per run, for all findings or for each
    (`cxrdali.data.uncertain`). A smoothed -1 is soft in training alone. Raises UserError for another choice or finding.
    """
    meaning = np.full((len(labels.findings), 256), np.nan, dtype=np.float32)
    meaning[:, :2] = 0, 1
    policies, softened = by_finding(uncertain, labels.findings), None
    for place, counts_as in enumerate(policies):
        hard = {"negative": 0.0, "positive": 1.0} | {name: as_hard for name, (_, as_hard) in SMOOTHED.items()}
        meaning[place, -1] = hard.get(counts_as, np.nan)
        meaning[place, Labels.BLANK] = np.nan if counts_as == "ignore-all" else 0.0
    if any(each in SMOOTHED for each in policies):
        softened = meaning.copy()
        softened[:, -1] = [
            SMOOTHED[each][0] if each in SMOOTHED else own for each, own in zip(policies, meaning[:, -1], strict=True)
        ]
    return Targets(labels.values, meaning, softened, labels.soft)


def counts(values: Targets, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many of the rows are positive and negative for each finding: int64 [F] each. A soft label counts as much as
    it is of each; the sums are rounded."""
    stored = np.array([-1, 0, 1, Labels.BLANK], dtype=np.int8)
    found = np.zeros((len(stored), len(values.meaning)), dtype=np.int64)
    for piece in _pieces(values.stored, rows):
        found += [(piece == value).sum(axis=0, dtype=np.uint16) for value in stored]
    meaning = values.meaning[:, stored.view(np.uint8)].T
    hard = (found * (meaning == 1)).sum(axis=0), (found * (meaning == 0)).sum(axis=0)
    if values.soft is None:
        return hard
    moved = np.zeros(len(values.meaning))
    for piece, soft in zip(_pieces(values.stored, rows), _pieces(values.soft, rows), strict=True):
        moved += np.where(np.isnan(soft), 0, soft - (piece == 1)).sum(axis=0, dtype=np.float64)
    whole = np.rint(moved).astype(np.int64)
    return hard[0] + whole, hard[1] - whole


def any_positive(values: np.ndarray | Targets, rows: np.ndarray, places: Sequence[int] | slice) -> np.ndarray:
    """bool [n]: which of the rows (int64 [n]) have any of the findings at `places`. values: as `targets` gives."""
    return np.concatenate([rows[:0] > 0, *((known[:, places] == 1).any(axis=1) for known in _pieces(values, rows))])


def _pieces(values: np.ndarray | Targets, rows: np.ndarray) -> Iterator[np.ndarray]:
    """`values[rows]`, some rows at a time: it would be a copy of nearly everything."""
    return (values[rows[at : at + PIECE]] for at in range(0, len(rows), PIECE))


def ranked(values: np.ndarray, labels: Labels, rows: np.ndarray) -> np.ndarray:
    """Scores, float [n, F], as LRAP is to see them: what a pack does not know of an image is in no ranking of its
    findings, since no score is as low as it gets here. rows: int64 [n]."""
    unknown = labels.values[rows] == Labels.UNKNOWN
    return np.where(unknown, -np.inf, values) if unknown.any() else values


def check_labelled(labels: Labels, rows: np.ndarray, what: str, may_be_pseudo: bool = False) -> None:
    """Raises UserError if no finding has a value in `rows`: such a split was released without labels. So it does if a
    run predicted any of them, unless that may be."""
    # one finding that is never mentioned is a fact of the release; all of them are a table without labels
    packs: list[tuple[str, int, int, Any]] = [(each.pack, each.start, each.stop, each) for each in labels.packs]
    for pack, start, stop, its in packs or [("", 0, len(labels.values), labels)]:
        own = rows[(rows >= start) & (rows < stop)]
        if pack and not len(own):
            continue
        if its.pseudo is not None and not may_be_pseudo:
            raise UserError(
                f"labels {its.name!r} are pseudo-labels, predicted by {its.pseudo['run']}: a score on them says how "
                "far others agree with it; give labels that were not predicted, with --labels"
            )
        if any((piece < Labels.UNKNOWN).any() for piece in _pieces(labels.values, own)):
            continue
        whose = f"{pack}: " if pack else ""
        raise UserError(
            f"{whose}labels {labels.name!r} have no findings for {what}: the split was released without them; "
            "choose another split, or another label release with --labels"
        )
