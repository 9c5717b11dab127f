"""Options of predicting and explaining. Free of torch."""

from dataclasses import dataclass

from cxrdali.data.options import SPLITS, VIEWS
from cxrdali.models.options import TTAS
from cxrdali.runtime.options import RuntimeSettings
from cxrdali.setting import as_in, at_least, check, one_of, setting
from shards.errors import UserError


@dataclass(frozen=True)
class PredictOptions:
    """How to predict. None: the run's best weights and own labels, as many images at a time as in its training."""

    labels: str | None = setting(
        None, "Label release whose split and findings are meant.", otherwise="the run's", metavar="NAME"
    )
    tta: str = setting(
        "none",
        "Test-time augmentation, a mean probability over passes: hflip, the image and its mirror image (2 passes, the "
        "stage-training paper's); flips, all four flips (4); light, the image, its mirror image, rotated by 5 degrees "
        "both ways (4); medium, those, at 0.9 and 1.1 of its size, moved by 2.5 % to each side (10). Time: per pass.",
        one_of(TTAS),
    )
    batch: int | None = setting(None, "Images at a time.", at_least(1), otherwise="the run's, or its micro-batch")
    device: str = as_in(RuntimeSettings, "device")
    precision: str = as_in(RuntimeSettings, "precision")
    decode: str = as_in(RuntimeSettings, "decode")
    threads: int | None = as_in(RuntimeSettings, "threads")
    allow_leak: bool = setting(
        False, "Predict val, dev or test also where the run, or one behind its weights, trained on some of the images."
    )
    weights: str | None = setting(
        None,
        "Weights in place of the run's best: an average, its last.pt, or a checkpoint of the same network.",
        otherwise="its best epoch",
        metavar="FILE",
    )
    view: str | None = setting(
        None,
        "Predict frontal or lateral images alone; all: also those of another or no known view.",
        one_of(VIEWS),
        otherwise="the run's own of train and val; all of other splits",
    )

    def __post_init__(self):
        check(self)


@dataclass(frozen=True)
class ReadOptions:
    """What a reading shows beside probabilities."""

    top: int = setting(
        3, "Findings with a heat map: those called positive first, then the most probable ones.", at_least(0)
    )
    study: bool = setting(
        False,
        "One reading a study, of the mean probability over its images: those of one StudyInstanceUID, or of one folder "
        "where files are no DICOMs.",
    )

    def __post_init__(self):
        check(self)


@dataclass(frozen=True)
class ReferenceOptions:
    """How a reference is fitted: what new images of a run are compared with."""

    images: int = setting(
        5000, "Training images, and validation images, at most; chosen by chance where there are more.", at_least(2)
    )
    batch: int = setting(16, "Images at a time.", at_least(1))
    device: str = as_in(RuntimeSettings, "device")
    precision: str = as_in(RuntimeSettings, "precision")
    decode: str = as_in(RuntimeSettings, "decode")
    threads: int | None = as_in(RuntimeSettings, "threads")

    def __post_init__(self):
        check(self)


METHODS = ("grad-cam", "csra", "ml-decoder")  # behind the first, heads that have attention


@dataclass(frozen=True)
class ExplainOptions:
    """What to explain; no findings: all of the run's; no layer: the last one with a map."""

    images: int = setting(
        4, "Images per finding of each kind: best-scored positives, misses, false positives.", at_least(1)
    )
    split: str = setting("val", "Whose images.", one_of(SPLITS))
    findings: tuple[str, ...] = ()
    method: str = setting(
        "grad-cam", "What a map is: Grad-CAM, or where the run's head of this name looks.", one_of(METHODS)
    )
    layer: str | None = setting(
        None,
        "Module of the timm model whose output is shown, as stages.2: an earlier one gives a finer map.",
        otherwise="the last map before the pooling",
        metavar="NAME",
    )
    batch: int = setting(8, "Images at a time for the heat maps.", at_least(1))

    def __post_init__(self):
        object.__setattr__(self, "findings", tuple(self.findings))
        check(self)
        doubled = [name for place, name in enumerate(self.findings) if name in self.findings[:place]]
        if doubled:
            raise UserError(f"finding {doubled[0]!r}: is given twice in --findings")
        if self.layer is not None and self.method != "grad-cam":
            raise UserError(
                f"layer {self.layer!r}: only Grad-CAM is of a layer; leave it out with --method {self.method}"
            )


@dataclass(frozen=True)
class JudgeOptions:
    """How new images are judged: by one run, or the mean probability of several."""

    calibration: str | None = setting(
        None, "Calibrate by these rules, which `cxrdali calibrate --fit` wrote.", otherwise="none", metavar="JSON"
    )
    thresholds: str | None = setting(
        None,
        "Say which findings are present: by what `cxrdali thresholds` wrote, or from one probability on for all "
        "findings, such as 0.5.",
        otherwise="none",
        metavar="JSON|P",
    )
    tta: str = as_in(PredictOptions, "tta")
    batch: int | None = as_in(PredictOptions, "batch")
    device: str = as_in(PredictOptions, "device")
    precision: str = as_in(PredictOptions, "precision")
    weights: str | None = as_in(PredictOptions, "weights")
    allow_other_run: bool = setting(
        False, "Use a calibration or thresholds that were fitted to another run or TTA, too."
    )

    def __post_init__(self):
        check(self)
