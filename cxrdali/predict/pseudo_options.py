"""Options of pseudo-labels: predictions that become labels. Free of torch and OpenCV, for the help of `label`."""

from dataclasses import dataclass
from pathlib import Path

from cxrdali.setting import PART, check, setting
from shards.dataset.labels import SOFT
from shards.errors import UserError


@dataclass(frozen=True)
class PseudoOptions:
    """How probabilities become labels: one of soft, threshold, and above with below."""

    soft: bool = setting(False, "Keep the probabilities themselves as labels.")
    threshold: str | None = setting(
        None,
        "Call findings by what `cxrdali thresholds` wrote, or from one probability on for all, such as 0.5; a finding "
        "without a threshold is not known.",
        otherwise="none",
        metavar="JSON|P",
    )
    above: float | None = setting(
        None, "A finding is there from this probability on; needs --below.", PART, otherwise="none", metavar="P"
    )
    below: float | None = setting(
        None,
        "A finding is not there up to this probability; between the two it is not known, and no loss counts it.",
        PART,
        otherwise="none",
        metavar="Q",
    )
    allow_other_run: bool = setting(False, "Use thresholds that were fitted to another run or TTA, too.")

    def __post_init__(self):
        check(self)
        if (self.above is None) != (self.below is None):
            raise UserError("above and below belong together; give both")
        if self.above is not None and self.below is not None and not self.below < self.above:
            raise UserError(f"below {self.below:g}: is not below {self.above:g}, the probability of --above")
        if self.soft + (self.threshold is not None) + (self.above is not None) != 1:
            raise UserError("pseudo-labels: give one of --soft, --threshold, and --above with --below")

    @property
    def how(self) -> str:
        if self.above is not None:
            return f"called from {self.above:g} on, and not up to {self.below:g}"
        return SOFT if self.soft else f"called by {Path(str(self.threshold)).name}"
