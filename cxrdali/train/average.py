"""The mean of several weights as a run of its own: of a run's kept epochs, or of runs of one form.

Statistics of batch normalisation are computed anew for the averaged weights, in one pass over the training images as
the run trains on them (Izmailov et al. 2018, SWA): the mean of statistics is not that of any network. Of a frozen
backbone, which all have, they stay.
"""

import logging
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from cxrdali.data.loader import Loader
from cxrdali.models.checkpoint_file import read_weights
from cxrdali.models.weights_file import identity as content
from cxrdali.runs import kept_epochs
from cxrdali.runs.layout import LAST, METRIC_COLUMNS, candidate
from cxrdali.runs.reader import Run
from cxrdali.runs.same_data import labels_of, run_rows
from cxrdali.runs.seen import Seen, seen_by
from cxrdali.runs.seen_together import together
from cxrdali.runs.settings import TrainSettings
from cxrdali.runtime.device import Hardware
from cxrdali.runtime.distributed import Ranks
from cxrdali.train import identity
from cxrdali.train.build import Continued, Parts, build
from cxrdali.train.retrain import PLAIN_STEPS
from cxrdali.train.selection import TrainingData, select_data
from cxrdali.train.state import Chosen, begin, save
from cxrdali.train.study import by_study
from cxrdali.train.validation import Validated, validate
from shards.dataset.dataset import Dataset
from shards.errors import UserError
from shards.storage.files import sync_folder, sync_tree
from shards.words import counted

log = logging.getLogger(__name__)

AS_TRAINED = ("arch", "size", "norm", "mean", "std", "head", "fusion", "logit_scale", "findings", "dataset", "labels")


@dataclass(frozen=True)
class Member:
    """Weights that are averaged. score: of their epoch, by what chooses the run's best one."""

    run: Run
    file: Path
    epoch: int
    score: float


def of_epochs(run: Run, count: int, best: bool) -> list[Member]:
    """A run's best, or last, epochs. Raises UserError if it has not kept so many."""
    how = "best" if best else "last"
    run.check_finished("finish it first")
    kept = run.setting("keep_epochs", 0)
    rows, column = run.metrics.to_dict("records"), run.chosen_by
    epochs = kept_epochs.best_and_last(rows, column, kept)[0 if best else 1]
    if not 2 <= count <= len(epochs):
        last = " of its last size" if run.setting("schedule") else ""
        there = f"of {counted(len(rows), 'epoch')}, it keeps the {kept} best and the {kept} last{last}"
        more = "train with --keep-epochs 2 or more" if kept < 2 else f"train more epochs{last}"
        fix = f"give --{how} 2 to {len(epochs)}" if len(epochs) > 1 else more
        raise UserError(f"{run.path}: --{how} {count}: {there if kept else 'it kept no epochs'}; {fix}")
    scores = {int(row["epoch"]): candidate(row, column)[0] for row in rows}
    return [Member(run, kept_epochs.file_of(run.path, epoch), epoch, scores[epoch]) for epoch in epochs[:count]]


def of_runs(runs: Sequence[Run]) -> list[Member]:
    """The best weights of several finished runs. Raises UserError for a run that is given twice, or is not finished."""
    paths = [run.path.resolve() for run in runs]
    for run in runs:
        if paths.count(run.path.resolve()) > 1:
            raise UserError(f"{run.path}: is given {paths.count(run.path.resolve())} times; give every run once")
        run.check_finished("finish it first")
    return [Member(run, run.best_weights(), run.progress.best_epoch, run.best[run.chosen_by]) for run in runs]


def average(members: Sequence[Member], dataset: Dataset, out: Path, device: str = "auto") -> None:
    """Write the mean of weights as a finished run `out`, scored on the validation images that all of them have.

    Args:
        members: Two or more; settings and data are those of the first one's run.
        dataset: That of the runs.
        out: A folder that is not there yet.
        device: As of `TrainSettings`.

    Raises:
        UserError: Weights of other networks, findings or data; validation images that one of them was trained on.
    """
    if out.exists():
        raise UserError(f"{out}: exists; give --out another folder")
    run, (weights, about) = members[0].run, _mean(members)
    labels = labels_of(run, dataset)
    run_rows(run, dataset, labels, "; give the dataset of the run with --data")
    asked = {"device": device, "precision": "auto", "compile": False, "cache_features": False, **PLAIN_STEPS}
    settings = run.settings.changed(init=str(run.path), new_head=False, **asked)
    data = select_data(run.settings, dataset, labels, run.path)
    data = replace(data, seen=_seen(members, dataset, data, settings), leak=_leak(members))
    data = by_study(data) if settings.study else data
    hardware = Hardware.resolve(device, "auto")
    hardware.begin()
    parts = build(settings, data, hardware, Ranks(), Loader, Continued(weights, None, about))
    started, images = time.perf_counter(), 0
    if any(isinstance(each, _BatchNorm) for each in parts.model.modules()) and not settings.model.frozen:
        torch.manual_seed(settings.seed)
        with hardware.autocast():
            update_bn(_batches(parts), parts.model)
        images = parts.steps_per_epoch * settings.optimizer.batch
        log.info("batch normalisation: statistics computed anew, on the training images of one epoch")
    passed = time.perf_counter() - started
    (found,) = validate(parts, settings.optimizer.epochs - 1, out, lambda: None)
    spent = {
        "images": images, "train_seconds": passed, "wait_seconds": 0.0, "images_per_second": images / passed,
        "val_seconds": time.perf_counter() - started - passed,
    }  # fmt: skip
    config = identity.describe(settings, data, hardware, Ranks(), None)
    averaged = [{"run": each.run.name, "epoch": each.epoch, "weights": content(each.file)} for each in members]
    reached = _write(out, parts, found, spent, {**config, "averaged": averaged}, run.chosen_by)
    each = ", ".join(f"{member.run.name} epoch {member.epoch} {member.score:.4f}" for member in members)
    log.info(f"{out}: {run.chosen_by} {reached:.4f}, of the mean of {len(members)} weights ({each})")


def _write(out: Path, parts: Parts, found: Validated, spent: dict, config: dict, column: str) -> float:
    """A run of which one epoch is known, the last; in a folder aside, renamed when all is in it. Returns its score."""
    there, state = out.absolute(), begin(parts)
    untrained = dict.fromkeys(METRIC_COLUMNS, math.nan)
    row = {**untrained, **spent, "reweighted": 0, "epoch": parts.settings.optimizer.epochs, **found.columns}
    reached = row[column]
    state.end_epoch(row, found.scores, reached, is_best=True)
    there.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".part", dir=there.parent) as aside:
        made = Path(aside) / out.name
        made.mkdir(0o700)
        identity.record(made, config, None)
        parts.data.write(made)
        save(made, parts, state, Chosen(reached, False, found.logits))
        (made / LAST).unlink()  # nothing continues it
        sync_tree(made)
        made.replace(there)
        sync_folder(there.parent)
    return reached


def _seen(members: Sequence[Member], dataset: Dataset, data: TrainingData, settings: TrainSettings) -> Seen:
    """What any of them has seen; the first one's run comes last. Raises UserError if it is what all are scored on."""
    run, found = members[0].run, None
    for other in {each.run.path: each.run for each in reversed(members)}.values():
        if other.selection.get("val_sha256") != run.selection.get("val_sha256"):
            raise UserError(
                f"{other.path}: has other validation images than {run.path}, so nothing scores both; average runs of "
                "one --fold and --view"
            )
        mine = seen_by(other, dataset)
        leak = mine.among(dataset, data.labels, data.val_rows, settings.data.group, "validation images")
        if leak and not settings.data.allow_leak:
            raise UserError(f"{other.path}: {leak[0]}; average runs that were trained on none of them")
        found = mine if found is None else together(found, mine)
    assert found is not None
    return found


def _leak(members: Sequence[Member]) -> tuple[str, ...] | None:
    """On how many validation images any of them was trained, by --allow-leak; None if that of one is not known."""
    noted = [each.run.config.get("seen") for each in members]
    found = tuple(dict.fromkeys(words for each in noted for words in each or ()))
    return found or (None if None in noted else ())


def _mean(members: Sequence[Member]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The mean of tensors, added up in float64; whole numbers are those of the first. And the first one's metadata.

    Raises UserError if weights are of another network, or of other data.
    """
    first, known = read_weights(members[0].file)
    total = {name: value.double() for name, value in first.items()}
    for member in members[1:]:
        state, about = read_weights(member.file)
        for name in AS_TRAINED:
            if about.get(name) != known.get(name):
                raise UserError(
                    f"{member.file}: {name} is {about.get(name)!r}, and {known.get(name)!r} in {members[0].file}; only "
                    "weights of one form, trained on the same data and labels, have a mean"
                )
        for name, value in state.items():
            total[name] += value.double()
    mean = {name: value / len(members) for name, value in total.items()}
    return {
        name: mean[name].to(value.dtype) if value.is_floating_point() else value for name, value in first.items()
    }, known


def _batches(parts: Parts) -> Iterator[Any]:
    """The first epoch's images as training saw them, on the device, a micro-batch at a time."""
    parts.loader.set_epoch(0)
    for images, _ in islice(parts.loader, parts.steps_per_epoch):
        yield from images.to(parts.hardware.device).split(parts.settings.runtime.micro_batch or len(images))
