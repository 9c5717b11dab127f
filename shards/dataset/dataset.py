"""What splits, the loader, training and predicting need of a dataset, whether it is one pack or several."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa

from shards.dataset.labels import Labels
from shards.dataset.tables import take
from shards.storage.location import Location

if TYPE_CHECKING:
    from shards.dataset.packed import PackedDataset


@dataclass(frozen=True)
class Part:
    """One pack of a dataset: its catalog rows are [start, stop) of the whole. name: "" of a pack that is alone."""

    name: str
    dataset: "PackedDataset"
    start: int
    stop: int

    def own(self, rows: np.ndarray) -> np.ndarray:
        """Those of the whole's rows, int64 [n], that are this pack's, as it counts them itself: int64 [m]."""
        return rows[(rows >= self.start) & (rows < self.stop)] - self.start


class Dataset(ABC):
    """A packed dataset (`PackedDataset`), or several as one (`Union`). root: where it is, in messages."""

    root: Location | str

    @property
    @abstractmethod
    def id(self) -> str:
        """Follows the images and their pixels."""

    @property
    @abstractmethod
    def synthetic(self) -> bool:
        """Whether images were generated: of a release that `cxrdali synth` wrote."""

    @property
    @abstractmethod
    def parts(self) -> tuple[Part, ...]:
        """Its packs in the order of their rows; of one pack itself."""

    @property
    def starts(self) -> dict[str, int]:
        """Of its packs by name, the first catalog row."""
        return {part.name: part.start for part in self.parts}

    @property
    @abstractmethod
    def sizes(self) -> list[int]:
        """Stored sizes present on this disk, or in the bucket, in pixels, ascending; of several packs those of all."""

    @property
    @abstractmethod
    def catalog(self) -> pd.DataFrame:
        """One row per planned image. Of 4 million it takes 1.3 GB: `of_rows` and `arrow` have what a part needs."""

    @property
    @abstractmethod
    def packed(self) -> np.ndarray:
        """bool [rows]: whether the row's image was packed (False for a reject)."""

    @property
    @abstractmethod
    def label_names(self) -> list[str]:
        """Attached label releases, the default first."""

    @abstractmethod
    def labels(self, name: str | None = None) -> Labels:
        """A label release by name; the default one without."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether the catalog has a column, as sex, age or manufacturer."""

    @abstractmethod
    def arrow(self, *names: str) -> pa.Table:
        """Some columns of the catalog as arrow has them, which is not kept: no object for each text."""

    @abstractmethod
    def pieces(self, *names: str) -> Iterator[pa.RecordBatch]:
        """The same, some rows at a time."""

    def of_rows(self, rows: np.ndarray, *names: str) -> pd.DataFrame:
        """Some columns of some rows (int64 [n]), which are its index: never more than one column is read whole."""
        found = {name: take(self.arrow(name)[name], rows).to_pandas() for name in names}
        return pd.DataFrame(found).set_axis(rows)
