"""What `benchmarks.scale` measures, each part in a process of its own: a catalog made, an epoch begun.

A part prints one JSON line: {"steps": {name: seconds}, "found": {name: number}, "peak_mib"}.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pandas as pd

from benchmarks.memory import proc_number, sampled
from cxrdali.data.augment import AugmentOptions
from cxrdali.data.options import FoldOptions
from cxrdali.data.order import ORDERS
from cxrdali.data.sampler import SAMPLERS
from cxrdali.data.splits import train_and_validation
from cxrdali.data.targets import check_labelled, counts, targets
from shards.dataset.packed import PackedDataset
from shards.packing.job import PackJob
from shards.packing.options import PackOptions
from shards.packing.plan import plan
from shards.packing.publish import publish, with_arrays
from shards.releases.release import LabelTable, Release
from shards.renditions.options import Size

SIZES = (Size(224, raw=True), Size(320), Size(384), Size(512))
JPEG_BYTES = {320: 22_000, 384: 30_000, 512: 49_000}  # of a chest X-ray at quality 95, about
SIDE, BATCH = 224, 256  # raw pixels of zeros are images; a JPEG of zeros is none
IMAGES_PER_STUDY, STUDIES_PER_SUBJECT = 1.66, 3.5  # MIMIC-CXR-JPG's: 377,110 images, 227,835 studies, 65,379 subjects
BLOCK = 512  # of a tar file
SPLITS, SPLIT_SHARE = ("train", "dev", "test"), (0.7, 0.1, 0.2)  # of the subjects, as in CXR-LT
POSITIVE = (0.3, 0.03, 0.003)  # share of the images that have a finding, in turn
SEED = 0


class Steps:
    """Seconds by step, in the order in which they ran."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


def _image_ids(count: int, generator: np.random.Generator) -> np.ndarray:
    """Random, as MIMIC-CXR-JPG's are: five groups of eight hexadecimal digits, which do not compress to nothing."""
    digits = np.frombuffer(generator.bytes(20 * count).hex().encode(), dtype=np.uint8).reshape(count, 5, 8)
    letters = np.full((count, 44), ord("-"), dtype=np.uint8)
    for group in range(5):
        letters[:, 9 * group : 9 * group + 8] = digits[:, group]
    return letters.view("S44")[:, 0].astype(str)


def made_release(rows: int, findings: int) -> Release:
    """Tables of about this many images: ids as long as MIMIC-CXR-JPG's, and labels for all of them."""
    generator = np.random.default_rng(SEED)
    images = generator.geometric(1 / IMAGES_PER_STUDY, size=rows)
    images = images[: int(np.searchsorted(np.cumsum(images), rows)) + 1]
    study = np.repeat(np.arange(len(images)), images)
    studies = generator.geometric(1 / STUDIES_PER_SUBJECT, size=len(images))
    subject = np.repeat(np.arange(len(images)), studies)[: len(images)][study]
    table = pd.DataFrame(
        {
            "image_id": pd.Series(_image_ids(len(study), generator), dtype="str"),
            "study_id": pd.Series(50_000_000 + study).astype("str"),
            "subject_id": pd.Series(10_000_000 + subject).astype("str"),
            "view": pd.Series(np.where(study % 3, "frontal", "lateral"), dtype="str"),
            "view_position": pd.Series(np.where(study % 3, "AP", "LL"), dtype="str"),
        }
    )
    folder = "files/p" + table["subject_id"].str[:2] + "/p" + table["subject_id"] + "/s" + table["study_id"]
    table["path"] = folder + "/" + table["image_id"] + ".jpg"
    split = pd.Series(generator.choice(SPLITS, size=len(images), p=SPLIT_SHARE)[subject], dtype="str")
    labelled = {
        f"finding {place}": pd.array((generator.random(len(study)) < share).astype(np.int8), dtype="Int8")
        for place, share in enumerate(np.resize(POSITIVE, findings).tolist())
    }
    labels = pd.DataFrame({"split": split, **labelled}).set_index(pd.Index(table["image_id"]))
    return Release("made", Path("/"), table, (LabelTable("made", tuple(labelled), labels, ()),), ())


def make(folder: Path, rows: int, findings: int, shard_images: int, steps: Steps) -> dict:
    """A packed dataset without pictures, planned and published by packing's own functions; its shards are files of
    nothing but their length, which take no room on most file systems."""
    release = made_release(rows, findings)
    with steps.step("plan"):
        planned = plan(release.images, shard_images, SEED).rows()
    planned_mib = peak_mib()
    records = [with_arrays(_record(shard, len(each))) for shard, each in planned.groupby("shard", sort=True)]
    folder.mkdir(parents=True)
    with steps.step("publish"):
        options = PackOptions(sizes=SIZES)
        identity = {"inputs": {}, "options": options.as_json(), "encoders": {}}
        publish(PackJob(release, folder, options), planned, records, identity)
    for record in records:
        for size in SIZES:
            path = folder / size.folder / f"{record['shard']:06d}.tar"
            path.parent.mkdir(exist_ok=True)
            with path.open("wb") as file:
                file.truncate(record["sizes"][size.folder]["bytes"])
    return {"rows": len(planned), "shards": len(records), "plan_mib": planned_mib}


def _record(shard: int, images: int) -> dict:
    sizes = {}
    for size in SIZES:
        length = size.pixels**2 + 128 if size.raw else JPEG_BYTES[size.pixels]  # 128: the header of a .npy
        step = 4 * BLOCK + -(-length // BLOCK) * BLOCK  # two headers, the image and a block of JSON
        offset = list(range(BLOCK, BLOCK + images * step, step))
        made = {"samples": images, "bytes": images * step + 2 * BLOCK, "offset": offset, "length": [length] * images}
        sizes[size.folder] = {**made, "sha256": f"{shard:064x}", "index_sha256": f"{shard:064x}"}
    known = {"height": [3056] * images, "width": [2544] * images, "converted": [""] * images}
    known["pixels"] = [f"{shard:08x}{place:08x}" for place in range(images)]
    return {"shard": shard, "sizes": sizes, "rejects": [], **known}


def begun(folder: Path, order: str, window: int, steps: Steps) -> dict:
    """An epoch's start, in a process that holds what training holds before its model.

    order: an order, or a sampler, whose samples the global order then permutes. "loader" is making it, which maps the
    shards.
    """
    import torch  # noqa: F401  (its memory is training's, too)

    from cxrdali.data.loader import Loader
    from cxrdali.data.options import LoaderOptions

    with steps.step("open and divide"):
        dataset = PackedDataset.open(folder)
        labels = dataset.labels()
        train, validation = train_and_validation(dataset, labels, FoldOptions())
        check_labelled(labels, train, "the training split")
        wanted = targets(labels)
        positives, _ = counts(wanted, train)
    sampler = None
    if order not in ORDERS:
        with steps.step("sampler"):
            sampler, order = SAMPLERS[order]().over(train, wanted, SEED, 60), "global"
    options = LoaderOptions(SIDE, BATCH, order=order, window=window)

    def training() -> Loader:
        how = {"seed": SEED, "shuffle": True, "augment": AugmentOptions(), "drop_last": True, "sampler": sampler}
        return Loader(dataset, train, options, **how)

    # What is mapped from here on are shards, whose pages are the kernel's cache and not this process's own.
    before, libraries = peak_mib(), _status("RssFile")
    with set_aside() as aside, sampled(_anonymous_mib, every=0.01) as anonymous:
        with steps.step("loader"):
            loader = training()
        found = {"first batch": _first(loader, "first epoch", aside, steps)}
        loader.load_state_dict({"epoch": 0, "position": (len(loader) - 1) * BATCH})
        for _ in loader:  # the epoch's last batch, after which the pipelines are ready for the next, as in training
            pass
        found["second batch"] = _first(loader, "second epoch", aside, steps)
        with steps.step("validation's loader"):  # which training has beside it
            beside = Loader(dataset, validation, options)
        resumed = training()
        resumed.load_state_dict({"epoch": 0, "position": len(resumed) // 2 * BATCH})
        found["resumed batch"] = _first(resumed, "resume half-way", aside, steps)
    found |= {"train": len(train), "validation": len(beside.rows), "positives": int(positives.sum())}
    found |= {
        "own_mib": max(before, max(anonymous) + libraries),
        "open_files": len(list(Path("/proc/self/fd").iterdir())),
    }
    return found | {"maps": len(Path("/proc/self/maps").read_text().splitlines())}


def recorded(folder: Path, steps: Steps) -> dict:
    """What a run writes of its data before its first step: which images, labels and pixels these are, for config.json,
    and seen.parquet."""
    from cxrdali.runs import same_data
    from cxrdali.runs.seen import Seen, Trained

    dataset = PackedDataset.open(folder)
    labels = dataset.labels()
    train, validation = train_and_validation(dataset, labels, FoldOptions())
    with sampled(_anonymous_mib, every=0.01) as anonymous:
        with steps.step("config.json"):
            settings = SimpleNamespace(data=SimpleNamespace(size=SIDE, order="global"), sizes=(SIDE,))
            same_data.described(settings, dataset, labels, train, validation)
        with steps.step("seen.parquet"):
            own = Trained.of("run", dataset, labels, FoldOptions(), train)
            Seen().after(own, dataset, train).write(folder)
    return {"own_mib": max(anonymous), "train": len(train)}


def _first(loader, name: str, aside: dict[str, float], steps: Steps) -> int:
    """Rows of a loader's first batch, from `iter` to the batch in hand; what is set aside is taken off."""
    aside.clear()
    started = time.perf_counter()
    batches = iter(loader)
    rows = next(batches).rows
    seconds = time.perf_counter() - started
    steps.seconds[name] = seconds - sum(aside.values())
    steps.seconds |= {f"{what}, {name}": each for what, each in aside.items()}
    batches.close()
    return len(rows)


@contextmanager
def set_aside() -> Iterator[dict[str, float]]:
    """Seconds of waiting for the first window of a windowed order to be read: the storage's time."""
    from cxrdali.data.readahead import ReadAhead

    aside: dict[str, float] = {}
    wait = ReadAhead.wait

    def timed(*arguments):
        started = time.perf_counter()
        wait(*arguments)
        aside["reading"] = aside.get("reading", 0) + time.perf_counter() - started

    with patch.object(ReadAhead, "wait", timed):
        yield aside


def peak_mib() -> float:
    """Of this process; getrusage's would be its parent's, if that had more."""
    return _status("VmHWM")


def _status(name: str) -> float:
    return proc_number("status", name) / 1024


def _anonymous_mib() -> float:
    """This process's memory without the pages of files."""
    return _status("RssAnon") + _status("RssShmem")


PARTS = {"make": make, "epoch": begun, "record": recorded}


def main() -> None:
    """PART FOLDER and the part's arguments as JSON."""
    part, folder, arguments = sys.argv[1:]
    steps = Steps()
    found = PARTS[part](Path(folder), steps=steps, **json.loads(arguments))
    print(json.dumps({"steps": steps.seconds, "found": found, "peak_mib": peak_mib()}))


if __name__ == "__main__":
    main()
