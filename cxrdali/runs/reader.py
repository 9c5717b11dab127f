"""Reading what a run left in its folder: `Run.open(path)`. Nothing here needs torch, and nobody here opens last.pt."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from cxrdali.runs import layout
from cxrdali.runs.names import flatten
from cxrdali.runs.settings import TrainSettings
from shards.errors import UserError
from shards.storage.for_people import unguarded

if TYPE_CHECKING:
    import pandas as pd

    from cxrdali.data.options import FoldOptions


@dataclass(frozen=True)
class Progress:
    """How far a run is: what progress.json says.

    epoch: finished ones, of `epochs`; finished: whether none is left, also where the run's patience ended it;
    best_epoch: from 1, 0 before the first; best_score: its value of `metric` (mAP or LRAP), None where undefined.
    """

    epoch: int
    epochs: int
    finished: bool
    best_epoch: int
    best_score: float | None
    metric: str

    @classmethod
    def of(cls, epoch: int, best_epoch: int, best_score: float | None, settings: TrainSettings) -> "Progress":
        """Deferred re-weighting gets its chance: epochs before it do not count against the patience."""
        how, without_better = settings.optimizer, epoch - max(best_epoch, settings.loss.deferred_epochs)
        finished = epoch >= how.epochs or (how.patience is not None and without_better >= how.patience)
        known = best_score if best_score is not None and math.isfinite(best_score) else None
        return cls(epoch, how.epochs, finished, best_epoch, known, "LRAP" if how.select_by == "lrap" else "mAP")


@dataclass(frozen=True)
class Run:
    """A run folder. Everything beside config.json is read when it is first asked for."""

    path: Path
    config: dict
    name: str

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Raises UserError naming the file and how to fix it if the folder holds no run."""
        config = read_config(path)
        _check_config(path / layout.CONFIG, config)
        return cls(path, config, path.name)

    @cached_property
    def settings(self) -> TrainSettings:
        """What it was asked, resolved."""
        try:
            return TrainSettings.from_json(self.config["settings"])
        except (TypeError, UserError) as error:
            raise UserError(f"{self.path / layout.CONFIG}: {error}; restore the file") from error

    def setting(self, name: str, otherwise: object = None) -> Any:
        """One of the settings as config.json has it; `otherwise` if it is None or absent."""
        value = flatten(self.config["settings"]).get(name)
        return otherwise if value is None else value

    @cached_property
    def progress(self) -> Progress:
        """Raises UserError if it is not known how far the run is."""
        path = self.path / layout.PROGRESS
        try:
            return Progress(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            if any((self.path / name).exists() for name in (layout.LAST, layout.METRICS)):
                raise UserError(f"{path}: is missing; run the same `cxrdali train` once, which writes it") from None
            return Progress.of(0, 0, None, self.settings)
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path}: not as `cxrdali train` writes it ({error!r}); run the same `cxrdali train` once, which "
                "writes it anew"
            ) from error

    def check_finished(self, fix: str) -> None:
        """Raises UserError, ending in `fix`, unless no epoch is left to train."""
        if not self.progress.finished:
            done, planned = self.progress.epoch, self.progress.epochs
            raise UserError(f"{self.path}: this run has finished {done} of {planned} epochs; {fix}")

    def best_weights(self) -> Path:
        """The best epoch's weights. Raises UserError if there are none yet, or they are missing or older than that.

        Newer ones than progress.json's are right: they get their name only when their epoch is saved, and progress.json
        gets its own after them.
        """
        if not self.progress.epoch:
            raise UserError(f"{self.path}: has no finished epoch yet; finish the run first")
        path, best = self.path / layout.BEST, self.progress.best_epoch
        epoch = weights_epoch(path)
        if epoch is None or epoch < best:
            raise UserError(f"{path}: holds epoch {epoch}, the best one is {best}; restore it, or train the run again")
        return path

    @property
    def val_predictions(self) -> Path:
        """The table of the best epoch's validation logits."""
        return self.path / layout.VAL_PREDICTIONS

    @property
    def dataset_id(self) -> str:
        return self.config["dataset"]["id"]

    @property
    def labels(self) -> str:
        """The label release's name."""
        return self.config["labels"]["name"]

    @property
    def labels_sha256(self) -> str | None:
        return self.config["labels"].get("sha256")

    @property
    def findings(self) -> tuple[str, ...]:
        """Names, in the order of the model's outputs."""
        return tuple(self.config["findings"])

    @property
    def selection(self) -> Mapping:
        """train_images, val_images, train_sha256 and val_sha256 of their rows, subjects_on_both_sides."""
        return self.config.get("selection", {})

    @property
    def train_positives(self) -> dict[str, int]:
        """Training images with each finding, before any resampling."""
        return dict(zip(self.findings, self.config["train_positives"], strict=True))

    @property
    def fold(self) -> "FoldOptions":
        return self.settings.data

    @property
    def device(self) -> str:
        """What it began on: "2 x NVIDIA H100" with two processes."""
        device, processes = self.config.get("device", "unknown"), self.config.get("processes", 1)
        return f"{processes} x {device}" if processes > 1 else str(device)

    @property
    def recipe(self) -> dict:
        """name, starts_from, overridden; empty for a plain stage."""
        return self.config.get("recipe") or {}

    @property
    def oversampling(self) -> dict | None:
        """What it doubled: findings, below, from, without_ap, images_doubled, epoch_images."""
        return self.config.get("oversampling")

    @property
    def origin(self) -> str:
        """What it started from, in words: another run's name, a weights file, or neither."""
        if self.setting("init"):
            return self.recipe.get("starts_from") or Path(self.setting("init")).name
        if self.recipe.get("starts_from"):
            return self.recipe["starts_from"]
        return "ImageNet" if self.setting("pretrained", True) else "random weights"

    @property
    def chosen_by(self) -> str:
        """The metric whose highest value makes the best epoch."""
        return "LRAP" if self.setting("select_by") == "lrap" else "mAP"

    @cached_property
    def metrics(self) -> "pd.DataFrame":
        """A row per epoch with layout.METRIC_COLUMNS; none until the first epoch is complete."""
        return _read_csv(self.path / layout.METRICS, layout.METRIC_COLUMNS, text=())

    @cached_property
    def finding_metrics(self) -> "pd.DataFrame":
        """A row per epoch and finding with FINDING_COLUMNS."""
        return _read_csv(self.path / layout.FINDINGS, layout.FINDING_COLUMNS, text=("finding",))

    @property
    def best_place(self) -> int:
        """The best epoch's place in metrics; the last one if its metric is undefined in all."""
        values = self.metrics[self.chosen_by]
        return len(values) - 1 if values.isna().all() else int(values.argmax())

    @property
    def best(self) -> "pd.Series":
        """The best epoch: a row of metrics."""
        return self.metrics.iloc[self.best_place]

    @property
    def best_findings(self) -> "pd.DataFrame":
        """The best epoch's findings, indexed by name."""
        table = self.finding_metrics
        return table[table["epoch"] == self.best["epoch"]].set_index("finding")

    @property
    def best_ap(self) -> dict[str, float | None]:
        """AP of every finding in the best epoch; NaN without a positive."""
        table = self.finding_metrics
        best = table[table["epoch"] == self.progress.best_epoch]
        return dict(zip(best["finding"], best["AP"].tolist(), strict=True))


def has_begun(path: Path) -> bool:
    """Whether the folder holds at least one save of a run."""
    return (path / layout.LAST).exists() or (path / layout.PROGRESS).exists()


def read_config(path: Path) -> dict:
    """A run's config.json. Raises UserError if the folder holds no run."""
    file = path / layout.CONFIG
    if not file.exists():
        raise UserError(f"{path}: no run (no {layout.CONFIG} in it); give the folder that `cxrdali train` wrote")
    try:
        config = json.loads(file.read_bytes())
        config["settings"]["optimizer"]["epochs"], config["findings"], config["dataset"]["id"], config["labels"]["name"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: no run's settings ({error!r}); train into another folder") from error
    return config


def weights_epoch(path: Path) -> int | None:
    """The epoch that a run's weights name in their metadata; None if the file is missing or cut off."""
    try:
        with safe_open(path, framework="np") as file:
            return int(file.metadata()["epoch"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _check_config(path: Path, config: dict) -> None:
    try:
        recipe, oversampling = config.get("recipe"), config.get("oversampling")
        if recipe is not None:
            recipe["name"], dict(recipe.get("overridden") or {})
        if oversampling is not None:
            [*oversampling["findings"], *oversampling["without_ap"]]
            oversampling["images_doubled"] + oversampling["epoch_images"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: recipe or oversampling is not as `cxrdali train` writes it ({error!r}); restore the file"
        ) from error


def _read_csv(path: Path, columns: Sequence[str], text: Sequence[str]) -> "pd.DataFrame":
    """Numbers in every column but `text`; an empty table if the file is not there yet."""
    import pandas as pd

    if not path.exists():
        return pd.DataFrame({name: pd.Series(dtype=object if name in text else float) for name in columns})
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not a table ({error}); restore it or train again") from error
    for name in columns:
        if name not in table.columns:
            raise UserError(f"{path}: column {name!r} is missing; the run is of another version, train again")
        if name in text:
            table[name] = table[name].map(unguarded)
            continue
        blank = table[name].str.lower().isin(("", "nan"))
        numbers = pd.to_numeric(table[name].mask(blank), errors="coerce")
        wrong = numbers.isna() & ~blank
        if wrong.any():
            raise UserError(
                f"{path}: column {name!r} holds {table.loc[wrong, name].iloc[0]!r}, not a number; restore it"
            )
        table[name] = numbers
    return table
