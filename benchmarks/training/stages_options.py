"""What `benchmarks.training.stages` compares, and with what."""

from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.options import STAGES, Options, Stage, listed, option
from benchmarks.training.stages_report import FIGURE, NATIVE, THREE
from shards.errors import UserError

NAMES = (FIGURE, THREE, NATIVE)
EFFICIENTNET = "tf_efficientnetv2_s.in21k_ft_in1k"
CPU = {
    "figure2": "64:32,96:16", "three": "64:32,96:16,128:6", "arch": "test_byobnet", "epochs": 5, "native_epochs": 2,
    "lr": 2e-3, "studies": 2000, "native_studies": 250, "seeds": 3, "native_seeds": 3, "pixels": 256,
}  # fmt: skip
REAL = CPU | {
    "figure2": "224:256,320:128", "three": "224:256,320:128,512:48", "arch": EFFICIENTNET, "epochs": 2,
    "native_epochs": 1, "lr": 1e-3, "studies": 6000, "native_studies": 200, "seeds": 1, "native_seeds": 1,
    "pixels": 512,
}  # fmt: skip
QUICK = CPU | {
    "figure2": "32:8,48:4", "three": "32:8,48:4,64:4", "epochs": 1, "native_epochs": 1, "studies": 40,
    "native_studies": 14, "seeds": 2, "native_seeds": 1, "pixels": 64,
}  # fmt: skip
QUICK_REAL = QUICK | {"studies": 24, "native_studies": 1, "seeds": 1}


@dataclass(frozen=True)
class StagesRun(Options):
    """The options as given; `resolved` has none left open."""

    comparisons: tuple[str, ...] = option(",".join(NAMES), "NAME,...", listed(str))
    real: bool = option(False, "the stage-training paper's network and sizes, on a GPU")
    quick: bool = option(False, "tiny sizes and data, for tests")
    seeds: int = option(None, "pairs of each comparison [3; --real: 1]", int)
    native_seeds: int = option(None, "the same for native files [3; --real: 1]", int)
    figure2: tuple[Stage, ...] = option(None, "two stages [64:32,96:16; --real: 224:256,320:128]", STAGES)
    three: tuple[Stage, ...] = option(None, "stages [64:32,96:16,128:6; --real: ...,512:48]", STAGES)
    epochs: int = option(None, "of each stage [5; --real: 2]", int)
    native_epochs: int = option(None, "the same for native files [2; --real: 1]", int)
    arch: str = option(None, "timm network [test_byobnet; --real: EfficientNetV2-S]", str)
    pretrained: bool = option(False, "start from timm's weights [from scratch]")
    lr: float = option(None, "largest rate [0.002; --real: 0.001]", float)
    data: Path = option(None, "packed dataset with all the sizes [a synthetic one]", Path)
    native: Path = option(None, "release with native files [a synthetic one]", Path)
    studies: int = option(None, "of the synthetic release [2000; --real: 6000]", int)
    native_studies: int = option(None, "of the native one [250; --real: 200]", int)
    pixels: int = option(None, "side of the synthetic pictures [256; --real: 512]", int)
    warm_batches: int = option(4, "of a throwaway run's epoch")
    device: str = option(None, "cpu or cuda[:N]; a GPU means --real [cpu; --real: cuda]", str)
    precision: str = option("auto", "auto, bf16, fp16 or fp32")
    decode: str = option("auto", "auto, cpu, mixed or hybrid")

    def resolved(self) -> "StagesRun":
        """With what --real and --quick stand for. Raises UserError for what cannot be compared."""
        if unknown := set(self.comparisons) - set(NAMES):
            raise UserError(f"--comparisons {min(unknown)!r}: choose from {','.join(NAMES)}")
        device = self.device or ("cuda" if self.real and not self.quick else "cpu")
        real = self.real or device.startswith("cuda")
        preset = (QUICK_REAL if real else QUICK) if self.quick else REAL if real else CPU
        preset = preset | {name: STAGES(preset[name]) for name in ("figure2", "three")}
        open_ones = {name: value for name, value in preset.items() if getattr(self, name) is None}
        found = replace(self, device=device, real=real, **open_ones)
        for name in ("seeds", "native_seeds", "epochs", "native_epochs", "warm_batches"):
            if getattr(found, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(found, name)}: at least 1")
        if len(found.figure2) != 2 or len(found.three) not in (2, 3):
            raise UserError("--figure2 takes two stages SIZE:BATCH,SIZE:BATCH; --three two or three")
        return found
