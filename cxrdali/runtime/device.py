"""Which device and precision a run uses, and what its environment was."""

import contextlib
import functools
import logging
import platform
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from cxrdali.runtime.driver import GpuFacts, gpu_facts, unusable, without_gpu
from cxrdali.runtime.limits import cores
from shards.errors import UserError

log = logging.getLogger(__name__)

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
with (
    warnings.catch_warnings()
):  # torch 2.9 and 2.10 say once that newer fields replace it, which their compiler refuses
    warnings.simplefilter("ignore")
    torch.get_float32_matmul_precision()


@dataclass(frozen=True)
class Hardware:
    """device: "cpu" or "cuda:N"; precision: bf16, fp16 or fp32 (resolved, not auto)."""

    device: str
    precision: str

    @classmethod
    def resolve(cls, device: str, precision: str, facts: Callable[[], GpuFacts] | None = None) -> "Hardware":
        """What auto means here, and on the CPU no more threads of torch than cores.

        auto: the first GPU if there is one; bf16 where the GPU has it, else fp16 with scaling; fp32 on the CPU.
        facts: of this machine, asked where torch sees no GPU. Raises UserError if it has one that torch cannot use.
        """
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", device):
            raise UserError(f"device {device!r}: choose auto, cpu or cuda")
        if device != "cpu" and not has_gpu():
            check_no_gpu(device, (facts or facts_here)())
            device = "cpu"
        elif device in ("auto", "cuda"):
            device = "cuda:0"
        on_gpu = device != "cpu"
        if on_gpu and torch.device(device).index >= torch.cuda.device_count():
            raise UserError(f"device {device!r}: there are {torch.cuda.device_count()} GPUs, numbered from 0")
        if precision == "auto":
            # not by emulation: an older GPU says yes to bf16 and then computes it slowly in fp32
            bf16 = on_gpu and torch.cuda.get_device_capability(device) >= (8, 0)
            precision = ("bf16" if bf16 else "fp16") if on_gpu else "fp32"
        if precision == "fp16" and not on_gpu:
            raise UserError("precision 'fp16' needs a GPU; use --precision fp32 or bf16 on the CPU")
        if not on_gpu:
            share_cores()
        return cls(device, precision)

    def begin(self) -> None:
        """Compute there from now on, on batches of one shape: it is torch's current device, cuDNN searches for its
        fastest algorithms, and on a GPU the products of an fp32 run are TF32, as torch's convolutions are anyway."""
        if self.device != "cpu":
            torch.cuda.set_device(self.device)
        torch.backends.cudnn.benchmark = True
        tf32 = self.device != "cpu" and self.precision == "fp32"
        torch.set_float32_matmul_precision("high" if tf32 else "highest")

    def autocast(self):
        """The context of a forward pass."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=_DTYPES[self.precision])

    def synchronize(self) -> None:
        """Wait for the GPU; nothing on the CPU."""
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)

    @property
    def name(self) -> str:
        if self.device == "cpu":
            return platform.processor() or platform.machine()
        return torch.cuda.get_device_name(self.device)


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Matrix products in fp32, not in TF32, within it; what runs backwards later is not."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def has_gpu() -> bool:
    """Whether torch can use a GPU. What it warns of where it cannot, `facts_here` has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


def facts_here() -> GpuFacts:
    """What this machine has of a GPU that torch does not see."""
    try:
        torch.cuda.init()
        said = ""
    except (RuntimeError, AssertionError) as error:
        said = (str(error).strip().splitlines() or [""])[0]
    return gpu_facts(torch.version.cuda, said)


def check_no_gpu(device: str, facts: GpuFacts) -> None:
    """Raises UserError if a GPU was asked for, or auto would pass one over whose driver is here; says why it is not
    used where somebody may expect it."""
    if problem := unusable(facts):
        raise UserError(f"device {device!r}: {problem[0]}; {problem[1]}, or give --device cpu")
    why = without_gpu(facts)
    if device != "auto":
        raise UserError(f"device {device!r}: torch sees no GPU here{why and f' ({why})'}; use --device cpu")
    if why:
        _say(f"{why}: on the CPU")


@functools.cache
def _say(words: str) -> None:
    """Once: a study asks for its device at every step."""
    log.info(words)


def share_cores(processes: int = 1) -> None:
    """Let torch have no more threads than this process's share of the cores. Torch sees no container's quota."""
    share = max(1, cores() // processes)
    if torch.get_num_threads() > share:
        torch.set_num_threads(share)


def versions() -> dict[str, str]:
    """Of Python and of the libraries that touch pixels or weights."""
    found = {"python": platform.python_version()}
    for name in ("cxrdali", "torch", "timm", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "numpy", "scikit-learn"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
