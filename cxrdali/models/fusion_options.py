"""How the images of a study become one prediction: options of a study-level run. Free of torch and timm."""

from dataclasses import dataclass
from pathlib import Path

from cxrdali.setting import Legal, at_least, check, from_zero_below, one_of, setting
from shards.errors import UserError

FUSIONS = ("mean", "max", "attention", "transformer")
PLACE = "study_fusion"  # of the fusion in a backbone, and in front of its keys
HEADS = 8  # of the transformer's attention


@dataclass(frozen=True)
class StudyOptions:
    """What a study-level run has beside the settings of every run.

    features: the folder where a frozen backbone's features are kept.
    """

    fusion: str = setting(
        "attention",
        "How the features of a study's images become one: their mean, their maximum, gated attention (Ilse et al. "
        "2018), or a transformer over them.",
        one_of(FUSIONS),
    )
    fusion_width: int = setting(
        256,
        "Numbers of an image inside attention and transformer.",
        Legal(lambda value: value >= HEADS and value % HEADS == 0, f"a multiple of {HEADS}, {HEADS} or more"),
    )
    fusion_layers: int = setting(2, "Layers of the transformer.", at_least(1))
    fusion_dropout: float = setting(0.1, "Dropout inside the transformer.", from_zero_below(1))
    study_images: int = setting(
        8,
        "Images of a study that the model sees at most: frontal and lateral ones in turn, in the catalog's order.",
        at_least(1),
    )
    features: str = setting("", "Where a frozen backbone's features are kept.", otherwise="RUN/features")

    def __post_init__(self):
        check(self)

    @property
    def identity(self) -> dict[str, str | int]:
        """What weights are of."""
        shape = {"width": self.fusion_width, "layers": self.fusion_layers}
        inside = {"attention": ("width",), "transformer": ("width", "layers")}.get(self.fusion, ())
        return {"fusion": self.fusion, **{name: shape[name] for name in inside}}

    def check_fits(self, micro_batch: int | None) -> None:
        """Raises UserError if a study may have more images than are to be on the device at a time (None: any)."""
        if micro_batch and micro_batch < self.study_images:
            raise UserError(
                f"micro-batch {micro_batch}: a study is never divided, and has up to {self.study_images} images; give "
                f"--study-images {micro_batch}, or a larger --micro-batch"
            )

    @property
    def folder(self) -> Path:
        return Path(self.features)
