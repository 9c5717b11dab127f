"""What can be chosen in post-processing, by name; the command line shows these lists without loading what they do."""

from dataclasses import dataclass

POOLINGS = ("mean", "geometric", "rank")  # keys of `cxrdali.predictions.METHODS`
SHARED = "temperature"  # one map for all findings
CALIBRATIONS = (SHARED, "per-finding-temperature", "platt", "isotonic")
STRATEGIES = ("f1", "precision=P", "recall=R", "prevalence")  # of thresholds; P and R are numbers


@dataclass(frozen=True)
class FitOptions:
    """How rules are fitted to a table of validation predictions with labels.

    uncertain: what -1 counts as: negative, positive or ignore; folds: parts of the subjects, at least 2, each judged by
    rules fitted to the others; force: also on images that the model was trained on.
    """

    uncertain: str = "negative"
    folds: int = 5
    force: bool = False


DEFAULTS = FitOptions()
