"""What commands that score predictions have in common: numbers and tables of them as text."""

from collections.abc import Iterable, Sequence

ERROR_HEAD = ("calibration error (ECE)", "macro", "floor", "to", "pooled", "floor", "to")
FLOOR = "floor: what these probabilities would show on as many images if they were perfect; to: its 95th percentile"


def aligned(rows: Iterable[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Rows of texts in columns; those in `left` begin in line, the others end in line."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    ways = [str.ljust if place in left else str.rjust for place in range(len(widths))]
    return "\n".join(
        "  ".join(way(text, width) for way, text, width in zip(ways, row, widths, strict=True)).rstrip() for row in rows
    )


def error_rows(name: str, found: dict) -> list[tuple[str, ...]]:
    """Of what `calibration_error.errors` gives, a row for each kind; `ERROR_HEAD` is their head."""
    from cxrdali.metrics.calibration_error import TITLES

    rows = []
    for kind, title in TITLES.items():
        cells = []
        for key in (f"macro_{kind}", f"pooled_{kind}"):
            floor = found["ECE_floor"][key]
            cells += [number(value, 4) for value in (found[key], floor["mean"], floor["p95"])]
        rows.append((f"{name}, {title}", *cells))
    return rows


def number(value: float | None, digits: int = 3) -> str:
    """`value` may be None or NaN: "-"."""
    return "-" if value is None or value != value else f"{value:.{digits}f}"


def with_interval(row: dict, name: str, digits: int = 3) -> str:
    """A number and, where it has one, its interval."""
    return f"{number(row[name], digits)} {interval(row, name, digits)}".rstrip()


def interval(row: dict, name: str, digits: int = 3) -> str:
    """The interval of the number called `name`; "" where it has none."""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return "" if low is None or high is None else f"[{low:.{digits}f}, {high:.{digits}f}]"


def without_one(found: dict, sign: str = "") -> str:
    """found: of `cxrdali.metrics.intervals.without_one`, for a mean; sign: "+" for a difference."""
    low, high = (f"{found[end]:{sign}.3f} (without {found[f'{end}_without']})" for end in ("low", "high"))
    return f"without any one finding {low} to {high}"
