"""What `cxrdali.evaluate.compare.compare` found, as a part of a page or as a page of its own."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxrdali.evaluate.compare import scored_images
from cxrdali.fitted import in_words
from cxrdali.metrics.longtail import GROUPS
from cxrdali.report.comparison import plots
from cxrdali.report.kit.numbers import text
from cxrdali.report.kit.page import Figure, render
from cxrdali.report.kit.tables import Table, best, with_fitted
from shards.storage.files import sha256_bytes, write_bytes

TITLES = {
    "mAP": "mAP", "macro_AUROC": "Macro AUROC", "macro_F1": "Macro F1", "macro_ECE": "ECE", "macro_Brier": "Brier",
    "mAP_head": "mAP, head", "mAP_medium": "mAP, medium", "mAP_tail": "mAP, tail",
}  # fmt: skip
LOW_IS_GOOD = ("macro_ECE", "macro_Brier")
SHOWN = ["difference", "low", "high"]


def write_comparison(result: dict, out: Path, title: str) -> Path:
    """The page, self-contained; `result` itself is its numbers, which `cxrdali.evaluate.compare.write` writes."""
    data = {"title": title, "result": result, "comparison": comparison(result), "synthetic": result["synthetic"]}
    write_bytes(out, render("comparison/page.html.j2", data).encode())
    return out


def comparison(result: dict) -> dict:
    """Scores, what they cost, differences to the baseline with intervals, groups, findings: for the template's
    `comparison`. `result`: of `compare`."""
    # keeps the ids of drawings apart where a page has several comparisons
    name = "comparison-" + sha256_bytes(repr([row["name"] for row in result["runs"]]).encode())[:8]
    known = [row for row in result["runs"] if row["mAP"] is not None]
    trained = [row for row in result["runs"] if row["epochs"]]
    return {
        "result": result,
        "images": scored_images(result),
        "fitted": any(in_words({**result, **row}) for row in result["runs"]),
        "what": "runs" if len(trained) == len(result["runs"]) else "runs and tables" if trained else "tables",
        "trained": trained,
        "top": max(known, key=lambda row: row["mAP"]) if known else None,
        "scores": _scores(result),
        "costs": _costs(trained),
        "settings": _settings(result),
        "differences": _differences(result, name),
        "groups": _groups(result, name),
        "findings": _findings(result, name),
    }


def _names(result: dict) -> list[str]:
    return [row["name"] for row in result["runs"]]


def _others(result: dict) -> list[str]:
    return [name for name in _names(result) if name != result["baseline"]]


def _best(values: Sequence[float | None], highest: bool, enough: bool) -> list[int]:
    """Places of the best; equal values, or scores of too few studies: none."""
    differ = len({value for value in values if value is not None}) > 1
    return best(values, highest) if enough and differ else []


def _scores(result: dict) -> Table:
    rows, few = result["runs"], result["fewest_positive_studies"]
    studies = result["positive_studies"]
    marked = [
        (place, column)
        for column, name in enumerate(TITLES, 1)
        for place in _best([row[name] for row in rows], name not in LOW_IS_GOOD, studies.get(name, few) >= few)
    ]
    caption = f"Scores on the {scored_images(result)}, the best in bold"
    return Table(
        caption + (f" where {few} studies or more have such findings" if min(studies.values()) < few else ""),
        *with_fitted(
            [("Run", "text"), *((title, "score") for title in TITLES.values())],
            [(row["name"], *(row[name] for name in TITLES)) for row in rows],
            [{**result, **row} for row in rows],
        ),
        best=marked,
    )


def _costs(runs: Sequence[dict]) -> Table | None:
    columns = [
        ("Run", "text"), ("Network", "text"), ("Size", "pixels"), ("Loss", "text"), ("Sampler", "text"),
        ("Epochs", "count"), ("Best epoch", "count"), ("Images/s", "count"), ("Time", "duration"),
    ]  # fmt: skip
    rows = [
        (
            row["name"], row["arch"] or None, row["size"], row["loss"], row["sampler"],
            row["epochs"] if row["finished"] else f"{row['epochs']} of {row['epochs_planned']}",
            row["best_epoch"], row["images_per_second"], row["hours"] * 3600,
        )
        for row in runs
    ]  # fmt: skip
    return Table("What they are, and what they took to train", columns, rows) if rows else None


def _settings(result: dict) -> Table | None:
    names = [name for name in _names(result) if all(name in row["values"] for row in result["settings"])]
    rows = [(row["setting"], *(_setting(row["values"][name]) for name in names)) for row in result["settings"]]
    columns = [("Setting", "text"), *((name, "text") for name in names)]
    return Table("Differing settings", columns, rows) if rows else None


def _setting(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return text(value) if value else "none" if isinstance(value, list) else value


# ---------------------------------------------------------------- differences


def _differences(result: dict, name: str) -> dict:
    tested = [each for each in TITLES if any(row["metric"] == each for row in result["differences"])]
    by_run = {(row["run"], row["metric"]): row for row in result["differences"]}
    others, few = _others(result), result["fewest_positive_studies"]
    whole = pd.DataFrame([by_run[run, "mAP"] for run in others], columns=SHOWN, dtype=float)
    cells = [[by_run[run, each] for each in tested] for run in others]
    titles = [TITLES[each] for each in tested]
    return {
        "figure": Figure(
            f"{name}-mean", plots.differences, (whole, others, f"difference in mAP to {result['baseline']}")
        )
        if whole["difference"].notna().any()
        else None,
        "table": _difference_table(f"Difference to {result['baseline']}", ("Run", *titles), others, cells),
        "without_interval": [TITLES[each] for each in tested if result["positive_studies"][each] < few],
    }


def _difference_table(
    caption: str, columns: Sequence[str], names: Sequence[str], cells: Sequence[Sequence[dict]]
) -> Table:
    """A row per name; bold where the interval leaves out 0."""
    first, *others = columns
    return Table(
        f"{caption}, bold where the interval leaves out 0",
        [(first, "text"), *((title, "difference") for title in others)],
        [(name, *row) for name, row in zip(names, cells, strict=True)],
        "text",
        [
            (place, column)
            for place, row in enumerate(cells)
            for column, cell in enumerate(row, 1)
            if cell["low"] is not None and (cell["low"] > 0 or cell["high"] < 0)
        ],
    )


# ---------------------------------------------------------------- groups and findings


def _groups(result: dict, name: str) -> dict:
    table = pd.DataFrame(
        {row["name"]: [row[f"mAP_{group}"] for group in GROUPS] for row in result["runs"]}, index=GROUPS, dtype=float
    )
    undefined = set(result["without_positives"])
    labels = [f"{group.capitalize()} ({_how_many(result['groups'][group], undefined)})" for group in GROUPS]
    shown = table.set_axis(labels)[table.notna().any(axis=1).to_numpy()]
    members = [(group.capitalize(), ", ".join(result["groups"][group]) or "none") for group in GROUPS]
    return {
        "figure": Figure(f"{name}-groups", plots.groups, (shown,)) if len(shown) else None,
        "members": Table("Findings by group", [("Group", "text"), ("Findings", "text")], members, "text"),
    }


def _how_many(names: Sequence[str], undefined: set[str]) -> str:
    without = sum(name in undefined for name in names)
    return str(len(names)) + (f", {without} without AP" if without else "")


def _findings(result: dict, name: str) -> dict:
    rows = sorted(result["findings"], key=lambda row: -row["train_positives"])
    known = [row for row in rows if any(value is not None for value in row["AP"].values())]
    others, names = _others(result), [row["finding"] for row in rows]
    shown = max(others, key=lambda run: _mean(result, run))
    table = pd.DataFrame([row["differences"][shown] for row in known], columns=SHOWN, dtype=float)
    drawing = (table, [row["finding"] for row in known], f"difference in average precision to {result['baseline']}")
    cells = [[row["differences"][run] for run in others] for row in rows]
    caption = f"Difference in average precision to {result['baseline']}"
    return {
        "run": shown,
        "figure": Figure(f"{name}-findings", plots.differences, drawing) if known else None,
        "ap": _ap_table(result, rows),
        "table": _difference_table(caption, ("Finding", *others), names, cells),
    }


def _mean(result: dict, run: str) -> float:
    value = next(row["mAP"] for row in result["runs"] if row["name"] == run)
    return -np.inf if value is None else value


def _ap_table(result: dict, rows: Sequence[dict]) -> Table:
    names, few = _names(result), result["fewest_positive_studies"]
    counts = (("Group", "text"), ("Training images", "count"), (scored_images(result).capitalize(), "count"))
    return Table(
        f"Average precision, the best in bold where {few} studies or more have it",
        [("Finding", "text"), *((name, "score") for name in names), *counts],
        [
            (row["finding"], *(row["AP"][name] for name in names), row["group"], row["train_positives"],
             row["positives"])
            for row in rows
        ],
        best=[
            (place, column + 1)
            for place, row in enumerate(rows)
            for column in _best([row["AP"][name] for name in names], True, row["positive_studies"] >= few)
        ],
    )  # fmt: skip
