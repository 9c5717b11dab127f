"""litData: our JPEGs, byte for byte, in its chunks, through its dataset and its DataLoader."""

import os
import shutil

from benchmarks.peers.images import Collate, worker_options
from benchmarks.peers.served import Baseline
from benchmarks.peers.work import SEED, Work, file_bytes, read
from cxrdali.data.augment import AugmentOptions

CHUNKS = 8  # so that every worker has some

os.environ["LITDATA_DISABLE_VERSION_CHECK"] = "1"


def baseline(work: Work, workers: int) -> Baseline:
    from litdata import StreamingDataLoader, StreamingDataset

    folder = work.folder / f"litdata-{work.size}-{workers}"

    def open_pass(images: int, augment: AugmentOptions):
        _write(work, images, folder)
        dataset = StreamingDataset(str(folder), shuffle=True, seed=SEED, drop_last=True)
        collate = Collate(work.size, augment)
        options = worker_options(workers, work.pin)
        loader = StreamingDataLoader(dataset, batch_size=work.batch, collate_fn=collate, drop_last=True, **options)
        return lambda: loader

    return Baseline(open_pass, work.step, file_bytes(work.files))


def _write(work: Work, images: int, folder) -> None:
    """As many images as a run has, so that it is one epoch."""
    from litdata.streaming import Cache

    shutil.rmtree(folder, ignore_errors=True)
    cache = Cache(str(folder), chunk_size=-(-images // CHUNKS))
    for place, path in enumerate(work.order(images)):
        cache[place] = read(path)
    cache.done()
    cache.merge()
