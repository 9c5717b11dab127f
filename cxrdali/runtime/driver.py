"""Why torch sees no GPU, decided on facts. Free of torch: `cxrdali doctor` asks, too."""

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HIDDEN = ("", "-1", "NoDevFiles")  # of CUDA_VISIBLE_DEVICES, where no GPU is wanted; the last is SLURM's


@dataclass(frozen=True)
class GpuFacts:
    """Of a machine where torch sees no GPU.

    torch_cuda: what torch is built for, as "13.0"; None for the CPU alone. driver: the newest CUDA that the driver's
    library runs, as (12, 4); None if it cannot be loaded. kernel: whether the driver itself is loaded; card: whether
    there is a GPU of NVIDIA; visible: CUDA_VISIBLE_DEVICES; said: torch's own words.
    """

    torch_cuda: str | None
    driver: tuple[int, int] | None = None
    kernel: bool = False
    card: bool = False
    visible: str | None = None
    said: str = ""


def driver_version(library: str = "libcuda.so.1") -> tuple[int, int] | None:
    """The newest CUDA that the driver runs, for example (12, 4); None without a driver."""
    try:
        number = ctypes.c_int(0)
        if ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(number)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return number.value // 1000, number.value % 1000 // 10


def gpu_facts(
    torch_cuda: str | None,
    said: str = "",
    root: Path = Path("/"),
    environment: Mapping[str, str] = os.environ,
    library: str = "libcuda.so.1",
) -> GpuFacts:
    """Looked up in the files under `root`, the environment and the driver's library."""
    kernel = any((root / path).exists() for path in ("proc/driver/nvidia/version", "dev/dxg"))  # dxg: Windows' own
    devices = (root / "sys/bus/pci/devices").glob("*")
    card = any(_text(each / "vendor") == "0x10de" and _text(each / "class").startswith("0x03") for each in devices)
    return GpuFacts(torch_cuda, driver_version(library), kernel, card, environment.get("CUDA_VISIBLE_DEVICES"), said)


def unusable(facts: GpuFacts) -> tuple[str, str] | None:
    """What keeps torch from a GPU whose driver is here, and how to fix it; None where no GPU is to be expected: there
    is none, or it is hidden on purpose. (The library alone, as containers bring it, is no GPU.)"""
    driver, built = facts.driver, facts.torch_cuda
    too_old = driver is not None and built is not None and driver[0] < int(built.split(".")[0])
    if facts.visible in HIDDEN or not (facts.kernel or (driver and facts.card) or too_old):
        return None
    if driver is None:
        found = "the library libcuda.so.1 of its NVIDIA driver cannot be loaded"
        fix = "start a container with --gpus all (and NVIDIA_DRIVER_CAPABILITIES=compute,utility), else install it"
    elif built is None:
        found = f"torch is built for the CPU only, beside a driver for CUDA {driver[0]}.{driver[1]}"
        fix = f"install torch for CUDA {driver[0]} (docs/machines.md#cuda-12, https://pytorch.org/get-started/locally)"
    elif too_old:
        found = f"its driver is for CUDA {driver[0]}.{driver[1]}, torch is built for {built}"
        newer = "install a newer NVIDIA driver"
        fix = (
            f"install for CUDA 12 (CXRDALI_CUDA=12, docs/machines.md#cuda-12) or {newer}" if driver[0] == 12 else newer
        )
    elif facts.visible is not None:
        found, fix = f"CUDA_VISIBLE_DEVICES={facts.visible} names no GPU that is there", "correct or unset it"
    else:
        found = "torch sees no GPU beside its NVIDIA driver"
        fix = "see what nvidia-smi says (after an update of the driver, restart the machine)"
    return found + (f" (torch: {facts.said})" if facts.said else ""), fix


def without_gpu(facts: GpuFacts) -> str:
    """Why a run goes to the CPU though there is something of a GPU; "" where there is nothing of one."""
    if facts.visible in HIDDEN and (facts.driver or facts.kernel or facts.card):
        return f"CUDA_VISIBLE_DEVICES={facts.visible!r} hides the GPUs"
    if facts.driver:
        return "libcuda.so.1 is here, a GPU is not"
    return "its GPU has no NVIDIA driver" if facts.card else ""


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
