"""FFCV's side of benchmarks.loading.ffcv: runs under an interpreter that has FFCV, and imports nothing of this project.

    PYTHON -I benchmarks/loading/ffcv_worker.py        (-I: else `import ffcv` would find benchmarks/loading/ffcv.py)

Standard input and output carry one JSON object per line. The first request opens:

    {"files": [...], "beton": PATH, "mode": MODE, "size": S, "batch": B, "threads": N, "augment": null or name}

writes the images to PATH and answers {"stored_bytes": of all images}. Each later one is a pass:

    {"images": N}                 N images, the same over and over in a new random order; answers {"images": handed}
    {"images": N, "save": PATH}   keeps them, too: PATH.npz with images uint8 [N, S, S, 3] or [N, S, S], rows int64 [N]

The process ends with its input, and with a traceback at an error. `--check` only imports what is needed.
"""

import json
import os
import sys
import threading
from dataclasses import replace

import cv2
import numpy as np
from ffcv.fields import IntField, NDArrayField, RGBImageField
from ffcv.fields.basics import IntDecoder
from ffcv.fields.decoders import NDArrayDecoder, SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.operation import Operation
from ffcv.transforms import RandomHorizontalFlip, ToTensor
from ffcv.writer import DatasetWriter

PROBABILITY = 0.5  # of a horizontal flip, of a vertical one, of cutout
SQUARES = 5
SIDE = 0.05  # of a square, as a fraction of the image's


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
    """What is stored of each file, and its row: the JPEG's bytes, or pixels uint8 [S, S, 3] or [S, S]."""

    def __init__(self, files, mode):
        self.files, self.mode = files, mode

    def __len__(self):
        return len(self.files)

    def __getitem__(self, row):
        stored = np.fromfile(self.files[row], "u1")
        if self.mode != "jpeg":
            stored = cv2.imdecode(stored, cv2.IMREAD_COLOR if self.mode == "raw" else cv2.IMREAD_GRAYSCALE)
        return stored, row


class FlipCopy(Operation):
    """Vertical flip with a copy of every image, as FFCV's RandomHorizontalFlip does it."""

    def generate_code(self):
        every = Compiler.get_iterator()

        def flip(images, out):
            flipped = np.random.rand(images.shape[0]) < PROBABILITY
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


class Cutout(Operation):
    """Five squares, in place; FFCV's Cutout cuts one square from every image, never at the border."""

    def generate_code(self):
        every = Compiler.get_iterator()

        def cut(images, _):
            size = images.shape[1]
            side = int(size * SIDE)
            for i in every(images.shape[0]):
                if np.random.rand() < PROBABILITY:
                    for _square in range(SQUARES):
                        top = np.random.randint(size) - side // 2
                        left = np.random.randint(size) - side // 2
                        images[i, max(top, 0) : top + side, max(left, 0) : left + side] = 0
            return images

        cut.is_parallel = True
        return cut

    def declare_state_and_memory(self, previous):
        return replace(previous, jit_mode=True), None


class FlipInPlace(Operation):
    """Both flips by swapping pixels in place, of images [B, S, S, C] or [B, S, S]: no second buffer, and an image
    that is not flipped costs nothing."""

    def generate_code(self):
        every = Compiler.get_iterator()
        size, channels = self.size, self.channels  # constants when it is compiled: half the time of shape's values

        def flip(batch, _):
            images = batch.reshape((len(batch), size, size, channels))
            for i in every(len(images)):
                image = images[i]
                if np.random.rand() < PROBABILITY:
                    for y in range(size // 2):
                        for x in range(size):
                            for c in range(channels):
                                kept = image[y, x, c]
                                image[y, x, c] = image[size - 1 - y, x, c]
                                image[size - 1 - y, x, c] = kept
                if np.random.rand() < PROBABILITY:
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
        return replace(previous, jit_mode=True), None


def write(files, beton, mode, size, writers):
    fields = {
        "jpeg": lambda: StoredJpeg(size),
        "raw": lambda: RGBImageField(write_mode="raw"),
        "gray": lambda: NDArrayField(np.dtype("u1"), (size, size)),
    }
    writer = DatasetWriter(beton, {"image": fields[mode](), "row": IntField()}, num_workers=writers)
    writer.from_indexed_dataset(Images(files, mode))


def open_loader(beton, mode, batch, threads, augment):
    operations = {
        None: lambda: [],
        "shipped": lambda: [Cutout(), RandomHorizontalFlip(PROBABILITY), FlipCopy()],
        "in place": lambda: [Cutout(), FlipInPlace()],
    }
    decoder = NDArrayDecoder() if mode == "gray" else SimpleRGBImageDecoder()
    return Loader(
        beton,
        batch_size=batch,
        num_workers=threads,
        os_cache=True,
        order=OrderOption.RANDOM,
        seed=0,
        drop_last=False,
        pipelines={"image": [decoder, *operations[augment](), ToTensor()], "row": [IntDecoder(), ToTensor()]},
        custom_fields={"image": RGBImageField} if mode == "jpeg" else {},
    )


def serve(loader, images, save=None):
    """One epoch of `images` images: an epoch of FFCV is its `indices`, so they are repeated until there are enough.

    Passes over few files would count the start of an epoch, when FFCV allocates all buffers, too often.
    """
    loader.traversal_order.indices = np.resize(np.arange(loader.reader.num_samples, dtype="uint64"), images)
    loader.first_traversal_order = loader.next_traversal_order()  # len(loader) is read from it
    handed, kept = 0, []
    for batch, rows in loader:
        handed += len(rows)
        if save:
            kept.append((batch.numpy().copy(), rows.numpy()[:, 0].copy()))  # FFCV will write into this memory again
    if save:
        pixels, rows = (np.concatenate(parts) for parts in zip(*kept))  # noqa: B905 - FFCV's Python may be 3.8
        np.savez(save, images=pixels, rows=rows)
    return handed


def _end(failed):
    sys.excepthook(failed.exc_type, failed.exc_value, failed.exc_traceback)
    os._exit(1)


def main():
    requests, answers = sys.stdin, os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what FFCV prints is no answer
    threading.excepthook = _end  # FFCV would wait for ever for the batches of a thread that failed

    def answer(**values):
        print(json.dumps(values), file=answers, flush=True)

    wanted = json.loads(requests.readline())
    write(wanted["files"], wanted["beton"], wanted["mode"], wanted["size"], wanted["threads"])
    loader = open_loader(wanted["beton"], wanted["mode"], wanted["batch"], wanted["threads"], wanted["augment"])
    stored = int(loader.reader.alloc_table["size"].sum())
    answer(stored_bytes=stored)
    for line in requests:
        answer(images=serve(loader, **json.loads(line)))


if __name__ == "__main__" and "--check" not in sys.argv:
    main()
