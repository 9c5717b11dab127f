"""What can be chosen in post-processing, by name; the command line shows these lists without loading what they do."""

from dataclasses import dataclass

from cxrdali.data.options import DataSettings
from cxrdali.setting import as_in, at_least, check, setting

POOLINGS = ("mean", "geometric", "rank")  # keys of `cxrdali.predictions.METHODS`
SHARED = "temperature"  # one map for all findings
CALIBRATIONS = (SHARED, "per-finding-temperature", "platt", "isotonic")
STRATEGIES = ("f1", "precision=P", "recall=R", "prevalence")  # of thresholds; P and R are numbers


@dataclass(frozen=True)
class FitOptions:
    """How rules are fitted to a table of validation predictions with labels."""

    uncertain: str = as_in(
        DataSettings,
        "uncertain",
        help="What -1 counts as in --fit; blanks are negative, or ignored with ignore.",
    )
    folds: int = setting(
        5, "Parts by subject, each judged by a fit to the others, for the figures that are shown.", at_least(2),
        metavar="N",
    )  # fmt: skip
    force: bool = setting(False, "Fit to a split that was trained on (train, all): its figures flatter.")

    def __post_init__(self):
        check(self)


DEFAULTS = FitOptions()
