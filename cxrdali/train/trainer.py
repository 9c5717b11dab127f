"""Training one stage: the story of a run, and its loop.

The same call again continues a killed run and does nothing on a finished one. Samples and augmentation depend only
on seed, epoch and position, the learning rate on the step, and dropout on torch's generator, whose state is saved.
So on the CPU a killed and continued run ends with the weights of an uninterrupted one, bit for bit.

With several ranks (`cxrdali.runtime.distributed`) each trains on its share of every batch and validates on whole
batches in turn. All hold the same state; rank 0 alone writes files, computes scores and logs. When any of them is asked
to stop, all stop together, one step later.
"""

import contextlib
import logging
import math
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import torch

from cxrdali.data.loader import Loader
from cxrdali.data.schedule import at
from cxrdali.runs import folder
from cxrdali.runs.layout import PROGRESS, candidate, chosen_by
from cxrdali.runs.live import Heartbeat, Live
from cxrdali.runs.progress import Progress
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import TrainSettings
from cxrdali.runtime.compiler import compile_errors
from cxrdali.runtime.device import Hardware
from cxrdali.runtime.distributed import Ranks, joined
from cxrdali.runtime.full import SET_UP, told_if_full
from cxrdali.train import console, identity, packs, segments
from cxrdali.train.build import Parts, build
from cxrdali.train.hooks import Hooks, StepRecord
from cxrdali.train.microbatch import full_words
from cxrdali.train.segments import Begun
from cxrdali.train.selection import select_data
from cxrdali.train.state import Chosen, State, begin, restore, save
from cxrdali.train.stopping import Signals, Stopped
from cxrdali.train.study import by_study
from cxrdali.train.summary import SPENT, RunSummary, summary_of
from cxrdali.train.tracking import Tracking, about, chosen
from cxrdali.train.validation import validate
from cxrdali.train.waiting import Waiting, waiting_of
from shards.dataset.dataset import Dataset
from shards.errors import UserError
from shards.progress import progress_bar
from shards.storage.files import only_one

log = logging.getLogger(__name__)

CHECK_STEPS = 50  # steps between looks at the loss; each look waits for the GPU


def train(
    settings: TrainSettings,
    dataset: Dataset,
    out: Path,
    *,
    loader: type[Loader] = Loader,
    recipe: dict | None = None,
    hooks: Hooks | None = None,
) -> RunSummary:
    """Train a stage into the folder `out`, or continue there.

    Args:
        settings: What to train, resolved by its own checks.
        dataset: Where the images and labels are.
        out: The run's folder, made when it is not there.
        loader: What makes the batches; another class of the same form is for comparisons.
        recipe: What config.json says about the recipe behind the settings.
        hooks: Functions called on the way.

    Raises:
        UserError: Bad settings or data, another run in `out`, unfit weights, a loss that is not finite, or a full GPU.
        Stopped: After SIGTERM, Ctrl-C or `hooks.should_stop`; the state is saved.
    """
    started = time.perf_counter()
    labels = dataset.labels(settings.data.labels)
    settings = settings.changed(labels=labels.name)  # a run's settings are resolved
    trackers = chosen(settings)  # on all ranks: what one lacks, all lack
    out.mkdir(0o700, parents=True, exist_ok=True)
    with told_if_full(SET_UP), joined(settings.runtime.device) as ranks, _alone(out, ranks):
        hardware = Hardware.resolve(ranks.device(settings.runtime.device), settings.runtime.precision)
        hardware.begin()
        ranks.share(settings.optimizer.batch, None if settings.study else settings.runtime.micro_batch)
        identity.check_described(out)
        data = select_data(settings, dataset, labels, out)
        settings = settings.resolved(len(data.train_rows))
        config, loaded = identity.describe(settings, data, hardware, ranks, recipe), folder.load_last(out)
        identity.check(out, config, settings, loaded, ranks, data)
        told, group = about(out, settings, config), hooks.group if hooks else None
        tracking = Tracking(out, trackers if ranks.is_first else [], told, group)
        if done := _finished(out, settings, loaded, ranks, tracking):
            return summary_of(out, done, {"total": time.perf_counter() - started}, already_finished=True)
        data.check_scored(settings)
        packs.check_settings(settings, data)
        segments.check(settings, data, ranks)
        data = by_study(data) if settings.study else data
        run = Begun(out, settings, data, hardware, ranks, config, tracking, loader, hooks or Hooks())
        trainer, spent = _train_size(run, loaded, started), Counter[str]()
        while not trainer.progress.finished:
            spent.update(trainer.seconds)
            del trainer  # before the next size needs its memory
            trainer = _train_size(run, segments.saved(out), time.perf_counter(), is_next=True)
        spent.update(trainer.seconds)
        console.report_end(trainer.parts, trainer.state)
        return summary_of(out, trainer.progress, {**spent, "total": time.perf_counter() - started})


def _train_size(run: Begun, loaded: dict | None, started: float, is_next: bool = False) -> "Trainer":
    """Train the epochs of one size: of most runs all. is_next: of the size after the one that this call has trained.

    The next size starts from what this one has saved, as a killed run does: so it ends alike, killed or not.
    """
    segment = at(run.settings.segments, loaded["epoch"] if loaded else 0)
    before = loaded and segments.continued(run.out, loaded, segment)
    parts = build(run.settings.at(segment), run.data, run.hardware, run.ranks, run.loader, before)
    del before  # as large as the model
    if run.hooks.on_parts:
        run.hooks.on_parts(parts, loaded)
    with Signals().listening(run.ranks) as signals:
        (console.describe_size if is_next else console.describe)(parts)
        if run.ranks.is_first:
            segments.record(run, parts, loaded, is_next)
        state = restore(parts, loaded) if loaded else begin(parts)
        if loaded and not is_next:
            log.info(f"continues after epoch {state.epoch} and {state.position:,} images of the next")
        trainer = Trainer(parts, state, run.out, run.hooks, signals)
        trainer.run(started, run.tracking)
    return trainer


def _alone(out: Path, ranks: Ranks) -> contextlib.AbstractContextManager:
    """The run's lock, which rank 0 holds for all."""
    return only_one(out / ".lock", "training into it") if ranks.is_first else contextlib.nullcontext()


def _finished(
    out: Path, settings: TrainSettings, loaded: dict | None, ranks: Ranks, tracking: Tracking
) -> Progress | None:
    """How a run that has nothing left to do ended, after finishing what a kill left of its files."""
    if loaded is None:  # deleted when all was done: `identity.check` refuses a run that was not
        return Run.open(out).progress if (out / PROGRESS).exists() else None
    progress = folder.progress_of(loaded, settings)
    if progress.finished and ranks.is_first:
        folder.settle(out, loaded, settings)
        Heartbeat(out).close()
        tracking.send_rest(State.of(loaded))
    return progress if progress.finished else None


class Trainer:
    """The loop over epochs, from where `state` is; seconds: what it spent, by SPENT."""

    def __init__(
        self, parts: Parts, state: State, out: Path, hooks: Hooks, signals: Signals, waiting: Waiting | None = None
    ):
        self.parts, self.state, self.out, self.hooks, self.signals = parts, state, out, hooks, signals
        self.settings, self.ranks, self.hardware = parts.settings, parts.ranks, parts.hardware
        self.seconds, self.pace = dict.fromkeys(SPENT, 0.0), console.Pace()
        self.waiting = waiting or waiting_of(parts.hardware.device)
        self.live = Heartbeat(out)

    @property
    def progress(self) -> Progress:
        return folder.progress_of(vars(self.state), self.settings)

    def run(self, started: float, tracking: Tracking | None = None) -> None:
        """Train until no epoch of this size is left. started: when the set-up began, by time.perf_counter."""
        nothing, full = contextlib.nullcontext(), told_if_full(full_words(self.settings, self.parts.share))
        beats = contextlib.closing(self.live) if self.ranks.is_first else nothing
        is_last = self.parts.segment.end == self.settings.optimizer.epochs
        with compile_errors(), full, beats, tracking.of(self.state, is_last) if tracking else nothing as told:
            self.seconds["compiling"] = self.parts.arranged.seconds
            self.seconds["setup"] = time.perf_counter() - started - self.seconds["compiling"]
            try:
                while not self.progress.finished and self.state.epoch < self.parts.segment.end:
                    self._epoch(told)
            except Stopped:  # here: in a validation, the model may have had other weights
                save(self.out, self.parts, self.state)
                raise
            ended = time.perf_counter()
        self.seconds["saving"] += time.perf_counter() - ended  # trackers bring away what they still have

    def _epoch(self, told: Tracking | None) -> None:
        state, epoch = self.state, self.state.epoch
        train_loss = self._train_epoch(epoch)
        started = time.perf_counter()
        candidates = validate(self.parts, epoch, self.out, self._stop_if_asked)
        validated = time.perf_counter()
        row = {
            "epoch": epoch + 1,
            "lr": self.parts.rates.rate(epoch),
            "train_loss": train_loss,
            "images": state.images,
            "images_per_second": state.images / state.train_seconds,
            "train_seconds": state.train_seconds,
            "wait_seconds": state.wait_seconds,
            "val_seconds": validated - started,
            "reweighted": int(self.parts.step.loss.reweights(epoch)),
            **({"grad_norm": float(state.norm_sum) / max(1, state.steps)} if self.parts.step.clip_norm else {}),
            **({"size": self.settings.data.size} if self.settings.data.schedule else {}),
        }
        for each in candidates:
            row |= each.columns
        how = self.settings.optimizer
        several = bool(candidates[0].by_pack)
        reached, averaged = candidate(row, chosen_by(how.select_by, how.select_pack, several, how.select_view))
        found = candidates[averaged]
        # the first epoch of a size is kept even where the score is undefined; scores of two sizes are not compared
        is_first = state.best_epoch <= self.parts.segment.start
        is_best = is_first or reached > state.best_score or math.isnan(state.best_score)
        state.end_epoch(row, found.scores, reached, is_best, averaged)
        save(self.out, self.parts, state, Chosen(reached, averaged, found.logits if is_best else None))
        if told:
            told.send()
        if self.ranks.is_first:
            console.report_epoch(row, found.scores, self.parts, state, self.pace)
        if self.hooks.on_epoch:
            self.hooks.on_epoch(dict(row))
        self.seconds["validation"] += validated - started
        self.seconds["saving"] += time.perf_counter() - validated

    # ------------------------------------------------------------ training

    def _train_epoch(self, epoch: int) -> float:
        """Train from the state's position to the epoch's end; the state counts on the way. Returns the mean loss."""
        before = time.perf_counter()
        self.waiting.ask()  # here: what prepares the first batch counts as waiting for it
        state, parts, batch = self.state, self.parts, self.settings.optimizer.batch
        parts.loader.load_state_dict({"epoch": epoch, "position": state.position})
        parts.to_train(epoch)
        if parts.step.loss.reweights(epoch) and not parts.step.loss.reweights(epoch - 1):
            console.report_reweighting(epoch, self.settings)
        first, count, so_far = state.position // batch, parts.steps_per_epoch, sum(parts.steps[:epoch])
        # islice only where it is needed: a loader that is read to its end keeps its pipeline for the next epoch
        steps = islice(parts.loader, count - first) if self.settings.runtime.limit_batches else parts.loader
        name = f"epoch {epoch + 1}/{self.settings.optimizer.epochs}"
        with progress_bar(name, count * batch, " images", leave=False, initial=first * batch) as bar:
            for step, (images, rows) in enumerate(steps, first):
                self.waiting.got()
                parts.rates.step_update(so_far + step)
                self._step(images, rows)
                bar.update(batch)
                if step % CHECK_STEPS == CHECK_STEPS - 1:
                    bar.set_postfix(loss=f"{self._checked_loss(epoch, step):.4f}", refresh=False)
                before = self._count(before)
                self._stop_if_asked()
                self.waiting.ask()
            loss = self._checked_loss(epoch, count)  # waits for the GPU: belongs to the training
        self._count(before)
        return loss

    def _count(self, before: float) -> float:
        """Book the time since `before`; returns now. What was waited on a GPU is known a little later than it was."""
        now, waited = time.perf_counter(), self.waiting.take()
        self.state.train_seconds += now - before
        self.state.wait_seconds += waited
        self.seconds["training"] += now - before - waited
        self.seconds["waiting"] += waited
        return now

    def _step(self, images: torch.Tensor, rows: torch.Tensor) -> None:
        """One optimizer step on this rank's share of a batch, counted in the state."""
        state, parts, device = self.state, self.parts, self.hardware.device
        images = images.to(device, non_blocking=True)
        wanted, weights = parts.targets(rows), parts.weights(rows)
        if parts.pairs:
            start = state.position + self.ranks.rank * parts.share
            images, wanted, weights = parts.pairs(images, state.epoch, start, wanted, weights)
        micro_batch = self.settings.runtime.micro_batch or len(images)
        loss = parts.step(images, wanted, state.epoch, micro_batch, weights)
        if self.hooks.on_step:
            lr = parts.rates.rate(state.epoch)
            self.hooks.on_step(StepRecord(state.epoch, state.position, lr, rows, images, loss))
        state.loss_sum += loss
        if parts.step.norm is not None:
            # of a step that fp16 skips it is infinite
            state.norm_sum += parts.step.norm.nan_to_num(0, 0) if self.hardware.precision == "fp16" else parts.step.norm
        state.steps += 1
        state.images += self.settings.optimizer.batch  # of all ranks
        state.position += self.settings.optimizer.batch

    def _checked_loss(self, epoch: int, step: int) -> float:
        loss = self.state.total_loss(self.parts) / max(1, self.state.steps)
        found = {"loss": loss, "norm of the gradient": float(self.state.norm_sum)}
        for what, value in found.items():
            if not math.isfinite(value):
                fix = "use --precision bf16 or fp32" if self.hardware.precision == "fp16" else "lower --lr"
                raise UserError(
                    f"{self.out}: the {what} became {value} in epoch {epoch + 1}, by step {step}; {fix}, with another "
                    f"--out. The last checkpoint is of epoch {epoch}"
                )
        return loss

    # ------------------------------------------------------------ saving and stopping

    def _now(self) -> Live:
        state, device = self.state, self.hardware.device
        gpu_bytes = None if device == "cpu" else torch.cuda.max_memory_reserved(device)
        of = self.parts.steps_per_epoch * self.settings.optimizer.batch
        return Live(state.epoch + 1, state.position, of, state.train_seconds, state.wait_seconds, gpu_bytes)

    def _stop_if_asked(self) -> None:
        if self.ranks.is_first and self.live.is_due:
            self.live.beat(self._now())
        asked = self.hooks.should_stop() if self.hooks.should_stop else None
        if number := self.ranks.vote(asked or self.signals.number):
            self._checked_loss(self.state.epoch, self.state.steps)  # a checkpoint never holds NaN
            self._count(time.perf_counter())  # and, after that look, all that was waited
            raise Stopped(number)
