"""The other loaders: the stage-training paper's, and the best DataLoader that we could write with our output batch.

Both read loose JPEG files, one per image, as a release or a folder of resized copies has them. Their workers
stay alive between passes and have OpenCV's own threads switched off, because the workers are the parallelism.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.freed import keep_freed_memory
from cxrdali.data.augment import AugmentOptions, Decisions, decide
from cxrdali.data.loader import Batch
from cxrdali.data.options import LoaderOptions
from cxrdali.data.order import batch_bounds, global_order
from shards.dataset.packed import PackedDataset

FLIP_CODES = (None, 1, 0, -1)  # cv2.flip's code by horizontal + 2 * vertical


@dataclass(frozen=True)
class Pass:
    """One pass over the data: `files` by row, and the rows of every batch in the order of delivery."""

    files: tuple[Path, ...]
    batches: tuple[tuple[int, ...], ...]


def paper_loader(wanted: Pass, size: int, workers: int, resize: bool = False, pin: bool = False) -> DataLoader:
    """Yields (images float32 [B, 3, S, S], normalised; rows int64 [B]) as the stage-training paper's code did.

    `resize` shrinks the files to `size` pixels in the worker: for files of native size.
    """
    return DataLoader(
        _PaperImages(wanted.files, size, resize), batch_sampler=wanted.batches, **worker_options(workers, pin)
    )


def lean_loader(
    wanted: Pass, size: int, workers: int, augment: AugmentOptions, seed: int = 0, pin: bool = False
) -> DataLoader:
    """Yields Batch(images uint8 [B, 1, S, S]; rows int64 [B]): our output batch, to the pixel, by a DataLoader."""
    starts = np.cumsum([0, *(len(rows) for rows in wanted.batches)])[:-1].tolist()
    order = list(zip(starts, wanted.batches, strict=True))
    # batch_size=None: an index is a whole batch, which its worker writes in place, so nothing is collated
    return DataLoader(
        _LeanBatches(wanted.files, size, augment, seed), sampler=order, batch_size=None, **worker_options(workers, pin)
    )


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


def worker_options(workers: int, pin: bool) -> dict:
    """Of a DataLoader whose workers stay alive and do not share their threads' cores."""
    # forkserver: DALI's threads and CUDA run in this process by the time that workers start. Two batches ahead
    # per worker measured as well as four, with half of the memory.
    return {
        "num_workers": workers,
        "persistent_workers": True,
        "prefetch_factor": 2,
        "pin_memory": pin,
        "worker_init_fn": _one_thread,
        "multiprocessing_context": "forkserver",
    }


def _one_thread(_worker: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _one_thread_and_kept_memory(worker: int) -> None:
    """For arms that differ in the size of their images: by chance of it, malloc gives an original's 23 MB back."""
    _one_thread(worker)
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


class _LeanBatches(Dataset):
    """Items are batches; an index is (position of the first sample in the pass, rows)."""

    def __init__(self, files: Sequence[Path], size: int, augment: AugmentOptions, seed: int):
        self._files = [str(path) for path in files]
        self._size, self._augment, self._seed = size, augment, seed

    def __getitem__(self, index: tuple[int, tuple[int, ...]]) -> Batch:
        start, rows = index
        made = decide(self._augment, self._seed, 0, start, len(rows), self._size)
        batch = _shared_batch(len(rows), self._size)
        images = batch.numpy()[:, 0]
        for row, image, squares, flip in zip(rows, images, _squares(made), _flip_codes(made), strict=True):
            with open(self._files[row], "rb") as file:  # noqa: PTH123 - half the cost of Path.open
                data = file.read()
            if flip is None:
                simplejpeg.decode_jpeg(data, "GRAY", buffer=image)
                _cut(image, squares)
            else:
                decoded = simplejpeg.decode_jpeg(data, "GRAY")[:, :, 0]
                _cut(decoded, squares)
                cv2.flip(decoded, flip, dst=image)
        return Batch(batch, torch.tensor(rows))


def _shared_batch(count: int, size: int) -> torch.Tensor:
    """Uninitialised uint8 [count, 1, size, size] in shared memory: the main process receives it without a copy."""
    storage = torch.UntypedStorage._new_shared(count * size * size)  # noqa: SLF001  torch's own collate does so
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (count, 1, size, size))


def _flip_codes(made: Decisions) -> list[int | None]:
    return [FLIP_CODES[code] for code in (made["horizontal"] + 2 * made["vertical"]).tolist()]


def _squares(made: Decisions) -> list[list[list[int]]]:
    """Per image its squares as [top, left, bottom, right] in pixels; none where there is no cutout."""
    anchor = made["anchor"].astype(np.int64).reshape(len(made["anchor"]), -1, 2)
    squares = np.concatenate([anchor, anchor + made["shape"].astype(np.int64).reshape(anchor.shape)], axis=2)
    present = made["shape"].any(axis=1).tolist()
    return [found if there else [] for found, there in zip(squares.tolist(), present, strict=True)]


def _cut(image: np.ndarray, squares: list[list[int]]) -> None:
    for top, left, bottom, right in squares:
        image[top:bottom, left:right] = 0
