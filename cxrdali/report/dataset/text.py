"""The tables and sentences as plain text that fits a terminal of 100 columns."""

import textwrap
from collections.abc import Sequence

from cxrdali.report.dataset import words
from cxrdali.report.dataset.facts import DatasetFacts
from cxrdali.report.dataset.same_words import same_pixels
from cxrdali.report.dataset.words import Block
from cxrdali.report.kit.tables import Table

WIDTH = 100
GAP = 2
LEAST = 14  # a column of text is not made narrower


def render(facts: DatasetFacts) -> str:
    """Everything that the page has in words and tables, without its drawings."""
    parts = [_section("Dataset", words.dataset(facts))]
    parts.append(_section("Rejects", words.rejects(facts)))
    parts.append(_section("Same pixels", same_pixels(facts.same)))
    for release in facts.releases:
        blocks = [*words.splits(release), *words.findings(release), *words.together(release)]
        parts.append(_section(words.title(facts, release), blocks))
    if said := words.label_releases(facts):
        parts.append(_section("Label releases", said))
    if facts.releases:
        parts.append(_section("In two splits", words.overlap(facts)))
    return "\n\n".join(parts)


def _section(title: str, blocks: Sequence[Block]) -> str:
    head = printable(title).upper()
    return "\n\n".join([f"{head}\n{'=' * min(len(head), WIDTH)}", *map(_block, blocks)])


def _block(block: Block) -> str:
    if isinstance(block, str):
        return "\n".join(_wrapped(printable(block.replace("`", "")), WIDTH))
    return "\n".join([*_wrapped(printable(block.caption), WIDTH), "", table(block)])


def printable(text: str) -> str:
    """Ids and names come from tables, and a control character in one must not reach the terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def table(given: Table, width: int = WIDTH) -> str:
    """Aligned columns, wrapped where the widest column of names does not fit."""
    rows = [[printable(cell) for cell in row] for row in given.texts()]
    titles = [title for title, _ in given.columns]
    left = [given.kind == "text" or place == 0 for place in range(len(titles))]
    wide = [
        max([len(row[place]) for row in rows] + [max(map(len, name.split()), default=0)])
        for place, name in enumerate(titles)
    ]
    while sum(wide) + GAP * (len(wide) - 1) > width:
        place = max((place for place in range(len(wide)) if left[place]), key=lambda place: wide[place])
        if wide[place] <= LEAST:
            break
        wide[place] -= 1
    lines = []
    if any(titles):
        head = [_wrapped(name, letters) for name, letters in zip(titles, wide, strict=True)]
        high = max(map(len, head))
        lines += _lines([[""] * (high - len(each)) + each for each in head], wide, left)
        lines.append((" " * GAP).join("-" * letters for letters in wide))
    for row in rows:
        lines += _lines([_wrapped(cell, letters) for cell, letters in zip(row, wide, strict=True)], wide, left)
    return "\n".join(lines)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]


def _lines(cells: list[list[str]], wide: Sequence[int], left: Sequence[bool]) -> list[str]:
    """The lines of one row whose cells have several."""
    lines = []
    for number in range(max(map(len, cells))):
        parts = [each[number] if number < len(each) else "" for each in cells]
        padded = [
            part.ljust(letters) if at_left else part.rjust(letters)
            for part, letters, at_left in zip(parts, wide, left, strict=True)
        ]
        lines.append((" " * GAP).join(padded).rstrip())
    return lines
