"""FFCV in three modes, as it ships and with flips in place that we compiled for it.

    jpeg   RGBImageField: the JPEG's own bytes; batches have three channels, which is all that the field knows
    raw    RGBImageField: pixels, three channels stored and given out
    gray   NDArrayField: pixels, one channel: what FFCV can do for gray images where RGBImageField is given up

The probabilities of the augmentation are ours, cutout is an operation of our own (FFCV's cuts another way). "shipped"
flips with FFCV's RandomHorizontalFlip and a vertical twin of it, "in place" with one compiled operation that we wrote
for it. Batches come as they leave FFCV, uint8 [B, S, S, C]: memory that it writes into again some batches later, where
every other baseline's batch may be kept. Order is random, the page cache warm.
"""

from dataclasses import replace

import cv2
import joblib
import numpy as np
from ffcv.fields import NDArrayField, RGBImageField
from ffcv.fields.decoders import NDArrayDecoder, SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.operation import Operation
from ffcv.transforms import RandomHorizontalFlip, ToTensor
from ffcv.writer import DatasetWriter

from benchmarks.peers.served import Baseline
from benchmarks.peers.work import SEED, Work
from cxrdali.data.augment import SQUARES, AugmentOptions


def baseline(work: Work, mode: str, flips: str) -> Baseline:
    """mode: jpeg, raw or gray; flips: shipped or in place."""
    work.folder.mkdir(parents=True, exist_ok=True)
    beton = str(work.folder / f"{mode}-{flips.replace(' ', '-')}-{work.size}.beton")
    _write(work, beton, mode)
    stored = int(_open(beton, work, mode, []).reader.alloc_table["size"].sum())

    alive: dict[AugmentOptions, Loader] = {}  # the last one: another would be compiled once more

    def open_pass(images: int, augment: AugmentOptions):
        if augment not in alive:
            alive.clear()
            alive[augment] = _open(beton, work, mode, _operations(augment, flips))
        loader = alive[augment]
        # an epoch of FFCV is its `indices`: passes over few files would count the start of an epoch, when FFCV
        # allocates all buffers, too often
        loader.traversal_order.indices = np.resize(np.arange(loader.reader.num_samples, dtype="uint64"), images)
        loader.first_traversal_order = loader.next_traversal_order()  # len(loader) is read from it
        return lambda: (batch for (batch,) in loader)

    return Baseline(open_pass, work.step, stored / len(work.files))


def _write(work: Work, beton: str, mode: str) -> None:
    fields = {
        "jpeg": lambda: StoredJpeg(work.size),
        "raw": lambda: RGBImageField(write_mode="raw"),
        "gray": lambda: NDArrayField(np.dtype("u1"), (work.size, work.size)),
    }
    writer = DatasetWriter(beton, {"image": fields[mode]()}, num_workers=joblib.cpu_count())
    writer.from_indexed_dataset(Images(work.files, mode))


def _open(beton: str, work: Work, mode: str, operations: list) -> Loader:
    decoder = NDArrayDecoder() if mode == "gray" else SimpleRGBImageDecoder()
    return Loader(
        beton,
        batch_size=work.batch,
        num_workers=joblib.cpu_count(),
        os_cache=True,
        order=OrderOption.RANDOM,
        seed=SEED,
        drop_last=False,
        pipelines={"image": [decoder, *operations, ToTensor()]},
        custom_fields={"image": RGBImageField} if mode == "jpeg" else {},
    )


def _operations(augment: AugmentOptions, flips: str) -> list[Operation]:
    cut = Cutout(augment)
    return [cut, FlipInPlace(augment)] if flips == "in place" else [
        cut, RandomHorizontalFlip(augment.hflip), FlipCopy(augment)
    ]  # fmt: skip


class StoredJpeg(RGBImageField):
    """A JPEG's own bytes: RGBImageField takes pixels only and would encode them once more.

    Written gray, as the file is; FFCV's decoder makes three channels of it.
    """

    def __init__(self, size):
        super().__init__(write_mode="jpg")
        self.size = size

    def encode(self, destination, image, malloc):
        destination["mode"] = 0  # FFCV's number of "jpg"
        destination["height"] = destination["width"] = self.size
        destination["data_ptr"], storage = malloc(image.nbytes)
        storage[:] = image


class Images:
    """What is stored of each file: the JPEG's bytes, or pixels uint8 [S, S, 3] or [S, S]."""

    def __init__(self, files, mode):
        self.files, self.mode = files, mode

    def __len__(self):
        return len(self.files)

    def __getitem__(self, row):
        stored = np.fromfile(self.files[row], "u1")
        if self.mode != "jpeg":
            stored = cv2.imdecode(stored, cv2.IMREAD_COLOR if self.mode == "raw" else cv2.IMREAD_GRAYSCALE)
        return (stored,)


class Augmenting(Operation):
    """An operation with the probabilities of `augment`."""

    def __init__(self, augment: AugmentOptions):
        super().__init__()
        self.augment = augment

    def declare_state_and_memory(self, previous):
        """In place."""
        return replace(previous, jit_mode=True), None


class FlipCopy(Augmenting):
    """Vertical flip with a copy of every image, as FFCV's RandomHorizontalFlip does it."""

    def generate_code(self):
        every, vflip = Compiler.get_iterator(), self.augment.vflip

        def flip(images, out):
            flipped = np.random.rand(images.shape[0]) < vflip
            for i in every(images.shape[0]):
                if flipped[i]:
                    out[i] = images[i, ::-1]
                else:
                    out[i] = images[i]
            return out

        flip.is_parallel = True
        return flip

    def declare_state_and_memory(self, previous):
        return replace(previous, jit_mode=True), AllocationQuery(previous.shape, previous.dtype)


class Cutout(Augmenting):
    """Five squares, in place; FFCV's Cutout cuts one square from every image, never at the border."""

    def generate_code(self):
        every, probability, fraction = Compiler.get_iterator(), self.augment.cutout_probability, self.augment.side

        def cut(images, _):
            size = images.shape[1]
            side = int(size * fraction)
            for i in every(images.shape[0]):
                if np.random.rand() < probability:
                    for _square in range(SQUARES):
                        top = np.random.randint(size) - side // 2
                        left = np.random.randint(size) - side // 2
                        images[i, max(top, 0) : top + side, max(left, 0) : left + side] = 0
            return images

        cut.is_parallel = True
        return cut


class FlipInPlace(Augmenting):
    """Both flips by swapping pixels in place, of images [B, S, S, C] or [B, S, S]: no second buffer, and an image
    that is not flipped costs nothing."""

    def generate_code(self):
        every, hflip, vflip = Compiler.get_iterator(), self.augment.hflip, self.augment.vflip
        size, channels = self.size, self.channels  # constants when it is compiled: half the time of shape's values

        def flip(batch, _):
            images = batch.reshape((len(batch), size, size, channels))
            for i in every(len(images)):
                image = images[i]
                if np.random.rand() < vflip:
                    for y in range(size // 2):
                        for x in range(size):
                            for c in range(channels):
                                kept = image[y, x, c]
                                image[y, x, c] = image[size - 1 - y, x, c]
                                image[size - 1 - y, x, c] = kept
                if np.random.rand() < hflip:
                    for y in range(size):
                        for x in range(size // 2):
                            for c in range(channels):
                                kept = image[y, x, c]
                                image[y, x, c] = image[y, size - 1 - x, c]
                                image[y, size - 1 - x, c] = kept
            return batch

        flip.is_parallel = True
        return flip

    def declare_state_and_memory(self, previous):
        self.size, self.channels = int(previous.shape[0]), int((*previous.shape, 1)[2])
        return super().declare_state_and_memory(previous)
