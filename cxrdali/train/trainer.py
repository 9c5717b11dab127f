"""Training one stage: the loop, its measurements, its checkpoints.

The same call again continues a killed run and does nothing on a finished one. Samples and augmentation are
functions of seed, epoch and position, the schedule of the step, dropout of torch's generator, which is saved:
so on the CPU a killed and continued run ends with the weights of an unbroken one, bit for bit.

With several ranks (`cxrdali.runtime.distributed`) each trains on its share of every batch and validates on whole
batches in turn.
All hold the same state; rank 0 alone writes, scores and speaks. They stop at the same step, one after any was asked to.
"""

import contextlib
import logging
import math
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from timm.layers import convert_sync_batchnorm
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from cxrdali.data.augment import options_of
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.oversample import oversampled
from cxrdali.data.splits import rows_sha256, subjects_on_both_sides, train_and_validation
from cxrdali.data.targets import check_labelled, counts, targets
from cxrdali.metrics.ranking import Scores, score
from cxrdali.models.classifier import Classifier, create
from cxrdali.models.inference import Inference, logits
from cxrdali.models.loss_module import LossModule, bce_sum, known_targets
from cxrdali.models.weights import head_keys, load_initial
from cxrdali.predictions import Predictions, Provenance
from cxrdali.runs import folder as runs
from cxrdali.runs import plugins
from cxrdali.runs.oversampling import Oversampling, chosen_findings
from cxrdali.runs.settings import TrainSettings, sampling_seed
from cxrdali.runtime.device import Hardware, versions
from cxrdali.runtime.distributed import Ranks, joined, mean_in_order
from cxrdali.runtime.options import AUTO
from cxrdali.train.build import initial_weights, schedule
from cxrdali.train.console import _plain, _writing
from cxrdali.train.features import CachedLoader, Head, features_of
from cxrdali.train.microbatch import largest_micro_batch
from cxrdali.train.state import _finding_rows, _fresh_epoch
from cxrdali.train.step import Step, adamw, grad_scaler
from cxrdali.train.stopping import Stopped
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.storage.files import only_one, remove_parts, sha256_bytes, sha256_file

log = logging.getLogger(__name__)

SPENT = ("setup", "training", "waiting", "validation", "compiling", "saving")
CHECK_STEPS = 50  # steps between looks at the loss; each look waits for the GPU


@dataclass(frozen=True)
class RunSummary:
    """epochs: finished ones; best_epoch from 1; best_score by the run's own choice (mAP or LRAP).

    seconds: where this call's went, by SPENT and "total". Training is without waiting for data and compiling; with
    --compile, compiling is the whole first step and one validation batch of zeros.
    """

    out: Path
    epochs: int
    best_epoch: int
    best_score: float
    already_finished: bool
    seconds: dict[str, float]


def train(
    settings: TrainSettings,
    dataset: PackedDataset,
    out: Path,
    loader: type[Loader] = Loader,
    recipe: dict | None = None,
) -> RunSummary:
    """Train a stage into the folder `out`.

    recipe: what config.json says about the recipe behind the settings. loader: what makes the batches; another
    class of the same form is for comparisons.

    Raises UserError on bad settings or data, another run in `out`, weights that do not fit, a loss that is not
    finite, or a full GPU; Stopped after SIGTERM or Ctrl-C.
    """
    started = time.perf_counter()
    labels = dataset.labels(settings.data.labels)
    settings = settings.changed(labels=labels.name)  # a run's settings are resolved
    out.mkdir(parents=True, exist_ok=True)
    with joined(settings.runtime.device) as ranks, _alone(out, ranks):
        hardware = Hardware.resolve(ranks.device(settings.runtime.device), settings.runtime.precision)
        trainer = _Trainer(settings, dataset, labels, hardware, ranks, out, loader, recipe, started)
        return trainer.run()


def _alone(out: Path, ranks: Ranks) -> contextlib.AbstractContextManager:
    """The run's lock, which rank 0 holds for all."""
    return only_one(out / ".lock", "training into it") if ranks.is_first else contextlib.nullcontext()


class _Trainer:
    def __init__(
        self,
        settings: TrainSettings,
        dataset: PackedDataset,
        labels: Labels,
        hardware: Hardware,
        ranks: Ranks,
        out: Path,
        loader: type[Loader],
        recipe: dict | None,
        started: float,
    ):
        self.settings, self.dataset, self.labels, self.hardware = settings, dataset, labels, hardware
        self.ranks, self.share = ranks, ranks.share(settings.optimizer.batch, _number(settings.runtime.micro_batch))
        self.out, self.make_loader, self.recipe = out, loader, recipe
        self.started, self.seconds = started, dict.fromkeys(SPENT, 0.0)
        self.stop_signal: int | None = None
        self.train_rows, self.val_rows = train_and_validation(dataset, labels, settings.data)
        if settings.runtime.limit_batches:
            self.val_rows = self.val_rows[: settings.runtime.limit_batches * settings.optimizer.batch]
        check_labelled(labels, self.train_rows, "the training split")
        self.targets = targets(labels, settings.data.uncertain)
        self.epoch_rows, self.oversampling = self._oversampled()
        self.positives, self.negatives = counts(self.targets, self.train_rows)
        seed = sampling_seed(settings.seed, settings.stage)
        self.sampler = settings.data.sampler.over(self.train_rows, self.targets, seed, settings.optimizer.epochs)

    def _oversampled(self) -> tuple[np.ndarray, Oversampling | None]:
        """The rows of an epoch, with repeats, and what was doubled; None without oversampling."""
        settings, findings = self.settings, self.labels.findings
        if not settings.data.oversample and settings.data.oversample_below is None:
            return self.train_rows, None
        continues = (self.out / runs.LAST).exists()
        stored = runs.read_config(self.out).get("oversampling") if continues else None
        source = settings.data.oversample_from and Path(settings.data.oversample_from)
        chosen, without = chosen_findings(
            settings.data.oversample, settings.data.oversample_below, source, findings, stored
        )
        rows = oversampled(self.train_rows, self.targets, findings, chosen)
        return rows, Oversampling(
            chosen, settings.data.oversample_below, settings.data.oversample_from, without,
            images_doubled=len(rows) - len(self.train_rows), epoch_images=len(rows),
        )  # fmt: skip

    # ------------------------------------------------------------ the run

    def run(self) -> RunSummary:
        config, state, writes = self._config(), runs.load_last(self.out), self.ranks.is_first
        self._compare_ranks(config, state)
        if state is not None:
            self._refuse_difference(config)
        elif writes:
            remove_parts(self.out)
            if not (self.out / runs.CONFIG).exists():
                self._refuse_strangers()
        if state is not None and self._is_finished(state):
            if writes:
                runs.settle(self.out, state)
            return self._summary(state, already_finished=True)
        self._set_up(state)
        config |= {"settings": self.settings.as_json(), "micro_batch": self.searched}
        if (
            state is None and writes
        ):  # not before: a run that could not begin must not stand in the way of other settings
            runs.write_config(self.out, config)
        self._describe()
        self.state = state or self._first_state()
        if writes:
            runs.settle(self.out, state)
        if state is None:
            self._own_generators(0, 0)
        else:
            self._restore(state)
            log.info(f"continues after epoch {state['epoch']} and {state['position']:,} images of the next")
        with self._signals(), self._tensorboard() if writes else contextlib.nullcontext() as events:
            self.seconds["setup"] = time.perf_counter() - self.started
            while not self._is_finished(self.state):
                self._epoch(events)
        if self.state["epoch"] < self.settings.optimizer.epochs:
            log.info(
                f"ended after epoch {self.state['epoch']}: none better in {self.settings.optimizer.patience} epochs"
            )
        if self.state["best_epoch"] <= self.settings.loss.deferred_epochs:
            log.info(f"the best epoch, {self.state['best_epoch']}, is one before re-weighting: its weights are kept")
        return self._summary(self.state)

    def _is_finished(self, state: dict) -> bool:
        return runs.is_finished(state, self.settings)

    def _epoch(self, events) -> None:
        state, epoch = self.state, self.state["epoch"]
        train_loss = self._train_epoch(epoch)
        started = time.perf_counter()
        compiling = self._compile_validation() if self.validates_first and self.settings.runtime.compile else 0.0
        values = self._validate(epoch)
        val_loss, scores = self.ranks.from_first(self._score(values) if self.ranks.is_first else None)
        validated = time.perf_counter()
        row = {
            "epoch": epoch + 1,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": train_loss,
            "val_loss": val_loss,
            "mAP": scores.macro_ap,
            "LRAP": scores.lrap,
            "macro_AUROC": scores.macro_auroc,
            "images": state["images"],
            "images_per_second": state["images"] / state["train_seconds"],
            "train_seconds": state["train_seconds"],
            "wait_seconds": state["wait_seconds"],
            "val_seconds": validated - started,
            "reweighted": int(self.loss.reweights(epoch)),
        }
        reached = scores.macro_ap if self.settings.optimizer.select_by == "map" else scores.lrap
        # the first epoch is kept even where no finding has a positive and the score is undefined
        is_best = state["best_epoch"] == 0 or reached > state["best_score"] or math.isnan(state["best_score"])
        state["metrics"].append(row)
        state["findings"] += _finding_rows(epoch + 1, scores)
        state |= {"epoch": epoch + 1, **_fresh_epoch()}
        if is_best:
            state |= {"best_epoch": epoch + 1, "best_score": reached}
        if self.ranks.is_first:
            self._commit((self._weights(), self._metadata(reached), self._predictions(values)) if is_best else None)
            self._report(row, scores, events)
        else:
            self._commit()
        self.seconds["compiling"] += compiling
        self.seconds["validation"] += validated - started - compiling
        self.seconds["saving"] += time.perf_counter() - validated

    # ------------------------------------------------------------ one epoch

    def _train_epoch(self, epoch: int) -> float:
        """Train from the state's position to the epoch's end; the state counts on the way. Returns the mean loss."""
        state, batch = self.state, self.settings.optimizer.batch
        self.loader.load_state_dict({"epoch": epoch, "position": state["position"]})
        self.model.train(not self.settings.model.frozen)  # a frozen backbone keeps its batch-norm statistics
        if self.loss.reweights(epoch) and not self.loss.reweights(epoch - 1):
            beta = self.settings.flat().get("cb_beta")
            words = "" if beta is None else f" (beta {beta:g})"
            log.info(f"epoch {epoch + 1}: positive terms are re-weighted from here on{words}")
        first = state["position"] // batch
        # islice only where it is needed: a loader that is read to its end keeps its pipeline for the next epoch
        steps = (
            islice(self.loader, self.steps_per_epoch - first) if self.settings.runtime.limit_batches else self.loader
        )
        description = f"epoch {epoch + 1}/{self.settings.optimizer.epochs}"
        bar = tqdm(
            total=self.steps_per_epoch * batch, initial=first * batch, desc=description, unit=" images",
            disable=None, leave=False,
        )  # fmt: skip
        with bar:
            before, waited = time.perf_counter(), 0.0
            for step, (images, rows) in enumerate(steps, first):
                waited += time.perf_counter() - before
                self.scheduler.step_update(epoch * self.steps_per_epoch + step)
                state["loss_sum"] += self._step(images, rows)
                state["steps"] += 1
                state["images"] += batch  # of all ranks
                state["position"] += batch
                bar.update(batch)
                if step % CHECK_STEPS == CHECK_STEPS - 1:
                    bar.set_postfix(loss=f"{self._checked_loss(epoch, step):.4f}")
                compiled = self._has_compiled()
                now = time.perf_counter()
                state["train_seconds"] += now - before
                state["wait_seconds"] += waited
                self.seconds["compiling" if compiled else "training"] += now - before - waited
                self.seconds["waiting"] += waited
                before, waited = now, 0.0
                self._stop_if_asked()
            loss = self._checked_loss(epoch, self.steps_per_epoch)  # waits for the GPU: belongs to the training
            bar.set_postfix(loss=f"{loss:.4f}")
            left = time.perf_counter() - before
            state["train_seconds"] += left
            self.seconds["training"] += left
        return loss

    def _step(self, images: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """One optimizer step on this rank's share of a batch, in micro-batches; returns its share of the batch's mean
        loss, on the device."""
        device = self.hardware.device
        images = images.to(device, non_blocking=True)
        # the rows are 2 KB of plain memory, which CUDA copies aside and does not wait for
        wanted = self.device_targets[rows.to(device, non_blocking=True)]
        size = self.micro_batch or len(images)
        try:
            return self.step(images, wanted, self.state["epoch"], size)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the GPU is full at {self.settings.data.size} px with {size} images at a time; "
                f"use --micro-batch {_smaller_divisor(self.share, size)} "
                f"(the batch stays {self.settings.optimizer.batch})"
            ) from error

    def _checked_loss(self, epoch: int, step: int) -> float:
        loss = self._loss_sum() / max(1, self.state["steps"])
        if not math.isfinite(loss):
            way_out = "use --precision bf16 or fp32" if self.hardware.precision == "fp16" else "lower --lr"
            way_out += ", with another --out"
            raise UserError(
                f"{self.out}: the loss became {loss} in epoch {epoch + 1}, by step {step}; {way_out}. "
                f"The last checkpoint is of epoch {epoch}"
            )
        return loss

    def _loss_sum(self) -> float:
        """Of the epoch's batches so far, over all ranks; the state of each has its own share. Waits for the GPU."""
        mine = torch.as_tensor(self.state["loss_sum"], dtype=torch.float64, device=self.hardware.device)
        return float(self.ranks.total(mine.clone()))

    def _has_compiled(self) -> bool:
        """Whether the step just done was the first one of a compiled model; waits for the GPU then, never else."""
        first, self.to_compile = self.to_compile, False
        if first:
            self.hardware.synchronize()
        return first

    @torch.inference_mode()
    def _compile_validation(self) -> float:
        """Compile the model as validation uses it, on a batch of zeros; returns the seconds."""
        started, self.validates_first = time.perf_counter(), False
        side, count = self.settings.data.size, self.micro_batch or self.settings.optimizer.batch
        self.model.eval()
        with self.hardware.autocast():
            self.forward(torch.zeros(count, 1, side, side, dtype=torch.uint8, device=self.hardware.device)).cpu()
        return time.perf_counter() - started

    def _validate(self, epoch: int) -> np.ndarray | None:
        """Logits of the validation images; None on ranks that do not score."""
        self.ranks.copy_buffers(self.model)
        return logits(
            self.forward,
            self.val_loader,
            len(self.labels.findings),
            self.hardware,
            Inference(
                micro_batch=self.micro_batch,
                progress=f"validation {epoch + 1}/{self.settings.optimizer.epochs}",
                check=self._stop_if_asked,
                ranks=self.ranks,
            ),
        )

    def _score(self, values: np.ndarray) -> tuple[float, Scores]:
        if not np.isfinite(values).all():
            raise UserError(f"{self.out}: validation logits are not finite; lower --lr or use --precision fp32")
        truth = self.targets[self.val_rows]
        wanted = torch.from_numpy(truth)
        loss = float(bce_sum(torch.from_numpy(values).double(), wanted) / known_targets(wanted))
        return loss, score(self.labels.findings, truth, values)

    # ------------------------------------------------------------ set-up

    def _set_up(self, state: dict | None) -> None:
        """Everything but the optimizer's and the generators' state, which `_restore` takes from `state`."""
        settings, device, continues = self.settings, self.hardware.device, state is not None
        # a run that continues has weights of its own: the initial ones may be gone since
        weights = None if continues else initial_weights(settings.model.init)
        torch.manual_seed(settings.seed)
        pretrained = settings.model.pretrained and not weights and not continues
        options = settings.model_options(pretrained)
        self.model: Classifier = create(options, len(self.labels.findings))
        if weights is not None:
            found = load_initial(self.model, weights, self.labels.findings, settings.model.new_head)
            if "findings" not in found and not settings.model.new_head:
                head = "the classifier is new" if found.get("head") else "its classifier is taken by position"
                log.info(f"{weights} names no findings: {head}")
        if continues:  # here already: features are kept of the run's own backbone
            self.model.backbone.load_state_dict(state.pop("model"))
        if settings.model.frozen:
            self._freeze()
        self.model.to(device)
        self.loss = LossModule(settings.loss, self.positives, self.negatives).to(device)
        torch.backends.cudnn.benchmark = True  # every batch of a stage has the same shape
        self.to_compile, self.validates_first = settings.runtime.compile, True
        self.device_targets = torch.from_numpy(self.targets).to(device)
        self.optimizer = adamw(self.model, settings.optimizer.lr, settings.optimizer.weight_decay)
        self.scaler = grad_scaler(self.hardware)
        options, augment = settings.loader_options(device), options_of(settings.data.flips, settings.data.cutout)
        if options.threads is None:
            options = replace(options, threads=self.ranks.threads())
        # other classes of loaders need not know samplers and ranks
        drawn = {"sampler": self.sampler} if self.sampler else {}
        part = {"rank": self.ranks.rank, "world": self.ranks.world} if self.ranks.world > 1 else {}
        self.loader = self.make_loader(
            self.dataset, self.epoch_rows, options, seed=sampling_seed(settings.seed, settings.stage), shuffle=True,
            augment=augment, drop_last=True, **drawn, **part,
        )  # fmt: skip
        self.val_loader = self.make_loader(self.dataset, self.val_rows, options, **part)
        self.micro_batch, self.searched = self._micro_batch(continues)
        self.settings = settings.changed(micro_batch=self.micro_batch)
        if settings.runtime.sync_bn:  # not before the search: each rank tries sizes of its own, and fails at its own
            self._synchronised()
        self.forward = self._shared(self.model)
        if settings.runtime.compile:
            self.forward = torch.compile(self.forward)
        # a trial of a few batches would wait for the features of all images, and every rank would compute them all
        cache = settings.runtime.cache_features and not settings.runtime.limit_batches and self.ranks.world == 1
        if settings.model.frozen and cache and augment is None:
            self._cache_features(options)
        self.steps_per_epoch = min(len(self.loader), settings.runtime.limit_batches or len(self.loader))
        self.scheduler = schedule(self.optimizer, settings, self.steps_per_epoch)
        self.step = Step(self.forward, self.loss, self.optimizer, self.scaler, self.hardware, self.ranks)

    def _shared(self, model: Classifier) -> torch.nn.Module:
        """The model as several ranks train it together: after the search for a micro-batch, whose steps are its own."""
        if self.ranks.world == 1:
            return model
        devices = None if self.hardware.device == "cpu" else [self.ranks.local]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the new name of broadcast_buffers is too new
            # only validation needs equal buffers, and asks for them
            shared = DistributedDataParallel(model, devices, broadcast_buffers=False, gradient_as_bucket_view=True)
        if devices is None:
            shared.register_comm_hook(None, mean_in_order)
        return shared

    def _synchronised(self) -> None:
        """Let batch normalisation see the images of all ranks. Raises UserError on the CPU, for which torch has no such
        layer."""
        if self.hardware.device == "cpu":
            raise UserError(
                "sync-bn: torch synchronises batch normalisation between GPUs only; leave it out on the CPU"
            )
        self.model.backbone = convert_sync_batchnorm(self.model.backbone)

    def _micro_batch(self, continues: bool) -> tuple[int | None, dict | None]:
        """The setting; for auto the largest that fits, and what config.json remembers of the search.

        A run that continues on the same hardware, with settings that need the same memory, does not search again.
        """
        settings, hardware = self.settings, self.hardware
        if settings.runtime.micro_batch != AUTO:
            return settings.runtime.micro_batch, None
        if hardware.device == "cpu":
            return self.share, None  # its memory pages out, instead of saying that it is full
        memory = torch.cuda.mem_get_info(hardware.device)[1]
        runtime = settings.runtime
        needs = {"gpu": hardware.name, "memory_bytes": memory, "compile": runtime.compile, "share": self.share,
                 "channels_last": runtime.channels_last, "checkpointing": runtime.checkpointing}  # fmt: skip
        if self.ranks.world > 1:
            self.ranks.total(torch.zeros((), device=hardware.device))  # NCCL's buffers are there from now on
        stored = runs.read_config(self.out).get("micro_batch") if continues else None
        if stored and stored["for"] == needs:
            found, words = stored["found"], "found when the run began"
        else:
            for loader in (self.loader, self.val_loader):
                # DALI's buffers live on the same GPU from the first batch on; a rank may have none of validation's
                next(iter(loader), None)
            self.model.train(not settings.model.frozen)
            found = largest_micro_batch(
                self.model, self.loss, hardware, self.share, settings.data.size, len(self.labels.findings),
                keeps_gradients=self.ranks.world > 1,
            )  # fmt: skip
            words = "the largest part of the batch that fits"
        found = self.ranks.least(found)  # of all ranks, also of those that did not search: their GPUs may differ
        log.info(f"micro-batch {found} of {self.share}: {words}, {hardware.name}, {memory / 2**30:.0f} GiB")
        return found, {"found": found, "for": needs}

    def _freeze(self) -> None:
        """Only the classifier is trained. Raises UserError if there is nothing else."""
        head = set(head_keys(self.model))
        rest = [each for key, each in self.model.backbone.named_parameters() if key not in head]
        if not rest:
            raise UserError(
                f"{self.settings.model.arch!r} has no backbone beside its classifier; there is nothing to freeze"
            )
        for each in rest:
            each.requires_grad_(False)

    def _cache_features(self, options: LoaderOptions) -> None:
        """From here on, batches hold the backbone's features and the forward pass is the classifier's."""
        plain = self.make_loader(self.dataset, self.train_rows, options)
        self.loader = self._cached(self.loader, plain, "training")
        self.val_loader = self._cached(self.val_loader, self.val_loader, "validation")
        self.forward, self.to_compile, self.validates_first = Head(self.model), False, False

    def _cached(self, loader: Loader, plain: Loader, what: str) -> CachedLoader:
        """`loader` with features for images; `plain` has its rows once and in order."""
        features = features_of(self.model, plain, self.hardware, self.micro_batch, f"features of {what} images")
        log.info(f"features of {len(plain.rows):,} {what} images: {features.shape[1]:,} numbers each, computed once")
        return CachedLoader(loader, plain.rows, features)

    def _describe(self) -> None:
        settings, options = self.settings, self.loader.options
        data, optimizer = settings.data, settings.optimizer
        both = subjects_on_both_sides(self.dataset, self.train_rows, self.val_rows)
        if outlook := self.dataset.outlook(self.loader.resized_from or settings.data.size):
            log.info(outlook)
        log.info(
            f"stage {settings.stage}: {settings.model.arch}, {data.size} px, batch {optimizer.batch}, "
            f"{optimizer.epochs} epochs of {self.steps_per_epoch:,} steps, {self.hardware.precision} on "
            f"{self.hardware.device}, decode {options.resolved_decode} ({options.resolved_threads} threads)"
        )
        log.info(
            f"{len(self.train_rows):,} images to train, {len(self.val_rows):,} to validate "
            f"(fold {data.fold} of {data.folds}, by {data.group}); {both:,} subjects on both sides"
        )
        if self.ranks.world > 1:
            sees = "all of them" if settings.runtime.sync_bn else "its own (--sync-bn: all)"
            log.info(
                f"{self.ranks.world} processes, {self.ranks.local_world} on this machine: {self.share} images of every "
                f"batch each; batch normalisation of each sees {sees}"
            )
        if settings.loss.name != "bce" or settings.flat().get("pos_weight") != "none" or settings.model.frozen:
            parameters = ", ".join(f"{name} {_plain(value)}" for name, value in settings.loss.parameters.items())
            log.info(
                f"loss {settings.loss.name} ({parameters})"
                + ("; the classifier alone" if settings.model.frozen else "")
            )
        if self.sampler:
            without = int((~(self.targets[self.train_rows] == 1).any(axis=1)).sum())
            log.info(
                f"sampler {data.sampler.name}: {len(self.train_rows):,} samples an epoch by each image's rarest "
                f"finding; {without:,} images without any count as one more class"
            )
        if self.oversampling:
            names = ", ".join(self.oversampling.findings) or "no finding"
            log.info(
                f"oversampling {names}: {self.oversampling.images_doubled:,} images twice, "
                f"{self.oversampling.epoch_images:,} in an epoch"
            )
            if self.oversampling.without_ap:
                log.info(f"not chosen, no positive in validation there: {', '.join(self.oversampling.without_ap)}")
        if self.loader.resized_from:
            log.info(
                f"size {settings.data.size} is not stored: {self.loader.resized_from} px renditions are resized, "
                "which costs more than decoding; pack this size for speed"
            )

    def _config(self) -> dict:
        weights = self.settings.model.init and Path(self.settings.model.init)
        file = weights / runs.BEST if weights and weights.is_dir() else weights
        return {
            "settings": self.settings.as_json(),
            "recipe": self.recipe,
            "plugins": plugins.loaded(),
            "oversampling": self.oversampling and self.oversampling.as_json(),
            "findings": list(self.labels.findings),
            "train_positives": self.positives.tolist(),
            "dataset": {"id": self.dataset.id},
            "labels": {"name": self.labels.name, "sha256": self.labels.sha256},
            "selection": {
                "train_images": len(self.train_rows),
                "val_images": len(self.val_rows),
                "train_sha256": rows_sha256(self.train_rows),
                "val_sha256": rows_sha256(self.val_rows),
                "subjects_on_both_sides": subjects_on_both_sides(self.dataset, self.train_rows, self.val_rows),
            },
            "init_sha256": sha256_file(file) if file and file.is_file() else None,
            "device": self.hardware.name,
            "processes": self.ranks.world,
            "precision": self.hardware.precision,
            "versions": versions(),
        }

    def _compare_ranks(self, config: dict, state: dict | None) -> None:
        """Raises UserError if the ranks were given different settings, data, versions, or another run folder."""
        reached = state and {name: state[name] for name in ("epoch", "position")}
        self.ranks.agree({**config, "device": None, "the run folder's last.pt": reached or "none"})

    def _refuse_difference(self, config: dict) -> None:
        stored = runs.read_config(self.out)
        differing = self.settings.difference(stored["settings"])
        doubled = [entry and {**entry, "from": None} for entry in (stored.get("oversampling"), config["oversampling"])]
        if differing is None and doubled[0] != doubled[1]:
            differing = ("oversampling", *doubled)
        for group in ("dataset", "labels", "selection", "init_sha256", "precision"):
            # initial weights that were deleted since are no longer needed: the run has its own
            known = config[group] is not None
            if differing is None and known and stored[group] != config[group]:
                differing = (group, stored[group], config[group])
        if differing:
            name, there, here = differing
            raise UserError(
                f"{self.out}: holds a run with another {name}: {there!r} there, {here!r} now; "
                "give the same again, or another --out folder"
            )

    def _refuse_strangers(self) -> None:
        strangers = sorted(path.name for path in self.out.iterdir() if path.name != ".lock")
        if strangers:
            raise UserError(f"{self.out}: holds {strangers[0]!r}, which is no run; give an empty or new --out folder")

    # ------------------------------------------------------------ state

    def _first_state(self) -> dict:
        best = {"best_epoch": 0, "best_score": float("-inf")}
        tables = {"finding_names": list(self.labels.findings), "metrics": [], "findings": []}
        tables["logit_scale"] = self.model.logit_scale
        return {"epoch": 0, **best, **tables, **_fresh_epoch()}

    def _restore(self, state: dict) -> None:
        self.optimizer.load_state_dict(state.pop("optimizer"))
        self.scaler.load_state_dict(state.pop("scaler"))
        generators = [(state.pop("rng"), state.pop("cuda_rng")), *state.pop("rank_rngs", [])]
        if not self.ranks.is_first:
            state["loss_sum"] = 0.0  # rank 0 has all of it
        if len(generators) != self.ranks.world:
            self._own_generators(state["epoch"], state["position"])
            return
        rng, cuda = generators[self.ranks.rank]
        torch.set_rng_state(rng)
        if cuda is not None and self.hardware.device != "cpu":
            torch.cuda.set_rng_state(cuda, self.hardware.device)

    def _own_generators(self, epoch: int, position: int) -> None:
        """Dropout differs from rank to rank; with another number of ranks than before it begins anew, from here."""
        if (epoch, position, self.ranks.rank) != (0, 0, 0):
            words = f"{self.settings.seed} {epoch} {position} {self.ranks.rank} of {self.ranks.world}"
            torch.manual_seed(int(sha256_bytes(words.encode())[:15], 16))

    def _commit(self, best: tuple | None = None) -> None:
        """Called by all ranks; rank 0 writes, and none goes on before it has."""
        on_gpu = self.hardware.device != "cpu"
        cuda = torch.cuda.get_rng_state(self.hardware.device) if on_gpu else None
        generators = self.ranks.gather((torch.get_rng_state(), cuda))
        loss_sum = self._loss_sum()
        if generators is not None:
            (rng, cuda), *others = generators
            full = {
                **self.state,
                "loss_sum": loss_sum,
                "model": self._weights(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "rng": rng,
                "cuda_rng": cuda,
                "rank_rngs": others,
            }
            runs.commit(self.out, full, best)
        self.ranks.wait()

    def _weights(self) -> dict[str, torch.Tensor]:
        return self.model.backbone.state_dict()

    def _metadata(self, reached: float) -> dict[str, str]:
        settings = self.settings
        return {
            "arch": settings.model.arch,
            "size": str(settings.data.size),
            "norm": settings.model.norm,
            "logit_scale": repr(self.model.logit_scale),
            "findings": "\n".join(self.labels.findings),
            "labels": self.labels.name,
            "dataset": self.dataset.id,
            "epoch": str(self.state["best_epoch"]),
            settings.optimizer.select_by: repr(reached),
        }

    def _predictions(self, values: np.ndarray) -> Predictions:
        ids = self.dataset.columns("image_id", "study_id", "view").iloc[self.val_rows]
        provenance = Provenance("logit", self.out.name, "val", self.labels.name, self.dataset.id, "none")
        return Predictions(ids, self.labels.findings, values, provenance)

    # ------------------------------------------------------------ signals, reports

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and Ctrl-C end the current step, save and stop; a second one stops at once.

        Not with several ranks: a cluster signals all processes of a job, and torchrun, signalled too, does it again. It
        is torchrun that ends whoever takes too long.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {}

        def ask(number, frame):
            self.stop_signal = number
            for each, handler in before.items() if self.ranks.world == 1 else ():
                signal.signal(each, handler)

        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, ask)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop_if_asked(self) -> None:
        if number := self.ranks.vote(self.stop_signal or 0):
            self._checked_loss(self.state["epoch"], self.state["steps"])  # a checkpoint never holds NaN
            self._commit()
            raise Stopped(number)

    @contextlib.contextmanager
    def _tensorboard(self):
        from torch.utils.tensorboard import SummaryWriter  # a second of import time

        folder, hook = self.out / runs.EVENTS, threading.excepthook

        def quiet(error):  # what the writer's thread raises is raised here again, by its flush or its close
            if not type(error.thread).__module__.startswith("tensorboard"):
                hook(error)

        threading.excepthook = quiet
        with _writing(folder):  # if this fails, quiet stays: the thread may not have come to it yet
            events = SummaryWriter(str(folder), purge_step=self.state["epoch"] + 1)
        try:
            yield events
        finally:
            with _writing(folder):
                events.close()
            threading.excepthook = hook

    def _report(self, row: dict, scores: Scores, events) -> None:
        values = {name: value for name, value in row.items() if name != "epoch"}
        values |= {f"AP/{name}": ap for name, ap in zip(scores.findings, scores.ap, strict=True)}
        with _writing(self.out / runs.EVENTS):
            for name, value in values.items():
                if value == value:
                    events.add_scalar(name, value, row["epoch"])
            events.flush()
        waiting = row["wait_seconds"] / row["train_seconds"]
        mirror = self.dataset.mirror
        bucket = f", {mirror.take_waited():,.1f} s for the bucket" if mirror else ""
        star = " *best" if self.state["best_epoch"] == row["epoch"] else ""
        log.info(
            f"epoch {row['epoch']}/{self.settings.optimizer.epochs}: loss {row['train_loss']:.4f}, "
            f"validation {row['val_loss']:.4f}, mAP {row['mAP']:.4f}, LRAP {row['LRAP']:.4f}, "
            f"AUROC {row['macro_AUROC']:.4f}; "
            f"{row['images_per_second']:,.0f} images/s, {waiting:.1%} waiting for data{bucket}{star}"
        )
        if row["epoch"] == 1 and scores.without_positives:
            log.info(f"not in mAP, no positive in validation: {', '.join(scores.without_positives)}")

    def _summary(self, state: dict, already_finished: bool = False) -> RunSummary:
        seconds = {**self.seconds, "total": time.perf_counter() - self.started}
        return RunSummary(self.out, state["epoch"], state["best_epoch"], state["best_score"], already_finished, seconds)


def _number(micro_batch: int | str | None) -> int | None:
    return micro_batch if isinstance(micro_batch, int) else None


def _smaller_divisor(batch: int, size: int) -> int:
    """The largest micro-batch that divides the batch and is at most half of `size`."""
    return max(part for part in range(1, max(1, size // 2) + 1) if batch % part == 0)
