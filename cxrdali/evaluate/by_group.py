"""What an evaluation and a comparison say of groups of images, as JSON and CSV ("groups_by").

age_bins, min_group         as asked for
underdiagnosis              the finding that says that there is none (None: any finding counts)
missing                     sentences on what was asked for and is not known, and how to attach it
comparisons                 how many gaps of means, and of findings, have a p: what p_holm is adjusted for
dimensions                  a part each: by, groups, and gaps: the best group less the worst, by mean
    groups                  group, images, patients, too_small, scored (the findings of its means), mAP,
                            macro_AUROC, macro_recall (= sensitivity), macro_specificity, macro_ECE, underdiagnosis
                            and the ends of their intervals; gaps: of each to the rest; findings: the same, a row
                            each
worst                       by mean, and by finding: the group that is furthest behind its rest
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxrdali.evaluate.differences import adjusted, as_difference
from cxrdali.evaluate.group_scores import (
    MEASURES,
    Measured,
    adjust,
    as_row,
    between,
    mean_of,
    measured,
    no_finding,
    worst,
)
from cxrdali.evaluate.groups import Dimension, dimensions
from cxrdali.evaluate.options import ByOptions
from cxrdali.metrics.bootstrap import Images
from cxrdali.metrics.intervals import Estimate
from shards.dataset.dataset import Dataset
from shards.progress import progress_bar
from shards.storage.files import write_bytes
from shards.storage.for_people import guarded_rows

COUNTS = ("positives", "positive_patients", "negatives", "negative_patients")


def groups_by(
    images: Images, dataset: Dataset, rows: np.ndarray, findings: Sequence[str], options: ByOptions
) -> dict | None:
    """The block of an evaluation; None if no groups are asked for.

    Args:
        images: What is scored, of these catalog rows, int64 [n].
        findings: Names of the columns of `images`.

    Raises:
        UserError: for groups that there are not.
    """
    asked = dimensions(dataset, rows, options.by, options.age_bins)
    if not asked:
        return None
    parts = []
    for dimension, groups in _all_measured(images, asked, findings, options):
        gaps = [found for measure in MEASURES if (found := between(groups, measure, options.level))]
        parts.append({
            "by": dimension.by,
            "groups": [as_row(each, findings, options) for each in groups],
            "gaps": gaps,
        })  # fmt: skip
    return _about(asked, findings, options) | {
        "comparisons": adjust(parts), "dimensions": parts, "worst": worst(parts, findings),
    }  # fmt: skip


def compared(
    sides: Mapping[str, Images], baseline: str, dataset: Dataset, rows: np.ndarray, findings: Sequence[str],
    options: ByOptions,
) -> dict | None:  # fmt: skip
    """The block of a comparison: each run's gaps of means, and their differences to those of the baseline.

    Args:
        sides: What is scored of each run, by name.
    """
    asked = dimensions(dataset, rows, options.by, options.age_bins)
    if not asked:
        return None
    found = {name: dict(_measured_by(images, asked, findings, options)) for name, images in sides.items()}
    table = []
    for place in found[baseline]:
        base = found[baseline][place]
        for measure in MEASURES:
            row: dict = {"by": place[0], "group": place[1], "metric": measure, "runs": {}, "differences": {}}
            for name, groups in found.items():
                each = groups[place]
                gap = as_difference(each.gap(measure, options.level))
                row["runs"][name] = {"value": each.own(measure, options.level).value, **gap}
                if name != baseline:
                    row["differences"][name] = as_difference(_between_runs(each, base, measure, options.level))
            table.append(row)
    gaps = [each for row in table for each in row["runs"].values()]
    of_runs = [each for row in table for each in row["differences"].values()]
    counted = {
        name: sum(each["p"] is not None for each in adjusted(rows))
        for name, rows in (("gaps", gaps), ("differences", of_runs))
    }
    return _about(asked, findings, options) | {"comparisons": counted, "rows": table}


def _between_runs(one: Measured, other: Measured, measure: str, level: float) -> Estimate:
    """The gap of one run less that of another."""
    gaps = [each.gaps.get(MEASURES[measure][0]) for each in (one, other)]
    if gaps[0] is None or gaps[1] is None:
        return Estimate(None)
    return mean_of(measure, gaps[0] - gaps[1], level)


def _measured_by(images: Images, asked: Sequence[Dimension], findings: Sequence[str], options: ByOptions):
    for _, groups in _all_measured(images, asked, findings, options):
        for each in groups:
            yield (each.by, each.name), each


def _all_measured(images: Images, asked: Sequence[Dimension], findings: Sequence[str], options: ByOptions):
    known = [each for each in asked if not each.missing]
    with progress_bar("groups", sum(len(each.names) for each in known), " groups") as bar:
        for each in known:
            yield each, measured(images, each, no_finding(findings), options, bar.update)


def _about(asked: Sequence[Dimension], findings: Sequence[str], options: ByOptions) -> dict:
    none = no_finding(findings)
    return {
        "age_bins": [int(each) for each in options.age_bins],
        "min_group": options.min_group,
        "underdiagnosis": None if none is None else findings[none],
        "missing": [each.missing for each in asked if each.missing],
    }


def write(block: dict, path: Path) -> Path:
    """A CSV of an evaluation's block: a row per group and finding, and before a group's findings its means: a row
    without a finding. "_gap": the difference to the rest."""
    rows = []
    for part in block["dimensions"]:
        for group in part["groups"]:
            about = {
                "by": part["by"],
                "group": group["group"],
                "images": group["images"],
                "patients": group["patients"],
            }
            means = {name: score for name, (score, _) in MEASURES.items()}
            ends = [(f"{name}{end}", f"{score}{end}") for name, score in means.items() for end in ("", "_low", "_high")]
            values = {column: group[name] for name, column in ends}
            gaps = _gaps({means[name]: gap for name, gap in group["gaps"].items()})
            rows.append(about | {"finding": None, "too_small": group["too_small"]} | values | gaps)
            for row in group["findings"]:
                plain = {name: value for name, value in row.items() if name != "gaps"}
                rows.append(about | plain | _gaps(row["gaps"]))
    # objects: as numbers, a column with a blank would turn whole numbers into fractions
    table = pd.DataFrame(guarded_rows(rows), dtype=object)
    first = [*("by", "group", "finding", "images", "patients"), *COUNTS, "too_small"]
    table = table.reindex(columns=[*first, *(name for name in table if name not in first)])
    write_bytes(path, table.to_csv(index=False, lineterminator="\n").encode())
    return path


def _gaps(gaps: Mapping[str, dict]) -> dict:
    names = {"difference": "", "low": "_low", "high": "_high", "p": "_p", "p_holm": "_p_holm"}
    return {f"{score}_gap{end}": gap[key] for score, gap in gaps.items() for key, end in names.items()}
