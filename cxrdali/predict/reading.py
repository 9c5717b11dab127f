"""New images as a run reads them: probabilities beside thresholds and what those yield on validation, heat maps, and
whether an image looks like what the run was trained on."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch

from cxrdali.fitted import BEST_EPOCH, CALIBRATION, THRESHOLDS, here
from cxrdali.metrics.intervals import wilson
from cxrdali.postprocess.rules import fitted
from cxrdali.postprocess.thresholds import FindingThreshold
from cxrdali.predict.heatmaps import heat_maps, map_layer
from cxrdali.predict.judge import Judge
from cxrdali.predict.options import ReadOptions
from cxrdali.predict.reference import Likeness, Reference
from cxrdali.predict.rendering import Rendered
from cxrdali.predictions import mean_logit, read, sigmoid
from shards.errors import UserError

Interval = tuple[float, float, float]  # value, and the ends of its 95 % interval, 0 to 1


@dataclass(frozen=True)
class Operating:
    """What a threshold yields on the images that it was fitted to, cross-fitted over subjects.

    sensitivity, specificity: None without an image that has the finding, or that has it not; precision: how many of the
    images that are called positive have it, 0 to 1, where `prevalence` of all images have it. images, positives: those
    whose label is known, and those with the finding; by_patient: whether intervals count patients, and not images.
    """

    sensitivity: Interval | None
    specificity: Interval | None
    precision: float | None
    prevalence: float
    images: int
    positives: int
    by_patient: bool

    @classmethod
    def of(cls, rule: FindingThreshold) -> "Operating | None":
        """None for a threshold that was fitted to nothing."""
        if not rule.images:
            return None
        counts = rule.patients or (rule.positives, rule.images - rule.positives)
        shares = [
            None if share is None else (share, *wilson(share, count))
            for share, count in zip((rule.recall, rule.specificity), counts, strict=True)
        ]
        prevalence = rule.positives / rule.images
        return cls(*shares, rule.precision, prevalence, rule.images, rule.positives, rule.patients is not None)


@dataclass(frozen=True)
class FindingReading:
    """probability: 0 to 1, calibrated if the reading is; threshold: also a probability (None: none was given, or no
    image is called positive); positive: whether it is at or above it (None: no thresholds were given)."""

    finding: str
    probability: float
    threshold: float | None = None
    positive: bool | None = None
    operating: Operating | None = None


@dataclass(frozen=True, eq=False)
class ImageReading:
    """One image. height, width: of its file, in pixels; size: of what was judged; converted: in which ways the file was
    not 8-bit gray; probabilities: one per finding of the reading, in its order; likeness: None without a reference.

    pixels: uint8 [S, S], as judged; heats: by finding, float32 [h, w], 0 and above. Neither is in the JSON.
    """

    image_id: str
    height: int
    width: int
    size: int
    converted: tuple[str, ...]
    view_position: str
    probabilities: tuple[float, ...]
    likeness: Likeness | None
    pixels: np.ndarray = field(repr=False)
    heats: dict[str, np.ndarray] = field(repr=False)

    def as_json(self) -> dict:
        plain = {name: value for name, value in vars(self).items() if name not in ("pixels", "heats", "likeness")}
        return {**plain, "heat_maps": list(self.heats), "likeness": self.likeness and asdict(self.likeness)}


@dataclass(frozen=True, eq=False)
class Reading:
    """What a run says of an image, or of the images of a study: of these the mean probability.

    name: what the user called it ("" for an upload). calibration, thresholds: what they were fitted to, in words, or
    "". fitted_here: what was fitted on the images that the operating points are of. findings: those called positive
    first, then by probability. warnings: in words, with the image's name if there are several. not_checked: what nobody
    looked at, and how it can be had. false_alarms: how often images like those of training get a warning, in words.
    """

    name: str
    run: str
    calibration: str
    thresholds: str
    fitted_here: str
    findings: tuple[FindingReading, ...]
    images: tuple[ImageReading, ...]
    warnings: tuple[str, ...]
    not_checked: tuple[str, ...]
    false_alarms: str = ""
    synthetic: bool = False

    def as_json(self) -> dict:
        """As JSON's types; without pictures."""
        lists = {"findings": [asdict(each) for each in self.findings], "images": [each.as_json() for each in self.images]}
        return {**vars(self), **lists}


def read_image(judge: Judge, reference: Reference | None, rendered: Rendered, options: ReadOptions) -> Reading:
    """One image. reference: None if the run has none; the reading then says how to make it."""
    return read_study(judge, reference, [rendered], options, rendered.name)


def read_study(
    judge: Judge, reference: Reference | None, images: Sequence[Rendered], options: ReadOptions, name: str
) -> Reading:
    """Images of one study: each is judged alone, and a finding's probability is the mean over them."""
    raise NotImplementedError
