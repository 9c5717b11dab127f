"""MosaicML Streaming: our JPEGs, byte for byte, in its MDS shards, through its dataset and its DataLoader."""

from operator import itemgetter

from streaming import MDSWriter, StreamingDataLoader, StreamingDataset

from benchmarks.peers.images import Collate, worker_options
from benchmarks.peers.served import Baseline
from benchmarks.peers.work import SEED, Work, file_bytes, read
from cxrdali.data.augment import AugmentOptions

IMAGE = "image"


def baseline(work: Work, workers: int) -> Baseline:
    folder = work.folder / f"streaming-{work.size}-{workers}"
    with MDSWriter(out=str(folder), columns={IMAGE: "bytes"}) as writer:
        for path in work.files:
            writer.write({IMAGE: read(path)})

    def open_pass(images: int, augment: AugmentOptions):
        dataset = StreamingDataset(
            local=str(folder), shuffle=True, shuffle_seed=SEED, batch_size=work.batch, epoch_size=images
        )
        collate = Collate(work.size, augment, itemgetter(IMAGE))
        loader = StreamingDataLoader(
            dataset, batch_size=work.batch, collate_fn=collate, **worker_options(workers, work.pin)
        )
        return lambda: loader

    return Baseline(open_pass, work.step, file_bytes(work.files))
