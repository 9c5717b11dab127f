"""Images of one of several packs that another has too."""

import itertools
import logging
import shlex
from collections.abc import Mapping

import numpy as np

from cxrdali.runs.seen import hashes_of
from shards.dataset.dataset import Dataset
from shards.words import counted

log = logging.getLogger(__name__)


def between_packs(dataset: Dataset, train: np.ndarray, held: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Of several packs, which held-out images are training images of another, by the pixels that both know: in words,
    and for each the command that lists them.

    train, held: int64 [n], catalog rows of the whole, those that are held out by what they are ("test").
    """
    if len(dataset.parts) == 1:
        return {}
    packs = [
        (part, hashes_of(part.dataset)["pixels"].to_numpy(), part.dataset.info.get("hashed")) for part in dataset.parts
    ]
    words = {}
    for (judged, pixels, size), (trained, others, its_size) in itertools.permutations(packs, 2):
        both = (f"{part.name}={part.dataset.root}" for part in (trained, judged))
        command = shlex.join(["cxrdali", "overlap", *both])
        if size is None or size != its_size:
            if trained.start < judged.start:
                sizes = (f"{each} px" if each else "none" for each in (its_size, size))
                log.info(
                    "note: whether {} and {} have the same images was not checked: their hashes of pixels are of {} "
                    "and {}; `{}` compares the images".format(trained.name, judged.name, *sizes, command)
                )
            continue
        theirs = others[trained.own(train)]
        for name, rows in held.items():
            mine = pixels[judged.own(rows)]
            if shared := int(np.isin(mine, theirs[theirs != 0]).sum()):
                images = counted(len(mine), f"{name} image")
                words[f"{shared:,} of {images} of {judged.name} are training images of {trained.name}"] = command
    return words
