"""The parts of a training run, each built once: model, loss, loaders, optimizer, rates, step."""

import logging
import warnings
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from timm.layers import convert_sync_batchnorm
from torch.nn.parallel import DistributedDataParallel

from cxrdali.data import gpu
from cxrdali.data.augment import options_of
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.pairs import Pairs
from cxrdali.data.schedule import Segment
from cxrdali.data.study_loader import StudyLoader
from cxrdali.models import identity
from cxrdali.models.classifier import Classifier, create
from cxrdali.models.loss_module import LossModule
from cxrdali.models.probe import look
from cxrdali.models.study import StudyClassifier
from cxrdali.models.weights import head_keys, load_initial, resampled
from cxrdali.runs.layout import BEST, LAST
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import TrainSettings, sampling_seed
from cxrdali.runs.words import reached, written
from cxrdali.runtime.compiler import check_compiler
from cxrdali.runtime.device import Hardware
from cxrdali.runtime.distributed import Ranks, mean_in_order
from cxrdali.runtime.full import told_if_full
from cxrdali.runtime.options import AUTO
from cxrdali.train import checks, compiling, microbatch
from cxrdali.train.cached import is_cached, with_features
from cxrdali.train.ema import Ema
from cxrdali.train.features import CachedLoader, Head
from cxrdali.train.groups import parameter_groups
from cxrdali.train.rates import Rates
from cxrdali.train.selection import TrainingData
from cxrdali.train.step import Step, adamw, grad_scaler
from shards.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Continued:
    """What a continued run already has: the weights of its backbone, the micro-batch that it found, what its last.pt
    says of the weights (nothing, of an older version), and what it measured of compiling."""

    weights: dict[str, torch.Tensor]
    micro_batch: dict | None
    about: dict[str, str] = field(default_factory=dict)
    compiled: dict | None = None


@dataclass(frozen=True)
class Parts:
    """Everything that training needs and that does not change on the way.

    settings: with the micro-batch that is used; searched: the search for it, as recorded in config.json; arranged: how
    the model was compiled, or not. forward: what a step calls: the model, compiled or not, with several ranks in
    DistributedDataParallel; with cached features, the classifier alone. steps: of every epoch of the run; segment: the
    epochs that these parts train, of a schedule those of one size.
    """

    settings: TrainSettings
    searched: dict | None
    arranged: compiling.Arranged
    data: TrainingData
    hardware: Hardware
    ranks: Ranks
    model: Classifier
    forward: torch.nn.Module
    loader: Loader | CachedLoader
    val_loader: Loader | CachedLoader
    step: Step
    steps: tuple[int, ...]
    segment: Segment
    rates: Rates

    @property
    def steps_per_epoch(self) -> int:
        """Of the segment's epochs."""
        return self.steps[self.segment.start]

    @property
    def share(self) -> int:
        """Images of a batch that this rank trains on."""
        return self.settings.optimizer.batch // self.ranks.world

    @property
    def pairs(self) -> Pairs:
        """What is done to neighbours of a batch, and their targets."""
        data = self.settings.data
        return Pairs(data.mixup, data.cutmix, sampling_seed(self.settings.seed, self.settings.stage))

    def to_train(self, epoch: int) -> None:
        """The model as an epoch trains it (from 0): in the head epochs, its classifier alone.

        Then neither the compiled model nor DistributedDataParallel takes part: both are of all parameters.
        """
        how, frozen = self.settings.optimizer, self.settings.model.frozen
        alone = epoch < how.head_epochs
        self.model.to_train(frozen or alone)
        if how.head_epochs:
            for each in rest_of(self.model):
                each.requires_grad_(not alone)
            self.step.forward, self.step.by_hand = (self.model if alone else self.forward), alone

    def targets(self, rows: torch.Tensor) -> torch.Tensor:
        """Of catalog rows (of studies the first ones), int64 [n] on the CPU, as the training loss sees them:
        float32 [n, F] on the device."""
        wanted = self.data.targets.in_training if self.data.of_studies is None else self.data.of_studies
        return gpu.sent(wanted[rows.numpy()], torch.device(self.hardware.device))

    def by_image(self, values: np.ndarray) -> np.ndarray:
        """What the network gave for validation, [m, F], as each validation image has it: of its study, if that is what
        the network sees."""
        return values if self.settings.study is None else self.val_loader.by_image(values)

    def weights(self, rows: torch.Tensor) -> torch.Tensor | None:
        """How much the labels of catalog rows, int64 [n] on the CPU, count: float32 [n] on the device; None: all 1."""
        known = self.data.row_weights
        return None if known is None else gpu.sent(known[rows.numpy()], torch.device(self.hardware.device))


def build(
    settings: TrainSettings,
    data: TrainingData,
    hardware: Hardware,
    ranks: Ranks,
    make_loader: type[Loader] = Loader,
    before: Continued | None = None,
) -> Parts:
    """Build all parts, the model with the weights that it starts from or continues with.

    Raises UserError for weights that do not fit, a setting that this hardware cannot have, or a full GPU.
    """
    if settings.runtime.compile == AUTO and hardware.device == "cpu":
        log.info("compile auto: off on the CPU")
        settings = settings.changed(compile=False)
    if settings.runtime.compile is True:
        check_compiler(hardware.device)
    model = _model(settings, data.findings, before).to(hardware.device)
    smoothing, how = settings.data.label_smoothing, settings.optimizer
    loss = LossModule(settings.loss, data.positives, data.negatives, smoothing).to(hardware.device)
    optimizer = adamw(model, how.lr, how.weight_decay, parameter_groups(model, how))
    options = settings.loader_options(hardware.device)
    if options.threads is None:
        options = replace(options, threads=ranks.threads())
    make = make_loader if settings.study is None else partial(StudyLoader, most=settings.study.study_images)
    loader, val_loader = _loaders(settings, data, ranks, make, options)
    shape = microbatch.BatchShape(ranks.share(settings.optimizer.batch), settings.data.size, len(data.findings))
    trial = microbatch.Trial(settings, hardware, ranks, model, loss, (loader, val_loader), shape)
    micro_batch, searched = microbatch.resolve(trial, before and before.micro_batch)
    settings = settings.changed(micro_batch=micro_batch)
    checks.check_norms(model, settings, micro_batch or shape.images, shape.images)
    checks.check_pairs(settings, shape.images, ranks.world)
    if settings.study and not is_cached(settings, ranks.world):
        settings.study.check_fits(micro_batch)
    # not before the search: each rank tries sizes of its own, and fails at its own; one process has all images
    if settings.runtime.sync_bn and ranks.world > 1:
        _synchronise(model, hardware)
    epoch = int(before.about.get("epoch", 0)) if before else 0
    segment = next(each for each in settings.segments if each.size == settings.data.size)
    steps = settings.steps(loader.samples)
    arranged = compiling.Arranged(_shared(model, hardware, ranks))
    trial = replace(trial, settings=settings)
    if cached := with_features(settings, data, model, hardware, ranks, (loader, val_loader)):
        loader, val_loader = cached
        arranged = arranged if settings.study else compiling.Arranged(Head(model))
    if settings.runtime.compile and not isinstance(arranged.forward, Head):
        left = (segment.end - max(segment.start, epoch)) * steps[segment.start]
        stored = before and before.compiled
        with told_if_full(microbatch.full_words(settings, shape.images)):
            arranged = compiling.arrange(trial, arranged.forward, left, stored)
    settings, forward = settings.changed(compile=arranged.on), arranged.forward
    ema = Ema(model, how, settings.model.frozen) if how.ema_decay is not None else None
    step = Step(forward, loss, optimizer, grad_scaler(hardware), hardware, ranks, how.clip_norm, ema)
    return Parts(
        settings, searched, arranged, data, hardware, ranks, model, forward, loader, val_loader, step, steps, segment,
        Rates(optimizer, how, steps),
    )  # fmt: skip


def initial_weights(init: str | None) -> Path | None:
    """The weights file that `--init` names: a run's best weights, or the file itself."""
    if init is None:
        return None
    path = Path(init)
    if not path.is_dir():
        return path
    if not (path / BEST).exists() and (file := path / "model.safetensors").is_file():
        raise UserError(f"{path}: no run, but a folder as of the Hugging Face Hub; give its file, --init {file}")
    run = Run.open(path)
    run.check_finished(f"finish it first, or start from what it has with --init {path / BEST}")
    return run.best_weights()


def _start(init: Path, weights: Path, about: dict[str, str]) -> str:
    """Which weights a run starts from, in words."""
    if init.is_dir():
        return f"{init}, {reached(Run.open(init))}"
    known = [f"{name} {about[name]}" for name in ("arch", "epoch", "map", "lrap") if name in about]
    return ", ".join([str(weights), *known, f"written {written(weights)}"])


# ---------------------------------------------------------------- the model


def _model(settings: TrainSettings, findings: tuple[str, ...], before: Continued | None) -> Classifier:
    """On the CPU, frozen or not, with its first weights."""
    # a run that continues has weights of its own: the initial ones may be gone since
    weights = None if before else initial_weights(settings.model.init)
    torch.manual_seed(settings.seed)
    pretrained = settings.model.pretrained and not weights and not before
    study = settings.study
    model = create(settings.model_options(pretrained), len(findings), StudyClassifier if study else Classifier)
    if weights is not None:
        about = load_initial(model, weights, findings, settings.model.new_head)
        log.info(f"starts from {_start(Path(settings.model.init or weights), weights, about)}")
    if study:
        model.fuse(study)
    if before:  # here already: features are kept of the run's own backbone
        restore = "restore it, or give another --out"
        identity.check(Path(LAST), before.about, model.identity, True, restore)
        own = {**model.identity, "findings": "\n".join(findings)}
        for name in ("size", "logit_scale", "findings"):
            if before.about.get(name, own[name]) != own[name]:
                raise UserError(f"{LAST}: {name} is {before.about[name]!r} there, {own[name]!r} in this run; {restore}")
        model.backbone.load_state_dict(resampled(model.backbone, before.weights))  # the size may have changed
    if settings.model.frozen:
        model.seen = look(model, len(findings))  # trained weights may combine classifiers otherwise than new ones
        _freeze(model, settings.model.arch)
    return model


def rest_of(model: Classifier) -> list[torch.nn.Parameter]:
    """The parameters that are not the classifier's."""
    head = set(head_keys(model))
    return [each for key, each in model.backbone.named_parameters() if key not in head]


def _freeze(model: Classifier, arch: str) -> None:
    """Only the classifier is trained. Raises UserError if there is nothing else."""
    rest = rest_of(model)
    if not rest:
        raise UserError(f"{arch!r} has no backbone beside its classifier; there is nothing to freeze")
    for each in rest:
        each.requires_grad_(False)


def _synchronise(model: Classifier, hardware: Hardware) -> None:
    """Let batch normalisation see the images of all ranks. Raises UserError on the CPU: torch has no such layer."""
    if hardware.device == "cpu":
        raise UserError(
            "sync-bn: torch synchronises batch normalisation between GPUs only; on the CPU leave it out, or train in "
            "one process"
        )
    model.backbone = convert_sync_batchnorm(model.backbone)


def _shared(model: Classifier, hardware: Hardware, ranks: Ranks) -> torch.nn.Module:
    """The model as several ranks train it together: after the search for a micro-batch, whose steps are its own."""
    if ranks.world == 1:
        return model
    devices = None if hardware.device == "cpu" else [ranks.local]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the new name of broadcast_buffers is too new
        # only validation needs equal buffers, and asks for them
        shared = DistributedDataParallel(model, devices, broadcast_buffers=False, gradient_as_bucket_view=True)
    if devices is None:
        shared.register_comm_hook(None, mean_in_order)
    return shared


# ---------------------------------------------------------------- the loaders


def _loaders(
    settings: TrainSettings, data: TrainingData, ranks: Ranks, make_loader: type[Loader], options: LoaderOptions
) -> tuple[Loader, Loader]:
    """Of training: shuffled, augmented, whole batches; of validation: as the images are."""
    # other classes of loaders need not know samplers and ranks
    sampled = {"sampler": data.sampler} if data.sampler else {}
    part = {"rank": ranks.rank, "world": ranks.world} if ranks.world > 1 else {}
    loader = make_loader(
        data.dataset, data.epoch_rows, options, seed=sampling_seed(settings.seed, settings.stage), shuffle=True,
        augment=options_of(settings.data.flips, settings.data.cutout, settings.data.augment), drop_last=True,
        **sampled, **part,
    )  # fmt: skip
    return loader, make_loader(data.dataset, data.val_rows, options, **part)
