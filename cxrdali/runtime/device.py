"""Which device and precision a run uses, and what its environment was."""

import contextlib
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from cxrdali.runtime.limits import cores
from shards.errors import UserError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Hardware:
    """device: "cpu" or "cuda:N"; precision: bf16, fp16 or fp32 (resolved, not auto)."""

    device: str
    precision: str

    @classmethod
    def resolve(cls, device: str, precision: str) -> "Hardware":
        """What auto means here, and on the CPU no more threads of torch than cores.

        auto: the first GPU if there is one; bf16 where the GPU has it, else fp16 with scaling; fp32 on the CPU.
        """
        has_cuda = torch.cuda.is_available()
        if device == "auto":
            device = "cuda:0" if has_cuda else "cpu"
        elif device == "cuda":
            device = "cuda:0"
        if device.startswith("cuda") and not has_cuda:
            raise UserError("device 'cuda': torch sees no GPU here; use --device cpu, or check the driver (nvidia-smi)")
        if not (device == "cpu" or device.startswith("cuda:")):
            raise UserError(f"device {device!r}: choose auto, cpu or cuda")
        if device != "cpu" and torch.device(device).index >= torch.cuda.device_count():
            raise UserError(f"device {device!r}: there are {torch.cuda.device_count()} GPUs, numbered from 0")
        if precision == "auto":
            if device == "cpu":
                precision = "fp32"
            else:
                # without emulation: an older GPU says yes to bf16 and then computes it slowly in fp32
                precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        if precision == "fp16" and device == "cpu":
            raise UserError("precision 'fp16' needs a GPU; use --precision fp32 or bf16 on the CPU")
        if device == "cpu":
            share_cores()
        return cls(device, precision)

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
