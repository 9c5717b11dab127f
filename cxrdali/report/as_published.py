"""What a paper says of its models' settings, beside what the runs here have: theirs from a file, ours from each run.

`report/papers/settings-PAPER.toml` has a table for each recipe of the paper, and [every] for what holds for all of
them: settings by flat name with the published value, "none" for none, and "not said" where the paper gives no value.
What is no setting of a run is a table of two texts, as `resize = { published = "not said", here = "bilinear" }`.
"""

import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files

from cxrdali.report.kit.numbers import NOTHING, setting
from cxrdali.report.kit.tables import Table
from cxrdali.runs.reader import Run

NOT_SAID, DIFFERS, SAME = "not said", "differs", "as published"
COLUMNS = [("Setting", "text"), ("As published", "text"), ("As run here", "text"), ("", "text"), ("Models", "text")]


def as_published(paper: str, runs: Sequence[Run]) -> dict | None:
    """Tables for the template's `as_published`; None if no run is of a recipe of this paper.

    Settings with the same two values are one row, with the models that it holds for. other: rows that differ, in bold,
    and those of which the paper says nothing; same: the rest; strangers: runs of no recipe of the paper.
    """
    recipes = _published(paper)
    of_paper = [run for run in runs if run.recipe.get("name") in recipes]
    if not of_paper:
        return None
    found: dict[str, dict[tuple[str, str], list[str]]] = {}
    for run in of_paper:
        for name, *values in _both(recipes[run.recipe["name"]], run):
            found.setdefault(name, {}).setdefault(tuple(values), []).append(run.name)
    rows = [
        (name.replace("_", " "), there, here, _verdict(there, here), "all" if len(those) == len(of_paper) else those)
        for name, pairs in found.items()
        for (there, here), those in pairs.items()
    ]
    other = sorted((row for row in rows if row[3] != SAME), key=lambda row: row[3])  # "differs" before "not said"
    bold = [(number, place) for number, row in enumerate(other) if row[3] == DIFFERS for place in (2, 3)]
    return {
        "other": Table("Other than published, or not said there", COLUMNS, other, "text", bold) if other else None,
        "same": Table("As published", COLUMNS, [row for row in rows if row[3] == SAME], "text"),
        "strangers": [run.name for run in runs if run not in of_paper],
    }


def _both(published: dict, run: Run) -> Iterator[tuple[str, str, str]]:
    """A setting's name, the published value and the run's, as they are written."""
    here = {"starts_from": run.recipe.get("starts_from"), **run.settings.flat()}
    here["precision"] = run.config.get("precision", here["precision"])  # what auto was
    for name, value in published.items():
        if isinstance(value, dict):
            yield name, value["published"], value["here"]
        else:
            yield name, setting(value), setting(here[name]) if name in here else NOTHING


def _verdict(there: str, here: str) -> str:
    return NOT_SAID if there == NOT_SAID else SAME if there == here else DIFFERS


@cache
def _published(paper: str) -> dict[str, dict]:
    """By recipe: published values by flat name."""
    tables = tomllib.loads(files("cxrdali.report").joinpath("papers", f"settings-{paper}.toml").read_text("utf-8"))
    every = tables.pop("every", {})
    return {recipe: {**every, **own} for recipe, own in tables.items()}
