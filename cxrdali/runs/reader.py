"""Reading what a run left in its folder: `Run.open(path)`. Nothing here needs torch, and nobody here opens last.pt."""

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from cxrdali.models import weights_file
from cxrdali.runs import layout
from cxrdali.runs.config_file import FORMAT, read_config
from cxrdali.runs.names import flatten
from cxrdali.runs.progress import RESTORE, Progress, how_to_mend, read_progress
from cxrdali.runs.scores import best_place, reached, scored_again
from cxrdali.runs.settings import TrainSettings
from shards.errors import UserError
from shards.storage.files import read_regular, sha256_bytes
from shards.storage.for_people import unguarded
from shards.storage.sealed import CHECKSUM, LARGEST_FILE, note_unsealed
from shards.words import counted

if TYPE_CHECKING:
    import pandas as pd

    from cxrdali.data.options import FoldOptions


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A run folder. Everything beside config.json is read when it is first asked for."""

    path: Path
    config: dict
    name: str

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Raises UserError naming the file and how to fix it if the folder holds no run."""
        return cls(path, read_config(path), path.name)

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
            return read_progress(path)
        except FileNotFoundError:
            if (self.path / layout.LAST).exists() or results(self.path):
                weights = self.path / layout.BEST
                known = not has_begun(self.path) and weights.exists()
                start = f"; another run starts from its weights with --init {weights}" if known else ""
                raise UserError(f"{path}: is missing; {how_to_mend(self.path)}{start}") from None
            return Progress.of(0, 0, None, self.settings)

    def check_finished(self, fix: str) -> None:
        """Raises UserError, ending in `fix`, unless no epoch is left to train."""
        if not self.progress.finished:
            done, planned = self.progress.epoch, self.progress.epochs
            raise UserError(f"{self.path}: this run has finished {done} of {counted(planned, 'epoch')}; {fix}")

    def check_of_images(self, what: str) -> None:
        """Raises UserError for a study-level run. what: a command that is for single images."""
        if self.settings.study:
            raise UserError(
                f"{self.path}: sees whole studies, and {what} is for networks that see single images; give the run "
                f"that it started from, {self.setting('init')}"
            )

    def best_weights(self) -> Path:
        """The best epoch's weights. Raises UserError if there are none yet, or they are missing or older than that.

        Newer ones than progress.json's are right: they get their name only when their epoch is saved, and progress.json
        gets its own after them. Without progress.json and last.pt, the weights that are there.
        """
        path = self.path / layout.BEST
        epoch = weights_epoch(path)
        if epoch is not None and not has_begun(self.path):
            log.info(
                f"note: {self.path} has no {layout.PROGRESS}: its weights, of epoch {epoch}, are taken as they are"
            )
            return path
        if not self.progress.epoch:
            raise UserError(f"{self.path}: has no finished epoch yet; finish the run first")
        best = self.progress.best_epoch
        fix = f"{RESTORE} (other weights: predict --weights FILE, train --init FILE)"
        if not path.is_file():
            raise UserError(f"{path}: is missing, the weights of epoch {best}; {fix}")
        if epoch is None or epoch < best:
            named = "names no epoch" if epoch is None else f"holds epoch {epoch}"
            raise UserError(f"{path}: {named}, the best one is {best}: not what this run wrote; {fix}")
        self._check(layout.BEST, weights_file.metadata(path).get(CHECKSUM), fix)
        return path

    def _check(self, name: str, found: str | None, fix: str) -> None:
        """Raises UserError if a file's checksum is not the run's.

        To be called after the file was read: the trainer writes the new progress.json aside before any file that it
        names gets its name, and renames it after them.
        """
        known = []
        for place in (layout.NEW[layout.PROGRESS], layout.PROGRESS):
            with contextlib.suppress(FileNotFoundError):
                known.append(read_progress(self.path / place).checksums.get(name))
        named = [each for each in known if each]
        if not named:
            note_unsealed(self.path / name)
        elif found not in named:
            here, there = (found or "none")[:12], " or ".join(each[:12] for each in named)
            differ = f"checksum {here}, {layout.PROGRESS} names {there}"
            raise UserError(f"{self.path / name}: is not what this run wrote ({differ}); {fix}")

    def _table(self, name: str, columns: Sequence[str], text: Sequence[str]) -> "pd.DataFrame":
        path = self.path / name
        try:
            data = read_regular(path, LARGEST_FILE)
        except FileNotFoundError:
            data = None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"{path}: cannot be read ({reason}); restore it or its permissions") from error
        if data is not None or has_begun(self.path):
            self._check(name, None if data is None else sha256_bytes(data), how_to_mend(self.path))
        return _read_csv(path, data, columns, text)

    @property
    def val_predictions(self) -> Path:
        """The table of the best epoch's validation logits."""
        return self.path / layout.VAL_PREDICTIONS

    @property
    def packs(self) -> list[dict]:
        """What config.json says of each of several packs that it was trained on; none of one that has no name."""
        return self.config["dataset"].get("packs", [])

    def of_pack(self, entry: dict) -> "Run":
        """The run as it would be of one of its packs alone: its dataset, labels, own findings and selection."""
        own = {name: entry[name] for name in ("labels", "findings", "places", "selection", "train_positives")}
        return Run(self.path, {**self.config, "dataset": entry, **own}, self.name)

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
        return dict(zip(self.findings, self.needed("train_positives"), strict=True))

    def needed(self, *names: str) -> Any:
        """An entry of config.json. Raises UserError if it is not there."""
        value = self.config
        for name in names:
            if name not in value:
                raise UserError(f"{self.path / layout.CONFIG}: {'.'.join(names)} is missing; restore the file")
            value = value[name]
        return value

    @property
    def fold(self) -> "FoldOptions":
        """How training images are divided; of one of several packs, as that was (`of_pack`)."""
        data, pack = self.settings.data, self.config["dataset"].get("name")
        return data if not pack or data.shares_patients(pack) else replace(data, same_patients=None)

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
        asked = (self.setting("select_by", "map"), self.setting("select_pack"), bool(self.packs))
        return layout.chosen_by(*asked, self.setting("select_view"))

    @cached_property
    def metrics(self) -> "pd.DataFrame":
        """A row per epoch with layout.METRIC_COLUMNS, and scores of each of several packs; none until the first epoch
        is complete."""
        metrics = self._table(layout.METRICS, layout.METRIC_COLUMNS, text=())
        if self.config.get("format", 1) < FORMAT:
            metrics = scored_again(metrics, self._table(layout.FINDINGS, layout.FINDING_COLUMNS, text=("finding",)))
        others = [name for name in metrics if name not in layout.METRIC_COLUMNS]
        return metrics.assign(**{name: metrics[name].replace("", "nan").astype(float) for name in others})

    @cached_property
    def reached(self) -> "pd.DataFrame":
        """metrics, in which each epoch has the scores of its better candidate: its weights, or their moving average."""
        return reached(self.metrics, self.chosen_by)

    @cached_property
    def finding_metrics(self) -> "pd.DataFrame":
        """A row per epoch and finding with FINDING_COLUMNS."""
        table = self._table(layout.FINDINGS, layout.FINDING_COLUMNS, text=("finding",))
        return table.assign(AP=table["AP"].mask(table["negatives"] == 0))  # 1.0 there, by an older version

    @property
    def best_place(self) -> int:
        """The best epoch's place in metrics."""
        return best_place(self.reached[self.chosen_by], self.settings.segments)

    @property
    def best(self) -> "pd.Series":
        """The best epoch: a row of `reached`."""
        return self.reached.iloc[self.best_place]

    @property
    def best_findings(self) -> "pd.DataFrame":
        """The best epoch's findings, indexed by name."""
        return self.finding_metrics[self.finding_metrics["epoch"] == self.best["epoch"]].set_index("finding")

    @property
    def best_ap(self) -> dict[str, float | None]:
        """AP of every finding in the best epoch; NaN without a positive or a negative."""
        best = self.finding_metrics[self.finding_metrics["epoch"] == self.progress.best_epoch]
        return dict(zip(best["finding"], best["AP"].tolist(), strict=True))


def has_begun(path: Path) -> bool:
    """Whether the folder holds at least one save of a run."""
    return (path / layout.LAST).exists() or (path / layout.PROGRESS).exists()


def results(path: Path) -> list[str]:
    """Files of a run's folder that hold what it has reached, beside last.pt."""
    names = (layout.PROGRESS, layout.BEST, layout.METRICS, layout.FINDINGS, layout.VAL_PREDICTIONS)
    found = [name for name in names if (path / name).exists()]
    new = layout.NEW[layout.BEST]  # of the first epoch: a kill came before that was saved
    return [*found, new] if (weights_epoch(path / new) or 0) > 1 else found


def weights_epoch(path: Path) -> int | None:
    """The epoch that a run's weights name in their metadata; None if the file is missing or cut off."""
    try:
        return int(weights_file.metadata(path)["epoch"])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _read_csv(path: Path, data: bytes | None, columns: Sequence[str], text: Sequence[str]) -> "pd.DataFrame":
    """Numbers in every column but `text`; an empty table if the file is not there yet (None)."""
    import pandas as pd

    if data is None:
        return pd.DataFrame({name: pd.Series(dtype=object if name in text else float) for name in columns})
    try:
        table = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False)
    except ValueError as error:
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
