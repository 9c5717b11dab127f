"""The README's picture of loading: images/s by loader and size, read in print as well as on a screen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CEILING = "ceiling"
LABEL_GAP = 0.038  # of the axis: how close two names at the right may stand


@dataclass(frozen=True)
class Line:
    """images/s by size in pixels. kind: "ours", "theirs" or CEILING."""

    label: str
    kind: str
    rates: Mapping[int, float]


# Blue and heavy is ours, grey and thin a ceiling; the rest is told apart by its labels and marks, not by colour.
STYLES = {
    "ours": {"color": "#0b4f9c", "linewidth": 2.6, "linestyle": "-", "markersize": 6, "label": "this project"},
    "theirs": {"color": "#3c3c3c", "linewidth": 1.1, "linestyle": "-", "markersize": 4.5, "label": "other loaders"},
    CEILING: {"color": "#7a7a7a", "linewidth": 1.1, "linestyle": (0, (4, 3)), "markersize": 0, "label": "ceilings"},
}
MARKS = "os^Dv<>Pph*"


def loading(lines: Sequence[Line], words: str, path: Path) -> None:
    """A line per loader over the sizes, images/s on a logarithmic axis, each with its name at the right."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = "loading"  # the same rows are the same bytes
    from matplotlib.figure import Figure  # a second of import time

    sizes = sorted({size for line in lines for size in line.rates})
    figure = Figure(figsize=(7.6, 5.9), layout="constrained")  # read at half its size on a telephone
    axes = figure.subplots()
    axes.set_yscale("log")
    for number, line in enumerate(lines):
        places = [sizes.index(size) for size in line.rates]
        axes.plot(
            places, list(line.rates.values()), marker=MARKS[number % len(MARKS)],
            zorder=3 if line.kind == "ours" else 2, **STYLES[line.kind],
        )  # fmt: skip
    last = [line for line in lines if sizes[-1] in line.rates]
    axes.set_xlim(-0.15, len(sizes) - 1 + 0.62 * max(1, len(sizes) - 1))
    axes.autoscale(False)
    low, high = axes.get_ylim()
    ends = [np.log(line.rates[sizes[-1]] / low) / np.log(high / low) for line in last]
    for line, height in zip(last, spread_out(ends, LABEL_GAP), strict=True):
        style, right = STYLES[line.kind], len(sizes) - 1
        rate = line.rates[sizes[-1]]
        # a thread from the line's end, where it is, to its name, where there is room
        axes.plot(
            (right, right + 0.09 * max(1, right)), (rate, low * (high / low) ** height),
            color=style["color"], linewidth=0.6, clip_on=False,
        )  # fmt: skip
        axes.text(
            right + 0.1 * max(1, right), low * (high / low) ** height, f"{line.label}  {rate:,.0f}", va="center",
            fontsize=9.5, color=style["color"], fontweight="bold" if line.kind == "ours" else "normal",
            fontstyle="italic" if line.kind == CEILING else "normal",
        )  # fmt: skip
    kinds = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(kinds.values(), kinds, loc="outside lower left", ncols=3, frameon=False, fontsize=9.5)
    axes.set_xticks(range(len(sizes)), sizes)
    axes.set_xlabel("side of the images, pixels", loc="left")
    axes.set_ylabel("augmented images/s, logarithmic")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="y", color="#e2e2e2", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines["bottom"].set_bounds(-0.15, len(sizes) - 1)
    title = f"How fast augmented images arrive, by loader; numbers: images/s at {sizes[-1]} px\n{words}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    figure.savefig(path, metadata={"Date": None, "Title": title} if path.suffix == ".svg" else None, dpi=150)


def spread_out(places: Sequence[float], gap: float) -> list[float]:
    """The places, moved as little as a few passes find so that neighbours stand at least `gap` apart."""
    order = np.argsort(places, kind="stable")
    found = np.asarray(places, dtype=float)[order]
    for _ in range(200):
        close = np.flatnonzero(np.diff(found) < gap * 0.999)
        if not len(close):
            break
        for place in close:
            push = (gap - (found[place + 1] - found[place])) / 2
            found[place] -= push
            found[place + 1] += push
    return found[np.argsort(order)].tolist()
