"""Figures that several pages have: images per finding, and average precision per finding."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxrdali.report.kit import svg
from cxrdali.report.kit.numbers import count, percent
from cxrdali.report.kit.svg import BLUE, FONT, GREY, INK, LETTER, WIDTH, legend_above, named_rows, write

BAR = 0.66  # of a row's height
DOT = {"s": 76, "edgecolor": "white", "linewidth": 0.8}


def label_frequencies(table: pd.DataFrame) -> Figure:
    """`table`: finding, images, share; drawn as long-tail bars in the order given."""
    figure, axes = named_rows(table["finding"])
    most = max(table["images"].max(), 1)
    start = 0.7  # a log axis has no zero; one image must still show
    places = np.arange(len(table))
    present = (table["images"] > 0).to_numpy()
    axes.barh(places[present], table["images"][present] - start, left=start, height=BAR, color=BLUE, zorder=2)
    for place, images, share in zip(places, table["images"], table["share"], strict=True):
        at, colour = (max(images, start), place), INK if images else GREY
        write(axes, _images_text(images, share), at, fontsize=FONT - 1, color=colour)
    axes.set_xscale("log")
    # the first bar is the longest and so is its number, which needs its share of the axis beside it
    number = (len(_images_text(most, table["share"].max())) + 1) * LETTER
    room = number / (WIDTH * 0.7)
    axes.set_xlim(start, start * (most / start) ** (1 / (1 - room)))
    ticks = [10**power for power in range(int(np.log10(most)) + 1)]
    axes.set_xticks(ticks, [count(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("images with the finding (each step is ten times more)")
    axes.grid(True, axis="x")
    return figure


def _images_text(images: int, share: float) -> str:
    return f"{count(images)} ({percent(share)})" if images else "none"


def ap_per_finding(table: pd.DataFrame, prevalence: pd.Series | None = None) -> Figure:
    """`table`: AP, a row per finding and a column per stage (NaN: not drawn); `prevalence` of the same rows."""
    figure, axes = named_rows(table.index, legend=30)
    places = np.arange(len(table))
    axes.hlines(places, table.min(axis=1), table.max(axis=1), color="#aab4bf", lw=2, zorder=1)
    for number, name in enumerate(table.columns):
        marker = svg.MARKERS[number % len(svg.MARKERS)]
        colour = svg.IN_ORDER(number / max(len(table.columns) - 1, 1))
        axes.scatter(table[name], places, color=colour, marker=marker, label=name, zorder=3 + number, **DOT)
    if prevalence is not None:
        _chance(axes, places, prevalence)
    _ap_axis(axes, np.nanmax(table.to_numpy(), initial=0.0))
    legend_above(figure, *axes.get_legend_handles_labels())
    return figure


def ap_intervals(table: pd.DataFrame) -> Figure:
    """`table`: finding, prevalence, AP, AP_low, AP_high; a dot and its interval per finding."""
    figure, axes = named_rows(table["finding"], legend=30)
    places = np.arange(len(table))
    axes.hlines(places, table["AP_low"], table["AP_high"], color=BLUE, lw=2.5, alpha=0.55, zorder=2)
    axes.scatter(table["AP"], places, color=BLUE, zorder=3, label="AP", **DOT)
    _chance(axes, places, table["prevalence"])
    _ap_axis(axes, np.nanmax(table[["AP", "AP_high"]].to_numpy(), initial=0.0))
    legend_above(figure, *axes.get_legend_handles_labels())
    return figure


def _chance(axes: Axes, places: np.ndarray, prevalence: pd.Series) -> None:
    """A tick where guessing would score: a random order's AP is the prevalence."""
    axes.scatter(prevalence, places, s=170, marker="|", color=GREY, linewidth=1.8, zorder=2, label="prevalence")


def _ap_axis(axes: Axes, highest: float) -> None:
    axes.set_xlim(-0.012, 1.02 if highest > 0.8 else highest * 1.12 + 0.02)
    axes.set_xlabel("average precision (AP, 0 to 1)")
    axes.grid(True, axis="x")
