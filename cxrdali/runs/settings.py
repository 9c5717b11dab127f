"""What a stage is, and every setting of a training run in groups. Free of torch and timm."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, get_args

from cxrdali.data import schedule
from cxrdali.data.options import DataSettings, LoaderOptions
from cxrdali.models.fusion_options import StudyOptions
from cxrdali.models.loss import AUTO, LOSSES, Loss, auto_beta
from cxrdali.models.options import ModelOptions, ModelSettings
from cxrdali.registry import choice
from cxrdali.runs.names import Names, flatten, present, under_present_names
from cxrdali.runs.optimizer import OptimizerSettings
from cxrdali.runtime.options import RuntimeSettings
from cxrdali.setting import Legal, check, literal, setting, spelled, strict_converter
from shards.errors import UserError

# Yamagishi & Hanaoka 2023: stage -> side in pixels, global batch
STAGES = {1: (224, 256), 2: (320, 128), 3: (512, 48)}
GROWING = ("dropout", "drop_path", "mixup", "cutmix")  # what `grow_from` makes grow from size to size
# Settings that change how fast a run goes and where, but neither its samples nor its recipe: a continued run may have
# others.
MAY_DIFFER = (
    *(each.name for each in fields(RuntimeSettings) if each.name not in RuntimeSettings.DECIDES),
    "allow_leak",  # asked when a run begins
    "augment_preset",  # what it stands for is compared
    "features",
)
PATHS = ("init", "oversample_from", "exclude")  # compared by content: a path can be spelled in many ways
RESOLVED = ("precision",)  # auto means another one elsewhere: config.json's own entry is compared


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """One run. `settings_of` makes it from names and values."""

    stage: int = setting(
        help="1: 224 px, batch 256; 2: 320 px, batch 128; 3: 512 px, batch 48. Stage N starts from the best weights of "
        "stage N-1.",
        legal=Legal(STAGES.__contains__, "choose 1, 2 or 3"),
    )
    seed: int = setting(
        0, "Seed of order, augmentation and initial weights.", Legal(lambda value: 0 <= value < 2**32, "0 to 2**32 - 1")
    )
    data: DataSettings
    model: ModelSettings
    loss: Loss = choice(
        LOSSES, "bce", "Training loss. Class counts are those of the training split, before any resampling."
    )
    optimizer: OptimizerSettings
    runtime: RuntimeSettings
    study: ClassVar[StudyOptions | None] = None

    def __post_init__(self):
        check(self)
        batch, epochs, micro_batch = self.optimizer.batch, self.optimizer.epochs, self.runtime.micro_batch
        if isinstance(micro_batch, int) and batch % micro_batch:
            raise UserError(f"micro-batch {micro_batch}: must divide the batch, {batch}")
        planned = self.segments[-1].end
        if planned != epochs:
            raise UserError(
                f"schedule {self.data.schedule!r}: its epochs add up to {planned}, epochs is {epochs}; give --epochs "
                f"{planned}, or leave it out"
            )
        if self.loss.deferred_epochs >= epochs:
            raise UserError(
                f"drw-epoch {self.loss.deferred_epochs}: re-weighting would begin after the last of {epochs} epochs; "
                f"give 0 to {epochs - 1}, or more --epochs"
            )
        model, head_epochs = self.model, self.optimizer.head_epochs
        if head_epochs and (model.frozen or not (model.init or model.pretrained)):
            why = "with --frozen, all are" if model.frozen else "a backbone from scratch is random; give --init"
            raise UserError(f"head-epochs {head_epochs}: {why}")
        if model.frozen and self.optimizer.layer_decay is not None:
            raise UserError(
                f"layer-decay {self.optimizer.layer_decay:g}: with --frozen the classifier alone is trained, at the "
                "whole rate; leave it out"
            )
        if self.model.head.bounded and self.loss.logit_scale == 1:
            raise UserError(
                f"head {self.model.head.name}: its output lies between -1 and 1 and the loss {self.loss.name} has no "
                "scale for it; give --loss ldam or ldam-drw, or --head linear"
            )
        chosen, view = self.optimizer.select_view, self.data.view
        if chosen is not None and view not in ("all", chosen):
            raise UserError(f"select-view {chosen}: no such image validates with --view {view}; leave one of them out")
        if self.data.soft_targets and not self.loss.soft:
            raise UserError(
                f"loss {self.loss.name}: takes no targets between 0 and 1, which {self.data.soft_targets} makes; leave "
                "that out, or give another --loss"
            )

    @property
    def segments(self) -> tuple[schedule.Segment, ...]:
        """The sizes of a run over a schedule, in order; of any other its one."""
        if self.data.schedule:
            return schedule.segments(self.data.schedule)
        return (schedule.Segment(self.data.size, self.optimizer.epochs, self.optimizer.batch),)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides of its images in pixels: that at which it predicts, and those of a schedule before it."""
        return self.data.size, *(each.size for each in self.segments[:-1])

    def steps(self, samples: int) -> tuple[int, ...]:
        """Optimizer steps of every epoch. samples: in an epoch, those that fill no batch among them."""
        limit = self.runtime.limit_batches or samples
        return tuple(min(samples // (each.batch or 1), limit) for each in self.segments for _ in range(each.epochs))

    def at(self, segment: schedule.Segment) -> "TrainSettings":
        """What holds in one of the segments: its size and batch, and its share of what grows."""
        if self.data.schedule is None:
            return self
        every, first, now = self.segments, self.data.grow_from, self.flat()
        share = first + (1 - first) * every.index(segment) / max(1, len(every) - 1) if segment != every[-1] else 1
        grown = {name: now[name] * share for name in GROWING if now[name]}
        return self.changed(size=segment.size, batch=segment.batch, **grown)

    def check_schedule(self) -> None:
        """Raises UserError if size and batch are not those that the schedule ends with, an only number of images at a
        time does not divide each batch, or nothing grows that was asked to."""
        last, micro_batch = self.segments[-1], self.runtime.micro_batch
        own = {"size": (self.data.size, last.size), "batch": (self.optimizer.batch, last.batch)}
        for name, (here, there) in own.items():
            if here != there:
                fix = f"leave {name} out, or give --{name} {there}"
                raise UserError(f"{name} {here}: the schedule ends with {last}; {fix}")
        for each in self.segments:
            if isinstance(micro_batch, int) and (each.batch or 0) % micro_batch:
                raise UserError(
                    f"micro-batch {micro_batch}: must divide the batch of {each} in the schedule; or give auto"
                )
        if self.data.grow_from != 1 and not any(self.flat()[name] for name in GROWING):
            what = f"{', '.join(map(spelled, GROWING[:-1]))} and {spelled(GROWING[-1])}"
            raise UserError(f"grow-from {self.data.grow_from:g}: {what} are 0, so nothing grows; give one of them")

    def loader_options(self, device: str) -> LoaderOptions:
        data, runtime = self.data, self.runtime
        return LoaderOptions(data.size, self.optimizer.batch, runtime.threads, runtime.decode, device, order=data.order)

    def model_options(self, pretrained: bool = False) -> ModelOptions:
        """How its model is built; pretrained: with timm's weights."""
        return ModelOptions(
            self.model.arch,
            self.data.size,
            pretrained,
            self.model.norm,
            logit_scale=self.loss.logit_scale,
            channels_last=self.runtime.channels_last,
            checkpointing=self.runtime.checkpointing,
            head=self.model.head,
            dropout=self.model.dropout,
            pool=self.model.pool,
            gem_p=self.model.gem_p,
            drop_path=self.model.drop_path,
        )

    def of_studies(self, study: StudyOptions) -> "StudySettings":
        """The same of a study-level run."""
        return StudySettings(**{each.name: getattr(self, each.name) for each in fields(TrainSettings)}, study=study)

    def changed(self, **given: Any) -> "TrainSettings":
        """The same with other values, by flat name (`settings_of`)."""
        nested = self.as_json()
        names().put(nested, given)
        return _build(nested, stand_ins=True)

    def resolved(self, train_images: int) -> "TrainSettings":
        """With a number for a beta that follows the number of training images."""
        return self.changed(cb_beta=auto_beta(train_images)) if self.flat().get("cb_beta") == AUTO else self

    def as_json(self) -> dict[str, Any]:
        """Nested groups of numbers, texts and lists."""
        return _converter().unstructure(self)

    def flat(self, without_before: bool = False) -> dict[str, Any]:
        """Values by flat name: of the loss its name, and its parameters.

        without_before: leave out what is as runs were before there was the setting, so that older ones have the same.
        """
        found = flatten(self.as_json())
        if not without_before:
            return found
        fields = {name: place.field.metadata.get("before", MISSING) for name, place in names().all().items()}
        return {name: value for name, value in found.items() if fields.get(name) != value}

    @classmethod
    def from_json(cls, nested: Mapping[str, Any]) -> "TrainSettings":
        """Settings that `as_json` gave. A loss, sampler or head that is not installed keeps its name and parameters.

        Raises UserError if they are damaged or of another version.
        """
        try:
            return _build(_completed(nested), stand_ins=True)
        except UserError:
            raise
        except Exception as error:  # cattrs has many
            words = f"no settings of this version ({error}); restore config.json, or train the run again"
            raise UserError(words) from error

    def difference(self, other: Mapping[str, Any]) -> tuple[str, object, object] | None:
        """The first setting (name, there, here) in which a stored run (`as_json`) differs and must not; or None."""
        mine, stored = self.flat(), flatten(_completed(other))
        for name in dict.fromkeys((*mine, *stored)):
            there, here = stored.get(name), mine.get(name)
            if name in PATHS:
                there, here = there and "given", here and "given"
            if name not in (*MAY_DIFFER, *RESOLVED) and there != here:
                return name, there, here
        return None


@dataclass(frozen=True, kw_only=True)
class StudySettings(TrainSettings):
    """One study-level run (`cxrdali train-study`): what a batch has are whole studies."""

    study: StudyOptions = field()  # type: ignore[misc]  # a run of images has none, as its class says


def settings_of(*layers: Mapping[str, Any], **given: Any) -> TrainSettings:
    """Settings from values by name: flat ("lr", "asl_clip") or dotted ("optimizer.lr").

    What is not given is at its default, size and batch at the stage's. Every layer overrides those before it, and
    `given` all of them; one that chooses another loss keeps only the parameters that the new one has too.

    Raises UserError naming the setting, its value and the legal ones.
    """
    made = _build(names().grouped(*layers, given))
    made.check_schedule()
    return made


def assigned(text: str, where: str = "") -> tuple[str, Any]:
    """NAME=VALUE or GROUP.NAME=VALUE as a flat name and a value, read as TOML, or as text where it is none.

    `none` stands for no value, which TOML cannot write, unless it is one of the setting's own names. Raises UserError
    for an unknown setting or another type.
    """
    name, given, value = text.partition("=")
    if not given:
        raise UserError(f"{where or f'--set {text}'}: give a value too, as NAME=VALUE")
    parsed = literal(value)
    try:
        flat = names().flat_name(present(name.strip(), parsed))
        legal = names().field(flat).metadata.get("legal")
        if parsed == "none" and type(None) in get_args(names().kind(flat)) and not (legal and "none" in legal.choices):
            return flat, None
        return flat, names().read(flat, parsed)
    except UserError as error:
        raise UserError(f"{where or f'--set {text}'}: {error}") from error


@cache
def names() -> Names:
    """Names of settings and their places in the groups."""
    return Names(TrainSettings)


def sampling_seed(seed: int, stage: int) -> int:
    """The seed of order and augmentation: a stage of its own, or each would repeat the one before, epoch by epoch."""
    return 4 * seed + stage


def run_folder(runs: Path, stage: int) -> Path:
    """Where `cxrdali train --stage N` keeps its run by default, and where stage N + 1 looks for it."""
    return runs / f"stage{stage}"


def _completed(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Stored settings, and those that an older version did not have yet as its runs were without them."""
    made: dict[str, Any] = under_present_names(json.loads(json.dumps(stored)))
    for name, place in names().all().items():
        group: Any = made
        for key in place.path:
            group = group.get(key) if isinstance(group, dict) else None
        value = place.field.metadata.get("before", MISSING)
        value = place.field.default if value is MISSING else value
        if isinstance(group, dict) and value is not MISSING and (not place.having or group.get("name") in place.having):
            group.setdefault(name, value)
    return made


def _build(nested: Mapping[str, Any], stand_ins: bool = False) -> TrainSettings:
    if "stage" not in nested:
        raise UserError("stage is missing; give stage = 1, 2 or 3")
    size, batch = STAGES.get(nested["stage"], STAGES[1])
    groups: dict[str, Any] = {"data": {}, "model": {}, "optimizer": {}, "runtime": {}, **nested}
    given: dict[str, Any] = {"size": size, "batch": batch}
    if (text := groups["data"].get("schedule")) is not None:
        text = schedule.with_batches(text, groups["optimizer"].get("batch"), dict(STAGES.values()))
        groups["data"] = {**groups["data"], "schedule": text}
        last = schedule.segments(text)[-1]
        given = {"size": last.size, "batch": last.batch, "epochs": last.end}
    groups["data"] = {"size": given.pop("size"), **groups["data"]}
    groups["optimizer"] = {**given, **groups["optimizer"]}
    return _converter(stand_ins).structure(groups, StudySettings if "study" in groups else TrainSettings)


@cache
def _converter(stand_ins: bool = False) -> Any:
    """Of settings and JSON; stand_ins: see `Registry.read`."""
    made = strict_converter().copy()
    for registry in names().choices.values():
        read = registry.read
        made.register_structure_hook(registry.base, lambda stored, kind, read=read: read(stored, stand_ins))
        made.register_unstructure_hook(registry.base, lambda chosen: chosen.as_json())
    return made
