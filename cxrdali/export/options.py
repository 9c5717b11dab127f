"""Options of exporting. Free of torch."""

from dataclasses import dataclass
from pathlib import Path

from cxrdali.predict.options import JudgeOptions
from cxrdali.setting import as_in, at_least, check, one_of, setting, spelled
from shards.errors import UserError

TARGETS = ("timm", "onnx", "torchscript", "hub-folder", "card")
SUFFIXES = {"timm": ".safetensors", "onnx": ".onnx", "torchscript": ".pt", "card": ".md"}  # a hub-folder has none
OUTPUTS = ("probabilities", "logits")
OPSET = 18  # that of torch's own translations: for a lower one the finished model is converted
BELONGS = {  # what only some targets have a place for
    "outputs": ("onnx", "torchscript"),
    "opset": ("onnx",),
    "calibration": ("onnx", "torchscript", "hub-folder", "card"),
    "thresholds": ("onnx", "torchscript", "hub-folder", "card"),
    "evaluation": ("hub-folder", "card"),
}


@dataclass(frozen=True)
class ExportOptions:
    """To what a run is exported, and with which rules. evaluation: files that `cxrdali evaluate` wrote of it."""

    to: str = setting(legal=one_of(TARGETS))
    outputs: str | None = setting(
        None, "What onnx and torchscript give for each finding.", one_of(OUTPUTS), otherwise=OUTPUTS[0]
    )
    calibration: str | None = as_in(
        JudgeOptions,
        "calibration",
        help="Calibrate by these rules, which `cxrdali calibrate --fit` wrote: inside of onnx and torchscript, beside "
        "the weights in a hub-folder.",
    )
    thresholds: str | None = as_in(
        JudgeOptions, "thresholds", help="Say in the file, the folder and the card from which probability on a finding "
        "is called present: what `cxrdali thresholds` wrote, or one probability for all, such as 0.5.",
    )  # fmt: skip
    evaluation: tuple[Path, ...] = ()
    opset: int | None = setting(None, "Operator set of ONNX.", at_least(1), otherwise=str(OPSET))
    allow_other_run: bool = as_in(JudgeOptions, "allow_other_run")

    def __post_init__(self):
        check(self)
        for name, targets in BELONGS.items():
            if getattr(self, name) and self.to not in targets:
                fix = f"leave --{spelled(name)} out, or give --to {' or '.join(targets)}"
                raise UserError(f"{spelled(name)}: --to {self.to} has no place for it; {fix}")
