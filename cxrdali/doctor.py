"""Whether this machine can pack and train, with the way out of what is wrong.

Facts come in as arguments, so that every decision is a pure function; `checks` gathers them. Torch, DALI and the
image libraries are imported inside: a broken one is a line of the table, like anything else.
"""

import ctypes
import importlib
import math
import os
import platform
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from pathlib import Path

from cxrdali import dali
from cxrdali.machine import cpu_quota, memory_available
from shards.errors import DataError
from shards.files import only_one, write_bytes
from shards.remote import is_remote

STATES = ("ok", "note", "wrong")
PYTHONS = ((3, 11), (3, 14))  # from, below: setup.cfg's python_requires
OTHER_FILES = 128  # descriptors of a run beside its shards: 8 were seen on the CPU, the rest is room for a GPU's
CUDA_OF_WHEEL = {name: (int(name[-3:-1]), int(name[-1])) for name in dali.WHEELS}
OPENCV_WHEELS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, its state (ok, note: works but look, wrong), what was found, and the way out."""

    name: str
    state: str
    found: str
    fix: str = ""

    def __post_init__(self):
        assert self.state in STATES, self.state
        assert self.fix or self.state != "wrong", f"{self.name}: wrong without a way out"


def checks(data: Path, data_required: bool, runs: Path, copies: Path | None = None) -> Iterator[Check]:
    """Every check of this machine. data: packed dataset, whose absence is wrong only if it is required; copies: where
    one in a bucket is copied to."""
    yield python_check(sys.version_info[:2], platform.python_version())
    system = platform_check(sys.platform, platform.machine())
    yield system
    if system.state == "wrong":
        return  # what follows asks Linux
    driver = driver_version()
    wheels = installed(dali.WHEELS)
    torch, error = _import("torch")
    torch_cuda = torch.version.cuda if torch else None
    memory, limit = memory_available()
    yield packages_check(requires_of("cxrdali"), wheels)
    yield torch_check(torch and torch.__version__, torch_cuda, error, driver)
    yield dali_check(wheels, None)
    yield driver_check(driver, torch_cuda, wheels)
    yield from gpu_checks(torch, driver, wheels)
    yield cores_check(len(os.sched_getaffinity(0)), os.cpu_count(), cpu_quota())
    yield memory_check(memory, limit)
    yield simplejpeg_check()
    yield opencv_check(installed(OPENCV_WHEELS))
    yield folder_check(runs)
    yield disk_check(copies or data)
    yield from dataset_checks(data, data_required, memory, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


# ---------------------------------------------------------------- Python and packages


def python_check(found: tuple[int, int], text: str) -> Check:
    lowest, below = PYTHONS
    if lowest <= found < below:
        return Check("Python", "ok", text)
    wanted = f"{lowest[0]}.{lowest[1]} to {below[0]}.{below[1] - 1}"
    return Check("Python", "wrong", f"{text}, not {wanted}", f"make a virtual environment with Python {wanted}")


def platform_check(system: str, machine: str) -> Check:
    if (system, machine) == ("linux", "x86_64"):
        return Check("platform", "ok", "Linux x86-64")
    return Check("platform", "wrong", f"{system} {machine}", "use Linux on x86-64: DALI's wheels are built for it")


def requires_of(package: str) -> list[str]:
    """Names of the packages that an installed one needs, without extras; none if it is not installed."""
    try:
        needed = requires(package) or []
    except PackageNotFoundError:
        return []
    return [re.match(r"[\w.-]+", line)[0] for line in needed if "extra ==" not in line]


def installed(names: Iterable[str]) -> list[str]:
    """Those of the distributions that are installed, in the order given."""
    found = {(one.metadata["Name"] or "").lower().replace("_", "-") for one in distributions()}
    return [name for name in names if name.lower().replace("_", "-") in found]


def packages_check(needed: list[str], wheels: list[str]) -> Check:
    """DALI and torch have lines of their own."""
    if not needed:
        return Check("packages", "note", "cxrdali is not installed here, its requirements are unknown")
    needed = [name for name in needed if name not in (*dali.WHEELS, "torch")]
    missing = [name for name in needed if name not in installed(needed)]
    if missing:
        return Check("packages", "wrong", f"not installed: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return Check("packages", "ok", f"cxrdali {version('cxrdali')} and the {len(needed)} that it needs")


def _import(name: str):
    """(module, "") or (None, why not)."""
    try:
        return importlib.import_module(name), ""
    except (ImportError, OSError) as error:  # OSError: a shared library that it loads is missing or damaged
        return None, _line(error)


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


# ---------------------------------------------------------------- torch, DALI, driver, GPUs


def torch_check(text: str | None, cuda: str | None, error: str, driver: tuple[int, int] | None) -> Check:
    """text: torch's version, None if it cannot be imported; cuda: what it is built for, None for the CPU only."""
    if text is None:
        return Check("torch", "wrong", f"cannot be imported ({error})", "pip install --force-reinstall torch")
    if cuda is None and driver is not None:
        return Check(
            "torch",
            "wrong",
            f"{text}, built for the CPU only, beside a CUDA {_dotted(driver)} driver",
            f"install torch for CUDA {driver[0]}: https://pytorch.org/get-started/locally",
        )
    return Check("torch", "ok", f"{text}, built for {f'CUDA {cuda}' if cuda else 'the CPU only'}")


def dali_check(wheels: list[str], device_id: int | None) -> Check:
    """Decodes one JPEG with the pipeline of every run, on the CPU (None) or handing over on a GPU."""
    name = "DALI" if device_id is None else f"DALI, GPU {device_id}"
    try:
        dali.load()
    except (DataError, OSError) as error:
        found, _, fix = str(error).partition("; ")
        return Check(name, "wrong", found, fix or f"pip install --force-reinstall {dali.WHEELS[0]}")
    what = f"{wheels[0]} {version(wheels[0])}" if wheels else "of an unknown wheel"
    fix = f"pip install --force-reinstall {wheels[0] if wheels else dali.WHEELS[0]}"
    if device_id is not None:
        fix += "; until it does, train with --device cpu"
    try:
        fault = decode_one(device_id)
    except (ImportError, OSError, RuntimeError) as error:
        fault = _line(error)
    if fault:
        return Check(name, "wrong", f"{what} does not decode a JPEG ({fault})", fix)
    return Check(name, "ok", f"{what}, decodes")


def decode_one(device_id: int | None, side: int = 64) -> str:
    """What is wrong with a gradient that DALI decoded from a JPEG made here; "" if nothing is."""
    import numpy as np
    import simplejpeg

    from cxrdali.pipeline import PipelineSpec, build

    image = np.add.outer(np.arange(side), 2 * np.arange(side)).astype(np.uint8)[:, :, None]
    stored = np.frombuffer(simplejpeg.encode_jpeg(np.ascontiguousarray(image), 95, "GRAY"), np.uint8)
    pipeline = build(PipelineSpec(side, False, side, 1, 1, device_id, "cpu", False, 1), lambda: ([stored],))
    (output,) = pipeline.run()
    found = np.asarray((output if device_id is None else output.as_cpu()).as_tensor())
    if found.shape != (1, *image.shape):
        return f"its shape is {found.shape}, not {(1, *image.shape)}"
    worst = int(np.abs(found[0].astype(int) - image).max())
    return f"it is {worst} of 255 off" if worst > 8 else ""


def driver_version(library: str = "libcuda.so.1") -> tuple[int, int] | None:
    """The newest CUDA that the driver runs, for example (12, 4); None without a driver."""
    try:
        number = ctypes.c_int(0)
        if ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(number)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return number.value // 1000, number.value % 1000 // 10


def driver_check(driver: tuple[int, int] | None, torch_cuda: str | None, wheels: list[str]) -> Check:
    """Whether the driver runs what torch and DALI are built for. Within a major version, any driver does."""
    if driver is None:
        return Check("CUDA driver", "note", "none (libcuda.so.1 cannot be loaded); needed for GPUs only")
    built = [("torch", tuple(map(int, torch_cuda.split(".")[:2])))] if torch_cuda else []
    built += [(name, CUDA_OF_WHEEL[name]) for name in wheels]
    found = f"for CUDA {_dotted(driver)}"
    too_new = [name for name, cuda in built if cuda[0] > driver[0]]
    if not too_new:
        return Check("CUDA driver", "ok", found)
    needs = ", ".join(f"{name} is built for {_dotted(cuda)}" for name, cuda in built if name in too_new)
    fixes = []
    if driver[0] < min(CUDA_OF_WHEEL.values())[0]:
        fixes = ["install a newer NVIDIA driver: DALI needs CUDA 12"]
    else:
        if "torch" in too_new:
            fixes.append(f"install torch for CUDA {driver[0]} (https://pytorch.org/get-started/locally)")
        if dali.WHEELS[0] in too_new:
            other = "" if dali.WHEELS[1] in wheels else f" && pip install {dali.WHEELS[1]}"
            fixes.append(f"pip uninstall {dali.WHEELS[0]}{other}")
        fixes[-1] += "; or install a newer NVIDIA driver"
    return Check("CUDA driver", "wrong", f"{found}, but {needs}", "; ".join(fixes))


def gpu_checks(torch, driver: tuple[int, int] | None, wheels: list[str]) -> Iterator[Check]:
    if torch is None or not torch.cuda.is_available():
        yield no_gpu_check(driver, torch is not None, os.environ.get("CUDA_VISIBLE_DEVICES"))
        return
    for index in range(torch.cuda.device_count()):
        yield gpu_check(torch, index)
    yield dali_check(wheels, 0)


def no_gpu_check(driver: tuple[int, int] | None, torch_is_there: bool, visible: str | None) -> Check:
    slowly = "trains on the CPU, slowly"
    if not torch_is_there:
        return Check("GPU", "note", "not looked for: torch cannot be imported")
    if driver is None:
        return Check("GPU", "note", f"none; {slowly}", "in a container, start it with --gpus all")
    if visible is not None:
        return Check(
            "GPU", "note", f"none: CUDA_VISIBLE_DEVICES is {visible!r}; {slowly}", "unset CUDA_VISIBLE_DEVICES"
        )
    found = f"torch sees none, though there is a driver; {slowly}"
    return Check("GPU", "note", found, "nvidia-smi must list it, and the driver be new enough")


def gpu_check(torch, index: int) -> Check:
    """Memory, bf16, and one product: a GPU that torch has no code for is seen and then fails."""
    name = f"GPU {index}"
    try:
        with torch.cuda.device(index):
            what = torch.cuda.get_device_name(index)
            torch.ones(8, 8, device="cuda").mm(torch.ones(8, 8, device="cuda")).sum().item()
            free, total = torch.cuda.mem_get_info(index)
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    except RuntimeError as error:
        return Check(
            name,
            "wrong",
            f"seen, but cannot be used ({_line(error)})",
            f"see in nvidia-smi who holds it; torch here runs on {', '.join(torch.cuda.get_arch_list())} only",
        )
    return Check(
        name,
        "ok",
        f"{what}, {_size(free)} of {_size(total)} free, {'bf16' if bf16 else 'no bf16: fp16 with scaling is used'}",
    )


# ---------------------------------------------------------------- cores and memory


def cores_check(usable: int, total: int | None, quota: float | None) -> Check:
    found = f"{usable} of {total} usable"
    if quota is None or math.ceil(quota) >= usable:
        return Check("cores", "ok", found)
    jobs = math.ceil(quota)
    return Check(
        "cores",
        "note",
        f"{found}, but a cgroup quota allows {quota:g}",
        f"--jobs {jobs} for shard and verify, --threads {jobs + 1} for train",
    )


def memory_check(available: int, limit: int | None) -> Check:
    within = f" (cgroup limit {_size(limit)})" if limit is not None else ""
    return Check("memory", "ok", f"{_size(available)} available{within}")


# ---------------------------------------------------------------- image libraries


def simplejpeg_check() -> Check:
    """A damaged JPEG must raise, or packing and training would take its gray rest for a radiograph."""
    fix = "pip install --force-reinstall simplejpeg"
    module, error = _import("simplejpeg")
    if module is None:
        return Check("simplejpeg", "wrong", f"cannot be imported ({error})", fix)
    import numpy as np

    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 1), dtype=np.uint8)
    whole = module.encode_jpeg(noise, 95, "GRAY")
    text = version("simplejpeg")
    try:
        module.decode_jpeg(whole, "GRAY", strict=True)
    except ValueError as error:
        return Check("simplejpeg", "wrong", f"{text} refuses a whole JPEG ({_line(error)})", fix)
    try:
        module.decode_jpeg(whole[: len(whole) // 2], "GRAY", strict=True)
    except ValueError:
        return Check("simplejpeg", "ok", f"{text}, refuses a truncated JPEG")
    return Check("simplejpeg", "wrong", f"{text} decodes a truncated JPEG without an error", fix)


def opencv_check(wheels: list[str]) -> Check:
    if len(wheels) > 1:
        return Check(
            "OpenCV",
            "wrong",
            f"{' and '.join(wheels)} are installed and overwrite each other",
            f"pip uninstall -y {' '.join(wheels)} && pip install opencv-python-headless",
        )
    fix = "pip install --force-reinstall opencv-python-headless"
    module, error = _import("cv2")
    if module is None:
        return Check("OpenCV", "wrong", f"cannot be imported ({error})", fix)
    import numpy as np

    image = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    done, data = module.imencode(".png", image)
    back = module.imdecode(data, module.IMREAD_UNCHANGED) if done else None
    if back is None or back.dtype != image.dtype or not np.array_equal(back, image):
        return Check("OpenCV", "wrong", f"{module.__version__} changes the pixels of a 16-bit PNG", fix)
    return Check("OpenCV", "ok", f"{module.__version__}, keeps 16-bit PNG")


# ---------------------------------------------------------------- folders and the packed dataset


def _existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(one for one in (path, *path.parents) if os.path.lexists(one))


def folder_check(runs: Path) -> Check:
    """Publishes and locks a file where runs go, as every run does, and removes it."""
    place, name = _existing(runs), "run folders"
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".cxrdali-doctor-") as scratch:
            write_bytes(Path(scratch) / "file", b"x")
            with only_one(Path(scratch) / "lock", "looking"):
                pass
    except OSError as error:
        return Check(
            name,
            "wrong",
            f"{place}: cannot be written to ({error.strerror or error})",
            "work in another folder, or give `cxrdali train --out`",
        )
    return Check(name, "ok", f"{place}: can be written to, {_size(shutil.disk_usage(place).free)} free")


def disk_check(data: Path) -> Check:
    place = _existing(data)
    usage = shutil.disk_usage(place)
    return Check("disk of the data", "ok", f"{place}: {_size(usage.free)} of {_size(usage.total)} free")


def dataset_checks(root: Path, required: bool, memory: int, files: int) -> Iterator[Check]:
    """memory: bytes that the page cache may take; files: the limit of open files."""
    try:
        from shards.cache import Cache
        from shards.packed import PackedDataset

        with tempfile.TemporaryDirectory(prefix="cxrdali-doctor-") as scratch:  # of one in a bucket, nothing is kept
            dataset = PackedDataset.open(root, Cache(Path(scratch)))
            sizes = {pixels: dataset.info["sizes"][str(pixels)]["shards"] for pixels in dataset.sizes}
        labels = dataset.label_names
    except (DataError, OSError, ImportError) as error:
        unreadable = isinstance(error, OSError) and error.strerror
        found, _, fix = (f"{root}: {error.strerror}" if unreadable else str(error)).partition("; ")
        absent = not required and not is_remote(root) and not os.path.lexists(root)
        yield files_check(files, 0)
        yield Check("packed dataset", "note" if absent else "wrong", found, fix or "give another --data")
        return
    yield files_check(files, max(map(len, sizes.values()), default=0))
    count = dataset.info["counts"]["packed"]
    if labels:
        yield Check("packed dataset", "ok", f"{root}: {count:,} images, labels {', '.join(labels)}")
    else:
        yield Check(
            "packed dataset", "note", f"{root}: {count:,} images, no labels", "pack with --labels DIR to train on it"
        )
    for pixels, shards in sizes.items():
        yield size_check(pixels, sum(shard["bytes"] for shard in shards), memory)


def size_check(pixels: int, stored: int, memory: int) -> Check:
    """Whether the page cache can hold a stored size: then only the first epoch waits for the disk."""
    if stored <= memory:
        return Check(f"{pixels} px", "ok", f"{_size(stored)}, fits in memory")
    return Check(f"{pixels} px", "note", f"{_size(stored)}, larger than memory", "`--order windowed` on slow disks")


def files_check(limit: int, shards: int) -> Check:
    """A run opens every shard of its size twice: once to train, once to validate."""
    need = 2 * shards + OTHER_FILES
    if limit == resource.RLIM_INFINITY:
        return Check("open files", "ok", "no limit")
    if limit >= need:
        return Check("open files", "ok", f"{limit:,} allowed")
    return Check(
        "open files", "wrong", f"{limit:,} allowed, {shards:,} shards need about {need:,}", f"ulimit -n {need}"
    )


def _dotted(numbers: tuple[int, int]) -> str:
    return ".".join(map(str, numbers))


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
