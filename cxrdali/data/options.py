"""Options of data: how it is split, targeted, ordered, augmented and sampled; and options of the loader."""

from dataclasses import dataclass, fields, replace

from cxrdali.data.augment import CUTOUTS, FLIPS
from cxrdali.data.augment.presets import PRESETS
from cxrdali.data.augment.written import canonical as canonical_augmentation
from cxrdali.data.label_weight import canonical as canonical_weight
from cxrdali.data.mix import canonical as canonical_mix
from cxrdali.data.order import ORDERS
from cxrdali.data.sampler import SAMPLERS, Sampler
from cxrdali.data.schedule import FORM
from cxrdali.data.uncertain import UNCERTAIN, canonical, smoothed
from cxrdali.registry import choice
from cxrdali.runtime.limits import default_threads
from cxrdali.runtime.options import DECODE
from cxrdali.setting import PART, Legal, at_least, check, from_zero_below, one_of, setting, spelled
from shards.dataset.synonyms import FindingsMap
from shards.errors import UserError

GROUPS = ("subject", "study")
FOLD_RULES = ("ids", "catalog")
VIEWS = ("all", "frontal", "lateral")  # other, or unknown, views are in "all" alone
SPLITS = ("train", "val", "dev", "test", "all")  # train and val are a run's own fold of the released train
TRAINED_ON = ("train", "all")  # splits that hold images which a run trained on
LANES = 2

_POLICY = Legal(lambda value: True, f"one of {', '.join(UNCERTAIN)}, or a policy", read=canonical)
_MAP = Legal(lambda value: True, "a map of findings", read=lambda given: FindingsMap.read(given).text)
_SAME = Legal(
    lambda value: all(len(group) > 1 for group in patient_groups(value)),
    "two names of packs or more with commas between them",
    read=lambda given: "; ".join(",".join(group) for group in patient_groups(given)) or None,
)
_AP = Legal(lambda value: 0 < value <= 1, "an AP, above 0 and at most 1")


def patient_groups(text: str | None) -> tuple[tuple[str, ...], ...]:
    """The groups of packs that `same_patients` names."""
    groups = (text or "").split(";")
    return tuple(tuple(name.strip() for name in group.split(",")) for group in groups if group.strip())


@dataclass(frozen=True)
class FoldOptions:
    """How the released training split is divided: one of `folds` parts validates, by default 1 of 5 (20 %).

    group: "subject" (ours: no patient on both sides) or "study" (as Yamagishi & Hanaoka 2023). The rules are
    `cxrdali.data.splits`'s.
    """

    fold: int = setting(0, "Which part of the training split validates, from 0.")
    folds: int = setting(5, "Into how many parts it is divided.", at_least(2))
    group: str = setting(
        "subject", "What stays in one fold; study, as Yamagishi & Hanaoka (2023), can split a subject.", one_of(GROUPS)
    )
    fold_seed: int = setting(
        0,
        "It and the id decide which part a subject or study is in.",
        Legal(lambda value: 0 <= value < 2**32, "0 to 2**32 - 1"),
        before=0,
    )
    stratify: bool = setting(
        False,
        "Parts of as many images, with as many of each finding: another image or label can then move a subject to "
        "another part.",
        before=False,
    )
    fold_rule: str = setting(
        "ids",
        "ids: by the id and --fold-seed alone; catalog: by the order of the packed images, to go on with runs of "
        "earlier versions.",
        one_of(FOLD_RULES),
        before="catalog",
    )
    view: str = setting(
        "all",
        "Which images train and validate: frontal or lateral ones alone, or all, with those of another or no known "
        "view. Folds are the same for each.",
        one_of(VIEWS),
        before="all",
    )

    def __post_init__(self):
        check(self)
        if not 0 <= self.fold < self.folds:
            raise UserError(f"fold {self.fold}: 0 to {self.folds - 1}")
        if self.fold_rule == "catalog" and (self.stratify or self.fold_seed):
            raise UserError("fold-rule catalog: has neither a fold-seed nor stratify; leave these out")

    def shares_patients(self, pack: str) -> bool:
        """Whether another pack has the same patients as this one of several; "": as one that is looked at alone."""
        return False

    @property
    def how(self) -> str:
        """What is not the default in how images are divided, to follow "fold 0 of 5": "", or ", stratified"."""
        words = (
            "by the catalog's order" * (self.fold_rule == "catalog"),
            "stratified" * self.stratify,
            f"seed {self.fold_seed}" * (self.fold_seed > 0),
            f"{self.view} images alone" * (self.view != "all"),
        )
        return "".join(f", {each}" for each in words if each)


FOLDS = tuple(field.name for field in fields(FoldOptions))


@dataclass(frozen=True, kw_only=True)
class DataSettings(FoldOptions):
    """Settings of the data. labels None: the dataset's first release, by whose name the trainer replaces it.

    Images of the findings in oversample are doubled; or those of the findings whose AP in oversample_from, a run folder
    or a file of metrics, is under oversample_below (0 to 1).
    """

    labels: str | None = setting(None, "Label release.", otherwise="the dataset's first", metavar="NAME")
    size: int = setting(help="Side of the images in pixels.", legal=at_least(1), otherwise="the stage's")
    schedule: str | None = setting(
        None,
        "Several sizes in one run, from small to large: 224x10@256,320x10@128 is 10 epochs at 224 px in batches of "
        "256, then 10 at 320 px. --size and --batch are the last one's. Without @BATCH: --batch; without that too the "
        "stages' (224 px 256, 320 px 128, 512 px 48).",
        otherwise="one size",
        metavar=FORM,
        before=None,
    )
    grow_from: float = setting(
        1.0,
        "With --schedule: the share of dropout, drop-path, mixup and cutmix that the first size has, 0 to 1. It grows "
        "by equal steps from size to size, and the last has all of it (as in EfficientNetV2's progressive learning).",
        PART,
        before=1.0,
    )
    uncertain: str = setting(
        "negative",
        "What -1 counts as: negative, positive, ignore (blanks stay negative), ignore-all (blanks are ignored too), "
        "smooth (positive, in the training loss 0.7) or smooth-zeros (negative, there 0.15); or a TOML file with one "
        'of these per finding (docs/training.md), or as text: "negative; Edema=positive".',
        _POLICY,
        metavar="CHOICE|TOML",
    )
    label_smoothing: float = setting(
        0.0,
        "Of the training loss: s makes a target of 1 to 1 - s / 2, one of 0 to s / 2.",
        from_zero_below(1),
        before=0.0,
    )
    label_weight: str | None = setting(
        None,
        "How much labels count in the training loss, 1 being all they do: 0.3, or of several packs B=0.3, as for "
        "pseudo-labels. Class counts and metrics go without it.",
        Legal(lambda value: True, "a weight", read=canonical_weight),
        otherwise="1",
        metavar="NUMBER|PACK=NUMBER,...",
        before=None,
    )
    order: str = setting(
        "global", "windowed: a few shards at a time, for data larger than memory on slow disks.", one_of(ORDERS)
    )
    augment_preset: str | None = setting(
        None,
        "Flips, cutout and all other augmentation at once; options given beside it count more. paper: both flips and "
        "cutout (Yamagishi & Hanaoka 2023); mild: one flip and weak changes of place and gray levels, as the winner of "
        "CXR-LT 2026; none: images stay as they are (docs/recipes.md).",
        replace(one_of(PRESETS), sets=PRESETS),
        otherwise="mirrored left to right alone",
        before=None,
    )
    flips: str = setting(
        "horizontal", "Along which axes images are mirrored, each with probability 0.5.", one_of(FLIPS)
    )
    cutout: str = setting(
        "off",
        "fixed: five squares of 5 % of the side, clipped at the border; published: the same, whole at the top and left "
        "border (Yamagishi & Hanaoka 2023); random: one to five of up to 5 %.",
        one_of(CUTOUTS),
    )
    augment: tuple[str, ...] = setting(
        (),
        'Further augmentations, with parameters of their own if they need any: "affine(degrees=10, p=0.3), clahe" '
        "(docs/recipes.md lists them; plugins add to them).",
        Legal(lambda value: True, "augmentations", read=lambda given: tuple(map(canonical_augmentation, given))),
        otherwise="none",
        metavar="NAMES",
    )
    mixup: float = setting(
        0.0,
        "Blend neighbours of a batch, and their targets, by a share from Beta(mixup, mixup); 0: do not.",
        from_zero_below(100),
        before=0.0,
    )
    cutmix: float = setting(
        0.0,
        "Exchange a square between neighbours of a batch, whose area is a share from Beta(cutmix, cutmix), and blend "
        "their targets by it; with mixup too, each is done to half of the pairs.",
        from_zero_below(100),
        before=0.0,
    )
    findings: str | None = setting(
        None,
        'Of several packs, a TOML file of which findings are the same: "own name" = "common name", for one pack below '
        "[packs.NAME] (docs/training.md).",
        _MAP,
        otherwise="the shipped synonyms",
        metavar="TOML",
        before=None,
    )
    same_patients: str | None = setting(
        None,
        'Packs of which equal patient ids are one patient: "mimic,mimic-dicom"; more groups after a semicolon.',
        _SAME,
        otherwise="none",
        metavar="NAMES",
        before=None,
    )
    sampler: Sampler = choice(
        SAMPLERS,
        "natural",
        "natural: every image once an epoch; class-balanced, sqrt: as many samples, with repeats, by the rarity of "
        "each image's rarest finding (images without any count as one more class); progressive: from natural in the "
        "first epoch to class-balanced in the last; repeat-factor: every image once, those with a rare finding again.",
    )
    mix: str = setting(
        "size",
        "Of several packs, what part of an epoch's samples each has: size: every image comes once; equal: all as many; "
        "sqrt: in proportion to the square root of their images; A=2,B=1: by weights of packs, two of three samples "
        "from A, however many images each has.",
        Legal(lambda value: True, "a mix", read=canonical_mix),
        metavar="size|equal|sqrt|WEIGHTS",
        before="size",
    )
    exclude: tuple[str, ...] = setting(
        (),
        "Lists of images that `cxrdali overlap` wrote: they are left out of training, not of validation "
        "(docs/packed-dataset.md).",
        otherwise="none",
        metavar="CSV,...",
        before=[],  # as JSON has it
    )
    oversample: tuple[str, ...] = setting(
        (), 'Double the images of these findings: "Fibrosis,Hernia".', otherwise="none", metavar="FINDINGS"
    )
    oversample_below: float | None = setting(
        None,
        "Double the images of the findings whose validation AP in --oversample-from is below this, 0 to 1 (Yamagishi & "
        "Hanaoka 2023: 0.10 and 0.15).",
        _AP,
        otherwise="none",
        metavar="AP",
    )
    oversample_from: str | None = setting(
        None,
        "A finished run's folder, or what `cxrdali evaluate` wrote (.json, .csv).",
        otherwise="none",
        metavar="RUN_OR_METRICS",
    )
    allow_leak: bool = setting(
        False, "Validate on images that the run to start from, or one before it, trained on; all scores then say so."
    )

    def __post_init__(self):
        super().__post_init__()
        if self.grow_from != 1 and self.schedule is None:
            raise UserError(f"grow-from {self.grow_from:g}: one size has nothing to grow with; give --schedule too")
        if self.same_patients and (self.stratify or self.fold_rule == "catalog"):
            raise UserError(
                "same-patients: only ids put a patient of two packs into one fold of both; leave out stratify and "
                "fold-rule catalog"
            )
        below = self.oversample_below
        if below is not None and self.oversample:
            raise UserError("oversample and oversample-below: give findings or a threshold, not both")
        if self.sampler.name != "natural" and (self.oversample or below is not None):
            raise UserError(
                f"sampler {self.sampler.name}: oversampling too changes how often an image comes; choose one"
            )
        if (below is None) != (not self.oversample_from):
            missing = (
                "--oversample-below, the AP under which" if below is None else "--oversample-from, the run whose AP"
            )
            raise UserError(f"oversampling by AP needs {missing} decides; give both")

    def shares_patients(self, pack: str) -> bool:
        return any(pack in ("", *group) for group in patient_groups(self.same_patients))

    @property
    def soft_targets(self) -> str:
        """Which settings give the training loss targets between 0 and 1, as the command line spells them; "" if none
        does."""
        names = ("label_smoothing", "mixup", "cutmix")
        words = [f"{spelled(name)} {getattr(self, name):g}" for name in names if getattr(self, name) > 0]
        return " and ".join([*words, *(f"uncertain {name}" for name in smoothed(self.uncertain))])


@dataclass(frozen=True)
class LoaderOptions:
    """size: side of the images in pixels; batch: images per batch; threads: CPU threads (None: two for
    each core this process may use, at most 8; the loader takes one a core at most where it
    needs no DALI); decode: auto, cpu, mixed or hybrid; device: "cpu" or "cuda[:N]"; prefetch: batches that each of
    DALI's lanes makes ahead (without DALI: in all, and one for each thread if these are more); order and window (shards
    open at a time) are for training."""

    size: int = setting(legal=at_least(1))
    batch: int = setting(legal=at_least(1))
    threads: int | None = setting(None, legal=at_least(1))
    decode: str = setting("auto", legal=one_of(DECODE))
    device: str = "cpu"
    prefetch: int = setting(2, legal=at_least(1))
    order: str = setting("global", legal=one_of(ORDERS))
    window: int = setting(8, legal=at_least(1))

    def __post_init__(self):
        check(self)
        if self.decode in ("mixed", "hybrid") and not self.on_gpu:
            raise UserError(f"decode {self.decode!r} needs a GPU, the device is {self.device!r}; use --decode cpu")

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def resolved_decode(self) -> str:
        """auto is cpu: two cores decode many times what one GPU trains on (benchmarks/README.md), and a GPU that
        decodes is not training."""
        return "cpu" if self.decode == "auto" else self.decode

    @property
    def resolved_threads(self) -> int:
        return self.threads or default_threads()

    @property
    def lanes(self) -> int:
        """DALI pipelines that take turns, with half of the threads each: two on the CPU, if there is more than one
        thread; one with a GPU, whose memory and queue they would share."""
        return 1 if self.on_gpu or self.resolved_threads == 1 else LANES


LAG = 8  # batches behind the one that is asked for: those in front of it may still be decoded
