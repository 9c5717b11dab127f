"""One label release of a packed dataset."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from shards.storage.sealed import maybe

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(eq=False)
class Coded:
    """A text, or None, for each row, of few that differ: one byte a row. An array of objects, by index and `==`.

    codes: int8 [rows], places in `texts`.
    """

    codes: np.ndarray
    texts: list[str | None] = field(default_factory=list)

    def put(self, at: int, texts: "pa.Array") -> None:
        """Set the texts from a row on. Raises ValueError if more than 127 differ."""
        found = texts.dictionary_encode(null_encoding="encode")
        names = found.dictionary.to_pylist()
        self.texts += [name for name in names if name not in self.texts]
        if len(self.texts) > 127:
            raise ValueError(f"{len(self.texts)} splits")
        own = np.array([self.texts.index(name) for name in names], dtype=np.int8)
        self.codes[at : at + len(texts)] = own[found.indices.to_numpy()]

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: Any) -> Any:
        return np.array([*self.texts, None], dtype=object)[self.codes[rows]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)

    def __eq__(self, other: object) -> Any:
        return self.codes == (self.texts.index(other) if other in self.texts else -1)

    @classmethod
    def joined(cls, columns: "Sequence[Coded]") -> "Coded":
        """Several, one after the other."""
        texts = [*dict.fromkeys(text for column in columns for text in column.texts)]
        codes = [np.array([*map(texts.index, each.texts), -1], dtype=np.int8)[each.codes] for each in columns]
        return cls(np.concatenate(codes), texts)


SOFT = "soft"  # how pseudo-labels were made: they are probabilities
# of metadata in their file: PSEUDO, and which images their run has seen (`cxrdali.runs.pseudo`)
PSEUDO_KEY, SEEN_KEY = b"cxrdali.pseudo", b"cxrdali.seen"
# What the file of pseudo-labels says of them, as `check_kinds` takes it. how: soft, or by what they were called; the
# rest is of the table of predictions.
PSEUDO = {
    "how": str, "run": maybe(str), "labels": maybe(str), "dataset": maybe(str), "tta": maybe(str), "history": [str],
}  # fmt: skip


@dataclass(frozen=True)
class PackLabels:
    """What one of several packs gave to labels. pack: its name there; name, sha256, findings: of its own release, as it
    has them; places: each finding's place in the whole; start, stop: its rows there; pseudo: as of `Labels`."""

    pack: str
    name: str
    sha256: str
    findings: tuple[str, ...]
    places: tuple[int, ...]
    start: int
    stop: int
    pseudo: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Labels:
    """One label release joined to the catalog's rows; of several packs, a release of each.

    split: object [rows], "train", "dev", "test" or None; values: int8 [rows, findings], 1 positive,
    0 negative, -1 uncertain, BLANK not mentioned, UNKNOWN of a pack whose release does not know the finding, or of a
    pseudo-label that is not given. packs: of several, what each gave.

    pseudo: of labels that a run predicted, what the file says of them (PSEUDO). soft: their probabilities where they
    are soft, float32 [rows, findings], NaN elsewhere; `values` then has those of 0.5 or more as positive.
    """

    BLANK = 9
    UNKNOWN = 8

    name: str
    findings: tuple[str, ...]
    split: np.ndarray | Coded
    values: np.ndarray
    sha256: str
    packs: tuple[PackLabels, ...] = ()
    pseudo: Mapping[str, Any] | None = None
    soft: np.ndarray | None = None

    def apart(self) -> Iterator["Labels"]:
        """Each pack's own labels, as it has them alone, in the order of the dataset's parts."""
        for pack in self.packs:
            split = self.split[pack.start : pack.stop]
            own = [each if each is None else each[pack.start : pack.stop] for each in (self.values, self.soft)]
            if pack.places != tuple(range(len(self.findings))):  # else no copy
                own = [each if each is None else each[:, list(pack.places)] for each in own]
            values, soft = own
            assert values is not None
            yield Labels(pack.name, pack.findings, split, values, pack.sha256, pseudo=pack.pseudo, soft=soft)
        if not self.packs:
            yield self
