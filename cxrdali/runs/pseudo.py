"""Pseudo-labels: what their run has seen counts as seen by whoever trains on them."""

import logging

from cxrdali.runs.seen import Seen, read_list
from cxrdali.runs.seen_together import together
from shards.dataset.dataset import Dataset
from shards.dataset.labels import SEEN_KEY, Labels
from shards.words import counted

log = logging.getLogger(__name__)


def seen_by_teachers(before: Seen, dataset: Dataset, labels: Labels) -> Seen:
    """What initial weights have seen, and the runs that predicted pseudo-labels, with those behind them.

    Raises UserError if a list in a file of labels is damaged.
    """
    seen = before
    for part, own in zip(dataset.parts, labels.apart(), strict=True):
        if own.pseudo is None:
            continue
        table = part.dataset.label_file(own.name)
        stored = table.metadata().get(SEEN_KEY)
        teacher = Seen(unknown=(str(own.pseudo["run"]),)) if stored is None else read_list(table.path, stored)
        if teacher.unknown or not set(teacher.runs) <= set(seen.runs):
            seen = together(seen, teacher)
    return seen


def describe(labels: Labels) -> None:
    """Say which labels were predicted, by what."""
    for own in labels.apart():
        if own.pseudo is not None:
            rows = int((own.split == "train").sum())
            log.info(
                f"labels {own.name}: pseudo-labels of {counted(rows, 'image')}, predicted by {own.pseudo['run']}, "
                f"{own.pseudo['how']}; they train and never validate"
            )
