"""Several rows of one image, as three readers write them, made one: else its pixels would be in training and in
validation, with labels that may contradict each other."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from shards.errors import UserError
from shards.releases.columns import Columns
from shards.releases.ids import line
from shards.storage.location import Location
from shards.words import are, counted

UNCERTAIN = -1


@dataclass(frozen=True)
class Rows:
    """Which rows of a table are of one image. image: int64 [rows], from 0 in the order of first rows; first: int64
    [images], the first row of each."""

    file: Location
    image: np.ndarray
    first: np.ndarray

    @classmethod
    def by(cls, key: pd.Series, file: Location) -> "Rows":
        """By a text that an image has in each of its rows."""
        image, _ = pd.factorize(key)
        return cls(file, image, np.flatnonzero(~pd.Series(image).duplicated().to_numpy()))

    @classmethod
    def of(cls, key: pd.Series, columns: Columns, file: Location, what: str) -> "Rows":
        """As `by`. Raises UserError if an image is in two rows, and no join was named."""
        rows = cls.by(key, file)
        if not columns.join_rows and rows.are_joined:
            one, two = rows.second()
            more = counted(len(rows.image) - len(rows.first), "row")
            raise UserError(
                f"{file}: {what} {key.iloc[one]!r} is in more than one row ({line(file, one)} and "
                f"{line(file, two)}; {more} too many in all); keep one row of each, "
                "or join them to one image with --join-rows any or --join-rows majority"
            )
        return rows

    @property
    def are_joined(self) -> bool:
        return len(self.first) < len(self.image)

    def second(self, differing: np.ndarray | None = None) -> tuple[int, int]:
        """The first row that is not its image's first (of those that differ from it), after that one."""
        repeated = np.arange(len(self.image)) != self.first[self.image] if differing is None else differing
        row = int(np.flatnonzero(repeated)[0])
        return int(self.first[self.image[row]]), row

    def differs(self, values: pd.Series) -> np.ndarray:
        """bool [rows]: whether a row's value is not that of its image's first row."""
        return values.to_numpy() != values.iloc[self.first[self.image]].to_numpy()

    def one_value(self, values: pd.Series, column: str) -> pd.Series:
        """A column's value of each image. Raises UserError if rows of one image disagree."""
        if (differing := self.differs(values)).any():
            one, two = self.second(differing)
            raise UserError(
                f"{self.file}: {line(self.file, one)} and {line(self.file, two)} are of one image, and column "
                f"{column!r} holds {values.iloc[one]!r} and {values.iloc[two]!r}; correct one of them"
            )
        return values.iloc[self.first]

    def joined(self, findings: pd.DataFrame, how: str | None) -> pd.DataFrame:
        """Int8 [images, findings] of Int8 [rows, findings]. Blanks say nothing.

        any: 1 if a row says 1, else -1 (uncertain) if one says that, else 0. majority: what more than half of the rows
        say that say something, else -1. mean: 1 if at least half of those that say 1 or 0 say 1, else 0;
        -1 if none does. A number: 1 if so many rows say 1 (all, if fewer say something), else -1 if so many say 1
        or -1, else 0.
        """
        found = {}
        for name in findings:
            values = findings[name].fillna(9).to_numpy(dtype=np.int8)
            counts = {each: np.bincount(self.image[values == each], minlength=len(self.first)) for each in (1, 0, -1)}
            said = counts[1] + counts[0] + counts[-1]
            if how == "any":
                value = np.select([counts[1] > 0, counts[-1] > 0], [1, UNCERTAIN], 0)
            elif how == "mean":
                sure = counts[1] + counts[0]
                value = np.select([sure == 0, 2 * counts[1] >= sure], [UNCERTAIN, 1], 0)
            elif how == "majority":
                value = np.select([2 * counts[1] > said, 2 * counts[0] > said], [1, 0], UNCERTAIN)
            else:
                least = np.minimum(int(how or 1), said)
                value = np.select([counts[1] >= least, counts[1] + counts[-1] >= least], [1, UNCERTAIN], 0)
            found[name] = pd.arrays.IntegerArray(value.astype(np.int8), said == 0)
        return pd.DataFrame(found)

    def differing(self, findings: pd.DataFrame) -> int:
        """How many images have rows that differ on a finding (Int8 [rows, findings]); blanks say nothing."""
        differs = np.zeros(len(self.first), dtype=bool)
        for name in findings:
            values = findings[name].fillna(9).to_numpy(dtype=np.int8)
            said = [np.bincount(self.image[values == each], minlength=len(self.first)) > 0 for each in (1, 0, -1)]
            differs |= np.sum(said, axis=0) > 1
        return int(differs.sum())

    def note(self, how: str | None, ids: pd.Series) -> tuple[str, ...]:
        """What was joined, for the user."""
        if not self.are_joined:
            return ()
        kept = "; their ids differ, and an image has that of its first row" if self.differs(ids).any() else ""
        return (f"{are(len(self.image), 'row')} of {counted(len(self.first), 'image')} (--join-rows {how}){kept}",)
