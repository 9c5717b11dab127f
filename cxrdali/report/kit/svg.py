"""Figures as inline SVG: size, colours and fonts that all share, and axes with a row per name.

One unit of a drawing is one CSS pixel; on a narrow page a figure scrolls inside itself. Colours are Okabe and Ito's.
"""

import re
import textwrap
from collections.abc import Callable, Sequence
from io import StringIO

from markupsafe import escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

BLUE, VERMILLION, GREEN, GREY, LINE, INK = "#0072b2", "#d55e00", "#009e73", "#6b7280", "#d0d7de", "#1b1f24"
LINE_COLOURS = ("#1b1f24", "#e69f00", BLUE, VERMILLION, "#56b4e9", GREEN, "#cc79a7", "#7b6f00")
IN_ORDER = LinearSegmentedColormap.from_list("in order", ["#7cc4ec", "#2b83ba", "#08306b"])
MARKERS = "os^Dv<>p"
WIDTH, ROW, FONT = 900, 24, 14  # of a drawing, of a finding's row, of letters: pixels
LETTER = FONT * 0.62  # mean width
LONGEST_NAME = 34  # letters of a finding's name in a figure; tables have it whole
STYLE = {
    "svg.fonttype": "none",  # text stays text: a tenth of the bytes, searchable, read aloud
    "text.parse_math": False,  # a finding may have a dollar sign in its name
    "font.size": FONT,
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


def as_svg(draw: Callable[[], Figure], name: str) -> str:
    """What `draw` returns, drawn in the common style, as inline SVG.

    Args:
        name: keeps the ids of a page's drawings apart; equal data and an equal name give equal bytes.
    """
    with rc_context({**STYLE, "svg.hashsalt": name}):
        out = StringIO()
        draw().savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    return _inline(out.getvalue())


def _inline(text: str) -> str:
    """What a page needs of an SVG file: no prologue, no metadata, no fixed size, no id that nothing refers to."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: found.group() if found.group(1) in used else "", text)
    size = re.search(r'<svg[^>]*viewBox="([^"]*)"', text).group(1)
    # a tenth of a pixel is enough, and one L for a line: every drawing is in the page twice, the other time as a file
    text = re.sub(r"\n\s+", "\n", text)
    text = re.sub(r' (?:d|x|y)="[^"]*"', lambda found: re.sub(r"(\.\d)\d+| \n(?:L )?", _shorter, found.group()), text)
    return re.sub(r"^<svg[^>]*>", f'<svg viewBox="{size}" aria-hidden="true">', text).strip()


def _shorter(found: re.Match) -> str:
    return found.group(1) or " "


def as_file(inline: str, description: str, caption: str, source: str) -> str:
    """An SVG file that needs no page: what `as_svg` returned on white, the caption over it and `source` below it."""
    left, top, width, height = map(float, re.match(r'<svg viewBox="([^"]*)"', inline).group(1).split())
    above, below = (textwrap.wrap(text, int(width / LETTER) - 2) for text in (caption, source))
    line, head = FONT * 1.4, (len(above) + 1) * FONT * 1.4
    whole = head + height + (len(below) + 1) * line
    starts = [(number + 1) * line - head for number in range(len(above))]
    starts += [height + (number + 1) * line for number in range(len(below))]
    words = "".join(
        f'<text x="8" y="{top + start:.0f}" font-size="{FONT}" fill="{INK}">{escape(text)}</text>'
        for start, text in zip(starts, [*above, *below], strict=True)
    )
    size = f'width="{width:g}" height="{whole:.0f}" viewBox="{left:g} {top - head:.1f} {width:g} {whole:.1f}"'
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<svg xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink" {size}><title>{escape(caption)}</title>'
        f"<desc>{escape(description)}</desc><style>text {{font-family: Arial, sans-serif !important}}</style>"
        f'<rect x="{left:g}" y="{top - head:.1f}" width="100%" height="100%" fill="#fff"/>{words}'
        + inline[inline.index(">") + 1 :]
    )


def new_figure(height: float) -> Figure:
    """An empty figure of the common width; height in pixels."""
    return Figure(figsize=(WIDTH / 72, height / 72), layout="constrained")


def shortened(name: object, letters: int = LONGEST_NAME) -> str:
    name = str(name)
    return name if len(name) <= letters else name[: letters - 1] + "…"


def named_rows(names: Sequence[str], legend: int = 0, row: int = ROW) -> tuple[Figure, Axes]:
    """Axes with a row per name, the first on top. legend: pixels for what is above them."""
    drawing = new_figure(len(names) * row + 60 + legend)
    axes = drawing.subplots()
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.spines["left"].set_visible(False)
    axes.set_yticks(range(len(names)), [shortened(name) for name in names])
    return drawing, axes


def small_panels(names: Sequence[tuple[str, str]], x: str, y: str, columns: int = 5) -> tuple[Figure, list[Axes]]:
    """A square panel per finding and what is said of it, on common axes from 0 to 1, which `x` and `y` name once."""
    rows, cell = -(-len(names) // columns), (WIDTH - 30) / columns
    figure = new_figure(rows * (cell + 28) + 30)
    every = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel())
    figure.supxlabel(x, fontsize=FONT)
    figure.supylabel(y, fontsize=FONT)
    letters, ticks = min(int((cell - 30) / (LETTER * 0.85)), LONGEST_NAME), (0, 0.5, 1)
    for place, (axes, (name, said)) in enumerate(zip(every, names, strict=False)):
        axes.set_title(f"{shortened(name, letters)}\n{said}".rstrip(), fontsize=FONT - 2, loc="left", pad=4)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal", xticks=ticks, yticks=ticks)
        axes.set_xticklabels([f"{tick:g}" for tick in ticks])
        axes.set_yticklabels([f"{tick:g}" for tick in ticks])
        # the lowest panel of each column has the numbers
        axes.tick_params(labelsize=FONT - 3, labelbottom=place + columns >= len(names))
        axes.grid(True)
    for axes in every[len(names) :]:
        axes.set_visible(False)
    return figure, every[: len(names)]


def write(axes: Axes, text: str, at: tuple, offset: tuple[int, int] = (5, 0), **style) -> None:
    """`text` beside a point; offset: pixels to the right and up."""
    axes.annotate(text, at, offset, textcoords="offset points", **{"va": "center", **style})


def legend_above(drawing: Figure, handles: Sequence, labels: Sequence[str], handle: int = 5) -> None:
    """Above the axes, in as many columns as fit; `handle` is the width of a handle in letters."""
    longest = max(map(len, labels))
    columns = max(1, min(len(labels), int(WIDTH / ((longest + handle) * LETTER))))
    columns = -(-len(labels) // -(-len(labels) // columns))  # as many rows, evenly filled
    drawing.legend(
        handles, labels, loc="outside upper left", ncols=columns, frameon=False, handletextpad=0.3, columnspacing=1.2
    )
