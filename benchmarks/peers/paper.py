"""The stage-training paper's loader: OpenCV, albumentations and float32 RGB from loose files, by DataLoader workers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.freed import keep_freed_memory
from benchmarks.peers.images import one_thread, worker_options
from benchmarks.peers.served import Baseline
from benchmarks.peers.work import SEED, Work, file_bytes
from cxrdali.data.augment import AugmentOptions
from cxrdali.data.loader import Batch
from cxrdali.data.options import LoaderOptions
from cxrdali.data.order import batch_bounds, global_order
from shards.dataset.packed import PackedDataset

NATIVE_BATCH = 16


def baseline(work: Work, workers: int, native: bool) -> Baseline:
    """Its own work, not ours: images float32 [B, 3, S, S], normalised, by its own augmentation.

    Batches of native files are small, so that a run has several; its rate does not depend on that.
    """
    files = work.data.native if native else work.files
    batch = NATIVE_BATCH if native else work.batch

    def open_pass(images: int, _augment: AugmentOptions):
        order = global_order(np.resize(np.arange(len(files)), images), SEED, 0).tolist()
        batches = [order[start : start + batch] for start in range(0, images, batch)]
        options = worker_options(workers, work.pin)
        loader = DataLoader(_PaperImages(files, work.size, resize=native), batch_sampler=batches, **options)
        return lambda: (images for images, _ in loader)

    return Baseline(open_pass, batch * workers, file_bytes(files))


@dataclass(frozen=True)
class _Epochs:
    seed: int = 0
    shuffle: bool = False
    augment: AugmentOptions | None = None
    drop_last: bool = False


class PaperLoader:
    """The stage-training paper's loader where the trainer expects `cxrdali.data.loader.Loader`.

    It has its rows, in its order, from `files` by row.

    Batches are (images float32 [B, 3, S, S], normalised by the workers; rows int64 [B]), so the model must be one of
    `without_normalisation`. The workers are started here, and have read a file each when this returns: their start
    is part of a run's set-up. how: seed, shuffle, augment (that paper's or none) and drop_last, as Loader's.
    """

    resized_from = None

    def __init__(
        self,
        files: Sequence[Path],
        workers: int,
        dataset: PackedDataset,
        rows: np.ndarray,
        options: LoaderOptions,
        **how,
    ):
        self.dataset, self.rows, self.options = dataset, np.ascontiguousarray(rows, dtype=np.int64), options
        self.samples = len(self.rows)
        self._how = _Epochs(**how)
        self._epoch, self._position = 0, 0
        self._batches: list[list[int]] = [[int(self.rows[0])]] * workers  # refilled for every epoch
        images = _PaperImages(files, options.size, resize=True, augment=self._how.augment is not None)
        workers_alive = worker_options(workers, options.device.startswith("cuda"))
        kept = {"worker_init_fn": _one_thread_and_kept_memory}
        self._loader = DataLoader(images, batch_sampler=self._batches, **(workers_alive | kept))
        for _ in self._loader:
            pass

    def __len__(self) -> int:
        return len(batch_bounds(len(self.rows), self.options.batch, drop_last=self._how.drop_last))

    def set_epoch(self, epoch: int) -> None:
        self._epoch, self._position = epoch, 0

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._epoch, self._position = state["epoch"], state["position"]

    def __iter__(self) -> Iterator[Batch]:
        how = self._how
        order = global_order(self.rows, how.seed, self._epoch) if how.shuffle else self.rows
        bounds = batch_bounds(len(order), self.options.batch, self._position, how.drop_last)
        self._batches[:] = [order[start:stop].tolist() for start, stop in bounds]
        for images, rows in self._loader:
            yield Batch(images, rows)
        self._epoch, self._position = self._epoch + 1, 0


def without_normalisation(arch: str) -> str:
    """The name under which timm has `arch` for images that come normalised: with norm "weights", Classifier's own
    normalisation (from 0..255) is then a multiplication by one."""
    import timm  # seconds of import time, which workers need not spend
    from timm.models import register_model

    name = f"{arch.replace('.', '_')}_normalised"

    def create(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **arguments):
        model = timm.create_model(arch, pretrained=pretrained, **arguments)
        model.pretrained_cfg = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3}
        return model

    create.__name__ = name
    if not timm.is_model(name):
        register_model(create)
    return name


def _one_thread_and_kept_memory(worker: int) -> None:
    """For arms that differ in the size of their images: by chance of it, malloc gives an original's 23 MB back."""
    one_thread(worker)
    keep_freed_memory()


class _PaperImages(Dataset):
    """Items are (float32 [3, S, S], row)."""

    def __init__(self, files: Sequence[Path], size: int, resize: bool, augment: bool = True):
        import albumentations as A
        from albumentations.pytorch import ToTensorV2

        # CutOut as that paper's albumentations had it: five squares with sides of 5 % of the image
        cutout = A.CoarseDropout(
            num_holes_range=(5, 5), hole_height_range=(0.05, 0.05), hole_width_range=(0.05, 0.05), fill=0, p=0.5
        )
        self._files = [str(path) for path in files]
        self._transform = A.Compose(
            [
                *([A.Resize(size, size)] if resize else []),
                *([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5), cutout] if augment else []),
                A.Normalize(),
                ToTensorV2(),
            ]
        )

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        image = cv2.cvtColor(cv2.imread(self._files[row]), cv2.COLOR_BGR2RGB)
        return self._transform(image=image)["image"], row
