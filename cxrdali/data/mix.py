"""The mix of an epoch of several packs: how many of its samples are each pack's, and which.

| mix | a pack's part of the samples |
|---|---|
| size | as many as it has images: each comes once |
| equal | as many as the other packs' |
| sqrt | in proportion to the square root of its images |
| A=2,B=1 | in proportion to its weight, however many images it has |

An epoch has as many samples as the packs have images, oversampled ones counted twice. A pack's images come in whole
passes; what is left is a random part of them without repeats, another in every epoch. With a sampler, an image's chance
is the one that it has in its pack alone, times the pack's part. All of it is a function of rows, seed and epoch.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cxrdali.data.order import MIX, stream
from cxrdali.data.sampler import SampledRows
from shards.errors import UserError
from shards.randomness import permutation
from shards.words import choices, counted

if TYPE_CHECKING:
    from cxrdali.data.options import DataSettings
    from cxrdali.data.targets import Targets

MIXES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"size": np.asarray, "equal": np.ones_like, "sqrt": np.sqrt}


def visits(
    how: "DataSettings",
    starts: Mapping[str, int],
    rows: np.ndarray,
    targets: "np.ndarray | Targets",
    seed: int,
    epochs: int,
) -> Callable[[int], np.ndarray] | None:
    """What gives the rows of an epoch (from 0) by mix and sampler; None if each of `rows` comes once.

    Args:
        starts: Of the packs by name, the first catalog row.
        rows: int64 [n], ascending; those of oversampled images twice.
        targets: As `Sampler.over` takes them; so are seed and epochs.
    """
    packs, share = shares(how.mix, starts, rows)
    if how.mix == "size" or len(packs) == 1:
        return how.sampler.over(rows, targets, seed, epochs)
    found = [how.sampler.weights(targets[own]) for own in packs.values()]
    weights = [each for each in found if each is not None]
    if len(weights) < len(found):
        return partial(mixed_rows, [*packs.values()], _rounded(share * len(rows)).tolist(), seed)
    weighted = [part * each / each.sum() for part, each in zip(share, weights, strict=True)]
    uniform = [np.full(len(own), part / len(own)) for part, own in zip(share, packs.values(), strict=True)]
    return SampledRows(how.sampler, rows, np.concatenate(weighted), seed, epochs, np.concatenate(uniform))


def mixed_rows(packs: Sequence[np.ndarray], counts: Sequence[int], seed: int, epoch: int) -> np.ndarray:
    """So many rows (counts) of each pack's (int64 [n]) for an epoch (from 0), as few of them twice as can be."""
    found = []
    for number, (rows, count) in enumerate(zip(packs, counts, strict=True)):
        part = permutation(len(rows), seed, stream(MIX + number, epoch))[: count % len(rows)]
        found += [rows] * (count // len(rows)) + [rows[part]]
    return np.concatenate(found)


def canonical(given: str) -> str:
    """A mix as it is kept: packs with weights in the order of their names. Raises UserError for what is none."""
    if given in MIXES:
        return given
    try:
        weights = _weights(given)
    except ValueError:
        weights = {}
    if len(weights) <= given.count(",") or "" in weights or not all(0 < each < np.inf for each in weights.values()):
        fix = f"{choices(given, MIXES)}, or give every pack once with a weight above 0: A=2,B=1"
        raise UserError(f"mix {given!r}: {fix}")
    return ",".join(f"{name}={weight:.12g}" for name, weight in sorted(weights.items()))


def _weights(text: str) -> dict[str, float]:
    return {name.strip(): float(weight) for name, _, weight in (each.partition("=") for each in text.split(","))}


def shares(mix: str, starts: Mapping[str, int], rows: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The packs that have any of `rows`, by name, with theirs, and their parts of the samples, float64, in all 1.

    Raises UserError if the mix names other packs than there are.
    """
    bounds = np.searchsorted(rows, [*starts.values()][1:])
    packs = dict(zip(starts, np.split(rows, bounds), strict=True))
    images = np.array([len(own) for own in packs.values()], dtype=np.float64)
    if mix in MIXES:
        weights = MIXES[mix](images)
    else:
        given = _weights(mix)
        if len(packs) == 1:
            raise UserError(f"mix {mix!r}: there is one pack; leave the mix out")
        for name in sorted(given.keys() ^ packs.keys()):
            known = "needs a weight, too" if name in packs else f"is no pack; {choices(name, packs, 'there are')}"
            raise UserError(f"mix {mix!r}: {name!r} {known}")
        weights = np.array([given[name] for name in packs])
    weights = weights * (images > 0)
    return {name: own for name, own in packs.items() if len(own)}, (weights / weights.sum())[images > 0]


def words(mix: str, starts: Mapping[str, int], rows: np.ndarray) -> str:
    """How many samples of an epoch are each pack's: "600 samples of a's 500 images, 600 samples of b's 700 images"."""
    packs, share = shares(mix, starts, rows)
    samples = zip(packs.items(), _rounded(share * len(rows)).tolist(), strict=True)
    return ", ".join(
        f"{counted(count, 'sample')} of {name}'s {counted(len(own), 'image')}" for (name, own), count in samples
    )


def _rounded(parts: np.ndarray) -> np.ndarray:
    """Whole numbers, int64 [packs], with the same sum; those that lose most are rounded up."""
    whole = np.floor(parts).astype(np.int64)
    whole[np.argsort(whole - parts, kind="stable")[: round(parts.sum()) - whole.sum()]] += 1
    return whole
