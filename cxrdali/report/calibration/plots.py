"""Reliability diagrams: how often a finding is there against how often its probability says so."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxrdali.metrics.calibration_error import Curve
from cxrdali.report.kit.numbers import count
from cxrdali.report.kit.svg import BLUE, GREY, VERMILLION, WIDTH, new_figure, small_panels

FEW = 30  # images, below which a bin's share is mostly chance: small, faint and without a line
PROBABILITY, SHARE = "predicted probability (mean of the bin)", "share that has the finding"
STYLES = {"before": (VERMILLION, "o"), "after": (BLUE, "s")}


def diagram(before: Curve, after: Curve) -> Figure:
    """The curve before and after calibration, and below it how many values each bin holds."""
    size = 560
    figure = new_figure(size * 1.25)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    _curves(upper, before, after, 1.0)
    upper.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal", ylabel=SHARE)
    upper.grid(True)
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
    lower.set_ylabel("values per bin")
    lower.set_xlabel(PROBABILITY)
    lower.grid(True, axis="y")
    # square, in the middle of the page
    figure.get_layout_engine().set(rect=(0.5 - size / WIDTH / 2, 0, size / WIDTH, 1))
    return figure


def multiples(curves: Sequence[tuple[str, Curve, Curve]]) -> Figure:
    """`curves`: finding, before and after; a small diagram each, in the order given."""
    positives = [np.nansum(before.share * before.images) for _, before, _ in curves]
    names = [(name, f"n = {count(number)}") for (name, *_), number in zip(curves, positives, strict=True)]
    figure, panels = small_panels(names, PROBABILITY, SHARE)
    for axes, (_, before, after) in zip(panels, curves, strict=True):
        _curves(axes, before, after, 0.55)
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
