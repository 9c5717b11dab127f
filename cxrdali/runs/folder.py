"""A run's folder, as its trainer writes it: what it was asked, what it measured, and how it continues.

    config.json             resolved settings, dataset and label hashes, selection, versions
    last.pt                 everything needed to continue exactly; opened by the trainer, or where it is named
    best.safetensors        weights of the best epoch, timm's own keys; val_predictions.parquet: its logits
    epochs/                 with --keep-epochs, weights of the best and last epochs (`cxrdali.runs.kept_epochs`)
    metrics.csv             one row per epoch; findings.csv: one row per epoch and finding, of the better of the
                            weights and their moving average
    progress.json           how many epochs are finished, which one is the best, whether any is left, and the checksums
                            of best.safetensors, metrics.csv and findings.csv
    tensorboard/            the same as events

The rename of last.pt is the moment at which an epoch has happened. All that an epoch changes is complete before it,
under names with .new, and gets its own names after it, progress.json last; a continued run finishes or drops what a
kill left between the two. Every table follows from last.pt, so no row is ever doubled or missing. A reader beside them
(`cxrdali.runs.reader`) finds at any moment what progress.json says, or something newer that is saved too.
"""

import csv
import io
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import pandas as pd
import torch
from safetensors import torch as safetensors

from cxrdali.models import weights_file
from cxrdali.models.checkpoint_file import check_records
from cxrdali.predictions import Predictions
from cxrdali.runs import kept_epochs, layout
from cxrdali.runs.layout import NEW
from cxrdali.runs.progress import Progress
from cxrdali.runs.reader import weights_epoch
from cxrdali.runs.scores import scored_again
from cxrdali.runs.settings import TrainSettings
from shards.errors import UserError
from shards.storage.files import open_regular, publish, remove_parts, sha256_bytes, write_bytes
from shards.storage.for_people import guarded
from shards.storage.sealed import sealed_json


def write_config(run: Path, config: dict) -> None:
    write_bytes(run / layout.CONFIG, sealed_json(config))


def load_last(run: Path) -> dict | None:
    """The state to continue from, on the CPU; None if no epoch was finished or interrupted yet."""
    path = run / layout.LAST
    if not path.exists():
        return None
    try:
        open_regular(path).close()  # a pipe would be waited for
        check_records(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not (isinstance(state, dict) and {"epoch", "best_epoch", "metrics"} <= set(state)):
            raise ValueError("not a run's state")
        _score_again(state)
        return state
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); restore it or its permissions") from error
    except Exception as error:  # torch and pickle raise their own kinds on a damaged file
        raise UserError(
            f"{path}: no state to continue from ({error!r}); restore it, or train into another --out folder"
        ) from error


def _score_again(state: dict) -> None:
    """What an older version counted as an AP of 1.0 is none: `scored_again`."""
    metrics, findings = (pd.DataFrame(state.get(name, [])) for name in ("metrics", "findings"))
    if not len(findings) or not ((findings["negatives"] == 0) & findings["AP"].notna()).any():
        return
    for row, value in zip(state["metrics"], scored_again(metrics, findings)["mAP"].tolist(), strict=True):
        if row["epoch"] == state["best_epoch"] and row["mAP"] == state["best_score"]:
            state["best_score"] = value
        row["mAP"] = value
    for row in state["findings"]:
        if row["negatives"] == 0:
            row["AP"] = float("nan")


def progress_of(state: dict, settings: TrainSettings) -> Progress:
    """What progress.json is to say of a state."""
    packs = any("mean_mAP" in row for row in state["metrics"])
    made = Progress.of(state["epoch"], state["best_epoch"], state["best_score"], settings, packs)
    return replace(made, weights=state.get("best_weights", layout.RAW))


def _sealed(weights: dict[str, torch.Tensor], metadata: dict[str, str]) -> tuple[bytes, str]:
    """A weights file and its checksum."""
    # safetensors wants plain strides; a channels-last weight is written in the usual layout. Not its
    # save_file: that leaves a nameless temporary file behind a kill
    plain = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    places = Counter(value.data_ptr() for value in plain.values())  # CoaT has tensors under several names
    plain |= {name: value.clone() for name, value in plain.items() if places[value.data_ptr()] > 1}
    return weights_file.sealed(safetensors.save(plain, metadata))


def commit(
    run: Path, state: dict, settings: TrainSettings, ended: tuple[dict, dict, Predictions | None] | None = None
) -> None:
    """Make `state` the run's. ended: (weights, metadata, validation predictions) of an epoch that has just ended; the
    predictions if it is the best, whose checksum the state gets."""
    try:
        if ended is not None:
            weights, metadata, predictions = ended
            data, checksum = _sealed(weights, metadata)
            if settings.optimizer.keep_epochs:
                kept_epochs.file_of(run, state["epoch"]).parent.mkdir(exist_ok=True)
                write_bytes(kept_epochs.file_of(run, state["epoch"]), data)
            if predictions is not None:
                state["best_checksum"] = checksum
                write_bytes(run / NEW[layout.BEST], data)
                predictions.write(run / NEW[layout.VAL_PREDICTIONS])
            del data  # as large as the model
        for name, data in _tables(state, settings).items():
            if not _holds(run / name, data):
                write_bytes(run / NEW[name], data)
        # memory for a copy of the state: torch's own writer reports a full disk as an unexpected position
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_bytes(run / layout.LAST, cast(bytes, buffer.getbuffer()))  # not a copy
    except UserError as error:
        raise UserError(f"{error}; the previous checkpoint is kept") from error
    settle(run, state, settings)


def settle(run: Path, state: dict | None, settings: TrainSettings) -> None:
    """Bring the other files in line with the committed state: after every commit, and before continuing."""
    if state is not None:
        if weights_epoch(run / NEW[layout.BEST]) == state["best_epoch"]:
            # predictions first: while best.new is there, a kill in between comes back here
            if (run / NEW[layout.VAL_PREDICTIONS]).exists():
                publish(run / NEW[layout.VAL_PREDICTIONS], run / layout.VAL_PREDICTIONS)
            publish(run / NEW[layout.BEST], run / layout.BEST)
        for name, data in _tables(state, settings).items():
            if _holds(run / name, data):
                continue
            if not _holds(run / NEW[name], data):
                write_bytes(run / NEW[name], data)
            publish(run / NEW[name], run / name)
        column = progress_of(state, settings).metric
        kept_epochs.sweep(run, state["metrics"], column, settings.optimizer.keep_epochs)
    for name in NEW.values():
        (run / name).unlink(missing_ok=True)
    remove_parts(run)


def _tables(state: dict, settings: TrainSettings) -> dict[str, bytes]:
    """The files that follow from a state, in the order in which they get their names."""
    of_packs = [name for row in state["metrics"][:1] for name in row if name not in layout.METRIC_COLUMNS]
    tables = {
        layout.METRICS: _csv((*layout.METRIC_COLUMNS, *of_packs), state["metrics"]),
        layout.FINDINGS: _csv(layout.FINDING_COLUMNS, state["findings"]),
    }
    checksums = {name: sha256_bytes(data) for name, data in tables.items()}
    if state.get("best_checksum"):  # not before the first epoch, nor in a state of an older version
        checksums[layout.BEST] = state["best_checksum"]
    progress = replace(progress_of(state, settings), checksums=checksums)
    return {**tables, layout.PROGRESS: sealed_json(asdict(progress))}


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data


def _csv(columns: tuple[str, ...], rows: list[dict]) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if value != value else guarded(value) for key, value in row.items()})  # NaN -> blank
    return buffer.getvalue().encode()
