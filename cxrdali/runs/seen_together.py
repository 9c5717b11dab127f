"""What several runs have seen, as one list: of the mean of their weights, and of those that predicted labels."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxrdali.runs.seen import BITS, IDS, Seen, Trained


def together(first: Seen, second: Seen) -> Seen:
    """The runs of the first that the second has not, then those of the second, and the images that any trained on."""
    runs = (*(run for run in first.runs if run not in second.runs), *second.runs)
    by, moved = _by(first, runs), _by(second, runs)
    known, theirs = (pd.MultiIndex.from_frame(each.images[IDS]) for each in (first, second))
    places = known.get_indexer(theirs)
    by[places[places >= 0]] |= moved[places >= 0]
    others = second.images.assign(by=moved)[places < 0]
    images = pd.concat([first.images.assign(by=by), others], ignore_index=True)
    unknown = tuple(dict.fromkeys((*first.unknown, *second.unknown)))
    return Seen(runs, unknown, images)


def _by(seen: Seen, runs: Sequence[Trained]) -> np.ndarray:
    """Which of these runs, some of them its own, trained on its images: bits, uint64 [n]."""
    own, found = seen.images["by"].to_numpy(), np.zeros(len(seen.images), dtype=np.uint64)
    for place, run in enumerate(seen.runs[:BITS]):
        found |= ((own >> np.uint64(place)) & np.uint64(1)) << np.uint64(min(runs.index(run), BITS - 1))
    return found
