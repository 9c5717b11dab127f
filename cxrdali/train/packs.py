"""Scores of several packs' validation images, each by the findings that its release knows."""

from dataclasses import replace

import numpy as np

from cxrdali.data.splits import of_view
from cxrdali.data.targets import ranked
from cxrdali.metrics.ranking import Scores, macro, score
from cxrdali.runs.settings import TrainSettings
from cxrdali.setting import spelled
from cxrdali.train.selection import TrainingData
from shards.errors import UserError
from shards.words import choices


def pooled(data: TrainingData, values: np.ndarray) -> Scores:
    """Of all validation images. values: float [n, F], their logits."""
    return score(data.findings, data.targets[data.val_rows], ranked(values, data.labels, data.val_rows))


def by_pack(data: TrainingData, values: np.ndarray) -> dict[str, Scores]:
    """Of each of several packs; nothing of one alone. values: float [n, F], the validation images' logits."""
    found = {}
    for pack in data.labels.packs:
        inside, places = (data.val_rows >= pack.start) & (data.val_rows < pack.stop), sorted(pack.places)
        names = tuple(data.findings[place] for place in places)
        found[pack.pack] = score(names, data.targets[data.val_rows[inside]][:, places], values[inside][:, places])
    return found


def columns(found: dict[str, Scores]) -> dict[str, float]:
    """What metrics.csv says of packs beside the pooled scores: each one's, and the means over those that have one."""
    row = {}
    for name, scores in found.items():
        row |= {f"mAP_{name}": scores.macro_ap, f"LRAP_{name}": scores.lrap, f"macro_AUROC_{name}": scores.macro_auroc}
    for metric in ("mAP", "LRAP") if found else ():
        row[f"mean_{metric}"] = macro(np.array([row[f"{metric}_{name}"] for name in found]))
    return row


def columns_of_view(data: TrainingData, values: np.ndarray) -> dict[str, float]:
    """What metrics.csv says of the validation images of the view that chooses the best epoch; nothing without one."""
    if data.select_view is None:
        return {}
    rows = of_view(data.dataset, data.val_rows, data.select_view)
    own, its = replace(data, val_rows=rows), values[np.isin(data.val_rows, rows)]
    scores = pooled(own, its)
    found = {
        "mAP": scores.macro_ap,
        "LRAP": scores.lrap,
        "macro_AUROC": scores.macro_auroc,
        **columns(by_pack(own, its)),
    }
    return {f"{data.select_view}_{name}": value for name, value in found.items()}


def check_settings(settings: TrainSettings, data: TrainingData) -> None:
    """Raises UserError for settings of several packs where there is one, or if the best epoch is to be chosen by a pack
    that there is not, or that would have no score."""
    wanted, names = settings.optimizer.select_pack, [pack.pack for pack in data.labels.packs]
    of_several = {
        "findings": settings.data.findings,
        "same_patients": settings.data.same_patients,
        "select_pack": wanted,
        "mix": settings.data.mix != "size",
    }
    if not names and (given := next((name for name, value in of_several.items() if value), None)):
        raise UserError(f"{spelled(given)}: is about several packs, and this is one; leave it out, or give more --data")
    if (view := data.select_view) is not None:
        rows = of_view(data.dataset, data.val_rows, view)
        if not len(rows) or not (own := replace(data, val_rows=rows).validated).scored:
            why = f" ({own.without_ap})" if len(rows) else ""
            raise UserError(
                f"select-view {view!r}: no finding has both a positive and a negative among the {len(rows):,} {view} "
                f"of {len(data.val_rows):,} validation images{why}; leave it out, or give another --fold"
            )
    if wanted is None:
        return
    if wanted not in names:
        raise UserError(f"select-pack {wanted!r}: no such pack; {choices(wanted, names, 'there are')}")
    own = by_pack(data, np.zeros((len(data.val_rows), len(data.findings))))[wanted]
    if not own.scored:
        raise UserError(
            f"select-pack {wanted!r}: no finding has both a positive and a negative among its validation images "
            f"({own.without_ap}); choose another pack, or leave it out for the mean over packs"
        )
