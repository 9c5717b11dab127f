"""What `benchmarks.training.step` measures, and what follows from it."""

from dataclasses import dataclass, replace

import joblib

from benchmarks.options import STAGES, Options, Stage, listed, option
from benchmarks.training.fed import EFFICIENTNET, Setting
from cxrdali.data.options import LoaderOptions
from cxrdali.runtime.device import Hardware
from shards.errors import UserError

BY_DEVICE = {
    "cuda": {"stages": "224:256,320:128,384:80,512:48", "arch": EFFICIENTNET, "seconds": 0.6},
    "cpu": {"stages": "64:32,96:16", "arch": "resnet10t", "seconds": 1.0},
}
VARIANTS = {"cuda": ("nchw", "bf16", "fp16", "fp32", "compile"), "cpu": ("nchw", "bf16")}


@dataclass(frozen=True)
class StepRun(Options):
    """The options as given; `resolved` has none left open."""

    device: str = option("cpu", "cpu or cuda[:N]")
    arch: str = option(None, "timm network [EfficientNetV2-S; cpu: resnet10t]", str)
    stages: tuple[Stage, ...] = option("", f"SIZE:BATCH,... [{BY_DEVICE['cuda']['stages']}; cpu: 64:32,96:16]", STAGES)
    precision: str = option("auto", "auto, bf16, fp16 or fp32")
    nchw: bool = option(False, "without channels-last, in all but its variant")
    compile: bool = option(False, "with torch.compile, in all but its variant")
    variants: tuple[str, ...] = option(None, f"of {','.join(VARIANTS['cuda'])} [all; cpu: nchw,bf16]", listed(str))
    compiled: int = option(1, "stages that compile: minutes each")
    decode: str = option("auto", "auto, cpu, mixed or hybrid")
    workers: int = option(None, "of timm's loader [a GPU: as many as cores, at most 16; cpu: 1]", int)
    cap_gb: float = option(24.0, "memory in GiB that a stage has to fit")
    rounds: int = option(5, "timed runs of each")
    seconds: float = option(None, "length of a run, about [0.6; cpu: 1]", float)
    studies: int = option(400, "of the synthetic release")

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def threads(self) -> int | None:
        """Of DALI: on a CPU the others train."""
        return None if self.on_gpu else 1

    @property
    def setting(self) -> Setting:
        """What all but the variants run with."""
        precision = Hardware.resolve(self.device, self.precision).precision
        return Setting(precision, not self.nchw, self.compile)

    def loader_options(self, stage: Stage) -> LoaderOptions:
        return LoaderOptions(stage.size, stage.batch, self.threads, self.decode, self.device)

    def resolved(self) -> "StepRun":
        """With what depends on the device. Raises UserError for a variant that is none."""
        kind = "cuda" if self.on_gpu else "cpu"
        defaults = BY_DEVICE[kind]
        variants = VARIANTS[kind] if self.variants is None else self.variants
        if unknown := set(variants) - set(VARIANTS["cuda"]):
            raise UserError(f"--variants {min(unknown)!r}: choose from {', '.join(VARIANTS['cuda'])}")
        return replace(
            self,
            device=Hardware.resolve(self.device, self.precision).device,
            arch=self.arch or defaults["arch"],
            stages=self.stages or STAGES(defaults["stages"]),
            variants=variants,
            workers=self.workers or (min(16, joblib.cpu_count()) if self.on_gpu else 1),
            seconds=self.seconds or defaults["seconds"],
        )
