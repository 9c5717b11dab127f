"""From a label release's values to what a loss and a metric see."""

import numpy as np

from cxrdali.data.uncertain import by_finding
from shards.dataset.labels import Labels
from shards.errors import UserError


def targets(labels: Labels, uncertain: str = "negative") -> np.ndarray:
    """float32 [rows, findings]: 1 positive, 0 negative, NaN ignored. Blanks are negative, or ignored with "ignore-all".

    The label table keeps -1 and blank as they are; this choice is made per run, for all findings or for each
    (`cxrdali.data.uncertain`). Raises UserError for another choice or finding.
    """
    values = labels.values.astype(np.float32)
    for place, counts_as in enumerate(by_finding(uncertain, labels.findings)):
        stored, column = labels.values[:, place], values[:, place]
        column[stored == -1] = {"negative": 0.0, "positive": 1.0}.get(counts_as, np.nan)
        column[stored == Labels.BLANK] = np.nan if counts_as == "ignore-all" else 0.0
    return values


def counts(values: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many of the rows are positive and negative for each finding: int64 [F] each. values: as `targets` gives."""
    found = np.empty((2, values.shape[1]), dtype=np.int64)
    for place in range(values.shape[1]):  # one finding at a time: values[rows] would be a copy of nearly everything
        known = values[rows, place]
        found[:, place] = (known == 1).sum(), (known == 0).sum()
    return found[0], found[1]


def check_labelled(labels: Labels, rows: np.ndarray, what: str) -> None:
    """Raises UserError if no finding has a value in `rows`: such a split was released without labels."""
    blank = (labels.values[rows] == Labels.BLANK).all(axis=0)
    # one finding that is never mentioned is a fact of the release; all of them are a table without labels
    if blank.all():
        raise UserError(
            f"labels {labels.name!r} have no findings for {what}: the split was released without them; "
            "choose another split, or another label release with --labels"
        )
