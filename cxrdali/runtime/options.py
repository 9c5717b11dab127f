"""Where and how fast a run computes."""

from dataclasses import dataclass

from cxrdali.setting import Legal, at_least, check, one_of, setting
from shards.errors import UserError
from shards.words import choices

AUTO = "auto"  # of micro_batch and compile: found by trying (`cxrdali.train.microbatch`, `cxrdali.train.compiling`)
PRECISIONS = ("auto", "bf16", "fp16", "fp32")
DECODE = ("auto", "cpu", "mixed", "hybrid")
UNTRACKED = ("csv", "none")  # the tables that every run writes, and no more
TRACKERS = ("tensorboard", "wandb", "mlflow", *UNTRACKED)  # all but UNTRACKED: a file each in cxrdali/train/trackers

_IMAGES_OR_AUTO = Legal(
    lambda value: value == AUTO or (isinstance(value, int) and value >= 1), f"a number of images, or {AUTO}"
)


def _trackers(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"track {name!r}: {choices(name, TRACKERS)}")
    if "none" in names and set(names) != {"none"}:
        raise UserError(f"track {','.join(names)}: none stands alone; leave it out, or the others")
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class RuntimeSettings:
    """Settings of the machine. Those in `DECIDES` change numbers; the others may differ when a run continues.

    (Micro-batches and checkpointing change batch normalisation's statistics; their help says so.) threads None: two
    for each core of this process, at most 8; micro_batch None: the batch (the default before auto was); limit_batches
    None: all.
    """

    device: str = setting("auto", "auto, cpu, cuda, or cuda:N for GPU N, from 0.")
    precision: str = setting("auto", "auto: bf16 on GPUs that have it, else fp16; fp32 on the CPU.", one_of(PRECISIONS))
    compile: bool | str = setting(
        False,
        "torch.compile the model. auto: where 20 steps measured at the start say that it pays within the run (on a "
        "GPU), as config.json then keeps.",
        Legal(lambda value: isinstance(value, bool) or value == AUTO, f"true, false or {AUTO}"),
        metavar="[auto]",
    )
    channels_last: bool = setting(
        True,
        "Memory format of images and weights. Convolutional networks are faster with it on GPUs: EfficientNetV2-S by "
        "25 % on an RTX 3090 (timm's published figures); ConvNeXt by nothing.",
    )
    checkpointing: bool = setting(
        False, "Gradient checkpointing: less memory for more time; batch norm updates its statistics twice a step."
    )
    micro_batch: int | str | None = setting(
        AUTO,
        "Images on the device at a time; must divide the batch. auto: the most that fit in the GPU's memory, found by "
        "trying, and kept in config.json; on the CPU the batch. Same samples, pixels and steps; batch normalisation "
        "sees the smaller groups. The batch's own number searches nothing.",
        _IMAGES_OR_AUTO,
        metavar="INTEGER|auto",
        before=None,
    )
    decode: str = setting(
        "auto",
        "cpu: decode and resize there; mixed: on the GPU; hybrid: decode on the CPU, resize on the GPU. A run on a GPU "
        "augments there in any case. auto is cpu.",
        one_of(DECODE),
    )
    threads: int | None = setting(
        None,
        "CPU threads that load images. Unless DALI decodes or resizes (a GPU, another size), one a core at most.",
        at_least(1),
        otherwise="two a core, at most 8",
    )
    cache_features: bool = setting(
        True,
        "With a frozen backbone and without augmentation: compute its features once and keep them in the device's "
        "memory (212,000 images with 2,048 numbers: 1.7 GB).",
    )
    sync_bn: bool = setting(False, "Batch normalisation over the images of all GPUs, not each one's own.")
    limit_batches: int | None = setting(
        None, "Train and validate only so many batches per epoch, for a trial.", at_least(1), otherwise="all"
    )
    track: tuple[str, ...] = setting(
        ("tensorboard",),
        f"Who is told every epoch's numbers beside metrics.csv and findings.csv: {', '.join(TRACKERS)}. csv: these "
        "tables alone, as with none. wandb and mlflow are set up by their own variables (docs/training.md).",
        Legal(bool, "give a name, or none", read=_trackers),
        otherwise="tensorboard",
        metavar="NAME",
    )
    track_paths: bool = setting(
        False,
        "Tell trackers the paths of this machine and the command line too, which may name people. Otherwise only the "
        "names of the run's folder and of the one above it.",
    )

    DECIDES = ("precision", "sync_bn", "limit_batches")

    def __post_init__(self):
        check(self)
