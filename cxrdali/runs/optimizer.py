"""How a run's weights are trained: rates, schedule, length, which epoch is the best. Free of torch and timm."""

from dataclasses import dataclass

from cxrdali.data.options import VIEWS
from cxrdali.setting import above, at_least, check, from_zero_below, one_of, setting
from shards.errors import UserError

SELECT_BY = ("map", "lrap")
LR_SCHEDULES = ("step", "epoch", "constant", "one-cycle")


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Settings of the optimizer; rates per step. patience None: the run does not end early."""

    batch: int = setting(help="Images per optimizer step.", legal=at_least(1), otherwise="the stage's")
    epochs: int = setting(30, "Epochs, warm-up included.", at_least(1))
    warmup_epochs: int = setting(1, "Epochs in which the rate rises linearly.", at_least(0))
    lr: float = setting(1e-3, "Largest learning rate (then cosine to --min-lr).", above(0, below=100))
    min_lr: float = setting(0.0, "Learning rate at the end of the cosine.")
    lr_schedule: str = setting(
        "step",
        "The cosine falls with every step or with every epoch; constant: it does not fall; one-cycle: it rises over "
        "the first 30 % of the steps and falls to almost nothing (Smith & Topin).",
        one_of(LR_SCHEDULES),
        before="step",
    )
    head_lr: float | None = setting(
        None, "Largest learning rate of the classifier.", above(0, below=100), otherwise="--lr", before=None
    )
    layer_decay: float | None = setting(
        None,
        "Rate of a layer, as a share of that of the layer behind it; the classifier has the whole rate.",
        above(0, at_most=1),
        otherwise="all layers have --lr",
        before=None,
    )
    weight_decay: float = setting(1e-6, "AdamW's, times the rate at each step.", from_zero_below(100))
    decay_norms: bool = setting(
        True, "Weight decay of norms, biases, position embeddings and tokens, too.", before=True
    )
    clip_norm: float | None = setting(
        None, "Shorten the gradient of a step to this norm.", above(0), otherwise="no limit", before=None
    )
    ema: float | None = setting(
        None,
        "Keep an exponential moving average of the weights, with this decay per step (0.9998, say).",
        above(0, below=1),
        otherwise="none",
        before=None,
    )
    ema_half_life: float | None = setting(
        None,
        "As --ema, with a decay after which so many images later half of the average is newer.",
        above(0),
        otherwise="none",
        metavar="IMAGES",
        before=None,
    )
    ema_warmup: bool = setting(
        False, "The average's decay rises from 0: after n steps it is at most 1 - (1 + n) ** (-2/3).", before=False
    )
    head_epochs: int = setting(
        0, "First epochs in which the classifier alone is trained; --warmup-epochs come after them.", at_least(0),
        before=0,
    )  # fmt: skip
    head_epochs_lr: float | None = setting(
        None,
        "Learning rate of the classifier in --head-epochs.",
        above(0, below=100),
        otherwise="--head-lr, or --lr",
        before=None,
    )
    keep_epochs: int = setting(
        0, "Keep the weights of so many best and so many last epochs, for `cxrdali average`.", at_least(0), before=0
    )
    patience: int | None = setting(
        None,
        "End after so many epochs without a better one; --head-epochs and those before --drw-epoch do not count.",
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
    select_view: str | None = setting(
        None,
        "The view on whose validation images that metric chooses: frontal or lateral.",
        one_of(VIEWS[1:]),
        otherwise="all that validate",
        before=None,
    )

    def __post_init__(self):
        check(self)
        if not 0 <= self.min_lr < self.lr:
            raise UserError(f"min-lr {self.min_lr}: 0 or more, below lr, {self.lr}")
        if self.lr_schedule == "one-cycle" and (self.min_lr or self.warmup_epochs > 1):
            given = f"min-lr {self.min_lr}" if self.min_lr else f"warmup-epochs {self.warmup_epochs}"
            raise UserError(f"{given}: one-cycle has a rise and an end of its own; leave it out")
        if self.ema is not None and self.ema_half_life is not None:
            raise UserError(
                f"ema {self.ema}: its decay is given as ema-half-life {self.ema_half_life:g}, too; leave one out"
            )
        if self.ema_decay in (0, 1):
            what = "would never move" if self.ema_decay else "would be the weights themselves"
            raise UserError(
                f"ema-half-life {self.ema_half_life:g}: with a batch of {self.batch} the average {what}; give a number "
                "of images, such as 200000"
            )
        if self.ema_warmup and self.ema_decay is None:
            raise UserError("ema-warmup: there is no average of weights; give --ema or --ema-half-life, too")
        if self.head_epochs >= self.epochs:
            raise UserError(
                f"head-epochs {self.head_epochs}: all of {self.epochs} epochs would train the classifier alone; give "
                "fewer, or --frozen for such a run"
            )
        if self.head_epochs_lr is not None and not self.head_epochs:
            raise UserError(f"head-epochs-lr {self.head_epochs_lr}: there are no epochs of it; give --head-epochs")

    @property
    def ema_decay(self) -> float | None:
        """Of the moving average of weights, per step; None without one."""
        return 0.5 ** (self.batch / self.ema_half_life) if self.ema_half_life else self.ema

    @property
    def rate_of_head(self) -> float:
        """The classifier's largest learning rate."""
        return self.head_lr or self.lr
