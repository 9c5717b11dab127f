"""What can be chosen in post-processing, by name; the command line shows these lists without loading what they do."""

from dataclasses import dataclass

from cxrdali.data.options import DataSettings
from cxrdali.setting import as_in, at_least, check, setting
from shards.errors import UserError
from shards.words import choices

POOLINGS = ("mean", "geometric", "rank")  # keys of `cxrdali.predictions.METHODS`
SHARED = "temperature"  # one map for all findings
STRENGTH = 0.5  # of normal gating, the first place's of CXR-LT 2026
CALIBRATIONS = (SHARED, "per-finding-temperature", "platt", "isotonic")
STRATEGIES = ("f1", "precision=P", "recall=R", "prevalence")  # of thresholds; P and R are numbers


@dataclass(frozen=True)
class FitOptions:
    """How rules are fitted to a table of validation predictions with labels."""

    uncertain: str = as_in(
        DataSettings,
        "uncertain",
        help="What -1 counts as in --fit; blanks are negative, or ignored with ignore-all. See `cxrdali train`.",
    )
    folds: int = setting(
        5,
        "Parts by subject, each judged by a fit to the others, for the figures that are shown.",
        at_least(2),
        metavar="N",
    )
    allow_leak: bool = setting(False, "Fit to images that were trained on, too: figures are then too good.")
    findings: str | None = as_in(
        DataSettings,
        "findings",
        help="Which findings are the same where predictions and labels name them differently: a TOML file of lines "
        'such as "Effusion" = "Pleural Effusion".',
    )

    def __post_init__(self):
        check(self)


DEFAULTS = FitOptions()


@dataclass(frozen=True)
class Strategy:
    """name: f1, precision, recall or prevalence; target: the precision or recall to reach, above 0 to 1, else None."""

    name: str
    target: float | None = None

    def __str__(self) -> str:
        return self.name if self.target is None else f"{self.name}={self.target:g}"


def parse_strategy(text: str) -> Strategy:
    """Raises UserError if `text` is not one of STRATEGIES, with a number for P or R."""
    name, sign, number = text.partition("=")
    if name in ("f1", "prevalence") and not sign:
        return Strategy(name)
    if name in ("precision", "recall") and sign:
        try:
            target = float(number)
        except ValueError:
            target = float("nan")
        if 0 < target <= 1:
            return Strategy(name, target)
        raise UserError(f"strategy {text!r}: {name}= takes a number above 0, at most 1, such as {name}=0.8")
    raise UserError(f"strategy {text!r}: {choices(text, STRATEGIES)}")
