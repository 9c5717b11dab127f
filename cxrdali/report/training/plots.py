"""Figures of runs: learning curves, precision-recall and ROC curves, and where the time went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cxrdali.metrics.curves import precision_recall as precision_and_recall
from cxrdali.report.kit import svg
from cxrdali.report.kit.numbers import count, duration, score
from cxrdali.report.kit.plots import BAR
from cxrdali.report.kit.svg import BLUE, FONT, GREEN, GREY, LETTER, VERMILLION, WIDTH, legend_above, named_rows, write

PANELS = {"train_loss": "training loss", "val_loss": "validation loss", "mAP": "validation mAP"}
CHANCE = (0, (4, 3))
DASHES = ("-", (0, (5, 2)))
TIME_COLOURS = {"training": BLUE, "waiting for data": VERMILLION, "validation": "#b9c2cc"}


@dataclass(frozen=True)
class Line:
    """A run among several.

    metrics: rows of metrics.csv; best: index of the best one; size: pixels. before: epochs of all its ancestors, where
    its curve starts; since: the last row of the run that it starts from, to join the curves (None: not shown).
    """

    name: str
    metrics: pd.DataFrame
    best: int
    stage: int | None = None
    size: int | None = None
    before: int = 0
    since: pd.Series | None = None


def curves(lines: Sequence[Line]) -> Figure:
    """Loss and mAP of runs that each start where the one before ends, on one axis of epochs."""
    figure = svg.new_figure(580)
    loss, ap = figure.subplots(2, 1, sharex=True)
    total = sum(len(line.metrics) for line in lines)
    marker = {"marker": "o", "markersize": 4} if total <= 60 else {}
    first = 0
    for place, line in enumerate(lines):
        metrics = line.metrics
        epochs = np.arange(first + 1, first + len(metrics) + 1)
        loss.plot(epochs, metrics["train_loss"], color=BLUE, lw=2, **marker)
        loss.plot(epochs, metrics["val_loss"], color=VERMILLION, lw=2, ls=DASHES[1], **marker)
        ap.plot(epochs, metrics["mAP"], color=GREEN, lw=2, **marker)
        for axes in (loss, ap):
            if place % 2:
                axes.axvspan(first + 0.5, first + len(metrics) + 0.5, color="#f0f3f6", lw=0, zorder=0)
            if first:
                axes.axvline(first + 0.5, color=GREY, lw=1, ls=(0, (4, 3)), zorder=1)
        room = WIDTH * 0.85 * len(metrics) / total
        _mark_best(ap, epochs, metrics["mAP"].to_numpy(), line.best, named=room > 5 * LETTER)
        name, middle = _fitting(_stage_labels(line, place), room / LETTER), first + 0.5 + len(metrics) / 2
        write(loss, name, (middle, 1), (0, 6), xycoords=("data", "axes fraction"), ha="center", va="baseline")
        first += len(metrics)
    loss.set_ylabel("mean loss of the epoch")
    ap.set_ylabel("validation mAP (0 to 1)")
    ap.set_xlabel("epoch, counted over all stages")
    ap.set_xlim(0.5, total + 0.5)
    ap.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    ap.margins(y=0.25)
    ap.set_ylim(bottom=max(ap.get_ylim()[0], 0))
    styles = ((BLUE, DASHES[0]), (VERMILLION, DASHES[1]), (GREEN, DASHES[0]))
    handles = [Line2D([], [], color=colour, lw=3, ls=dashes) for colour, dashes in styles]
    legend_above(figure, handles, ["training loss", "validation loss", "validation mAP"])
    for axes in (loss, ap):
        axes.grid(True, axis="y")
    return figure


def branches(lines: Sequence[Line]) -> Figure:
    """Losses and mAP of runs that start from each other, on one axis of epochs; told apart by colour and marker."""
    figure = svg.new_figure(880)
    panels = figure.subplots(len(PANELS), 1, sharex=True, height_ratios=(2, 2, 3))
    handles = []
    for place, line in enumerate(lines):
        style = {
            "color": svg.LINE_COLOURS[place % len(svg.LINE_COLOURS)],
            "marker": svg.MARKERS[place % len(svg.MARKERS)],
            "linestyle": DASHES[place // len(svg.LINE_COLOURS) % 2],
            "markersize": 8,
            "markeredgecolor": "white",
            "markeredgewidth": 0.6,
        }
        handles.append(Line2D([], [], lw=2.5, **style))
        _branch(panels, line, style, place, len(lines))
    last = max(line.before + len(line.metrics) for line in lines)
    _stage_names(panels[0], lines)
    for axes, title in zip(panels, PANELS.values(), strict=True):
        for start in {line.before for line in lines} - {0}:
            axes.axvline(start + 0.5, color=GREY, lw=1, ls=(0, (4, 3)), zorder=1)
        axes.set_ylabel(title)
        axes.grid(True, axis="y")
        axes.margins(y=0.12)
    panels[-1].set_ylim(bottom=max(panels[-1].get_ylim()[0], 0))
    panels[-1].set_xlim(0.5, last + 0.5)
    panels[-1].set_xlabel("epoch, counted from the first run of each line")
    panels[-1].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    legend_above(figure, handles, [line.name for line in lines], handle=8)
    return figure


def _stage_names(axes: Axes, lines: Sequence[Line]) -> None:
    """Over the runs that begin together, where they are of one stage."""
    for start in {line.before for line in lines}:
        here = [line for line in lines if line.before == start]
        if len({line.stage for line in here}) == 1 and here[0].stage is not None:
            middle = start + 0.5 + max(len(line.metrics) for line in here) / 2
            over = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "top"}
            write(axes, f"stage {here[0].stage}", (middle, 1), (0, -2), **over)


def _branch(panels: Sequence[Axes], line: Line, style: dict, place: int, lines: int) -> None:
    """A run's three curves. Markers of neighbours are at different epochs, so that they do not cover each other."""
    epochs = np.arange(line.before + 1, line.before + len(line.metrics) + 1)
    every = max(1, len(epochs) // 4)
    for axes, column in zip(panels, PANELS, strict=True):
        axes.plot(epochs, line.metrics[column], lw=1.8, markevery=(place * every // lines, every), **style)
        if line.since is not None:
            joint = ([line.before, line.before + 1], [line.since[column], line.metrics[column].iloc[0]])
            axes.plot(*joint, color=style["color"], lw=0.9, alpha=0.5)
    best = line.metrics["mAP"].iloc[line.best]
    if best == best:
        panels[-1].plot(epochs[line.best], best, "*", ms=15, color=style["color"], markeredgecolor="white", zorder=6)


def _stage_labels(line: Line, place: int) -> list[str]:
    """What a stage may be called, the longest first."""
    return [f"{line.name}, {line.size} px", line.name, line.name.replace("Stage ", ""), str(place + 1)]


def _fitting(texts: Sequence[str], letters: float) -> str:
    return next((text for text in texts if len(text) <= letters), texts[-1])


def _mark_best(axes: Axes, epochs: np.ndarray, values: np.ndarray, best: int, named: bool) -> None:
    """A ring, and its value where the stage is wide enough to keep it."""
    if np.isnan(values[best]):
        return
    at = (epochs[best], values[best])
    axes.plot(*at, "o", ms=8, mfc="white", mec=GREEN, mew=2, zorder=5)
    if not named:
        return
    late = best > len(values) / 2
    style = {"ha": "right" if late else "left", "va": "baseline", "fontweight": "bold", "fontsize": FONT - 1}
    write(axes, f"{values[best]:.3f}", at, (5 if late else -5, 9), **style)


def precision_recall(curves: Sequence[Mapping]) -> Figure:
    """`curves`: of `cxrdali.report.training.roc`, a panel each; the area under the steps is the AP."""
    x = "recall (share of the images with the finding that are called positive)"
    figure, panels = _panels(curves, "AP", x, "precision (share of the images called positive that have it)")
    for axes, true, false in panels:
        precision, recall = precision_and_recall(true, false)
        axes.axhline(true[-1] / (true[-1] + false[-1]), color=GREY, lw=1.2, ls=CHANCE, zorder=1)
        axes.step([0, *recall], [precision[0], *precision], color=BLUE, lw=1.8, where="pre")
    return figure


def roc(curves: Sequence[Mapping]) -> Figure:
    """`curves`: as in `precision_recall`."""
    x = "false positive rate (share of the images without the finding that are called positive)"
    figure, panels = _panels(curves, "AUROC", x, "recall (true positive rate)")
    for axes, true, false in panels:
        axes.plot((0, 1), (0, 1), color=GREY, lw=1.2, ls=CHANCE, zorder=1)
        axes.plot(false / false[-1], true / true[-1], color=BLUE, lw=1.8)
    return figure


def _panels(curves: Sequence[Mapping], metric: str, x: str, y: str) -> tuple[Figure, list[tuple]]:
    """A panel per curve, with its counts of true and of false positives."""
    names = [(each["finding"], f"{metric} {score(each[metric])}, n = {count(each['positives'])}") for each in curves]
    figure, panels = svg.small_panels(names, x, y)
    counts = ([np.array(each[f"{kind}_positives"]) for each in curves] for kind in ("true", "false"))
    return figure, list(zip(panels, *counts, strict=True))


def seconds(table: pd.DataFrame) -> Figure:
    """`table`: seconds, a row per stage and the columns of TIME_COLOURS; drawn as one stacked bar per stage."""
    figure, axes = named_rows(table.index, legend=20, row=svg.ROW + 18)
    unit, divisor = _unit(table.sum(axis=1).max())
    left = np.zeros(len(table))
    for name, colour in TIME_COLOURS.items():
        values = table[name].to_numpy() / divisor
        axes.barh(range(len(table)), values, left=left, height=BAR, color=colour, label=name)
        left += values
    for place, total in enumerate(table.sum(axis=1)):
        write(axes, duration(total), (left[place], place), fontweight="bold")
    axes.set_xlim(0, max(left.max(), 1e-9) * 1.1)
    axes.set_xlabel(f"{unit} of training and validation")
    axes.grid(True, axis="x")
    legend_above(figure, *axes.get_legend_handles_labels())
    return figure


def _unit(most: float) -> tuple[str, float]:
    """The unit of an axis that reaches `most` seconds, and its length in seconds."""
    return ("seconds", 1) if most < 120 else ("minutes", 60) if most < 3600 else ("hours", 3600)
