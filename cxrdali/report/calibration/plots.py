"""Reliability diagrams: how often a finding is there against how often its probability says so."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxrdali.metrics.calibration_error import Curve
from cxrdali.report.kit.numbers import count
from cxrdali.report.kit.svg import BLUE, FONT, GREY, INK, LETTER, LONGEST_NAME, VERMILLION, WIDTH, new_figure, shortened

FEW = 30  # images, below which a bin's share is mostly chance: small, faint and without a line
STYLES = {"before": (VERMILLION, "o"), "after": (BLUE, "s")}


def diagram(before: Curve, after: Curve) -> Figure:
    """The curve before and after calibration, and below it how many values each bin holds."""
    size = 560
    figure = new_figure(size * 1.25)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    _curves(upper, before, after, 1.0)
    upper.set_ylabel("share that has the finding")
    upper.legend(loc="upper left", frameon=False)
    bins = len(before.images)
    edges = np.arange(bins + 1) / bins
    for name, curve in (("before", before), ("after", after)):
        lower.stairs(np.maximum(curve.images, 0.5), edges, color=STYLES[name][0], lw=1.6, baseline=0.5)
    most = max(before.images.max(), after.images.max(), 1)
    lower.set_yscale("log")
    lower.set_ylim(0.5, most * 3)
    powers = range(0, int(np.log10(most)) + 1, 2)
    lower.set_yticks([10**power for power in powers], [count(10**power) for power in powers])
    lower.minorticks_off()
    lower.set_ylabel("values")
    lower.set_xlabel("predicted probability")
    lower.grid(True, axis="y")
    # square, in the middle of the page
    figure.get_layout_engine().set(rect=(0.5 - size / WIDTH / 2, 0, size / WIDTH, 1))
    return figure


def multiples(curves: Sequence[tuple[str, Curve, Curve]]) -> Figure:
    """`curves`: finding, before and after; a small diagram each, in the order given."""
    columns = 5
    rows = -(-len(curves) // columns)
    cell = WIDTH / columns
    figure = new_figure(rows * (cell + 14) + 26)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    letters = int((cell - 30) / (LETTER * 0.85))
    for axes, (name, before, after) in zip(panels, curves, strict=False):
        _curves(axes, before, after, 0.55)
        axes.set_title(shortened(name, min(letters, LONGEST_NAME)), fontsize=FONT - 2, loc="left", pad=4)
        axes.tick_params(labelsize=FONT - 3)
    for axes in panels[len(curves) :]:
        axes.set_visible(False)
    for place in range(len(curves)):  # the lowest panel of each column has the numbers
        if place + columns >= len(curves):
            panels[place].tick_params(labelbottom=True)
    return figure


def _curves(axes: Axes, before: Curve, after: Curve, scale: float) -> None:
    axes.plot((0, 1), (0, 1), color=GREY, lw=1, ls=(0, (4, 3)), zorder=1)
    for name, curve in (("before", before), ("after", after)):
        colour, marker = STYLES[name]
        many, few = curve.images >= FEW, (curve.images > 0) & (curve.images < FEW)
        for some, size, seen in ((many, 60, 0.8), (few, 36, 0.4)):
            x, y = curve.probability[some], curve.share[some]
            style = {"color": colour, "marker": marker, "alpha": seen, "edgecolor": "white", "linewidth": 0.6 * scale}
            axes.scatter(x, y, s=size * scale**2, zorder=4, **style)
        # a line through bins of a few images would be a saw of chance: it has a gap there
        line = {"color": colour, "lw": 1.6 * scale + 0.3, "alpha": 0.75, "zorder": 3}
        axes.plot(*(np.where(many, values, np.nan) for values in (curve.probability, curve.share)), **line)
        axes.plot([], [], color=colour, marker=marker, lw=1.6, label=name)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    ticks = (0, 0.5, 1) if scale < 1 else (0, 0.2, 0.4, 0.6, 0.8, 1)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], color=INK)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks], color=INK)
    axes.grid(True)
