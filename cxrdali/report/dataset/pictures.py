"""A few renditions of patients, for a page that was asked for them: one per view, and of common and rare findings."""

import io
from dataclasses import dataclass

import numpy as np
import simplejpeg

from cxrdali.report.dataset.facts import ReleaseFacts
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.releases.release import VIEWS

EACH = 2  # images of a finding
HEAD = TAIL = 3  # findings


@dataclass(frozen=True)
class Example:
    """A catalog row, why it is shown, and its pixels: uint8 [S, S]."""

    row: int
    why: str
    pixels: np.ndarray


def by_view(dataset: PackedDataset) -> list[Example]:
    """The first packed image of every view. Raises UserError naming shard and key if it cannot be decoded."""
    views = dataset.catalog["view"].to_numpy()
    firsts = {view: np.flatnonzero((views == view) & dataset.packed)[:1] for view in VIEWS}
    return [_example(dataset, int(rows[0]), view) for view, rows in firsts.items() if len(rows)]


def by_finding(dataset: PackedDataset, release: ReleaseFacts) -> list[Example]:
    """Two images of each of the three most and the three least frequent findings that have one; none twice."""
    present = [place for place, images in enumerate(np.diag(release.together)) if images]
    chosen = dict.fromkeys(present[:HEAD] + present[-TAIL:])
    shown, taken = [], set()
    for place in reversed(chosen):  # the rarest first: their few images must not be taken
        rows = [int(row) for row in release.rows[release.positive[:, place]] if int(row) not in taken][:EACH]
        taken.update(rows)
        shown.append([_example(dataset, row, release.findings[place]) for row in rows])
    return [example for finding in reversed(shown) for example in finding]


def _example(dataset: PackedDataset, row: int, why: str) -> Example:
    return Example(row, why, _rendition(dataset, row))


def _rendition(dataset: PackedDataset, row: int) -> np.ndarray:
    """uint8 [S, S] of the smallest size on this disk."""
    stored = dataset.stored(dataset.sizes[0])
    shard = int(stored.shard[row])
    path = stored.paths[shard]
    with stored.open(shard) as file:
        file.seek(int(stored.offset[row]))
        data = file.read(int(stored.length[row]))
    try:
        if stored.raw:
            return np.load(io.BytesIO(data))
        return simplejpeg.decode_jpeg(data, "GRAY", strict=True)[:, :, 0]
    except (ValueError, EOFError) as error:
        raise UserError(
            f"{path}: sample {dataset.key(row)} cannot be decoded ({error}); `cxrdali verify` finds what is damaged"
        ) from error
