"""A run's folder: what it was asked, what it measured, and how it continues.

    config.json             resolved settings, dataset and label hashes, selection, versions
    metrics.csv             one row per epoch; findings.csv: one row per epoch and finding
    tensorboard/            the same as events
    last.pt                 everything needed to continue exactly
    best.safetensors        weights of the best epoch, timm's own keys; val_predictions.parquet: its logits

The rename of last.pt is the moment at which an epoch has happened. The best epoch's files are complete before
it, under names ending in .new, and get their own names after it; a continued run finishes or drops what a
kill left between the two. metrics.csv is rewritten from last.pt, so no row is ever doubled or missing.
"""

import contextlib
import csv
import io
import json
import time
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors

from cxrdali.predictions import Predictions
from cxrdali.runs.settings import TrainSettings
from shards.errors import UserError
from shards.storage.files import json_bytes, only_one, publish, remove_parts, write_bytes

CONFIG, METRICS, FINDINGS, LAST = "config.json", "metrics.csv", "findings.csv", "last.pt"
BEST, VAL_PREDICTIONS, EVENTS = "best.safetensors", "val_predictions.parquet", "tensorboard"
METRIC_COLUMNS = (
    "epoch", "lr", "train_loss", "val_loss", "mAP", "LRAP", "macro_AUROC", "images", "images_per_second",
    "train_seconds", "wait_seconds", "val_seconds",
)  # fmt: skip
_LATER_COLUMNS = ("reweighted",)  # older runs do not have them: their files stay the same, byte for byte
FINDING_COLUMNS = ("epoch", "finding", "AP", "AUROC", "positives", "negatives")
MOMENT = 2.0  # seconds for which another process may be reading the weights
_NEW = {BEST: "best.new.safetensors", VAL_PREDICTIONS: "val_predictions.new.parquet"}


def read_config(run: Path) -> dict:
    """A run's config.json. Raises UserError if the folder holds no run."""
    path = run / CONFIG
    if not path.exists():
        raise UserError(f"{run}: no run (no {CONFIG} in it); give the folder that `cxrdali train` wrote")
    try:
        config = json.loads(path.read_bytes())
        config["settings"]["optimizer"]["epochs"], config["findings"], config["dataset"]["id"], config["labels"]["name"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no run's settings ({error!r}); train into another folder") from error
    return config


def write_config(run: Path, config: dict) -> None:
    write_bytes(run / CONFIG, json_bytes(config))


def load_last(run: Path) -> dict | None:
    """The state to continue from, on the CPU; None if no epoch was finished or interrupted yet."""
    path = run / LAST
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not (isinstance(state, dict) and {"epoch", "best_epoch", "metrics"} <= set(state)):
            raise ValueError("not a run's state")
        return state
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); restore it or its permissions") from error
    except Exception as error:  # torch and pickle raise their own kinds on a damaged file
        raise UserError(f"{path}: no state to continue from ({error!r}); delete it to start the run anew") from error


def finished(run: Path, way_out: str) -> tuple[dict, dict]:
    """config.json and the state of a run with all its epochs, or that ended early by its patience.

    Raises UserError, ending in `way_out`, otherwise.
    """
    config, state = read_config(run), load_last(run)
    settings, done = TrainSettings.from_json(config["settings"]), 0 if state is None else state["epoch"]
    if state is None or not is_finished(state, settings):
        raise UserError(f"{run}: this run has finished {done} of {settings.optimizer.epochs} epochs; {way_out}")
    return config, state


def is_finished(state: dict, settings: TrainSettings) -> bool:
    """Whether all epochs are done, or as many passed without a better one as the run's patience allows.

    Deferred re-weighting gets its chance: epochs before it do not count against the patience.
    """
    patience = settings.optimizer.patience
    if state["epoch"] >= settings.optimizer.epochs:
        return True
    counted_from = max(state["best_epoch"], settings.loss.deferred_epochs)
    return patience is not None and state["epoch"] - counted_from >= patience


def commit(run: Path, state: dict, best: tuple[dict, dict, Predictions] | None = None) -> None:
    """Make `state` the run's state. `best`: (weights, metadata, validation predictions) if this epoch is the best."""
    try:
        if best is not None:
            weights, metadata, predictions = best
            # safetensors wants plain strides; a channels-last weight is written in the usual layout. Not its
            # save_file: that leaves a nameless temporary file behind a kill
            plain = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
            write_bytes(run / _NEW[BEST], safetensors.save(plain, metadata))
            predictions.write(run / _NEW[VAL_PREDICTIONS])
        # memory for a copy of the state: torch's own writer reports a full disk as an unexpected position
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_bytes(run / LAST, buffer.getbuffer())
    except UserError as error:
        raise UserError(f"{error}; the previous checkpoint is kept") from error
    settle(run, state)


def settle(run: Path, state: dict | None) -> None:
    """Bring the other files in line with the committed state: after every commit, and before continuing."""
    epoch = _new_epoch(run)
    if epoch is not None and state is not None and epoch == state["best_epoch"]:
        # predictions first: while best.new is there, a kill in between comes back here
        if (run / _NEW[VAL_PREDICTIONS]).exists():
            publish(run / _NEW[VAL_PREDICTIONS], run / VAL_PREDICTIONS)
        publish(run / _NEW[BEST], run / BEST)
    for name in _NEW.values():
        (run / name).unlink(missing_ok=True)
    remove_parts(run)
    if state is not None:
        later = (
            name for name in _LATER_COLUMNS if not state["metrics"] or any(name in row for row in state["metrics"])
        )
        tables = {METRICS: _csv((*METRIC_COLUMNS, *later), state["metrics"])}
        tables[FINDINGS] = _csv(FINDING_COLUMNS, state["findings"])
        for name, data in tables.items():
            if not (run / name).exists() or (run / name).read_bytes() != data:  # readers come here too, many at once
                write_bytes(run / name, data)


def best_weights(run: Path, state: dict | None) -> Path:
    """The best epoch's weights of a run, after finishing what a kill left between two renames.

    `state` is the run's `load_last`: it is large, so the caller's is used. Raises UserError if the weights are
    missing or not those of the committed best epoch.
    """
    if state is None:
        raise UserError(f"{run}: has no finished epoch yet; finish the run first")
    with contextlib.suppress(OSError):  # a read-only copy of a run: check it as it is
        _settle_in_turn(run, state)
    path, epoch = run / BEST, best_epoch(run)
    if epoch != state["best_epoch"]:
        raise UserError(f"{path}: holds epoch {epoch}, the best one is {state['best_epoch']}; train the run again")
    return path


def best_epoch(run: Path) -> int | None:
    """The epoch of a run's best weights, by what they say themselves; None if there are none or a part."""
    return _epoch_of(run / BEST)


def _settle_in_turn(run: Path, state: dict) -> None:
    """Where several processes read the weights at once, each has its moment; one that trains has more."""
    end = time.monotonic() + MOMENT
    while True:
        try:
            with only_one(run / ".lock", "training into it"), contextlib.suppress(UserError):  # a full disk
                settle(run, state)
            return
        except UserError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def _new_epoch(run: Path) -> int | None:
    """The epoch that best.new holds; None if there is none or a kill left half of it."""
    return _epoch_of(run / _NEW[BEST])


def _epoch_of(path: Path) -> int | None:
    """The epoch in a weights file's metadata; None if the file is missing or cut off."""
    try:
        with safe_open(path, framework="pt") as file:
            return int(file.metadata()["epoch"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _csv(columns: tuple[str, ...], rows: list[dict]) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if value != value else value for key, value in row.items()})  # NaN -> blank
    return buffer.getvalue().encode()
