"""Normal gating, of the first place of CXR-LT 2026: p = p * (1 - p_normal)^strength for every other finding."""

from pathlib import Path

import numpy as np

from cxrdali import predictions as tables
from cxrdali.postprocess.options import STRENGTH
from cxrdali.predictions import Kind, Predictions
from shards.errors import UserError
from shards.words import choices


def apply(path: Path, normal: str, strength: float = STRENGTH) -> Predictions:
    """The table (logits) with every finding but `normal` lowered where that is probable; nothing is fitted.

    strength: above 0. Raises UserError for probabilities, mean ranks, or a finding that the table does not have.
    """
    table = tables.as_logits(tables.read(path), path)
    if table.provenance.kind == Kind.RANK:
        raise UserError(f"{path}: mean ranks are no probabilities; gate the tables before they are pooled by rank")
    if normal not in table.findings:
        raise UserError(f"{path}: no finding {normal!r}; {choices(normal, table.findings, 'it has')}")
    if not 0 < strength < np.inf:
        raise UserError(f"strength {strength}: a number above 0")
    place, x = table.findings.index(normal), table.values.astype(np.float64)
    keep = -strength * np.logaddexp(0, x[:, [place]])  # log of (1 - p_normal)^strength
    with np.errstate(divide="ignore"):  # a p_normal of 0 takes nothing away
        lost = np.log(-np.expm1(keep))
    log_p, log_q = -np.logaddexp(0, -x), -np.logaddexp(0, x)
    values = log_p + keep - np.logaddexp(log_q, log_p + lost)  # of p and 1 - p = q + p * lost: no digits are lost
    values[:, place] = x[:, place]
    return table.after(values.astype(np.float32), f"gated by {normal}: p * (1 - p of {normal})^{strength:g}")
