"""Batches of whole studies: the plain loader, whose samples are studies.

An epoch is a permutation of studies by seed and epoch; a batch is the next so many studies, with all of their images
(`Studies.of` says which, of large ones). A position counts studies, and so resuming, ranks and read-ahead are the plain
loader's. A shard never divides a study, so that reading by windows of shards stays possible.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from cxrdali.data.loader import Batch, Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.order import Windows
from cxrdali.data.studies import Studies, StudyBatch
from shards.dataset.dataset import Dataset


class StudyLoader(Loader):
    """Batches of `StudyBatch`, each with the first rows of its studies, int64 [B].

    rows: catalog rows of images, ascending, each once (`Loader.rows` are the first ones of studies then); most: images
    of a study at most; options.batch counts studies.
    """

    sample = "study"

    def __init__(self, dataset: Dataset, rows: np.ndarray, options: LoaderOptions, *, most: int, **how: Any):
        self.studies = Studies.of(dataset, rows, most)
        super().__init__(dataset, self.studies.first, options, **how)

    def images_of(
        self, order: np.ndarray, windows: Windows, bounds: list[tuple[int, int]]
    ) -> tuple[np.ndarray, Windows, list[tuple[int, int]]]:
        places, ends = self.studies.images(order)
        spans = [(int(ends[start]), int(ends[stop])) for start, stop in bounds]
        return self.studies.rows[places], [(int(ends[at]), shards) for at, shards in windows], spans

    @property
    def most_images(self) -> int:
        return super().most_images * self.studies.largest

    def by_image(self, values: np.ndarray) -> np.ndarray:
        """Of studies in the loader's order, [m, ...], as the images have them that it was given: [n, ...]."""
        return values[self.studies.study]

    def __iter__(self) -> Iterator[Batch]:
        for images, first in super().__iter__():
            yield Batch(study_batch(self.studies, first.numpy(), images), first)  # type: ignore[arg-type]


def study_batch(studies: Studies, first: np.ndarray, images: torch.Tensor) -> StudyBatch:
    """The studies with these first rows, and their images or features, [N, ...]."""
    places, offsets = studies.images(first)
    return StudyBatch(images, torch.from_numpy(studies.views[places]).to(images.device), torch.from_numpy(offsets))
