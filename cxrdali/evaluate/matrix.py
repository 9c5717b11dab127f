"""Runs by the hospitals that they were trained in, each judged in every hospital: one mAP for each pair.

A column, the runs that are judged in one hospital, has the same images, and mAP over the findings that all of its runs
and its labels have in common. So scores compare down a column. They do not along a row: other hospitals have other
findings, and another prevalence, on which AP depends.

    trained, level, draws, seed, synthetic
    columns         judged, labels, split, images, patients, unit, findings (by the labels' names), left_out (others of
                    the labels), scored (how many of the findings have an AP)
        cells       trained, own (it is judged where it was trained), mAP and macro_AUROC with the ends of their
                    intervals, and difference: its mAP - that of the own cell, on the same samples of the patients
                    (None: it is that cell, or there is none)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cxrdali.evaluate.differences import adjusted, as_difference
from cxrdali.evaluate.options import ExternalOptions
from cxrdali.evaluate.place import Judged, Place, judge
from cxrdali.metrics.bootstrap import Images, resample
from cxrdali.metrics.intervals import Sampled
from cxrdali.metrics.ranking import score
from cxrdali.postprocess.aligned import check_map
from shards.errors import UserError


@dataclass(frozen=True)
class Cell:
    """trained: what the run was trained on; place: where it is judged, whose name is the column's."""

    trained: str
    place: Place


def matrix(cells: Sequence[Cell], options: ExternalOptions) -> dict:
    """The numbers of the module's text.

    Raises UserError for images that a run was trained on (unless allowed), for runs of one column that are judged on
    other images or labels, or that have no finding in common.
    """
    columns: dict[str, dict[str, Judged]] = {}
    for cell in cells:
        columns.setdefault(cell.place.name, {})[cell.trained] = judge(cell.place, options)
    judged = [each for column in columns.values() for each in column.values()]
    check_map(options.findings, {name: known for each in judged for name, known in each.sides.items()})
    return {
        "trained": [*dict.fromkeys(cell.trained for cell in cells)],
        **{"level": options.level, "draws": options.draws, "seed": options.seed},
        "synthetic": any(cell.place.dataset.synthetic for cell in cells),
        "columns": [_column(name, column, options) for name, column in columns.items()],
    }


def _column(name: str, runs: dict[str, Judged], options: ExternalOptions) -> dict:
    first = next(iter(runs.values()))
    places = sorted(set.intersection(*(set(each.both.places) for each in runs.values())))
    if not places:
        raise UserError(f"{name}: the runs that are judged there have no finding in common; judge fewer of them")
    labels, sampled = first.place.labels, {}
    for trained, each in runs.items():
        own = dict(zip(each.both.places, each.findings, strict=True))
        alone, order = each.of([own[place] for place in places]), np.argsort(each.rows)
        if each.place.labels.sha256 != labels.sha256 or not np.array_equal(each.rows[order], np.sort(first.rows)):
            raise UserError(
                f"{each.place.path}: is of other images or labels than {first.place.path}, so their scores do not "
                "compare; predict the same split of the same pack"
            )
        images = Images(alone.truth[order], alone.logits[order], alone.patient[order])
        scores = score(alone.findings, images.truth, images.values)
        sampled[trained] = resample(images, scores, options.draws, options.seed)
    found = [_cell(trained, name, of, sampled.get(name), options.level) for trained, of in sampled.items()]
    adjusted([each["difference"] for each in found if each["difference"]])
    about = first.about()
    return {
        "judged": name,
        **{key: about[key] for key in ("labels", "split", "images", "patients", "unit")},
        "findings": [labels.findings[place] for place in places],
        "left_out": [each for place, each in enumerate(labels.findings) if place not in places],
        "scored": int((~np.isnan(next(iter(sampled.values()))["AP"].value)).sum()),
        "cells": found,
    }


def _cell(trained: str, judged: str, of: dict[str, Sampled], own: dict[str, Sampled] | None, level: float) -> dict:
    found = {"trained": trained, "own": trained == judged, "difference": None}
    for name, measure in (("mAP", "AP"), ("macro_AUROC", "AUROC")):
        found |= of[measure].mean(None, level).as_json(name)
    if own is not None and own is not of:
        found["difference"] = as_difference((of["AP"] - own["AP"]).mean(None, level))
    return found
