"""Options of evaluating and comparing."""

from dataclasses import dataclass

from cxrdali.data.options import VIEWS, DataSettings
from cxrdali.postprocess.options import FitOptions, parse_strategy
from cxrdali.setting import Legal, as_in, at_least, check, one_of, setting


def _is_part(value: float) -> bool:
    """Whether it is 1 / a whole number, as near as three decimals write it: 0.333 is a third."""
    return 0 < value <= 0.5 and abs(1 / round(1 / value) - value) < 5e-4


@dataclass(frozen=True)
class ResampleOptions:
    """The bootstrap."""

    draws: int = setting(1000, "Samples of the patients, for intervals and p; 0 for none.", at_least(0))
    level: float = setting(
        0.95, "Level of the confidence intervals, 0 to 1.", Legal(lambda value: 0 < value < 1, "between 0 and 1")
    )
    seed: int = setting(0, "Seed of the samples.", at_least(0))

    def __post_init__(self):
        check(self)


@dataclass(frozen=True)
class ByOptions(ResampleOptions):
    """And which groups of images are scored apart."""

    by: tuple[str, ...] = setting(
        (),
        "Score groups apart: of sex, age, race, scanner, view, view_position, year, pack, with commas between them; "
        "sex*age for every combination.",
        otherwise="none",
        metavar="LIST",
    )
    age_bins: tuple[str, ...] = setting(
        ("18", "40", "60", "80"), "Ages at which a new group begins, in years.", otherwise="18,40,60,80", metavar="LIST"
    )
    min_group: int = setting(
        10, "Patients that a group needs, and with a finding, and without it; below it is too small.", at_least(2)
    )


@dataclass(frozen=True)
class EvaluateOptions(ByOptions):
    """And what -1 counts as, and whether images may be scored that were trained on."""

    uncertain: str = as_in(DataSettings, "uncertain")
    allow_leak: bool = setting(False, "Take images that were trained on, too; the result says so.")
    allow_other_run: bool = setting(False, "Use what was fitted to another run or TTA, too; the result says so.")
    allow_same_images: bool = setting(
        False, "Use what was fitted on these same dev or test images, too; all scores then say so."
    )
    findings: str | None = as_in(FitOptions, "findings")
    view: str = setting(
        "all", "Score frontal or lateral images alone; all: all, and frontal and all others apart too.", one_of(VIEWS)
    )


@dataclass(frozen=True)
class ExternalOptions(ResampleOptions):
    """How a run is judged at home and away."""

    strategy: str = setting("f1", "Of the thresholds, fitted at home on validation, as `cxrdali thresholds` has it.")
    refit: float = setting(
        0.2,
        "Part of an away pack's patients to which thresholds and calibration are fitted again; 1 / a whole number.",
        Legal(_is_part, "0.5, 0.333, 0.25, 0.2 or another 1 / a whole number"),
    )
    folds: int = setting(
        5, "Parts by subject, each judged by a fit to the others, where home is validation.", at_least(2)
    )
    uncertain: str = as_in(EvaluateOptions, "uncertain")
    findings: str | None = as_in(EvaluateOptions, "findings")
    allow_leak: bool = as_in(EvaluateOptions, "allow_leak")
    allow_overlap: bool = setting(False, "Judge away packs that hold copies of training images, too; the page says so.")

    def __post_init__(self):
        super().__post_init__()
        parse_strategy(self.strategy)


@dataclass(frozen=True)
class CompareOptions(ByOptions):
    """And against what, how F1's thresholds are found, and the rest as for one table."""

    baseline: str | None = setting(
        None, "Name or folder of the run that the others are compared with.", otherwise="first", metavar="RUN"
    )
    folds: int = setting(5, "Parts by subject, each judged by F1 thresholds fitted to the others.", at_least(2))
    uncertain: str | None = as_in(DataSettings, "uncertain", default=None, otherwise="as in the runs' training")
    allow_leak: bool = as_in(EvaluateOptions, "allow_leak")
    allow_same_images: bool = as_in(EvaluateOptions, "allow_same_images")
    findings: str | None = as_in(EvaluateOptions, "findings")
