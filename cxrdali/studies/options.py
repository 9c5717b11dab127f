"""Options of a study beside its file. Free of torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cxrdali.models.options import TTAS
from cxrdali.postprocess.options import CALIBRATIONS, parse_strategy
from cxrdali.setting import at_least, check, one_of, setting
from shards.errors import UserError
from shards.words import choices


@dataclass(frozen=True)
class StudyOptions:
    """models: runs to train, with all they need, None for those of the file; overrides: settings by run, "" for all of
    them; templates: the challenge's file by split, "dev" or "test"; title: of the report, None for the file's;
    synthetic: its data is, so its pictures may be shown; many: allow more
    than a thousand runs. tta, calibration and thresholds take the file's place."""

    models: tuple[str, ...] | None = setting(
        None, "Runs to train; those that they start from come along.", otherwise="the study's", metavar="LIST"
    )
    labels: str | None = setting(None, "Label release.", otherwise="the dataset's first", metavar="NAME")
    draws: int | None = setting(
        None,
        "Samples of the patients, for intervals and p; 0 for none.",
        at_least(0),
        otherwise="the study's, 1000 if it says nothing; demo: 100",
    )
    overrides: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    templates: Mapping[str, Path] = field(default_factory=dict)
    title: str | None = None
    synthetic: bool = False
    many: bool = False
    tta: tuple[str, ...] | None = setting(
        None,
        "Test-time augmentation: of every prediction, or those of the main model, as the study has it.",
        otherwise="the study's",
        metavar="LIST",
    )
    calibration: str | None = setting(
        None, "Of the final predictions, fitted on validation.", one_of(CALIBRATIONS), otherwise="the study's"
    )
    thresholds: str | None = setting(
        None,
        "Of the thresholds, fitted on validation: f1, precision=P, recall=R or prevalence.",
        otherwise="the study's",
        metavar="STRATEGY",
    )

    def __post_init__(self):
        check(self)
        for name in self.tta or ():
            if name not in TTAS:
                raise UserError(f"tta {name!r}: {choices(name, TTAS)}")
        if self.models == ():
            raise UserError("no model: give --models, names with commas between them, or leave it out")
        if self.thresholds is not None:
            parse_strategy(self.thresholds)
        if self.tta is not None:
            object.__setattr__(self, "tta", tuple(dict.fromkeys(self.tta)))
