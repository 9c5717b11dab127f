"""Which model is trained, from which weights, and how it is built. Free of torch and timm."""

from dataclasses import dataclass, field

from cxrdali.models.head import HEADS, Head
from cxrdali.registry import choice
from cxrdali.setting import above, check, from_zero_below, one_of, setting
from shards.errors import UserError
from shards.words import choices

NORMS = ("imagenet", "weights")
POOLS, POOLED = ("own", "avg", "max", "gem"), ("linear", "cosine")  # the second: heads that may have one
# keys of `cxrdali.models.tta.TTA`
TTAS = ("none", "hflip", "flips", "light", "medium", "sulake-light", "sulake-medium")


@dataclass(frozen=True)
class ModelSettings:
    """Settings of the model. init None: timm's weights, or none."""

    arch: str = setting("tf_efficientnetv2_s.in21k_ft_in1k", "A timm model.")
    pretrained: bool = setting(True, "Start stage 1 from timm's weights.")
    init: str | None = setting(
        None,
        "Initial weights: a finished run's folder, or a file of safetensors or torch (timm, Lightning).",
        otherwise="stage 1: timm's weights; else the folder stage(N-1), or the one that the recipe names, beside RUN",
        metavar="RUN_OR_FILE",
    )
    norm: str = setting(
        "imagenet", "Mean and std of ImageNet (as Yamagishi & Hanaoka 2023), or those of the weights.", one_of(NORMS)
    )
    head: Head = choice(
        HEADS,
        "linear",
        "The classifier: linear is timm's own, cosine has normalised features and weights (Cao et al.); csra and "
        "ml-decoder look at the places of the last feature map (Zhu & Wu; Ridnik et al.).",
    )
    pool: str = setting(
        "own",
        "How a feature map becomes the vector that a linear or cosine head sees: the network's own way, mean, maximum, "
        "or a generalised mean whose exponent is trained (GeM, Radenovic et al.).",
        one_of(POOLS),
        before="own",
    )
    gem_p: float = setting(3.0, "First exponent of --pool gem: 1 is the mean.", above(0, at_most=100), before=3.0)
    dropout: float = setting(
        0.0, "Share of the classifier's inputs that each training step sets to 0.", from_zero_below(1), before=0.0
    )
    drop_path: float = setting(
        0.0,
        "Stochastic depth: up to this share of an image's residual branches is left out in each training step.",
        from_zero_below(1),
        before=0.0,
    )
    new_head: bool = setting(False, "Do not take the classifier from --init.")
    frozen: bool = setting(False, "Train the classifier alone, on a backbone in evaluation mode.")

    def __post_init__(self):
        check(self)
        if self.new_head and self.init is None:
            raise UserError("new-head: only weights of --init have a classifier that could be left out; give --init")
        if self.pool != "own" and self.head.name not in POOLED:
            raise UserError(f"pool {self.pool}: only linear and cosine heads, not {self.head.name}; use --pool own")
        if self.frozen and self.init is None and not self.pretrained:
            raise UserError("frozen: a backbone from scratch would stay random; give the run to start from with --init")
        if self.frozen and self.drop_path:
            raise UserError(f"drop-path {self.drop_path}: a frozen backbone leaves nothing out; give one or the other")


@dataclass(frozen=True)
class ModelOptions:
    """How a model is built.

    arch: a timm name; size: side of the images in pixels; pretrained: start from timm's weights; norm: mean and std of
    ImageNet or those that the weights were trained with; logit_scale: factor of the classifier's output (`Loss`);
    dropout: share of the classifier's inputs that training sets to 0; pool, gem_p: what is before a linear classifier;
    drop_path: timm's drop_path_rate;
    channels_last: memory format of activations and weights; checkpointing: compute activations again in the backward
    pass instead of keeping them.
    """

    arch: str
    size: int
    pretrained: bool = True
    norm: str = "imagenet"
    logit_scale: float = 1.0
    channels_last: bool = True
    checkpointing: bool = False
    head: Head = field(default_factory=lambda: HEADS["linear"]())
    dropout: float = 0.0
    pool: str = "own"
    gem_p: float = 3.0
    drop_path: float = 0.0

    def __post_init__(self):
        if self.norm not in NORMS:
            raise UserError(f"norm {self.norm!r}: {choices(self.norm, NORMS)}")
