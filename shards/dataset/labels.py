"""One label release of a packed dataset."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Labels:
    """One label release joined to the catalog's rows.

    split: object [rows], "train", "dev", "test" or None; values: int8 [rows, findings], 1 positive,
    0 negative, -1 uncertain, BLANK not mentioned.
    """

    BLANK = 9

    name: str
    findings: tuple[str, ...]
    split: np.ndarray
    values: np.ndarray
    sha256: str
