"""Options of exporting. Free of torch."""

from dataclasses import dataclass

from cxrdali.predict.options import JudgeOptions
from cxrdali.setting import as_in, at_least, check, one_of, setting, spelled
from shards.errors import UserError

SUFFIXES = {"timm": ".safetensors", "onnx": ".onnx", "torchscript": ".pt", "hub-folder": "", "card": ".md"}
TARGETS = tuple(SUFFIXES)
OUTPUTS = ("probabilities", "logits")
OPSET = 18  # that of torch's own translations; converting to a lower one fails for many networks
BELONGS = {"outputs": ("onnx", "torchscript"), "opset": ("onnx",), "evaluation": ("hub-folder", "card")}


@dataclass(frozen=True)
class ExportOptions:
    """To what a run is exported, and with which rules. evaluation: files that `cxrdali evaluate` wrote of it."""

    to: str = setting(legal=one_of(TARGETS))
    outputs: str | None = setting(None, "What onnx and torchscript give.", one_of(OUTPUTS), otherwise=OUTPUTS[0])
    calibration: str | None = as_in(JudgeOptions, "calibration")
    thresholds: str | None = as_in(JudgeOptions, "thresholds")
    evaluation: tuple = ()
    opset: int | None = setting(None, "Operator set of ONNX.", at_least(OPSET), otherwise=str(OPSET))
    allow_other_run: bool = as_in(JudgeOptions, "allow_other_run")

    def __post_init__(self):
        check(self)
        for name in ("calibration", "thresholds", *BELONGS):
            targets = BELONGS.get(name, [each for each in TARGETS if each != "timm"])
            if getattr(self, name) and self.to not in targets:
                fix = f"leave --{spelled(name)} out, or give --to {' or '.join(targets)}"
                raise UserError(f"{spelled(name)}: --to {self.to} has no place for it; {fix}")
