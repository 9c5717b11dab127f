"""Figures of a run at home and away."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cxrdali.report.kit.plots import DOT
from cxrdali.report.kit.svg import BLUE, GREY, VERMILLION, legend_above, named_rows, new_figure, shortened


def sides(home: pd.DataFrame, away: pd.DataFrame, away_name: str, of: str) -> Figure:
    """home, away: finding, value, low, high, chance (NaN: not drawn), a row per finding; of: what, for the axis."""
    figure, axes = named_rows(home["finding"], legend=30, row=34)
    for table, name, colour, marker, shift in (
        (home, "home", BLUE, "o", -0.17),
        (away, away_name, VERMILLION, "s", 0.17),
    ):
        places = np.arange(len(table)) + shift
        axes.hlines(places, table["low"], table["high"], color=colour, lw=2.5, alpha=0.55, zorder=2)
        axes.scatter(table["value"], places, color=colour, marker=marker, zorder=3, label=name, **DOT)
        if table["chance"].notna().any():
            label = "prevalence: AP of guessing" if shift > 0 else None
            axes.scatter(table["chance"], places, s=90, marker="|", color=GREY, lw=1.8, zorder=2, label=label)
    shown = pd.concat([home, away])[["value", "low", "high", "chance"]].to_numpy()
    axes.set_xlim(max(-0.012, np.nanmin(shown) - 0.03), min(1.02, np.nanmax(shown) + 0.03))
    axes.set_xlabel(of)
    axes.grid(True, axis="x")
    legend_above(figure, *axes.get_legend_handles_labels())
    return figure


def heat(table: pd.DataFrame, own: pd.DataFrame) -> Figure:
    """table: mAP, a row per run and a column per hospital (NaN: none); own: bool, where a run was trained there. A
    column's colours are shares of its highest, as scores of different columns do not compare."""
    figure = new_figure(len(table) * 56 + 70)
    axes = figure.subplots()
    share = (table / table.max()).to_numpy()
    axes.imshow(share, cmap="Blues", vmin=min(0.5, np.nanmin(share)) - 0.4, vmax=1.9, aspect="auto")
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        text = "–" if np.isnan(value) else f"{value:.3f}"
        axes.text(column, row, text, ha="center", va="center", weight="bold" if own.iat[row, column] else "normal")
    axes.set_xticks(range(len(table.columns)), [shortened(name, 24) for name in table.columns])
    axes.set_yticks(range(len(table)), [shortened(name) for name in table.index])
    axes.set(xlabel="judged on", ylabel="trained on")
    axes.spines[:].set_visible(False)
    return figure
