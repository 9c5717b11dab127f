"""Loading onto a GPU: pixels, how long a batch lives, what feeding costs, and how many images/s cores supply."""

import time
from collections import Counter
from itertools import product
from pathlib import Path
from unittest.mock import patch

import psutil
import torch

from benchmarks.gpu.facts import say, told
from benchmarks.gpu.work import DEVICE, MODES, STAGES, STEPS, Work, kept_of, options
from benchmarks.training.fed import batches_of, synchronize, trained

COPIED: Counter[str] = Counter()  # whether the loader's batches did come by `copied`
WAYS = (*((mode, mode, False) for mode in MODES), ("raw", "auto", True))  # a name, the decode mode, stored raw?


def data(work: Work) -> None:
    """Can data be made? All other sections need it."""
    say("data", True, images=work.make())


def pixels(work: Work) -> None:
    """Does every decode mode give the CPU loader's pixels, which tests hold to a NumPy reference?"""
    for (name, decode, raw), size, augment in product(WAYS, (224, 200, 64), (True, False)):
        label = f"pixels: {name}, {size} px, {'augmented' if augment else 'as they are'}"
        with told(label):
            theirs = work.loader(options(size, 24, device="cpu", threads=1), raw, augment)
            worst, differing, same = 0, 0, True
            for found, wanted in zip(work.loader(options(size, 24, decode), raw, augment), theirs, strict=True):
                off = (found.images.cpu().int() - wanted.images.int()).abs()
                worst, differing = max(worst, int(off.max())), differing + int((off > 0).sum())
                same &= torch.equal(found.rows, wanted.rows) and found.images.is_contiguous()
            # nvJPEG's inverse DCT and a GPU's resize may round otherwise
            exact = decode != "mixed" and size in theirs.dataset.sizes
            say(label, same and worst <= (0 if exact else 3), rows=same, worst=worst, differing=differing)


def lifetime(work: Work) -> None:
    """Does a batch that is dropped at once keep its pixels until the kernels that read it are done?"""
    busy = torch.randn(4096, 4096, device=DEVICE, dtype=torch.bfloat16)
    weights = torch.arange(1.0, 224 * 224 + 1, dtype=torch.float64, device=DEVICE).view(1, 1, 224, 224)
    for (name, decode, raw), stream in product(WAYS, (torch.cuda.default_stream(), torch.cuda.Stream())):
        label = f"a dropped batch keeps its pixels: {name}, {'another' if stream.cuda_stream else 'the default'} stream"
        with told(label):
            given = options(224, 48, decode)
            wanted = [sums_of(each.images, weights).cpu() for each in work.loader(given, raw)]  # each waited for
            torch.cuda.synchronize()
            with torch.cuda.stream(stream):
                source, found, ahead = work.loader(given, raw), [], 0
                for _ in range(3):
                    source.set_epoch(0)
                    for images, _ in source:
                        for _ in range(30):  # 6 ms of work of an H100 in front of the read, 60 of an RTX 3090
                            busy @ busy
                        found.append(sums_of(images, weights))
                        del images
                        ahead += not stream.query()
            torch.cuda.synchronize()
            off = torch.cat(found).cpu() != torch.cat(wanted * 3)
            say(label, bool(ahead and not off.any()), images_off=int(off.sum()), of=len(off), dropped_before_read=ahead)


def sums_of(images: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """A number per image that any changed pixel changes: whole, so exact in float64."""
    return (images.double() * weights).sum((1, 2, 3))


def feeding(work: Work) -> None:
    """What does a batch cost the training thread, by DLPack and by a copy; which threads spin; is the GPU idle?"""
    stage = STAGES[0]
    step, given = work.step(stage), options(stage.size, stage.batch)
    # what needs no DLPack first: a thread that it starts goes on for ever. (Raw images do not come from DALI.)
    ways = [("cached", kept_of(batches_of(work.dataset(True), given)), copied)]
    for take, (name, decode, raw) in product((copied, torch.from_dlpack), WAYS):
        if take is copied or not raw:
            batches = batches_of(work.dataset(raw), options(stage.size, stage.batch, decode))
            ways.append((f"{name}, {'pinned' if raw else 'a copy' if take is copied else 'DLPack'}", batches, take))
    for way, batches, take in ways:
        label = f"milliseconds of the training thread for a batch: {way}"
        with told(label), patch.object(torch, "from_dlpack", take):
            before, started = Counter(thread_seconds()), time.perf_counter()
            found = trained(step, batches, STEPS, DEVICE)
            wall, spent = time.perf_counter() - started, Counter(thread_seconds())
            spent.subtract(before)
            busiest = {name: round(seconds / wall, 2) for name, seconds in spent.most_common(6)}
            about = {"rate": found.rate, "idle": found.waited_share, "copies": COPIED.total()}
            say(label, value=found.asking, **about, busiest=busiest)
            COPIED.clear()


def copied(tensor) -> torch.Tensor:
    """In place of torch.from_dlpack: a copy into torch's own memory, as DALI's plugin makes it."""
    from nvidia.dali.plugin.pytorch.torch_utils import feed_ndarray

    COPIED["batches"] += 1
    images = torch.empty(tensor.shape(), dtype=torch.uint8, device=DEVICE)
    return feed_ndarray(tensor, images, cuda_stream=torch.cuda.current_stream())


def thread_seconds() -> dict[str, float]:
    """CPU seconds of this process's threads, by number and name."""
    threads = {Path(f"/proc/self/task/{each.id}/comm"): each for each in psutil.Process().threads()}
    return {
        f"{each.id} {path.read_text().strip()}": each.user_time + each.system_time
        for path, each in threads.items() if path.exists()
    }  # fmt: skip


def supply(work: Work) -> None:
    """How many images/s of 224 px do 1, 2, 4, 8 and 16 cores supply to one who only takes them?"""
    process, rates = psutil.Process(), {}
    cores = process.cpu_affinity()
    for (name, decode, raw), count in product(WAYS, (1, 2, 4, 8, 16)):
        if count <= len(cores):
            with told(f"supply: {name}, {count} cores"):
                process.cpu_affinity(cores[:count])
                batches = batches_of(work.dataset(raw), options(224, 256, decode, threads=2 * count))
                rates[name, count] = supplied(batches)
                say(f"supply: {name}, {count} cores", value=rates[name, count])
    process.cpu_affinity(cores)
    if rates.get(("cpu", 16)) and rates.get(("cpu", 1)):
        say("supply, share of linear: 16 cores", value=rates["cpu", 16] / rates["cpu", 1] / 16, at_least=0.8)


def supplied(batches, seconds: float = 1.2) -> float:
    """Images/s that arrive on the device."""
    for _ in range(6):
        next(batches)
    synchronize(DEVICE)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        count += len(next(batches).rows)
    synchronize(DEVICE)
    return count / (time.perf_counter() - started)
