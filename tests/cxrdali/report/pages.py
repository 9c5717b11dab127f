"""Reading a page as its reader does, and its numbers as a program does."""

import base64
import json
import re
import xml.etree.ElementTree as xml
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure as Drawing

from cxrdali.report.kit.numbers import count, duration, score, signed, small, written
from cxrdali.report.kit.page import render

AWKWARD = '<b>&"x'


SVG = "{http://www.w3.org/2000/svg}"
SVG_LINK = "data:image/svg+xml;base64,"


@dataclass
class Shown:
    """A figure: what it is called for those who do not see it, its caption, and its file (None: a photograph)."""

    label: str = ""
    caption: str = ""
    name: str = ""
    file: bytes | None = None


class Page(HTMLParser):
    """What a reader of the page gets: text, tables (by caption), and what a browser would fetch."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tables: dict[str, list[list[str]]] = {}
        self.bold: set[tuple[str, str, int]] = set()  # caption, name of the row, column
        numbers = path.with_suffix(".json")
        self.numbers = json.loads(numbers.read_bytes()) if numbers.exists() else None
        self.addresses, self.tags, self._caption, self._cell, self._text = [], [], None, None, []
        self.figures: list[Shown] = []
        self._captioning = False
        self.feed(self.source)
        self.text = re.sub(r"\s+", " ", "".join(self._text))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        if given.get("href", "").startswith(SVG_LINK):
            self.figures[-1].name = given["download"]
            self.figures[-1].file = base64.b64decode(given.pop("href").removeprefix(SVG_LINK), validate=True)
        self.addresses += [given[name] for name in ("src", "href", "xlink:href", "srcset", "data") if name in given]
        if tag == "figure":
            self.figures.append(Shown())
        elif given.get("role") == "img" or tag == "img":
            self.figures[-1].label = given.get("aria-label", given.get("alt"))
        elif tag == "figcaption":
            self._captioning = True
        if given.get("class") == "scroll":
            self._caption = given["aria-label"]
            self.tables[self._caption] = []
        elif tag == "tr":
            self.tables[self._caption].append([])
        elif tag in ("td", "th"):
            self._cell = ""
        elif tag == "strong" and self._cell is not None:
            row = self.tables[self._caption][-1]
            self.bold.add((self._caption, row[0], len(row)))

    def handle_endtag(self, tag):
        if tag == "figcaption":
            self._captioning = False
        if tag in ("td", "th"):
            self.tables[self._caption][-1].append(self._cell)
            self._cell = None

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "style":
            return
        self._text.append(data)
        if self._captioning:
            self.figures[-1].caption += data
        if self._cell is not None:
            self._cell += data

    def table(self, start: str) -> pd.DataFrame:
        """The table whose caption starts so, by the names of its rows."""
        (rows,) = [rows for caption, rows in self.tables.items() if caption.startswith(start)]
        return pd.DataFrame([row[1:] for row in rows[1:]], index=[row[0] for row in rows[1:]], columns=rows[0][1:])


def check_numbers(page: Page) -> int:
    """Every cell of every table is in the page's .json, as its column's format writes it; returns how many cells.

    A page that shows another file's numbers (a comparison, a calibration) has each number of a cell in that file.
    """
    stored, cells = {}, 0
    for table in _tables(page.numbers):
        columns = table["columns"]
        rows = [[_flat(written(cell, kind)) for cell, (_, kind) in zip(row, columns, strict=False)]
                for row in table["rows"]]  # fmt: skip
        stored.setdefault(table["caption"], []).append([[_flat(title) for title, _ in columns], *rows])
    known = _all_numbers(page.numbers) if not stored else set()
    assert page.tables
    for caption, rows in page.tables.items():
        shown = [[_flat(cell) for cell in row] for row in rows]
        cells += sum(map(len, shown[1:]))
        if stored:
            assert shown in stored[caption], caption
            continue
        for cell in (cell for row in rows[1:] for cell in row[1:]):
            numbers = re.findall(r"[+\u2212]?(?<![\w.])\d[\d,.]*\d|[+\u2212]?(?<![\w.])\d", cell)
            assert not [number for number in numbers if number not in known], (caption, cell)
    return cells


def _flat(cell: str) -> str:
    return re.sub(r"\s", "", cell)


def _tables(value):
    """Every table of the .json, however deep."""
    if isinstance(value, dict):
        if {"caption", "columns", "rows"} <= value.keys():
            yield value
        for inner in value.values():
            yield from _tables(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _tables(inner)


def _all_numbers(value) -> set[str]:
    """Every number in there, in each way that a page may write it, and every word."""
    if isinstance(value, dict):
        return set().union(*map(_all_numbers, value.values()), *map(_all_numbers, value))
    if isinstance(value, list):
        return set().union({str(len(value))}, *map(_all_numbers, value))
    if isinstance(value, str):
        return {value, *re.findall(r"\d[\d,.]*\d|\d", value)}
    if value is None or isinstance(value, bool):
        return set()
    inverse = {f"{1 / value:.3f}"} if value else set()  # a temperature is one by a slope
    decimals = {f"{abs(value):.2f}", score(value), small(value), signed(value), score(abs(value)), str(value)}
    inverse |= {"0.001"} if abs(value) < 0.001 else set()  # as <0.001
    return decimals | inverse | {count(value), duration(value * 3600).split(" ")[0]}


def check_figures(page: Page) -> int:
    """Every figure says what it is, and every drawing can be saved as a file that needs no page; returns how many."""
    assert len({each.name for each in page.figures if each.file}) == page.source.count("<svg")
    for each in page.figures:
        assert each.label and len(each.caption.split()) > 3, each
        if each.file:
            check_file(each)
    return len(page.figures)


def check_file(figure: Shown) -> None:
    root = xml.fromstring(figure.file)
    assert root.tag == f"{SVG}svg" and figure.name.endswith(".svg")
    left, top, width, height = map(float, root.get("viewBox").split())
    assert (float(root.get("width")), float(root.get("height"))) == (width, round(height))
    caption = " ".join(figure.caption.removesuffix("Save as SVG").split())
    assert (root.find(f"{SVG}title").text, root.find(f"{SVG}desc").text) == (caption, figure.label)
    background = root.find(f"{SVG}rect")
    assert (float(background.get("y")), background.get("fill")) == (top, "#fff")
    texts = [" ".join(each.itertext()) for each in root.iter(f"{SVG}text")]
    assert " ".join(texts).startswith(caption) and any("Made on 20" in each for each in texts)
    assert "sans-serif" in root.find(f"{SVG}style").text
    sizes = [float(size) for size in re.findall(rb"font(?:-size)?: ?(?:bold )?([\d.]+)px", figure.file)]
    assert sizes and min(sizes) >= 11, "letters that can be read"
    ids = {each.get("id") for each in root.iter()}
    used = re.findall(rb'(?:href="|url\()([^")]+)', figure.file)
    assert all(each[:1] == b"#" and each[1:].decode() in ids for each in used), "nothing from elsewhere"
    starts = [float(each.get("y")) for each in root.findall(f"{SVG}text")]
    assert all(top < start < top + height for start in starts)


def check_axes(drawing: Drawing) -> None:
    """Both axes of every panel have a title, their own or the drawing's, or a name at every row."""
    for axes in (each for each in drawing.axes if each.get_visible()):
        for way in "xy":
            together = getattr(axes, f"get_shared_{way}_axes")().get_siblings(axes)
            titles = [getattr(each, f"get_{way}label")() for each in together]
            ticks = [each.get_text() for each in getattr(axes, f"get_{way}ticklabels")()]
            named = ticks and not any(re.fullmatch(r"[\u2212\d.,]*", text) for text in ticks)
            assert named or any(titles) or getattr(drawing, f"get_sup{way}label")(), f"a {way} axis without a title"


def section_html(section, sources) -> str:
    """One section of a report alone, as it is on the page."""
    data = {"name": section.name, "section": section.shown(section.data(sources))}
    return render("training/section.html.j2", data)
