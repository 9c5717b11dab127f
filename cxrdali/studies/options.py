"""Options of the studies. Free of torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cxrdali.models.options import TTAS
from cxrdali.postprocess.options import CALIBRATIONS, parse_strategy
from cxrdali.runs.layout import MODELS
from cxrdali.setting import at_least, check, one_of, setting
from shards.errors import UserError
from shards.words import choices


@dataclass(frozen=True)
class FlowOptions:
    """models: recipes to train, with all they need; overrides: settings by recipe, "" for all of them; title: of the
    report; synthetic: its data is, so its pictures may be shown."""

    models: tuple[str, ...]
    labels: str | None = setting(None, "Label release.", otherwise="the dataset's first", metavar="NAME")
    draws: int = setting(
        1000, "Samples of the patients, for intervals and p; 0 for none.", at_least(0), otherwise="1000; demo: 100"
    )
    overrides: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    title: str = ""
    synthetic: bool = False

    def __post_init__(self):
        check(self)


@dataclass(frozen=True)
class PaperOptions(FlowOptions):
    """templates: the challenge's file by split, "dev" or "test"."""

    models: tuple[str, ...] = setting(
        MODELS, "Models to train; those that they start from come along.", otherwise="0,2,3,5,6,7", metavar="LIST"
    )
    tta: str = setting(
        "hflip", "Test-time augmentation of every prediction, as `cxrdali predict --tta` lists them.", metavar="NAME"
    )
    templates: Mapping[str, Path] = field(default_factory=dict)
    title: str = "The stage-training paper"

    def __post_init__(self):
        super().__post_init__()
        if self.tta not in TTAS:
            raise UserError(f"tta {self.tta!r}: {choices(self.tta, TTAS)}")
        if not self.models:
            raise UserError("no model: give --models, for example 0,2,3,5,6,7")


@dataclass(frozen=True)
class StudyOptions(FlowOptions):
    """calibration is Platt's by default: weights on positives shift the logits, which a temperature cannot undo."""

    models: tuple[str, ...] = setting(
        (),
        "Models to train; those that they start from come along. A name without its ld- is enough: bce,ldam-drw.",
        otherwise="losses on ResNet-50, LDAM-DRW on its backbones, cRT",
        metavar="LIST",
    )
    tta: tuple[str, ...] = setting(
        ("hflip", "sulake-light", "sulake-medium"),
        "Test-time augmentations of the main model (the last backbone), or none; all else is predicted without.",
        otherwise="hflip,sulake-light,sulake-medium",
        metavar="LIST",
    )
    calibration: str = setting(
        "platt",
        "Of the final predictions, fitted on validation; the main model is calibrated by each of them.",
        one_of(CALIBRATIONS),
    )
    strategy: str = "f1"
    title: str = "The loss-design paper"

    def __post_init__(self):
        super().__post_init__()
        if not self.models:
            raise UserError("no model: give --models, for example ld-bce,ld-ldam-drw")
        for name in self.tta:
            if name not in TTAS or name == "none":
                raise UserError(f"tta {name!r}: {choices(name, TTAS[1:], 'choose from')}")
        object.__setattr__(self, "tta", tuple(dict.fromkeys(self.tta)))
        parse_strategy(self.strategy)
