"""New images as a run reads them: probabilities beside thresholds and what those yield on validation, heat maps, and
whether an image looks like what the run was trained on."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch

from cxrdali.fitted import overlap
from cxrdali.metrics.intervals import wilson
from cxrdali.postprocess.rules import differences
from cxrdali.postprocess.thresholds import FindingThreshold
from cxrdali.predict.heatmaps import heat_maps, map_layer
from cxrdali.predict.judge import Judge
from cxrdali.predict.likeness import Likeness
from cxrdali.predict.options import ReadOptions
from cxrdali.predict.reference import Reference, network_features
from cxrdali.predict.rendering import Rendered
from cxrdali.predictions import mean_logit, sigmoid
from shards.errors import UserError
from shards.words import counted

Interval = tuple[float, float, float]  # value, and the ends of its 95 % interval, 0 to 1


@dataclass(frozen=True)
class Operating:
    """What a threshold yields on the images that it was fitted to, cross-fitted over subjects.

    sensitivity, specificity: None without an image that has the finding, or none that has it not; precision: how many
    of the images that are called positive have it, 0 to 1, where a share `prevalence` of all images has it. images,
    positives: those whose label is known, and those with the finding; by_patient: whether intervals count patients.
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
        counts = rule.independent or (rule.positives, rule.images - rule.positives)
        sensitivity, specificity = (
            None if share is None else (share, *wilson(share, count))
            for share, count in zip((rule.recall, rule.specificity), counts, strict=True)
        )
        shares = sensitivity, specificity, rule.precision, rule.positives / rule.images
        return cls(*shares, rule.images, rule.positives, rule.independent is not None)


@dataclass(frozen=True)
class FindingReading:
    """probability: 0 to 1; calibrated: whether a calibration changed it; threshold: also a probability (None: none was
    given, or no image is called positive); positive: whether it is reached (None: no thresholds were given)."""

    finding: str
    probability: float
    calibrated: bool = False
    threshold: float | None = None
    positive: bool | None = None
    operating: Operating | None = None


@dataclass(frozen=True, eq=False)
class ImageReading:
    """One image. height, width: of its file, in pixels; size: of what was judged; converted: in which ways the file was
    not 8-bit gray; probabilities: one per finding of the reading, in its order; likeness: None without a reference.

    pixels: uint8 [S, S], as judged; heats: by finding, float32 [h, w], 0 and above. Both are left out of the JSON.
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
    "". fitted_here: what else was fitted on the images of the operating points, in words, or "". findings: those called
    positive first, then by probability. warnings: in words, with the image's name if there are several. not_checked:
    what nobody looked at, and how it can be had. false_alarms: how often images of the run's own kind get a warning, in
    words, or "".
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
        """As JSON's types, without the pictures."""
        lists = {
            "findings": [asdict(each) for each in self.findings],
            "images": [each.as_json() for each in self.images],
        }
        return {**vars(self), **lists}


def read_image(judge: Judge, reference: Reference | None, rendered: Rendered, options: ReadOptions) -> Reading:
    """One image. reference: None if the run has none; the reading then says how to make it."""
    return read_study(judge, reference, [rendered], options, rendered.name)


def read_study(
    judge: Judge, reference: Reference | None, rendered: Sequence[Rendered], options: ReadOptions, name: str
) -> Reading:
    """Images of one study: each is judged alone, and a finding's probability is the mean over them. judge: of a run."""
    pixels = np.stack([each.pixels for each in rendered])
    logits = judge.judge(pixels, [each.image_id for each in rendered])
    found = _findings(judge, logits[0] if len(logits) == 1 else mean_logit(logits))
    order = sorted(range(len(found)), key=lambda place: (not found[place].positive, -found[place].probability))
    layer, without_maps = (
        _layer(judge, pixels.shape[-1]) if options.top else (None, "No heat maps: none were asked for.")
    )
    features = network_features(judge.model, torch.from_numpy(pixels)[:, None], judge.hardware) if reference else None
    images = []
    for place, image in enumerate(rendered):
        heats = {judge.findings[top]: _heat(judge, layer, image, top) for top in order[: options.top]} if layer else {}
        images.append(
            ImageReading(
                image.image_id, image.height, image.width, pixels.shape[-1], image.converted,
                image.tags.view_position if image.tags else "",
                tuple(sigmoid(logits[place, order]).tolist()),
                reference and reference.check(image, None if features is None else features[place]),
                image.pixels, heats,
            )
        )  # fmt: skip
    rules, made = judge.thresholds, judge.calibration
    return Reading(
        name, judge.provenance.run or judge.run.name,
        "" if made is None else made.method + _of(judge, made.made_from),
        "" if rules is None else rules.strategy + _of(judge, rules.made_from),
        _fitted_here(judge), tuple(found[place] for place in order), tuple(images),
        _warnings(images), tuple(filter(None, [*_not_checked(judge, reference, images), without_maps])),
        reference.false_alarms if reference else "", bool(judge.run.config.get("synthetic")),
    )  # fmt: skip


def _findings(judge: Judge, logits: np.ndarray) -> list[FindingReading]:
    """In the judge's order. logits: float32 [F]."""
    changed = [not rule.kept for rule in judge.calibration.rules] if judge.calibration else [False] * len(logits)
    columns = [judge.findings, sigmoid(logits).tolist(), changed]
    called = judge.decide(logits[None])
    if called is not None:
        rules = judge.thresholds.rules
        columns += [[rule.probability for rule in rules], called[0].tolist(), map(Operating.of, rules)]
    return [FindingReading(*each) for each in zip(*columns, strict=True)]


def _of(judge: Judge, made_from: dict) -> str:
    """What rules were fitted to, in words, and that another run or TTA judged it; "" if to nothing."""
    if not made_from:
        return ""
    count, split = made_from.get("images"), made_from.get("split")
    images = f"{counted(count, 'image') if count else 'images'} of {split or 'an unknown split'}"
    return "; ".join([f", fitted on {images}", *differences(judge.provenance, made_from)])


def _fitted_here(judge: Judge) -> str:
    """What else was fitted on the images of the operating points, as `cxrdali evaluate` says it."""
    own = judge.thresholds.made_from.get("hashes") if judge.thresholds else ""
    same = [each.what for each in judge.provenance.fitted or () if own and each.images and overlap(each.images, own)]
    return ", ".join(dict.fromkeys(itertools.chain(*same)))


def _layer(judge: Judge, size: int) -> tuple[str | None, str]:
    """The layer whose map is shown, or why there is none."""
    try:
        return map_layer(judge.model, size), ""
    except UserError as error:
        return None, f"No heat maps: {str(error).partition(';')[0]}."  # what follows is of `cxrdali explain`


def _heat(judge: Judge, layer: str, image: Rendered, column: int) -> np.ndarray:
    """float32 [h, w], of a finding, which is a column of the model too."""
    pixels = torch.from_numpy(image.pixels)[None, None].to(judge.hardware.device)
    return heat_maps(judge.model, layer, pixels, torch.tensor([column]))[0]


def _warnings(images: Sequence[ImageReading]) -> tuple[str, ...]:
    named = [(f"{each.image_id}: " if len(images) > 1 else "", each.likeness) for each in images]
    return tuple(f"{name}{words}" for name, likeness in named if likeness for words in likeness.warnings)


def _not_checked(judge: Judge, reference: Reference | None, images: Sequence[ImageReading]) -> list[str]:
    said = []
    if reference is None:
        said.append(
            "Whether this looks like what the run was trained on was not checked: the run has no reference. "
            "`cxrdali reference RUN --data PACK` fits one."
        )
    else:
        if reference.features is None:
            said.append(f"The network's own view of it was not compared: {reference.about['without_features']}.")
        if any(not each.view_position for each in images):
            said.append("Its view was not checked by name: the file does not say it.")
    if not judge.calibration:
        said.append(
            "Probabilities are not calibrated, so 30 % need not mean that 30 of 100 such images have the finding; "
            "`cxrdali calibrate --fit` makes a file for --calibration."
        )
    if not judge.thresholds:
        said.append(
            "No threshold was given, so nothing is called present or absent; `cxrdali thresholds --fit` makes a file "
            "for --thresholds, with its sensitivity and specificity."
        )
    rules = {"calibration": judge.calibration, "thresholds": judge.thresholds}
    fitted = [name for name, made in rules.items() if made and made.made_from]
    if len(images) > 1 and fitted:
        said.append(f"How {' and '.join(fitted)} do on the mean of several images: they were fitted to single ones.")
    return said
