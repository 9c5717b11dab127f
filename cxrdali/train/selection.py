"""What a run trains and validates on: rows, targets, counts, how often an image is visited, what was seen before."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cxrdali.data.label_weight import of_rows
from cxrdali.data.mix import visits
from cxrdali.data.options import FoldOptions
from cxrdali.data.splits import released_rows, train_and_validation
from cxrdali.data.targets import Targets, check_labelled, counts, targets
from cxrdali.fitted import Fitted
from cxrdali.metrics.ranking import Scores
from cxrdali.runs import chosen
from cxrdali.runs.between import between_packs
from cxrdali.runs.config_file import read_config
from cxrdali.runs.exclusion import Excluded, left_out, noted_rows
from cxrdali.runs.oversampling import Oversampling, chosen_findings, oversampled
from cxrdali.runs.pseudo import seen_by_teachers
from cxrdali.runs.reader import has_begun
from cxrdali.runs.seen import Seen, seen_by_weights
from cxrdali.runs.settings import TrainSettings, sampling_seed
from cxrdali.setting import option_words
from shards.dataset.dataset import Dataset
from shards.dataset.labels import Labels
from shards.errors import UserError
from shards.words import counted

if TYPE_CHECKING:
    from cxrdali.train.study import StudyTargets


@dataclass(frozen=True)
class TrainingData:
    """train_rows, val_rows: int64 catalog rows, ascending; epoch_rows: train_rows with oversampling's repeats.

    targets: float32 [catalog rows, F], NaN where ignored; positives, negatives: int64 [F], in train_rows. seen: these
    images and those that the initial weights have seen (None of a run that continues: its folder has them); leak: on
    how many validation images those were trained, as `Seen.among`; chosen: on which images something was chosen before;
    excluded: what lists left out of train_rows; of_studies: where whole studies are trained on, the targets of each by
    its first row; positives and negatives are of studies then. row_weights: float32 [catalog rows], how much labels
    count in the loss (None: all the same); select_view: the view whose validation images choose the best epoch (None:
    all choose).
    """

    dataset: Dataset
    labels: Labels
    train_rows: np.ndarray
    val_rows: np.ndarray
    epoch_rows: np.ndarray
    targets: Targets
    positives: np.ndarray
    negatives: np.ndarray
    oversampling: Oversampling | None
    sampler: Callable[[int], np.ndarray] | None
    seen: Seen | None
    leak: tuple[str, ...] | None
    chosen: tuple[Fitted, ...] = ()
    excluded: Excluded | None = None
    of_studies: "StudyTargets | None" = None
    row_weights: np.ndarray | None = None
    select_view: str | None = None

    @property
    def rows(self) -> np.ndarray:
        """Of both, ascending: int64 [n]."""
        return np.union1d(self.train_rows, self.val_rows)

    @property
    def findings(self) -> tuple[str, ...]:
        return self.labels.findings

    @cached_property
    def validated(self) -> Scores:
        """Which findings are scored on the validation images: positives and negatives there, before any score."""
        positives, negatives = counts(self.targets, self.val_rows)
        undefined = np.full(len(self.findings), np.nan)
        return Scores(self.findings, undefined, undefined, positives, negatives, np.nan)

    def write(self, out: Path) -> None:
        """Note in the folder of a run that begins what it trains on, and what was left out."""
        if self.seen is not None:
            self.seen.write(out)
            if self.excluded is not None:
                self.excluded.write(out)

    def check_scored(self, settings: TrainSettings) -> None:
        """Raises UserError if no finding has a positive and a negative validation image: no epoch would have a mAP."""
        if self.validated.scored:
            return
        asked = settings.data
        raise UserError(
            f"labels {self.labels.name!r}: no finding has both a positive and a negative among the "
            f"{counted(len(self.val_rows), 'validation image')} (fold {asked.fold} of {asked.folds}, --uncertain "
            f"{asked.uncertain!r}), so no epoch has a mAP ({self.validated.without_ap}); {self._fix(settings)}"
        )

    def _fix(self, settings: TrainSettings) -> str:
        """What to change so that a finding is scored."""
        asked = settings.data
        if settings.runtime.limit_batches and (found := _scored(self.targets[self._validation(asked)])):
            return f"give more --limit-batches, or none: the whole fold has {counted(found, 'finding')} with both"
        for uncertain in ("ignore", "negative", "positive"):  # what ignore-all scores, all of these do
            if found := _scored(targets(self.labels, uncertain)[self.val_rows]):
                return f"give another --uncertain: {uncertain} makes it {counted(found, 'finding')}"
        for fold in range(asked.folds):
            if found := _scored(self.targets[self._validation(replace(asked, fold=fold))]):
                return f"give another --fold: fold {fold} has {counted(found, 'finding')} with both"
        return "give other --labels, or a dataset with more labelled images"

    def _validation(self, split: FoldOptions) -> np.ndarray:
        return train_and_validation(self.dataset, self.labels, split)[1]


def _scored(wanted: np.ndarray) -> int:
    """How many findings have a positive and a negative among these targets, float [n, F]."""
    return int(((wanted == 1).any(axis=0) & (wanted == 0).any(axis=0)).sum())


def select_data(settings: TrainSettings, dataset: Dataset, labels: Labels, out: Path) -> TrainingData:
    """out: the run's folder. What it has noted counts where it has begun: other runs may have been deleted since.

    Raises UserError if there is nothing to train on, or what is validated on was seen before.
    """
    stored = read_config(out) if has_begun(out) else None
    train_rows, val_rows = train_and_validation(dataset, labels, settings.data)
    if not len(val_rows):
        raise UserError(
            f"{dataset.root}: labels {labels.name!r} are pseudo-labels, on which nothing is validated; train on them "
            "beside a pack with labels of its own, as in --data A --data B --labels A=NAME,B=NAME"
        )
    if settings.runtime.limit_batches:
        limit = settings.runtime.limit_batches * settings.optimizer.batch  # of each pack
        val_rows = np.concatenate([part.start + part.own(val_rows)[:limit] for part in dataset.parts])
    train_rows, excluded = _without_excluded(settings, dataset, train_rows, val_rows, out if stored else None)
    check_labelled(labels, train_rows, "the training split", may_be_pseudo=True)
    if labels.soft is not None and not settings.loss.soft:
        raise UserError(
            f"loss {settings.loss.name}: takes no targets between 0 and 1, as soft pseudo-labels have; attach them "
            "with --threshold or --above and --below, or give another --loss"
        )
    wanted = targets(labels, settings.data.uncertain)
    epoch_rows, oversampling = train_rows, None
    if settings.data.oversample or settings.data.oversample_below is not None:
        source = settings.data.oversample_from and Path(settings.data.oversample_from)
        doubled, without = chosen_findings(
            settings.data.oversample, settings.data.oversample_below, source, labels.findings,
            stored and stored.get("oversampling"),
        )  # fmt: skip
        epoch_rows = oversampled(train_rows, wanted, labels.findings, doubled)
        oversampling = Oversampling(
            doubled, settings.data.oversample_below, settings.data.oversample_from, without,
            images_doubled=len(epoch_rows) - len(train_rows), epoch_images=len(epoch_rows),
        )  # fmt: skip
    positives, negatives = counts(wanted, train_rows)
    seed = sampling_seed(settings.seed, settings.stage)
    sampler = visits(settings.data, dataset.starts, epoch_rows, wanted, seed, settings.optimizer.epochs)
    if stored is None:
        before = seen_by_teachers(seen_by_weights(settings.model.init, dataset), dataset, labels)
        leak = _checked(settings, dataset, labels, before, train_rows, val_rows)
        chosen_before = chosen.before(settings)
        seen = before.after_all(out.resolve().name, dataset, labels, settings.data, train_rows)
    else:
        noted, seen = stored.get("seen"), None
        leak = None if noted is None else tuple(noted)
        chosen_before = chosen.by_weights(out) or chosen.before(settings)
    return TrainingData(
        dataset, labels, train_rows, val_rows, epoch_rows, wanted, positives, negatives, oversampling, sampler, seen,
        leak, chosen_before, excluded,
        row_weights=of_rows(settings.data.label_weight, dataset.starts, len(labels.values)),
        select_view=settings.optimizer.select_view,
    )  # fmt: skip


def _without_excluded(
    settings: TrainSettings, dataset: Dataset, train_rows: np.ndarray, val_rows: np.ndarray, begun: Path | None
) -> tuple[np.ndarray, Excluded | None]:
    """Training rows without those that lists leave out. begun: the folder of a run that goes on, which keeps them."""
    paths = settings.data.exclude
    if not paths:
        return train_rows, None
    noted = begun and read_config(begun).get("excluded")
    if begun and noted and not all(Path(path).exists() for path in paths):
        rows, found = noted_rows(begun, noted, dataset, train_rows)
    else:
        rows, found = left_out(paths, dataset, train_rows, val_rows)
    return np.setdiff1d(train_rows, rows), found


def _checked(
    settings: TrainSettings,
    dataset: Dataset,
    labels: Labels,
    before: Seen,
    train_rows: np.ndarray,
    val_rows: np.ndarray,
) -> tuple[str, ...] | None:
    """What of the images to validate on initial weights have seen, or another pack's training images are. Raises
    UserError unless that is none, or allowed."""
    leak = before.among(dataset, labels, val_rows, settings.data.group, "validation images")
    if leak and not settings.data.allow_leak:
        fold = next(_folds_unseen(settings, dataset, labels, before), "")
        how = "start from other weights" if settings.model.init else "take pseudo-labels of a run that saw none of them"
        raise UserError(
            f"{settings.model.init or f'labels {labels.name!r}'}: {leak[0]}, so their scores would say nothing of "
            f"unseen images; {fold}{how}, or say --allow-leak"
        )
    held = {"validation": val_rows, **{name: released_rows(dataset, labels, name) for name in ("dev", "test")}}
    if shared := between_packs(dataset, train_rows, held):
        if not settings.data.allow_leak:
            raise UserError(
                f"{'; '.join(shared)}, so their scores would say nothing of unseen images; "
                f"`{next(iter(shared.values()))} --out overlap.csv` lists them, then give --exclude overlap.csv too, "
                "or say --allow-leak"
            )
        leak = (*(leak or ()), *shared)
    before.tell(leak)
    return leak


def _folds_unseen(settings: TrainSettings, dataset: Dataset, labels: Labels, before: Seen) -> Iterator[str]:
    """How to choose validation images as an earlier run did, where none of them was trained on, latest run first."""
    for run in reversed(before.runs):
        split = run.split
        with contextlib.suppress(UserError):  # there are fewer groups here than folds there
            _, rows = train_and_validation(dataset, labels, split)
            if not before.among(dataset, labels, rows, split.group, ""):
                asked = {name: value for name, value in vars(split).items() if value != getattr(settings.data, name)}
                words = (option_words(name, value) for name, value in asked.items())
                yield f"give {' '.join(words)} as {run.name} had, "
