"""What several runs have seen, as one list: of the mean of their weights."""

import numpy as np
import pandas as pd

from cxrdali.runs.seen import BITS, IDS, Seen


def together(first: Seen, second: Seen) -> Seen:
    """The runs of the first, then those of the second, and the images that any of them trained on."""
    own, moved = second.images["by"].to_numpy(), np.zeros(len(second.images), dtype=np.uint64)
    for place in range(min(len(second.runs), BITS)):
        bit = np.uint64(min(place + len(first.runs), BITS - 1))
        moved |= ((own >> np.uint64(place)) & np.uint64(1)) << bit
    by = first.images["by"].to_numpy(copy=True)
    known, theirs = (pd.MultiIndex.from_frame(each.images[IDS]) for each in (first, second))
    places = known.get_indexer(theirs)
    by[places[places >= 0]] |= moved[places >= 0]
    others = second.images.assign(by=moved)[places < 0]
    images = pd.concat([first.images.assign(by=by), others], ignore_index=True)
    unknown = tuple(dict.fromkeys((*first.unknown, *second.unknown)))
    return Seen((*first.runs, *second.runs), unknown, images)
