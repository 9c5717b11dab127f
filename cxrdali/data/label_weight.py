"""How much a row's labels count in the training loss: one weight for all, or a weight for each of several packs.

Every term of a row is multiplied by its weight, and the sum is divided by the number of known targets, whatever their
weights: a weight of 0.3 is 0.3 of that row's gradient, and changes nothing of the other rows'.
"""

from collections.abc import Mapping

import numpy as np

from shards.errors import UserError
from shards.words import choices

MOST = 100.0


def canonical(given: str) -> str | None:
    """As it is kept: "0.3", or packs in the order of their names, "A=0.5,B=0.3"; None if all weights are 1.

    Raises UserError for what is no weight.
    """
    entries = [each.rpartition("=") for each in given.split(",")]
    named = {name.strip(): _number(weight) for name, _, weight in entries}
    right = all(0 < weight <= MOST for weight in named.values()) and len(named) == len(entries)
    if not right or ("" in named and len(named) > 1):
        raise UserError(
            f"label-weight {given!r}: give one number above 0, at most {MOST:g}, or packs with theirs, once each: B=0.3"
        )
    weights = {name: weight for name, weight in sorted(named.items()) if weight != 1}
    return ",".join(f"{name}={weight:.12g}" if name else f"{weight:.12g}" for name, weight in weights.items()) or None


def of_rows(text: str | None, starts: Mapping[str, int], rows: int) -> np.ndarray | None:
    """float32 [rows], each row's weight; None where none is given. starts: of packs by name, the first row.

    Raises UserError for a pack that there is not.
    """
    if text is None:
        return None
    entries = [each.rpartition("=") for each in text.split(",")]
    found, bounds = np.ones(rows, dtype=np.float32), [*starts.values(), rows]
    for name, _, weight in entries:
        if name and (name not in starts or len(starts) == 1):
            several = len(starts) > 1
            known = choices(name, starts, "there are") if several else "there is one pack; give the number alone"
            raise UserError(f"label-weight {text!r}: no pack {name!r}; {known}")
        place = [*starts].index(name) if name else None
        found[slice(None) if place is None else slice(*bounds[place : place + 2])] = float(weight)
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
