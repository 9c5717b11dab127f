"""Whole studies: which images make one, and batches of them, of any number of images each."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from cxrdali.data.splits import group_codes
from shards.dataset.dataset import Dataset

VIEWS = ("frontal", "lateral")  # by number; any other is the next one, unknown


@dataclass(frozen=True)
class Studies:
    """The studies of some catalog rows, in the order of their first rows. A study is its id within a subject (and a
    pack), so images without one are a study each.

    first: int64 [m], of each study the smallest row, ascending; rows, views: int64 [k], its images that are used and
    their numbers in VIEWS, study by study, those of study s at bounds[s] to bounds[s + 1] (int64 [m + 1]); study: int64
    [n], of each of the given rows.
    """

    first: np.ndarray
    rows: np.ndarray
    views: np.ndarray
    bounds: np.ndarray
    study: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset, rows: np.ndarray, most: int | None = None) -> "Studies":
        """rows: int64 [n], ascending, each once. most: of a study with more images those with the smallest rows are
        used, frontal, lateral and other ones in turn; None: all."""
        _, at, study = np.unique(group_codes(dataset, "study")[rows], return_index=True, return_inverse=True)
        number = np.argsort(np.argsort(at))  # unique counts by code, here the order is that of first rows
        study = number[study]
        views = pd.Index(VIEWS).get_indexer(dataset.of_rows(rows, "view")["view"]) % (len(VIEWS) + 1)
        turn = _counted(study * (len(VIEWS) + 1) + views)
        order = np.lexsort((views, turn, study))
        if most is not None:
            order = order[_counted(study[order]) < most]
        counts = np.bincount(study[order], minlength=len(at))
        bounds = np.concatenate([[0], np.cumsum(counts)])
        return cls(rows[np.sort(at)], rows[order], views[order], bounds, study)

    @property
    def largest(self) -> int:
        """Images of the largest study."""
        return int(np.diff(self.bounds).max())

    def images(self, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places in `rows` of the images of the studies with these first rows, one study after the other, int64 [N],
        and where each study's begin and end among them: int64 [B + 1]."""
        number = np.searchsorted(self.first, first)
        sizes = self.bounds[number + 1] - self.bounds[number]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        return np.repeat(self.bounds[number] - offsets[:-1], sizes) + np.arange(offsets[-1]), offsets


def _counted(groups: np.ndarray) -> np.ndarray:
    """Of each element, how many of its group stand before it: int64 [n]."""
    order = np.argsort(groups, kind="stable")
    found = np.empty(len(groups), dtype=np.int64)
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    found[order] = np.arange(len(groups)) - np.repeat(starts, np.diff([*starts, len(groups)]))
    return found


@dataclass(frozen=True)
class StudyBatch:
    """B studies, of N images in all. What takes batches of images asks for their length, parts and device.

    images: uint8 [N, 1, S, S], or their features, float [N, D]; views: int64 [N], numbers in VIEWS; offsets: int64
    [B + 1], on the CPU: study b has the images offsets[b] to offsets[b + 1].
    """

    images: torch.Tensor
    views: torch.Tensor
    offsets: torch.Tensor

    @classmethod
    def alone(cls, images: torch.Tensor) -> "StudyBatch":
        """Every image as a study of its own, of unknown view."""
        views = torch.full((len(images),), len(VIEWS), device=images.device)
        return cls(images, views, torch.arange(len(images) + 1))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "StudyBatch":
        images, views = (each.to(device, non_blocking=non_blocking) for each in (self.images, self.views))
        return StudyBatch(images, views, self.offsets)

    def split(self, images: int) -> list["StudyBatch"]:
        """In parts of whole studies with at most so many images each; a study that has more is a part."""
        ends, cuts = self.offsets.tolist(), [0]
        for place in range(1, len(ends)):
            if ends[place] - ends[cuts[-1]] > images and place - 1 > cuts[-1]:
                cuts.append(place - 1)
        return [self[start:stop] for start, stop in zip(cuts, [*cuts[1:], len(self)], strict=True)]

    def __getitem__(self, studies: slice) -> "StudyBatch":
        start, stop, _ = studies.indices(len(self))
        offsets = self.offsets[start : stop + 1]
        own = slice(int(offsets[0]), int(offsets[-1]))
        return StudyBatch(self.images[own], self.views[own], offsets - offsets[0])

    def after(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "StudyBatch":
        """With changed images."""
        return replace(self, images=change(self.images))

    def places(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each image its study, and its place in it: int64 [N] each, on the CPU."""
        study = torch.arange(len(self)).repeat_interleave(self.offsets.diff())
        return study, torch.arange(len(study)) - self.offsets[study]


def pixels(batch: torch.Tensor | StudyBatch) -> torch.Tensor:
    """The images of a batch, of studies too."""
    return batch.images if isinstance(batch, StudyBatch) else batch
