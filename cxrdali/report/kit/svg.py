"""The report's figures: from plain tables to inline SVG, and training images to one JPEG.

Every figure is drawn twice, for a page and for a phone: an SVG that is merely scaled down to 360 pixels has
letters of five. One unit of a drawing is one CSS pixel at the size it is shown. Colours are Okabe and Ito's.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO

import numpy as np
import pandas as pd
import simplejpeg
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cxrdali.report.kit.html import count, duration, percent

BLUE, VERMILLION, GREEN, GREY, LINE, INK = "#0072b2", "#d55e00", "#009e73", "#6b7280", "#d0d7de", "#1b1f24"
IN_ORDER = LinearSegmentedColormap.from_list("in order", ["#7cc4ec", "#2b83ba", "#08306b"])
MARKERS = "os^Dv<>p"
LONGEST_NAME = 34  # letters of a finding's name in a figure; tables have it whole


@dataclass(frozen=True)
class Canvas:
    """width: of the drawing; row: height of a finding's row; letter: mean width of a letter, all in pixels."""

    width: int
    row: int
    font: int

    @property
    def narrow(self) -> bool:
        return self.width < 600

    @property
    def letter(self) -> float:
        return self.font * 0.62

    def figure(self, height: float) -> Figure:
        return Figure(figsize=(self.width / 72, height / 72), layout="constrained")


CANVASES = {"wide": Canvas(900, 24, 14), "narrow": Canvas(360, 38, 13)}


def svgs(draw: Callable[[Canvas], Figure], name: str) -> dict[str, str]:
    """One drawing for each canvas, as inline SVG. `name` keeps the ids of a page's drawings apart."""
    return {width: _svg(draw, canvas, f"{name}-{width}") for width, canvas in CANVASES.items()}


def _svg(draw: Callable[[Canvas], Figure], canvas: Canvas, salt: str) -> str:
    style = {
        "svg.fonttype": "none",  # text stays text: a tenth of the bytes, searchable, read aloud
        "svg.hashsalt": salt,  # equal data, equal bytes
        "text.parse_math": False,  # a finding may have a dollar sign in its name
        "font.size": canvas.font,
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": LINE,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": LINE,
        "grid.linewidth": 0.8,
        "axes.axisbelow": True,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
    }
    with rc_context(style):
        out = StringIO()
        draw(canvas).savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    return _inline(out.getvalue())


def _inline(text: str) -> str:
    """What a page needs of an SVG file: no prologue, no metadata, no fixed size, no id that nothing refers to."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: found.group() if found.group(1) in used else "", text)
    size = re.search(r'<svg[^>]*viewBox="([^"]*)"', text).group(1)
    return re.sub(r"^<svg[^>]*>", f'<svg viewBox="{size}" aria-hidden="true">', text).strip()


def label_frequencies(table: pd.DataFrame) -> Callable[[Canvas], Figure]:
    """`table`: finding, images, share; drawn as long-tail bars in the order given."""

    def draw(canvas: Canvas) -> Figure:
        figure, axes = named_rows(canvas, table["finding"])
        most = max(table["images"].max(), 1)
        start = 0.7  # a log axis has no zero; one image must still show
        places = np.arange(len(table))
        present = (table["images"] > 0).to_numpy()
        axes.barh(
            places[present], table["images"][present] - start, left=start, height=_bar(canvas), color=BLUE, zorder=2
        )
        for place, images, share in zip(places, table["images"], table["share"], strict=True):
            axes.annotate(
                _images_text(images, share),
                (max(images, start), place),
                (5, 0),
                textcoords="offset points",
                va="center",
                fontsize=canvas.font - 1,
                color=INK if images else GREY,
            )
        axes.set_xscale("log")
        # the first bar is the longest and so is its number, which needs its share of the axis beside it
        number = (len(_images_text(most, table["share"].max())) + 1) * canvas.letter
        room = number / (canvas.width * (0.95 if canvas.narrow else 0.7))
        axes.set_xlim(start, start * (most / start) ** (1 / (1 - room)))
        ticks = [10**power for power in range(int(np.log10(most)) + 1)]
        axes.set_xticks(ticks, [count(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("images with the finding (each step is ten times more)")
        axes.grid(True, axis="x")
        return figure

    return draw


def _images_text(images: int, share: float) -> str:
    return f"{count(images)} ({percent(share)})" if images else "none"


def named_rows(canvas: Canvas, names: Sequence[str], legend: int = 0) -> tuple[Figure, Axes]:
    """Axes with a row per name, the first on top. Narrow ones have the name above its row, not beside it."""
    figure = canvas.figure(len(names) * canvas.row + 60 + legend)
    axes = figure.subplots()
    axes.set_ylim(len(names) - 0.4, -0.6 - 0.35 * canvas.narrow)
    axes.spines["left"].set_visible(False)
    short = [name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…" for name in map(str, names)]
    if not canvas.narrow:
        axes.set_yticks(range(len(short)), short)
        return figure, axes
    axes.set_yticks([])
    for place, name in enumerate(short):
        axes.text(0, place - 0.46, name, transform=axes.get_yaxis_transform(), va="center", ha="left", zorder=4)
    return figure, axes


def _bar(canvas: Canvas) -> float:
    return 0.42 if canvas.narrow else 0.66


def curves(stages: Sequence[tuple[str, int | None, pd.DataFrame, int]]) -> Callable[[Canvas], Figure]:
    """`stages`: name, size in pixels, rows of metrics.csv, place of the best one; on one axis of epochs."""

    def draw(canvas: Canvas) -> Figure:
        figure = canvas.figure(580 if not canvas.narrow else 540)
        loss, ap = figure.subplots(2, 1, sharex=True)
        total = sum(len(metrics) for _, _, metrics, _ in stages)
        marker = {"marker": "o", "markersize": 4} if total <= 60 else {}
        first = 0
        for place, (name, size, metrics, best) in enumerate(stages):
            epochs = np.arange(first + 1, first + len(metrics) + 1)
            loss.plot(epochs, metrics["train_loss"], color=BLUE, lw=2, **marker)
            loss.plot(epochs, metrics["val_loss"], color=VERMILLION, lw=2, **marker)
            ap.plot(epochs, metrics["mAP"], color=GREEN, lw=2, **marker)
            for axes in (loss, ap):
                if place % 2:
                    axes.axvspan(first + 0.5, first + len(metrics) + 0.5, color="#f0f3f6", lw=0, zorder=0)
                if first:
                    axes.axvline(first + 0.5, color=GREY, lw=1, ls=(0, (4, 3)), zorder=1)
            room = canvas.width * 0.85 * len(metrics) / total
            _mark_best(ap, epochs, metrics["mAP"].to_numpy(), best, canvas, named=room > 5 * canvas.letter)
            loss.annotate(
                _fitting(_stage_labels(name, size, place), room / canvas.letter),
                (first + 0.5 + len(metrics) / 2, 1),
                (0, 6),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
            )
            first += len(metrics)
        loss.set_ylabel("loss")
        ap.set_ylabel("validation mAP")
        ap.set_xlabel("epoch, counted over all stages")
        ap.set_xlim(0.5, total + 0.5)
        ap.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        ap.margins(y=0.25)
        ap.set_ylim(bottom=max(ap.get_ylim()[0], 0))
        handles = [Line2D([], [], color=colour, lw=3) for colour in (BLUE, VERMILLION, GREEN)]
        legend_above(figure, handles, ["training loss", "validation loss", "validation mAP"], canvas)
        for axes in (loss, ap):
            axes.grid(True, axis="y")
        return figure

    return draw


@dataclass(frozen=True)
class Line:
    """A run among several: before, epochs of the runs it descends from; metrics, rows of metrics.csv; best, the
    place of the best one; since, the last row of the run that it starts from (None: not drawn)."""

    name: str
    stage: int | None
    before: int
    metrics: pd.DataFrame
    best: int
    since: pd.Series | None


PANELS = {"train_loss": "training loss", "val_loss": "validation loss", "mAP": "validation mAP"}
LINE_COLOURS = ("#1b1f24", "#e69f00", BLUE, VERMILLION, "#56b4e9", GREEN, "#cc79a7", "#7b6f00")
DASHES = ("-", (0, (5, 2)))


def branches(lines: Sequence[Line]) -> Callable[[Canvas], Figure]:
    """Losses and mAP of runs that start from each other, on one axis of epochs; told apart by colour and marker."""

    def draw(canvas: Canvas) -> Figure:
        figure = canvas.figure(880 if not canvas.narrow else 820)
        panels = figure.subplots(len(PANELS), 1, sharex=True, height_ratios=(2, 2, 3))
        handles = []
        for place, line in enumerate(lines):
            style = {
                "color": LINE_COLOURS[place % len(LINE_COLOURS)],
                "marker": MARKERS[place % len(MARKERS)],
                "linestyle": DASHES[place // len(LINE_COLOURS) % 2],
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
            axes.set_title(title, loc="left", fontsize=canvas.font, fontweight="bold")
            axes.grid(True, axis="y")
            axes.margins(y=0.12)
        panels[-1].set_ylim(bottom=max(panels[-1].get_ylim()[0], 0))
        panels[-1].set_xlim(0.5, last + 0.5)
        panels[-1].set_xlabel("epoch, counted from the first run of each line")
        panels[-1].xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        legend_above(figure, handles, [line.name for line in lines], canvas, handle=8)
        return figure

    return draw


def _stage_names(axes: Axes, lines: Sequence[Line]) -> None:
    """Over the runs that begin together, where they are of one stage."""
    for start in {line.before for line in lines}:
        here = [line for line in lines if line.before == start]
        if len({line.stage for line in here}) == 1 and here[0].stage is not None:
            middle = start + 0.5 + max(len(line.metrics) for line in here) / 2
            at = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "center", "va": "top"}
            axes.annotate(f"stage {here[0].stage}", (middle, 1), (0, -2), **at)


def _branch(panels: Sequence[Axes], line: Line, style: dict, place: int, lines: int) -> None:
    """A run's three curves. Markers of neighbours stand at different epochs, so that they do not cover each other."""
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


def _stage_labels(name: str, size: int | None, place: int) -> list[str]:
    """What a stage may be called, the longest first."""
    return [f"{name}, {size} px", name, name.replace("Stage ", ""), str(place + 1)]


def _fitting(texts: Sequence[str], letters: float) -> str:
    return next((text for text in texts if len(text) <= letters), texts[-1])


def _mark_best(axes: Axes, epochs: np.ndarray, values: np.ndarray, best: int, canvas: Canvas, named: bool) -> None:
    """A ring, and its value where the stage is wide enough to keep it."""
    if np.isnan(values[best]):
        return
    at = (epochs[best], values[best])
    axes.plot(*at, "o", ms=8, mfc="white", mec=GREEN, mew=2, zorder=5)
    if not named:
        return
    late = best > len(values) / 2
    axes.annotate(
        f"{values[best]:.3f}",
        at,
        (5 if late else -5, 9),
        textcoords="offset points",
        ha="right" if late else "left",
        fontweight="bold",
        fontsize=canvas.font - 1,
    )


def ap_per_finding(table: pd.DataFrame, prevalence: pd.Series | None = None) -> Callable[[Canvas], Figure]:
    """`table`: AP, a row per finding and a column per stage (NaN: not drawn); `prevalence` of the same rows."""

    def draw(canvas: Canvas) -> Figure:
        figure, axes = named_rows(canvas, table.index, legend=30)
        places = np.arange(len(table))
        axes.hlines(places, table.min(axis=1), table.max(axis=1), color="#aab4bf", lw=2, zorder=1)
        for number, name in enumerate(table.columns):
            axes.scatter(
                table[name],
                places,
                s=76,
                marker=MARKERS[number % len(MARKERS)],
                color=IN_ORDER(number / max(len(table.columns) - 1, 1)),
                edgecolor="white",
                linewidth=0.8,
                label=name,
                zorder=3 + number,
            )
        if prevalence is not None:
            _chance(axes, places, prevalence, canvas)
        _ap_axis(axes, np.nanmax(table.to_numpy(), initial=0.0))
        legend_above(figure, *axes.get_legend_handles_labels(), canvas)
        return figure

    return draw


def ap_intervals(table: pd.DataFrame) -> Callable[[Canvas], Figure]:
    """`table`: finding, prevalence, AP, AP_low, AP_high; a dot and its interval per finding."""

    def draw(canvas: Canvas) -> Figure:
        figure, axes = named_rows(canvas, table["finding"], legend=30)
        places = np.arange(len(table))
        axes.hlines(places, table["AP_low"], table["AP_high"], color=BLUE, lw=2.5, alpha=0.55, zorder=2)
        axes.scatter(table["AP"], places, s=76, color=BLUE, edgecolor="white", linewidth=0.8, zorder=3, label="AP")
        _chance(axes, places, table["prevalence"], canvas)
        _ap_axis(axes, np.nanmax(table[["AP", "AP_high"]].to_numpy(), initial=0.0))
        legend_above(figure, *axes.get_legend_handles_labels(), canvas)
        return figure

    return draw


def _chance(axes: Axes, places: np.ndarray, prevalence: pd.Series, canvas: Canvas) -> None:
    """A tick where guessing would score: a random order's AP is the prevalence."""
    size = 130 if canvas.narrow else 170
    axes.scatter(prevalence, places, s=size, marker="|", color=GREY, linewidth=1.8, zorder=2, label="prevalence")


def _ap_axis(axes: Axes, highest: float) -> None:
    axes.set_xlim(-0.012, 1.02 if highest > 0.8 else highest * 1.12 + 0.02)
    axes.set_xlabel("average precision")
    axes.grid(True, axis="x")


def legend_above(figure: Figure, handles: Sequence, labels: Sequence[str], canvas: Canvas, handle: int = 5) -> None:
    """Above the axes, in as many columns as fit; `handle` is the width of a handle in letters."""
    longest = max(map(len, labels))
    columns = max(1, min(len(labels), int(canvas.width / ((longest + handle) * canvas.letter))))
    columns = -(-len(labels) // -(-len(labels) // columns))  # as many rows, evenly filled
    figure.legend(
        handles, labels, loc="outside upper left", ncols=columns, frameon=False, handletextpad=0.3, columnspacing=1.2
    )


TIME_COLOURS = {"training": BLUE, "waiting for data": VERMILLION, "validation": "#b9c2cc"}


def seconds(table: pd.DataFrame) -> Callable[[Canvas], Figure]:
    """`table`: seconds, a row per stage and the columns of TIME_COLOURS; drawn as one stacked bar per stage."""

    def draw(canvas: Canvas) -> Figure:
        figure, axes = named_rows(canvas.__class__(canvas.width, canvas.row + 18, canvas.font), table.index, legend=20)
        unit, divisor = _unit(table.sum(axis=1).max())
        left = np.zeros(len(table))
        for name, colour in TIME_COLOURS.items():
            values = table[name].to_numpy() / divisor
            axes.barh(range(len(table)), values, left=left, height=_bar(canvas), color=colour, label=name)
            left += values
        for place, total in enumerate(table.sum(axis=1)):
            axes.annotate(
                duration(total),
                (left[place], place),
                (5, 0),
                textcoords="offset points",
                va="center",
                fontweight="bold",
            )
        axes.set_xlim(0, max(left.max(), 1e-9) * (1.28 if canvas.narrow else 1.1))
        axes.set_xlabel(unit)
        axes.grid(True, axis="x")
        legend_above(figure, *axes.get_legend_handles_labels(), canvas)
        return figure

    return draw


def _unit(most: float) -> tuple[str, float]:
    """The unit of an axis that reaches `most` seconds, and its length in seconds."""
    return ("seconds", 1) if most < 120 else ("minutes", 60) if most < 3600 else ("hours", 3600)


def contact_sheet(images: np.ndarray, columns: int = 4, cell: int = 256, gap: int = 6) -> bytes:
    """Training images uint8 [B, 1, S, S] as one grayscale JPEG, each at most (or enlarged to about) `cell` pixels."""
    tiles = [_tile(image[0], cell) for image in images]
    side = tiles[0].shape[0]
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * (side + gap) - gap, columns * (side + gap) - gap, 1), 255, dtype=np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * (side + gap), number % columns * (side + gap)
        sheet[top : top + side, left : left + side, 0] = tile
    return simplejpeg.encode_jpeg(sheet, quality=88, colorspace="GRAY")


def _tile(image: np.ndarray, cell: int) -> np.ndarray:
    """[S, S] reduced to `cell`, or repeated a whole number of times: small pixels stay pixels."""
    import cv2

    if image.shape[0] > cell:
        return cv2.resize(image, (cell, cell), interpolation=cv2.INTER_AREA)
    times = cell // image.shape[0]
    return image.repeat(times, axis=0).repeat(times, axis=1)
