"""What a stage is, and every setting of a training run with the paper's defaults."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from cxrdali.data.augment import CUTOUTS, FLIPS
from cxrdali.data.options import LoaderOptions
from cxrdali.data.order import ORDERS
from cxrdali.data.pipeline import MODES
from cxrdali.data.sampler import SAMPLERS
from cxrdali.data.splits import FoldOptions
from cxrdali.data.targets import UNCERTAIN
from cxrdali.models import losses
from cxrdali.models.classifier import NORMS
from shards.errors import UserError

# Yamagishi & Hanaoka 2023: stage -> side in pixels, global batch
STAGES = {1: (224, 256), 2: (320, 128), 3: (512, 48)}
AUTO = "auto"  # of micro_batch: the largest that fits in the GPU's memory (`cxrdali.train.microbatch`)
PRECISIONS = ("auto", "bf16", "fp16", "fp32")
SELECT_BY = ("map", "lrap")

# Settings that change how fast a run goes and where, but neither its samples nor its recipe: a continued run
# may have others. (Micro-batches and checkpointing change batch-norm's statistics; that is said in their help.)
MAY_DIFFER = (
    "threads", "micro_batch", "device", "decode", "compile", "channels_last", "checkpointing", "cache_features",
)  # fmt: skip
# Settings that came later, as runs without them had them.
LATER = {
    "loss": "bce", **dict.fromkeys(losses.PARAMETERS), **losses.LOSSES["bce"],
    "sampler": "natural", "flips": "both", "min_lr": 0.0, "patience": None, "frozen": False, "new_head": False,
    "sync_bn": False,
}  # fmt: skip
EARLIER = {"oversample": [], **LATER}


@dataclass(frozen=True)
class TrainSettings:
    """One run. Lengths in pixels, epochs and images; rates per step.

    size and batch default to the stage's; micro_batch: images on the device at a time (None: the batch; "auto": as many
    as fit); init is a run folder or a weights file (None: timm's weights, or none).
    Images of the findings in oversample are doubled; or of those with an AP under oversample_below (0 to 1) in
    oversample_from, a run folder or a file of metrics. sampler: weighted draws instead of every image once.
    Parameters of the loss (`cxrdali.models.losses`) are None where it does not have them, else resolved; drw_epoch
    counts the
    epochs before re-weighting begins. min_lr: where the cosine ends; patience: epochs without a better one after which
    the run ends (None: never). frozen: train the classifier alone, on a backbone in evaluation mode, from features that
    are computed once where nothing augments them (cache_features); new_head: do not take it from init. sync_bn: batch
    normalisation over all ranks' images, not each rank's own.
    """

    stage: int
    size: int | None = None
    batch: int | None = None
    micro_batch: int | str | None = None
    epochs: int = 30
    warmup_epochs: int = 1
    lr: float = 1e-3
    weight_decay: float = 1e-6
    arch: str = "tf_efficientnetv2_s.in21k_ft_in1k"
    pretrained: bool = True
    init: str | None = None
    norm: str = "imagenet"
    labels: str | None = None
    uncertain: str = "negative"
    fold: int = 0
    folds: int = 5
    group: str = "subject"
    cutout: str = "fixed"
    order: str = "global"
    select_by: str = "map"
    precision: str = "auto"
    compile: bool = False
    device: str = "auto"
    decode: str = "auto"
    threads: int | None = None
    seed: int = 0
    limit_batches: int | None = None
    oversample: tuple[str, ...] = ()
    oversample_below: float | None = None
    oversample_from: str | None = None
    loss: str = "bce"
    pos_weight: str | None = None
    focal_gamma: float | None = None
    focal_alpha: float | None = None
    cb_beta: float | None = None
    asl_gamma_neg: float | None = None
    asl_gamma_pos: float | None = None
    asl_clip: float | None = None
    ldam_margin: float | None = None
    ldam_scale: float | None = None
    drw_epoch: int | None = None
    sampler: str = "natural"
    flips: str = "both"
    min_lr: float = 0.0
    patience: int | None = None
    channels_last: bool = True
    checkpointing: bool = False
    frozen: bool = False
    new_head: bool = False
    cache_features: bool = True
    sync_bn: bool = False

    def __post_init__(self):
        if self.stage not in STAGES:
            raise UserError(f"stage {self.stage}: choose 1, 2 or 3")
        size, batch = STAGES[self.stage]
        object.__setattr__(self, "size", size if self.size is None else self.size)
        object.__setattr__(self, "batch", batch if self.batch is None else self.batch)
        for name in ("size", "batch", "epochs", "micro_batch", "limit_batches", "threads", "patience"):
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise UserError(f"{name.replace('_', '-')} {value}: at least 1")
        if isinstance(self.micro_batch, str) and self.micro_batch != AUTO:
            raise UserError(f"micro-batch {self.micro_batch!r}: a number of images, or {AUTO}")
        if isinstance(self.micro_batch, int) and self.batch % self.micro_batch:
            raise UserError(f"micro-batch {self.micro_batch}: must divide the batch, {self.batch}")
        if not 0 < self.lr < 100:
            raise UserError(f"lr {self.lr}: above 0, below 100")
        if not 0 <= self.min_lr < self.lr:
            raise UserError(f"min-lr {self.min_lr}: 0 or more, below lr, {self.lr}")
        if not 0 <= self.weight_decay < 100:
            raise UserError(f"weight-decay {self.weight_decay}: 0 or more, below 100")
        if self.warmup_epochs < 0:
            raise UserError(f"warmup-epochs {self.warmup_epochs}: 0 or more")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed {self.seed}: 0 to 2**32 - 1")
        choices = {
            "norm": NORMS, "uncertain": UNCERTAIN, "cutout": CUTOUTS, "order": ORDERS, "precision": PRECISIONS,
            "decode": MODES, "select_by": SELECT_BY, "sampler": SAMPLERS, "flips": FLIPS,
        }  # fmt: skip
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"{name.replace('_', '-')} {getattr(self, name)!r}: choose one of {', '.join(allowed)}")
        object.__setattr__(self, "oversample", tuple(self.oversample))
        self._check_oversampling()
        self._resolve_loss()
        if self.new_head and self.init is None:
            raise UserError("new-head: only weights of --init have a classifier that could be left out; give --init")
        if self.frozen and self.init is None and not self.pretrained:
            raise UserError("frozen: a backbone from scratch would stay random; give the run to start from with --init")
        self.fold_options()

    def _resolve_loss(self):
        given = {name: getattr(self, name) for name in losses.PARAMETERS}
        for name, value in losses.resolved(self.loss, given).items():
            object.__setattr__(self, name, value)
        if self.drw_epoch is not None and self.drw_epoch >= self.epochs:
            raise UserError(
                f"drw-epoch {self.drw_epoch}: re-weighting would begin after the last of {self.epochs} epochs; "
                f"give 0 to {self.epochs - 1}, or more --epochs"
            )

    @property
    def loss_parameters(self) -> dict[str, object]:
        """Those of the loss, without the others'."""
        return {name: getattr(self, name) for name in losses.LOSSES[self.loss]}

    def _check_oversampling(self):
        below = self.oversample_below
        if below is not None and not 0 < below <= 1:
            raise UserError(f"oversample-below {below}: an AP, above 0 and at most 1")
        if below is not None and self.oversample:
            raise UserError("oversample and oversample-below: give findings or a threshold, not both")
        if self.sampler != "natural" and (self.oversample or below is not None):
            raise UserError(f"sampler {self.sampler}: oversampling too changes how often an image comes; choose one")
        if (below is None) != (not self.oversample_from):
            missing = (
                "--oversample-below, the AP under which" if below is None else "--oversample-from, the run whose AP"
            )
            raise UserError(f"oversampling by AP needs {missing} decides; give both")

    def fold_options(self) -> FoldOptions:
        return FoldOptions(self.fold, self.folds, self.group)

    def loader_options(self, device: str) -> LoaderOptions:
        return LoaderOptions(self.size, self.batch, self.threads, self.decode, device, order=self.order)

    def as_json(self) -> dict:
        return {**asdict(self), "oversample": [*self.oversample]}

    def difference(self, other: dict) -> tuple[str, object, object] | None:
        """The first setting (name, there, here) in which a stored run differs and must not; None if there is none."""
        here_values = self.as_json()
        for field in fields(self):
            there, here = other.get(field.name, EARLIER.get(field.name)), here_values[field.name]
            # the weights' hash and the findings chosen are compared; a path can be spelled in many ways
            if field.name in ("init", "oversample_from"):
                there, here = there and "given", here and "given"
            if field.name not in MAY_DIFFER and there != here:
                return field.name, there, here
        return None


def sampling_seed(seed: int, stage: int) -> int:
    """The seed of order and augmentation: a stage of its own, or each would repeat the one before, epoch by epoch."""
    return 4 * seed + stage


def run_folder(runs: Path, stage: int) -> Path:
    """Where `cxrdali train --stage N` keeps its run by default, and where stage N + 1 looks for it."""
    return runs / f"stage{stage}"
