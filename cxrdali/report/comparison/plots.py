"""Figures of a comparison of runs: mAP by group of findings, and differences to the baseline."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cxrdali.report.kit.svg import BLUE, INK, LINE_COLOURS, MARKERS, ROW, VERMILLION, legend_above, named_rows

BETTER, WORSE, SAME = BLUE, VERMILLION, "#8a94a0"


def groups(table: pd.DataFrame) -> Figure:
    """`table`: mAP, a row per group of findings and a column per run (NaN: not drawn)."""
    figure, axes = named_rows(table.index, legend=24 * -(-len(table.columns) // 5), row=ROW + 14)
    spread = 0.5 / max(len(table.columns) - 1, 1)
    for number, name in enumerate(table.columns):
        places = np.arange(len(table)) + spread * (number - (len(table.columns) - 1) / 2)
        axes.scatter(
            table[name], places, s=80, edgecolor="white", linewidth=0.8, label=name, zorder=3 + number,
            marker=MARKERS[number % len(MARKERS)], color=LINE_COLOURS[number % len(LINE_COLOURS)],
        )  # fmt: skip
    axes.set_xlim(left=0)
    axes.set_xlabel("mAP of the group's findings")
    axes.grid(True, axis="x")
    legend_above(figure, *axes.get_legend_handles_labels())
    return figure


def differences(table: pd.DataFrame, names: Sequence[str], of: str, below: float) -> Figure:
    """`table`: difference, low, high, p_holm (NaN: no interval), a row per name; blue above 0, red below, grey where
    p_holm is not `below`. of: what differs, for the axis."""
    figure, axes = named_rows(names)
    places = np.arange(len(table))
    colours = np.where(table["p_holm"] < below, np.where(table["difference"] > 0, BETTER, WORSE), SAME)
    axes.axvline(0, color=INK, lw=1, zorder=1)
    axes.hlines(places, table["low"], table["high"], color=colours, lw=2.5, alpha=0.6, zorder=2)
    known = table["low"].notna().to_numpy()
    value = table["difference"].to_numpy()
    axes.scatter(value[known], places[known], s=70, color=colours[known], edgecolor="white", lw=0.8, zorder=3)
    axes.scatter(value[~known], places[~known], s=55, facecolor="white", edgecolor=SAME, lw=1.5, zorder=3)
    largest = np.nanmax(np.abs(table[["difference", "low", "high"]].to_numpy()), initial=0.01)
    axes.set_xlim(-1.08 * largest, 1.08 * largest)
    axes.xaxis.get_major_locator().set_params(nbins=9)
    axes.set_xlabel(of)
    axes.grid(True, axis="x")
    return figure
