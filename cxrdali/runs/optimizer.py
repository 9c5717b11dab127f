"""How a run's weights are trained: rates, schedule, length, which epoch is the best. Free of torch and timm."""

from dataclasses import dataclass

from cxrdali.setting import above, at_least, check, from_zero_below, one_of, setting
from shards.errors import UserError

SELECT_BY = ("map", "lrap")
LR_SCHEDULES = ("step", "epoch", "constant")


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Settings of the schedule; rates per step. patience None: the run does not end early."""

    batch: int = setting(help="Images per optimizer step.", legal=at_least(1), otherwise="the stage's")
    epochs: int = setting(30, "Epochs, warm-up included.", at_least(1))
    warmup_epochs: int = setting(1, "Epochs in which the rate rises linearly.", at_least(0))
    lr: float = setting(1e-3, "Largest learning rate (then cosine to --min-lr).", above(0, below=100))
    min_lr: float = setting(0.0, "Learning rate at the end of the cosine.")
    lr_schedule: str = setting(
        "step",
        "The cosine falls with every step or with every epoch; constant: it does not fall.",
        one_of(LR_SCHEDULES),
        before="step",
    )
    weight_decay: float = setting(1e-6, "AdamW's, times the rate at each step.", from_zero_below(100))
    patience: int | None = setting(
        None,
        "End after so many epochs without a better one; those before --drw-epoch do not count.",
        at_least(1),
        otherwise="never",
    )
    select_by: str = setting("map", "Which metric chooses the best epoch.", one_of(SELECT_BY))
    select_pack: str | None = setting(
        None,
        "Of several packs, the one on whose validation images that metric chooses.",
        otherwise="the mean over packs",
        metavar="NAME",
        before=None,
    )

    def __post_init__(self):
        check(self)
        if not 0 <= self.min_lr < self.lr:
            raise UserError(f"min-lr {self.min_lr}: 0 or more, below lr, {self.lr}")
