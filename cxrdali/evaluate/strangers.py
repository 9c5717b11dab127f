"""Whether images that a run is judged on are strangers to it, where it was trained on another pack.

Exact copies are known by the pixels that the run's seen.parquet keeps; near ones only if the packs that it was trained
on are at hand. What could not be compared is said: it is no sign that there are none.
"""

import logging
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from cxrdali.evaluate.overlap import NEAR, OverlapOptions, overlap
from cxrdali.runs.reader import Run
from cxrdali.runs.seen import Seen, seen_by
from shards.dataset.dataset import Dataset
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.words import counted

log = logging.getLogger(__name__)

NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Strangers:
    """How many of the judged images the run was trained on: exact, near; or NOT_CHECKED, for the reason in `why`."""

    images: int
    exact: int | str
    near: int | str
    why: tuple[str, ...] = ()

    def as_json(self) -> dict:
        return {**asdict(self), "why": list(self.why)}

    @property
    def words(self) -> str:
        """In a sentence."""
        kinds = (f"{name}: {value if isinstance(value, str) else f'{value:,}'}" for name, value in self._kinds)
        return f"{counted(self.images, 'image')} judged, of them training images: {', '.join(kinds)}"

    @property
    def known(self) -> int:
        """Images that are known to have been trained on."""
        return sum(value for _, value in self._kinds if isinstance(value, int))

    @property
    def _kinds(self) -> tuple[tuple[str, int | str], ...]:
        return ("exact copies", self.exact), ("near copies", self.near)


def strangers(
    run: Run,
    dataset: Dataset,
    rows: np.ndarray,
    allow: bool,
    home: Mapping[str, PackedDataset] | None = None,
    options: OverlapOptions | None = None,
) -> Strangers:
    """Look for a run's training images among those that it is to be judged on.

    Args:
        dataset: What it is judged on, and `rows` (int64 [n]) the catalog rows.
        allow: Whether it may be judged on images that it was trained on.
        home: Packs that it was trained on, by name, for near copies.
        options: How to compare packs; exact copies are looked for in any case.

    Raises UserError if it was trained on some and that is not allowed; the message says how to leave them out.
    """
    seen, why = seen_by(run, dataset), []
    exact, near = np.zeros(len(dataset.packed), dtype=bool), np.zeros(len(dataset.packed), dtype=bool)
    compared = True
    for part in dataset.parts:
        exact[part.start : part.stop], known = seen.trained_on(part.dataset, "pixels")
        compared &= known
    if not compared:
        why.append(f"{run.name} and {dataset.root} have no hashes of pixels of one size for all images")
    if home:
        for pack in home.values():
            _find_near(seen, pack, dataset, near, options)
    else:
        why.append(f"near copies are only found with the packs that {run.name} was trained on")
    # what is known is said, though other images could not be compared
    found = int(exact[rows].sum())
    result = Strangers(
        len(rows),
        found if compared or found else NOT_CHECKED,
        int((near & ~exact)[rows].sum()) if home else NOT_CHECKED,
        tuple(why),
    )
    if result.known and not allow:
        raise UserError(
            f"{run.path}: {result.words}, so these scores would not be those of strangers; train it without them "
            f"({_how_to_exclude(dataset, home)}), or say --allow-overlap"
        )
    log.info(f"note: {result.words}{''.join(f'; {each}' for each in why)}")
    return result


def _how_to_exclude(dataset: Dataset, home: Mapping[str, PackedDataset] | None) -> str:
    """A list for each pack that it was trained on."""
    roots = {name: str(pack.root) for name, pack in home.items()} if home else {"": "HOME"}
    lists = {f"overlap-{name}.csv" if len(roots) > 1 else "overlap.csv": root for name, root in roots.items()}
    made = [
        shlex.join(["cxrdali", "overlap", root, str(dataset.root) if home else "AWAY", "--out", name])
        for name, root in lists.items()
    ]
    listed = " and ".join(f"`{each}`" for each in made)
    return f"{listed}, then `{shlex.join(['cxrdali', 'train', '--exclude', ','.join(lists)])}`"


def _find_near(
    seen: Seen, pack: PackedDataset, dataset: Dataset, near: np.ndarray, options: OverlapOptions | None
) -> None:
    """Mark rows of a dataset whose near copies in a pack were trained on."""
    trained, _ = seen.trained_on(pack, "image")
    for part in dataset.parts:
        if part.dataset.id == pack.id:
            continue
        pairs = overlap(pack, part.dataset, options).pairs
        pairs = pairs[(pairs["kind"] == NEAR).to_numpy() & trained[pairs["row_a"].to_numpy(dtype=np.int64)]]
        near[part.start + pairs["row_b"].to_numpy(dtype=np.int64)] = True
