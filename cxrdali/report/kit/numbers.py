"""Numbers as people read them: how a value is written in a table, a sentence or a figure."""

import math
from collections.abc import Callable, Mapping, Sequence

NOTHING = "–"  # an undefined or unknown value
MINUS = "\u2212"


def unknown(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def score(value: float | None) -> str:
    """An AP, AUROC or loss: 0.412."""
    return NOTHING if unknown(value) else f"{value:.3f}"


def small(value: float | None) -> str:
    """An ECE or Brier score, which are often a few thousandths: 0.0041."""
    return NOTHING if unknown(value) else f"{value:.4f}".replace("-", MINUS)


def floored(values: Sequence[float | None]) -> str:
    """A calibration error, and what perfect probabilities show on average and in 95 %: 0.0220 (0.0210, to 0.0240)."""
    value, mean, most = values
    return small(value) + ("" if unknown(mean) else f" ({small(mean)}, to {small(most)})")


def interval(values: Sequence[float | None], digits: int = 3) -> str:
    """Value, low, high: 0.412 (0.398 to 0.430); without the bracket if there are no bounds."""
    value, low, high = values
    if unknown(value):
        return NOTHING
    ends = "" if unknown(low) or unknown(high) else f" ({low:.{digits}f} to {high:.{digits}f})"
    return f"{value:.{digits}f}{ends}"


def small_interval(values: Sequence[float | None]) -> str:
    """As `interval`, of an ECE or Brier score: 0.0041 (0.0032 to 0.0050)."""
    return interval(values, 4)


def bounds(values: Sequence[float | None]) -> str:
    """Low, high: 0.398 to 0.430."""
    return NOTHING if any(map(unknown, values)) else "{:.3f} to {:.3f}".format(*values).replace("-", MINUS)


def before_after(values: Sequence[float | None]) -> str:
    """0.0412 → 0.0041"""
    return NOTHING if any(map(unknown, values)) else " → ".join(map(small, values))


def count(value: float | None) -> str:
    """12,345"""
    return NOTHING if unknown(value) else f"{value:,.0f}"


def percent(fraction: float | None) -> str:
    """31.2 %, and two digits for the tail: 0.31 %, 0.031 %."""
    if unknown(fraction):
        return NOTHING
    value = fraction * 100
    if value == 0:
        return "0 %"
    return f"{value:.{1 if value >= 1 else 1 - math.floor(math.log10(value))}f} %"


def chance(fraction: float | None) -> str:
    """As `percent`, of a probability, which is never quite 0 or 1."""
    if unknown(fraction) or 1e-6 <= fraction < 0.9995:
        return percent(fraction)
    return "<0.0001 %" if fraction < 0.5 else ">99.9 %"


def percent_interval(values: Sequence[float | None] | None) -> str:
    """Value, low, high: 81.3 % (70.2 to 88.9)."""
    return NOTHING if values is None else "{:.1f} % ({:.1f} to {:.1f})".format(*(100 * each for each in values))


def whole(fraction: float | None) -> str:
    """Per cent without a digit after the point; what is there but rounds to nothing is <1, and 100 is all."""
    if not fraction:
        return ""
    return "<1" if fraction < 0.005 else "99" if 0.99 < fraction < 1 else f"{fraction * 100:.0f}"


def share(values: Sequence[float]) -> str:
    """Part, all: 120 (12.0 %)."""
    part, every = values
    return count(part) + (f" ({percent(part / every)})" if every else "")


def duration(seconds: float | None) -> str:
    """0.42 s, 4.2 s, 43 s, 12.4 min, 3.2 h."""
    if unknown(seconds):
        return NOTHING
    if seconds < 9.95:
        return f"{seconds:.{2 if seconds < 0.995 else 1}f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3597 else f"{seconds / 3600:.1f} h"


def storage(num_bytes: float | None) -> str:
    """512 B, 4.2 MB, 19.0 GB."""
    if unknown(num_bytes):
        return NOTHING
    for unit in ("B", "KB", "MB", "GB"):
        if num_bytes < 999.95:
            return f"{num_bytes:,.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} TB"


def lift(value: float) -> str:
    """Two digits: 0.84, 3.2, 120."""
    return count(value) if value >= 99.5 else f"{value:.{max(0, 1 - math.floor(math.log10(max(value, 0.1))))}f}"


def signed(value: float) -> str:
    """+0.012; 0.000 has no sign."""
    text = f"{abs(value):.3f}"
    return text if float(text) == 0 else ("+" if value > 0 else MINUS) + text


def gain(value: float | None) -> str:
    """+0.012, −0.003, ±0.000"""
    if unknown(value):
        return NOTHING
    text = signed(value)
    return text if text[0] in f"+{MINUS}" else f"±{text}"


def with_gain(values: Sequence[float | None]) -> str:
    """Value, its gain over the step before: 0.412 +0.012."""
    value, more = values
    return score(value) if unknown(more) else f"{score(value)} {gain(more)}"


def probability(value: float) -> str:
    """A p-value: <0.001, 0.013, 0.13."""
    return "<0.001" if value < 0.001 else f"{value:.3f}" if value < 0.095 else f"{value:.2f}"


def difference(row: Mapping[str, float | None]) -> str:
    """+0.012 p 0.13 (0.39) (−0.003 to +0.027): p, p adjusted for the number of comparisons, interval."""
    if row["difference"] is None:
        return NOTHING
    if row["low"] is None:
        return signed(row["difference"])
    p = f"p {probability(row['p'])} ({probability(row['p_holm'])})"
    return f"{signed(row['difference'])} {p} ({signed(row['low'])} to {signed(row['high'])})"


def verdict(row: Mapping[str, float | None], level: float) -> str:
    """What a difference is called by its p, adjusted for all comparisons: higher, lower or not separable; nothing
    without a p. level: that of its interval, 0 to 1."""
    if (p := row["p_holm"]) is None:
        return NOTHING
    return "not separable" if p >= 1 - level else "higher" if row["difference"] > 0 else "lower"


def pixels(value: float | None) -> str:
    return NOTHING if unknown(value) else f"{value} px"


def setting(value: object) -> str:
    """A setting as it is in a configuration: yes, 0.001, none."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return sentence(value) if value else "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def text(value: object) -> str:
    """Words; of a list or a mapping, all of it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {text(inner)}" for name, inner in value.items()) or NOTHING
    if isinstance(value, list | tuple):
        return ", ".join(map(text, value)) or NOTHING
    return NOTHING if unknown(value) else str(value)


def sentence(names: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


FORMATS: dict[str, Callable[..., str]] = {
    each.__name__: each
    for each in (
        score, small, floored, interval, small_interval, bounds, before_after, count, percent, chance,
        percent_interval, whole, share, duration, storage, lift, signed, gain, with_gain, probability, difference,
        pixels, setting, text,
    )
}  # fmt: skip


def written(value: object, kind: str = "text") -> str:
    """A table's cell. kind: a name of FORMATS; words in a column of numbers stay words."""
    return value if isinstance(value, str) else FORMATS[kind](value)
