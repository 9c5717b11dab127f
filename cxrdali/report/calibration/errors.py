"""Calibration errors beside what perfect probabilities would show, as a table."""

from collections.abc import Sequence

from cxrdali.metrics.calibration_error import TITLES
from cxrdali.report.kit.tables import Table


def error_table(caption: str, first: str, rows: Sequence[tuple[str, dict | None]]) -> Table | None:
    """A row for each of what `calibration_error.errors` gives; None if it gave none (an older file, mean ranks)."""
    keys = {
        f"{mean}_{name}": f"{mean.capitalize()}, {title}"
        for mean in ("macro", "pooled")
        for name, title in TITLES.items()
    }
    if not any(found and "ECE_floor" in found for _, found in rows):
        return None
    cells = [(name, *(_cell(found or {}, key) for key in keys)) for name, found in rows]
    return Table(caption, [(first, "text"), *((title, "floored") for title in keys.values())], cells)


def _cell(found: dict, key: str) -> tuple[float | None, ...]:
    floor = found.get("ECE_floor", {}).get(key, {})
    return found.get(key), floor.get("mean"), floor.get("p95")
