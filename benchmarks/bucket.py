"""How fast do the shards of a dataset in a bucket come, and how soon is the first batch there?

    python -m benchmarks.bucket [--save]

The bucket is moto's server on this machine, in a process of its own, behind a link that adds --latency to every answer:
what a client can do is measured, not what a provider sells. Held fixed: raw renditions in shards of about 16 MB, an
empty cache before every run, all CPU seconds those of the measuring process.

    copies, N at a time   the mirror's own copies: pieces of 16 MiB, each shard compared with its sha256 on the way
    s3fs, get             the library's own copying of the same files, which compares nothing
    first batch, ORDER    seconds from making a loader until its first batch, and until the epoch's last, with a link
                          of --rate; the training that would fill the time between is left out. local: from a folder
"""

import argparse
import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from benchmarks import results
from benchmarks.effects.drawn import studies_for
from benchmarks.results import Spread
from cxrdali.data.augment import AugmentOptions
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.order import ORDERS
from shards.dataset.cache import Cache
from shards.dataset.packed import PackedDataset
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.packing.rendition import Size
from shards.releases.open import open_release
from shards.storage.remote import place
from shards.synthetic.plan import SyntheticOptions
from shards.synthetic.release import write_release
from tests.s3 import Link, environment_of, forget_connections

BUCKET = "s3://benchmark/pack"
GET = "s3fs, get"


def serve(connection: Connection, latency: float, rate: float) -> None:
    """The server and two ways to it, until the other end of `connection` is closed: (plain, as slow as `rate`)."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every answer
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    links = [Link(*server.get_host_and_port(), latency=latency, rate=each) for each in (None, rate)]
    connection.send([link.port for link in links])
    try:
        connection.recv()
    except EOFError:
        server.stop()


def through(port: int):
    """s3fs's file system by this way; what is opened from now on goes it, too."""
    import s3fs

    os.environ |= environment_of("127.0.0.1", port)
    forget_connections()
    return s3fs.S3FileSystem()


# ---------------------------------------------------------------- copying


def copy_shards(folder: Path, size: int, copies: int) -> int:
    """All shards of the bucket's dataset, so many at a time; their bytes."""
    dataset = PackedDataset.open(place(BUCKET), Cache(folder))
    stored = dataset.stored(size)
    with ThreadPoolExecutor(copies) as pool:
        for file in pool.map(stored.open, stored.paths):
            file.close()
    return sum(entry["bytes"] for entry in stored.described.values())


def get_shards(folder: Path, size: int, port: int) -> int:
    through(port).get(f"{BUCKET}/{size}/*.tar", f"{folder}/")
    return sum(path.stat().st_size for path in folder.iterdir())


def measure_copies(folder: Path, port: int, options: argparse.Namespace) -> list[dict]:
    through(port)
    runs: dict[str, Callable[[], int]] = {
        f"copies, {copies} at a time": lambda copies=copies: copy_shards(folder, options.size, copies)
        for copies in options.copies
    }
    runs[GET] = lambda: get_shards(folder, options.size, port)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for round_ in range(options.rounds + 1):
        for name, run in runs.items():
            cpu, since = time.process_time(), time.perf_counter()
            taken = run()
            seconds, cpu = time.perf_counter() - since, time.process_time() - cpu
            shutil.rmtree(folder)
            if round_:  # the first one is thrown away
                found[name].append((taken / seconds / 1e6, cpu / taken * 1e9))
    rows = []
    for name, each in found.items():
        rates, cpu = zip(*each, strict=True)
        spread = Spread.of(rates)
        rows.append(
            {
                "contender": name, "megabytes_per_second": asdict(spread), "cpu_seconds_per_gb": float(np.median(cpu)),
                "runs": [round(rate, 1) for rate in rates], "latency_ms": options.latency,
            }
        )  # fmt: skip
        print(
            f"  {name:28} {spread.median:7,.0f} MB/s   {spread.low:,.0f} to {spread.high:,.0f}   "
            f"{rows[-1]['cpu_seconds_per_gb']:.2f} CPU s a GB", flush=True,
        )  # fmt: skip
    return rows


# ---------------------------------------------------------------- the first epoch


def first_epoch(data: Path, folder: Path, order: str, options: argparse.Namespace) -> tuple[float, float, float]:
    """Seconds until the first batch and until the last, and those that batches waited for the bucket."""
    dataset = PackedDataset.open(data, Cache(folder))
    stored = LoaderOptions(options.size, options.batch, order=order)
    since = time.perf_counter()
    loader = Loader(
        dataset, np.flatnonzero(dataset.packed), stored, shuffle=True, drop_last=True, augment=AugmentOptions()
    )
    seconds = [time.perf_counter() - since for _ in loader]  # of each batch
    return seconds[0], seconds[-1], dataset.mirror.waited if dataset.mirror else 0.0


def measure_epochs(packed: Path, folder: Path, port: int, options: argparse.Namespace) -> list[dict]:
    through(port)
    folder.mkdir()
    first_epoch(packed, folder, "global", options)  # DALI is imported
    rows = []
    arms = [(f"first batch, {order}", place(BUCKET), order) for order in ORDERS]
    for name, data, order in [*arms, ("first batch, global, local", packed, "global")]:
        runs = []
        for _ in range(options.rounds):
            folder.mkdir(exist_ok=True)
            runs.append(first_epoch(data, folder, order, options))
            shutil.rmtree(folder)
        first, last, waited = (asdict(Spread.of(values)) for values in zip(*runs, strict=True))
        rows.append(
            {
                "contender": name, "first_seconds": first, "epoch_seconds": last, "waited_seconds": waited,
                "latency_ms": options.latency, "link_megabytes_per_second": options.rate,
            }
        )  # fmt: skip
        print(
            f"  {name:28} {first['median']:7.2f} s, the epoch {last['median']:.2f} s, of which "
            f"{waited['median']:.2f} s waiting for the bucket", flush=True,
        )  # fmt: skip
    return rows


# ---------------------------------------------------------------- command


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bucket", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each contender [%(default)s]")
    parser.add_argument("--copies", default="1,2,4,8,16", help="shards at a time [%(default)s]")
    parser.add_argument("--size", type=int, default=384, help="side of the raw renditions, pixels [%(default)s]")
    parser.add_argument("--batch", type=int, default=128, help="images [%(default)s]")
    parser.add_argument("--images", type=int, default=2560, help="in the dataset, about [%(default)s]")
    parser.add_argument("--shard-images", type=int, default=112, help="most images in a shard [%(default)s]")
    parser.add_argument("--latency", type=float, default=50.0, help="of every answer, milliseconds [%(default)s]")
    parser.add_argument("--rate", type=float, default=118.0, help="of the slow link, MB/s [%(default)s: a gigabit]")
    results.add_save_option(parser, "bucket")
    options = parser.parse_args()
    options.copies = [int(text) for text in options.copies.split(",")]
    return options


def main() -> None:
    options = arguments()
    environment = results.environment("benchmarks.bucket")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs, options.latency / 1000, options.rate * 1e6), daemon=True)
    server.start()
    theirs.close()
    try:
        plain, slow = ours.recv()
    except EOFError:
        sys.exit("the S3 server of this benchmark did not start; pip install -e '.[test,bench]'")
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as name:
        folder, packed = Path(name), Path(name) / "pack"
        drawn = SyntheticOptions(studies_for(options.images), options.size)
        cores = len(os.sched_getaffinity(0))
        write_release(folder / "release", drawn, jobs=cores)
        wanted = PackOptions((Size(options.size, raw=True),), shard_images=options.shard_images)
        pack(open_release(folder / "release"), packed, wanted, jobs=cores)
        files = through(plain)
        files.mkdir("benchmark")
        files.put(f"{packed}/", f"{BUCKET}/", recursive=True)
        described = PackedDataset.open(packed).stored(options.size).described.values()
        size = {
            "data": "synthetic",
            "shards": len(described),
            "dataset_mib": sum(entry["bytes"] for entry in described) / 2**20,
        }
        print(
            f"{environment['cpu']}, {environment['cores']} cores; {size['shards']} shards, {size['dataset_mib']:,.0f} "
            f"MiB, {options.latency:g} ms an answer; epochs through {options.rate:g} MB/s"
        )
        rows = measure_copies(folder / "cache", plain, options)
        rows += measure_epochs(packed, folder / "cache", slow, options)
    ours.close()
    server.join(20)
    if options.save:
        path = results.save([{**size, **row} for row in rows], environment, options.save, "bucket")
        print(f"{len(rows)} rows -> {path}")


if __name__ == "__main__":
    main()
