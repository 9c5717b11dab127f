"""The baselines of `benchmarks.peers`, in the order of the runs, and what is to be reached."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import joblib

from benchmarks.results import Target

JPEG, RAW, DECODE, CACHE, READ = "JPEG", "raw", "decode only", "cached batches", "read only"
DALI, READER, WEBDATASET, LEAN = "DALI's decoder alone", "DALI's reader", "WebDataset", "best-effort DataLoader"
TORCHVISION, LITDATA, STREAMING, SPDL = "torchvision", "litData", "Streaming", "SPDL"
FFCV_JPEG, FFCV_RAW = "FFCV JPEG", "FFCV raw"
FFCV_JPEG_OURS, FFCV_RAW_OURS = "FFCV with our flips, JPEG", "FFCV with our flips, raw"
FFCV_GRAY_OURS = "FFCV with our flips, gray arrays"
PAPER_RESIZED, PAPER_NATIVE = "stage-training paper, resized files", "stage-training paper, native files"
THREE_CHANNELS = "its batches have three channels, [B, S, S, 3], in memory that it writes into again"
BORROWED = "its batches are memory that it writes into again"


@dataclass(frozen=True)
class How:
    """make: what makes it, as `served.make` has it. variants: settings by name, of which the fastest counts; each is
    arguments of `make`. needs: an environment of `install`. levels: by how many gray levels a pixel may differ from
    libjpeg-turbo's; None where the work is another one by design. raw: compared with raw renditions. still: it augments
    nothing. note: what its batches are, where they are not ours."""

    make: str
    variants: Mapping[str, tuple] = field(default_factory=lambda: {"": ()})
    needs: str | None = None
    levels: int | None = 1
    raw: bool = False
    still: bool = False
    note: str | None = None


def baselines(device: str) -> dict[str, How]:
    """By name, without the variant's."""
    some, more = joblib.cpu_count(), 2 * joblib.cpu_count()
    workers, threads = ({f"{count} {kind}": (count,) for count in (some, more)} for kind in ("workers", "threads"))
    one_a_core = {f"{some} threads": (some,)}  # more threads than cores slowed these decoders in a trial
    modes = ("mixed", "hybrid") if device.startswith("cuda") else ()
    return {
        READ: How("ours.read_only", levels=None),
        CACHE: How("ours.cached_batches"),
        DECODE: How("ours.loader", {"": (False, None, True)}, still=True),
        DALI: How("ours.decoded_by_dali", still=True),
        JPEG: How("ours.loader", {"": (False,)}),
        **{f"{JPEG}, {mode}": How("ours.loader", {"": (False, mode)}, levels=4) for mode in modes},
        RAW: How("ours.loader", {"": (True,)}, raw=True, levels=0),
        READER: How("dali.baseline", threads),
        LEAN: How("dataloader.baseline", workers),
        TORCHVISION: How("torchvision.baseline", {**_named(workers, False), **_named(one_a_core, True)}),
        WEBDATASET: How("webdataset.baseline", workers),
        LITDATA: How("litdata.baseline", workers, "litdata"),
        STREAMING: How("streaming.baseline", workers, "streaming"),
        SPDL: How(
            "spdl.baseline", {**_named(threads, False, "simplejpeg"), **_named(one_a_core, True, "its decoder")}, "spdl"
        ),
        FFCV_JPEG: _ffcv("jpeg", "shipped", THREE_CHANNELS),
        FFCV_JPEG_OURS: _ffcv("jpeg", "in place", THREE_CHANNELS),
        FFCV_RAW: _ffcv("raw", "shipped", THREE_CHANNELS),
        FFCV_RAW_OURS: _ffcv("raw", "in place", THREE_CHANNELS),
        FFCV_GRAY_OURS: _ffcv("gray", "in place", BORROWED),
        PAPER_RESIZED: How("paper.baseline", {f"{some} workers": (some, False)}, levels=None),
        PAPER_NATIVE: How("paper.baseline", {f"{some} workers": (some, True)}, levels=None),
    }


def _named(counts: Mapping[str, tuple], more: object, word: str = "") -> dict[str, tuple]:
    return {f"{word}, {name}".removeprefix(", "): (*given, more) for name, given in counts.items()}


def _ffcv(mode: str, flips: str, note: str) -> How:
    # FFCV decodes with the fast transform: up to 15 levels from the accurate one, 0.8 on average
    return How("ffcv.baseline", {"": (mode, flips)}, "ffcv", levels=20 if mode == "jpeg" else 0, note=note)


# What is to be reached on 2 cores, by size in pixels; elsewhere the ratio is printed alone.
BOUNDS: dict[str, dict[str, dict[int, float]]] = {
    JPEG: {
        DECODE: {224: 0.8, 512: 0.8},
        DALI: {224: 1.1, 512: 1.1},
        LEAN: {224: 1.2, 512: 1.1},
        **{name: {224: 1, 512: 1} for name in (READER, TORCHVISION, WEBDATASET, LITDATA, STREAMING, SPDL)},
        FFCV_JPEG: {224: 2.8, 512: 2.8},
        FFCV_JPEG_OURS: {224: 1, 512: 1},
        PAPER_NATIVE: {224: 100},
        PAPER_RESIZED: {},
    },
    RAW: {
        CACHE: {224: 0.9, 512: 0.9},
        LEAN: {224: 5, 512: 5},
        FFCV_RAW: {224: 8, 512: 8},
        FFCV_RAW_OURS: {224: 1, 512: 1},
        FFCV_GRAY_OURS: {224: 1, 512: 1},
        PAPER_NATIVE: {224: 100, 512: 100},
    },
}


def targets(size: int, measured: Iterable[str]) -> list[Target]:
    """measured: the baselines' names with their variants'."""
    measured = list(measured)
    return [
        Target(ours, tuple(each for each in measured if is_of(each, theirs)) or (theirs,), bounds.get(size))
        for ours, pairs in BOUNDS.items()
        for theirs, bounds in pairs.items()
    ]


def is_of(measured: str, name: str) -> bool:
    """Whether a row's name is that of a baseline, with or without a variant."""
    return measured == name or measured.startswith(f"{name}, ")
