"""What a training run says in the log."""

import logging
import math
import time

import numpy as np

from cxrdali.data.loader import nearest_stored
from cxrdali.data.mix import words as mix_words
from cxrdali.data.sampler import SampledRows, epoch_samples
from cxrdali.data.samplers.repeat_factor import RepeatedRows
from cxrdali.data.schedule import epochs_left
from cxrdali.data.splits import fold_positives, released_rows, subjects_on_both_sides
from cxrdali.data.targets import any_positive
from cxrdali.metrics.longtail import GROUPS, groups, without_training
from cxrdali.metrics.ranking import Scores, without_words
from cxrdali.models.loss import Loss, effective_images
from cxrdali.runs import pseudo
from cxrdali.runs.progress import Progress
from cxrdali.runs.settings import GROWING, TrainSettings
from cxrdali.setting import spelled
from cxrdali.train.build import Parts
from cxrdali.train.selection import TrainingData
from cxrdali.train.state import State
from shards.dataset.union import Union
from shards.words import counted

log = logging.getLogger(__name__)

WEIGHTS = {
    "balance": "class-balanced weights",
    "pos_weight": "weights of positives",
    "shift": "margins",
    "prior": "taken off logits",
    "rarity": "rarity, 1 / images",
}
UNEVEN = 0.25  # of a fold's share of the images: more than this off is said


def describe(parts: Parts) -> None:
    """What is going to be trained, on what."""
    settings, data, ranks = parts.settings, parts.data, parts.ranks
    options = parts.loader.options
    both = subjects_on_both_sides(data.dataset, data.train_rows, data.val_rows)
    for part in data.dataset.parts:
        if outlook := part.dataset.outlook(nearest_stored(part.dataset, settings.data.size)):
            log.info(outlook)
    if settings.data.schedule:
        log.info(f"schedule {settings.data.schedule}: {counted(settings.optimizer.epochs, 'epoch')} in all")
    log.info(
        f"stage {settings.stage}: {settings.model.arch}, {_size_words(parts)}, "
        f"{parts.hardware.precision} on {parts.hardware.device}, decode {options.resolved_decode} "
        f"({counted(options.resolved_threads, 'thread')})"
    )
    log.info(
        f"{counted(len(data.train_rows), 'image')} to train, {len(data.val_rows):,} to validate "
        f"(fold {settings.data.fold} of {settings.data.folds}, by {settings.data.group}{settings.data.how}); "
        f"{counted(both, 'subject')} on both sides"
    )
    if data.of_studies is not None and settings.study:
        log.info(
            f"{counted(len(data.of_studies.studies.first), 'study')} to train on, in batches of whole ones; fusion "
            f"{settings.study.fusion}"
        )
    _describe_views(data, settings.data.view)
    pseudo.describe(data.labels)
    if settings.data.label_weight:
        log.info(f"labels count {settings.data.label_weight} in the training loss")
    _describe_packs(data)
    _describe_folds(settings, data)
    if ranks.world > 1:
        sees = "all of them" if settings.runtime.sync_bn else "its own (--sync-bn: all)"
        log.info(
            f"{ranks.world} processes, {ranks.local_world} on this machine: {counted(parts.share, 'image')} of every "
            f"batch each; batch normalisation of each sees {sees}"
        )
    smooth = settings.data.soft_targets
    if settings.loss.name != "bce" or settings.flat().get("pos_weight") != "none" or settings.model.frozen or smooth:
        what = "fusion and classifier" if settings.study else "the classifier"
        parameters = ", ".join(f"{name} {_plain(value)}" for name, value in settings.loss.parameters.items())
        log.info(
            f"loss {settings.loss.name} ({parameters})"
            + (f", {smooth}" if smooth else "")
            + (f"; {what} alone" if settings.model.frozen else "")
        )
    _describe_steps(settings)
    for name, values in settings.loss.per_finding(data.positives, data.negatives).items():
        if (values[data.positives > 0] != 1).any():
            log.info(weight_words(name, values, settings.loss, data))
    _describe_scored(data)
    _describe_visits(data, settings.data.sampler.name, settings.data.mix)
    _describe_resized(parts)


def describe_size(parts: Parts) -> None:
    """What the next size of a schedule is."""
    log.info(f"from here on {_size_words(parts)}")
    _describe_resized(parts)


def _size_words(parts: Parts) -> str:
    settings, segment = parts.settings, parts.segment
    growing = GROWING if settings.data.grow_from != 1 else ()
    grown = [f"{spelled(name)} {value:g}" for name in growing if (value := settings.flat()[name])]
    words = (
        f"{settings.data.size} px, batch {settings.optimizer.batch}, {counted(segment.epochs, 'epoch')} of "
        f"{counted(parts.steps_per_epoch, 'step')}"
    )
    return ", ".join([words, *grown])


def _describe_resized(parts: Parts) -> None:
    size = parts.settings.data.size
    for part in parts.data.dataset.parts:
        if (stored := nearest_stored(part.dataset, size)) != size:
            log.info(
                f"{part.name + ': ' if part.name else ''}size {size} is not stored: {stored} px "
                "renditions are resized, which costs more than decoding; pack this size for speed"
            )


def _describe_steps(settings: TrainSettings) -> None:
    """What the steps have beyond one rate for all."""
    how = settings.optimizer
    if how.head_epochs:
        rate, rest = how.head_epochs_lr or how.rate_of_head, counted(how.epochs - how.head_epochs, "epoch")
        log.info(f"the classifier alone for {counted(how.head_epochs, 'epoch')} at lr {rate:g}, then all for {rest}")
    if how.head_lr is not None or how.layer_decay is not None:
        layers = "" if how.layer_decay is None else f", times {how.layer_decay:g} a layer towards the images"
        log.info(f"lr {how.lr:g}{layers}; of the classifier {how.rate_of_head:g}")
    if how.ema_decay is not None:
        half = how.ema_half_life or how.batch * math.log(0.5) / math.log(how.ema_decay)
        log.info(
            f"moving average of the weights, decay {how.ema_decay:.8g}: half of it is of the last {half:,.0f} images; "
            "the better of the two is the best"
        )


def weight_words(name: str, values: np.ndarray, loss: Loss, data: TrainingData) -> str:
    """What a loss's weights (or margins) of findings are for head, medium and tail, and whose is the largest.

    name, values: one of `Loss.per_finding`: [F].
    """
    present, beta, cap = data.positives > 0, loss.parameters.get("cb_beta"), loss.parameters.get("cb_cap")
    words, values = WEIGHTS.get(name, name), values / (loss.logit_scale if name == "shift" else 1)
    if name == "balance" and beta is not None:
        numbers = effective_images(data.positives[present], beta)
        words += f", beta {beta:g} ({numbers.min():,.0f} to {numbers.max():,.0f} effective images)"
    of_group = np.array(groups(data.positives.tolist(), len(data.train_rows)))
    means = [(group, values[present & (of_group == group)]) for group in GROUPS]
    words += ": " + ", ".join(f"{group} {_weight(each.mean())}" for group, each in means if len(each))
    top = np.flatnonzero(present & (values == values[present].max()))
    unit = "image" if data.of_studies is None else "study"
    whose = ", ".join(f"{data.findings[place]} ({counted(int(data.positives[place]), unit)})" for place in top)
    words += f"; largest {_weight(values[top[0]])}, {whose}"
    if cap and name == "balance" and values[top[0]] > 0.999 * cap * np.median(values[present]):
        words += f", held at {cap:g} times the median"
    weighs = name not in ("shift", "prior")
    if weighs and values[top].sum() > values[present].sum() / 2 and len(top) < present.sum() / 2:
        words += ", more than all other findings together"
    return words


def _describe_views(data: TrainingData, view: str) -> None:
    """What is left out by --view."""
    if view == "all":
        return
    rows = released_rows(data.dataset, data.labels, "train")
    found = data.dataset.of_rows(rows, "view")["view"].value_counts()
    words = ", ".join(
        f"{count:,} {'of another or no known view' if of == 'other' else of}" for of, count in found.items()
    )
    log.info(f"view {view}: of the training split's {counted(len(rows), 'image')} ({words}) the {view} ones alone")


def _describe_packs(data: TrainingData) -> None:
    """What each of several packs gives, and which of their findings are taken as the same."""
    if not isinstance(data.dataset, Union):
        return
    for part, pack in zip(data.dataset.parts, data.labels.packs, strict=True):
        train, val = (len(part.own(rows)) for rows in (data.train_rows, data.val_rows))
        log.info(
            f"{part.name}: {counted(train, 'image')} to train, {val:,} to validate, "
            f"{counted(len(pack.findings), 'finding')} of labels {pack.name}"
        )
    found = data.dataset.found({pack.pack: pack.findings for pack in data.labels.packs})
    for words in (*found.spelled, *found.no_finding):
        log.info(f"the same finding: {words}")
    for group in data.dataset.options.same_patients:
        own = {part.name: set(data.dataset.patients(part)) for part in data.dataset.parts if part.name in group}
        shared = sum(len(each) for each in own.values()) - len(set().union(*own.values()))
        log.info(
            f"the same patients: {', '.join(f'{name} {len(each):,}' for name, each in own.items())}, {shared:,} in "
            f"another of them too{'' if shared else '; are their ids written alike?'}"
        )


def _describe_folds(settings: TrainSettings, data: TrainingData) -> None:
    """How findings are spread where that was asked for; else whether the fold is far from its share."""
    how, share = settings.data, len(data.val_rows) / (len(data.val_rows) + len(data.train_rows))
    if how.stratify:
        found = fold_positives(data.dataset, data.labels, how)
        spread = ", ".join(f"{name} {' '.join(map(str, each))}" for name, each in found.items())
        log.info(f"images of each finding in folds 0 to {how.folds - 1}: {spread}")
    elif how.fold_rule == "ids" and not settings.runtime.limit_batches and abs(share * how.folds - 1) > UNEVEN:
        log.info(
            f"note: {share:.0%} of the images validate, not {1 / how.folds:.0%}: ids alone decide, which is uneven "
            "where they are few; --stratify evens it out"
        )


def _most_sampled(data: TrainingData, sampler: SampledRows | RepeatedRows) -> str:
    """Which images come most often, and how often in the last epoch."""
    chances = sampler.chances(sampler.epochs - 1)
    its = np.flatnonzero(data.targets[sampler.rows[chances.argmax()]] == 1)
    rarest = its[data.positives[its].argmin()] if len(its) else None
    times = chances.max() * epoch_samples(sampler, sampler.rows)
    whose = "without any finding" if rarest is None else f"of {data.findings[rarest]} ({data.positives[rarest]:,})"
    when = "in the last epoch" if sampler.sampler.weighted_share(0, sampler.epochs) < 1 else "an epoch"
    return f"images {whose} come most often, {times:,.1f} times {when}"


def report_reweighting(epoch: int, settings: TrainSettings) -> None:
    """That deferred re-weighting begins; epoch: from 0."""
    beta = settings.flat().get("cb_beta")
    words = "" if beta is None else f" (beta {beta:g})"
    log.info(f"epoch {epoch + 1}: positive terms are re-weighted from here on{words}")


def _describe_scored(data: TrainingData) -> None:
    """Which findings no mean counts, and which it does though training says nothing of them."""
    scores, every = data.validated, len(data.findings)
    if without := without_words(scores.without_positives, scores.without_negatives, " in validation"):
        few = len(scores.scored)
        warning = f"warning: mAP is of {few} of {counted(every, 'finding')} alone; " if 2 * few < every else ""
        log.info(f"{warning}not in mAP, {without}")
    both = np.minimum(scores.positives, scores.negatives)
    if untrained := without_training(data.findings, both, data.positives):
        log.info(f"counted in mAP, but in no training image: {', '.join(untrained)}")
    if untrained := without_training(data.findings, both, data.negatives):
        log.info(f"counted in mAP, but in every training image whose label counts: {', '.join(untrained)}")


def _describe_visits(data: TrainingData, sampler: str, mix: str) -> None:
    """How often images are visited, where that is not once an epoch."""
    if mix != "size" and len(data.dataset.parts) > 1:
        log.info(f"mix {mix}: {mix_words(mix, data.dataset.starts, data.epoch_rows)}")
    if isinstance(data.sampler, SampledRows):
        without = int((~any_positive(data.targets, data.train_rows, slice(None))).sum())
        log.info(
            f"sampler {sampler}: {counted(len(data.train_rows), 'sample')} an epoch by each image's rarest finding; "
            f"images without any, {without:,}, count as one more class; {_most_sampled(data, data.sampler)}"
        )
    if isinstance(data.sampler, RepeatedRows):
        log.info(
            f"sampler {sampler}: {counted(len(data.sampler), 'sample')} an epoch of "
            f"{counted(len(data.train_rows), 'image')}; {_most_sampled(data, data.sampler)}"
        )
    if data.oversampling:
        names = ", ".join(data.oversampling.findings) or "no finding"
        log.info(
            f"oversampling {names}: {counted(data.oversampling.images_doubled, 'image')} twice, "
            f"{data.oversampling.epoch_images:,} in an epoch"
        )
        if data.oversampling.without_ap:
            log.info(f"not chosen, without an AP there: {', '.join(data.oversampling.without_ap)}")


class Pace:
    """How long the epochs of this start took, saving included."""

    def __init__(self):
        self._seconds: list[float] = []
        self._last = time.perf_counter()

    def left(self, row: dict, parts: Parts, state: State) -> str:
        """Called after every epoch: words for the time of those that are left, "" after the last one."""
        now = time.perf_counter()
        # an epoch that an earlier start began is in its row as a whole
        self._seconds.append(max(now - self._last, row["train_seconds"] + row["val_seconds"]))
        self._last, how, every = now, parts.settings.optimizer, parts.settings.segments
        if Progress.of(state.epoch, state.best_epoch, state.best_score, parts.settings).finished:
            return ""
        known = self._seconds[1:] or self._seconds  # the first compiles, and fills the cache of files
        seconds = epochs_left(every, state.epoch, parts.segment) * sum(known) / len(known)
        return f", {'at most ' if how.patience else ''}{span(seconds)} left"


def span(seconds: float) -> str:
    """45 s, 12 min, 3 h 12 min, 2 d 4 h."""
    if seconds < 119.5:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    hours, days = divmod(minutes, 60)[0], divmod(round(seconds / 3600), 24)
    if hours >= 48:
        return f"{days[0]} d {days[1]} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"


def report_epoch(row: dict, scores: Scores, parts: Parts, state: State, pace: Pace) -> None:
    """One line of a finished epoch."""
    waiting = row["wait_seconds"] / row["train_seconds"]
    mirrors = [part.dataset.mirror for part in parts.data.dataset.parts if part.dataset.mirror]
    bucket = f", {sum(each.take_waited() for each in mirrors):,.1f} s for the bucket" if mirrors else ""
    units = "studies" if parts.settings.study else "images"
    star = " *best" if state.best_epoch == row["epoch"] else ""
    of = f" of {counted(len(scores.scored), 'finding')}" if scores.without_ap else ""
    at = f" at {row['size']} px" if "size" in row else ""
    each = ", ".join(f"{pack.pack} {row[f'mAP_{pack.pack}']:.4f}" for pack in parts.data.labels.packs)
    averaged = f" ({row['ema_mAP']:.4f} of the averaged weights)" if "ema_mAP" in row else ""
    log.info(
        f"epoch {row['epoch']}/{parts.settings.optimizer.epochs}{at}: loss {row['train_loss']:.4f}, "
        f"validation {row['val_loss']:.4f}, mAP {row['mAP']:.4f}{averaged}{of}{each and f' ({each})'}, "
        f"LRAP {row['LRAP']:.4f}, AUROC {row['macro_AUROC']:.4f}; "
        f"{row['images_per_second']:,.0f} {units}/s, {waiting:.1%} waiting for data{bucket}"
        f"{pace.left(row, parts, state)}{star}"
    )


def report_end(parts: Parts, state: State) -> None:
    """What is not as expected of a run that has just ended."""
    settings = parts.settings
    if state.epoch < settings.optimizer.epochs:
        log.info(f"ended after epoch {state.epoch}: none better in {counted(settings.optimizer.patience, 'epoch')}")
    if state.best_epoch <= settings.loss.deferred_epochs:
        log.info(f"the best epoch, {state.best_epoch}, is one before re-weighting: its weights are kept")


def _weight(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
