"""Images with the same pixels, in words and a table."""

import pandas as pd

from cxrdali.report.dataset.same import SamePixels
from cxrdali.report.dataset.words import Block, first_ids
from cxrdali.report.kit.numbers import count
from cxrdali.report.kit.tables import Table
from shards.words import counted

SHOWN_SETS = 20


def same_pixels(same: SamePixels | None) -> list[Block]:
    """Which images are there twice, and whether that is in two splits."""
    if same is None:
        return ["Not known: this dataset was packed before images were compared by their pixels."]
    said: list[Block] = []
    if same.of_others:
        said.append(f"{_have(same.of_others)} the same pixels as an image of another patient.")
    if same.of_one:
        said.append(f"{_have(same.of_one)} the same pixels as another image of the same patient.")
    for name in (column.removeprefix("in ") for column in same.sets.columns[3:]):
        if number := same.across(name):
            said.append(f"Of all these, {count(number)} have the same pixels as an image of another split of {name}.")
    if same.blank:
        said.append(f"{_have(same.blank)} a single gray everywhere, as others have; nothing follows from that.")
    if len(same.sets):
        said.append(_sets(same.sets))
    if (more := len(same.sets) - SHOWN_SETS) > 0:
        said.append(f"{count(more)} more sets are not shown; the page's .json has all of them.")
    return said or ["No two images have the same pixels."]


def _have(number: int) -> str:
    return f"{counted(number, 'image')} {'has' if number == 1 else 'have'}"


def _sets(sets: pd.DataFrame) -> Table:
    columns = [("First ids", "text"), ("Images", "count"), ("Patients", "count")]
    columns += [(f"I{name[1:]}", "text") for name in sets.columns[3:]]
    rows = [
        (first_ids(line["ids"], line["images"]), line["images"], line["patients"], *line.iloc[3:])
        for _, line in sets.head(SHOWN_SETS).iterrows()
    ]
    return Table("Images with the same pixels, a line per set", columns, rows)
