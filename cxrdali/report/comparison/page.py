"""What `cxrdali.evaluate.compare.compare` found, as a part of a page or as a page of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxrdali.evaluate import remarks
from cxrdali.evaluate.compare import scored_images
from cxrdali.fitted import in_words
from cxrdali.metrics.longtail import GROUPS
from cxrdali.report.comparison import plots
from cxrdali.report.groups.tables import compared
from cxrdali.report.kit.numbers import signed, text
from cxrdali.report.kit.page import Figure, render
from cxrdali.report.kit.tables import Table, with_fitted, without_one
from shards.storage.files import sha256_bytes, write_bytes

TITLES = {
    "mAP": "mAP", "macro_AUROC": "Macro AUROC", "macro_F1": "Macro F1", "macro_ECE": "ECE", "macro_Brier": "Brier",
    "mAP_head": "mAP, head", "mAP_medium": "mAP, medium", "mAP_tail": "mAP, tail",
}  # fmt: skip
SHOWN = ["difference", "low", "high", "p_holm"]


def write_comparison(result: dict, out: Path, title: str) -> Path:
    """The page, self-contained; `result` itself is its numbers, which `cxrdali.evaluate.compare.write` writes."""
    data = {"title": title, "result": result, "comparison": comparison(result), "synthetic": result["synthetic"]}
    write_bytes(out, render("comparison/page.html.j2", data).encode())
    return out


def comparison(result: dict) -> dict:
    """Scores, costs, differences to the baseline, groups and findings, for the template. `result`: of `compare`."""
    # keeps the ids of drawings apart where a page has several comparisons
    name = "comparison-" + sha256_bytes(repr([row["name"] for row in result["runs"]]).encode())[:8]
    trained = [row for row in result["runs"] if row["epochs"]]
    return {
        "result": result,
        "images": scored_images(result),
        "fitted": any(in_words({**result, **row}) for row in result["runs"]),
        "what": "runs" if len(trained) == len(result["runs"]) else "runs and tables" if trained else "tables",
        "trained": trained,
        "top": result["best"]["mAP"],
        "means": {row["name"]: row["mAP"] for row in result["runs"]},
        "resampled": remarks.resampled(result),
        "patients": remarks.sampled_from(result),
        "off_centre": remarks.OFF_CENTRE,
        "scores": _scores(result),
        "costs": _costs(trained),
        "settings": _settings(result),
        "differences": _differences(result, name),
        "groups": _groups(result, name),
        "findings": _findings(result, name),
        "by_group": compared(block, _names(result), result["baseline"], result["level"])
        if (block := result.get("groups_by"))
        else None,
    }


def _names(result: dict) -> list[str]:
    return [row["name"] for row in result["runs"]]


def _others(result: dict) -> list[str]:
    return [name for name in _names(result) if name != result["baseline"]]


def _scores(result: dict) -> Table:
    names = _names(result)
    separable = {name: each for name, each in result["best"].items() if each and each["separable"]}
    return Table(
        f"Scores on the {scored_images(result)}"
        + (", the best in bold where its interval to the second leaves out 0" if result["draws"] else ""),
        *with_fitted(
            [("Run", "text"), *((title, "score") for title in TITLES.values())],
            [(row["name"], *(row[name] for name in TITLES)) for row in result["runs"]],
            [{**result, **row} for row in result["runs"]],
        ),
        best=[
            (names.index(separable[name]["run"]), column) for column, name in enumerate(TITLES, 1) if name in separable
        ],
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
    others = _others(result)
    cells = [[by_run[run, each] for each in tested] for run in others]
    titles, means = [TITLES[each] for each in tested], [by_run[run, "mAP"] for run in others]
    about = f"ifference in mAP to {result['baseline']}"
    known = any(row["difference"] is not None for row in means)
    without = zip(titles, zip(*cells, strict=True), strict=True)
    return {
        "figure": _figure(f"{name}-mean", result, means, others, f"d{about}") if known else None,
        "table": _difference_table(result, f"Difference to {result['baseline']}", ("Run", *titles), others, cells),
        "without_one": without_one(
            f"D{about}, without any one finding", "Run", "gain",
            [(row["run"], row["difference"], row["without_one"]) for row in means],
        ),
        "without_interval": [
            title
            for title, rows in without
            if any(row["difference"] is not None for row in rows) and all(row["p"] is None for row in rows)
        ],
    }  # fmt: skip


def _figure(name: str, result: dict, rows: Sequence[dict], names: Sequence[str], of: str) -> Figure:
    table = pd.DataFrame(rows, columns=SHOWN, dtype=float)
    return Figure(name, plots.differences, (table, names, of, 1 - result["level"]))


def _difference_table(
    result: dict, caption: str, columns: Sequence[str], names: Sequence[str], cells: Sequence[Sequence[Mapping | str]]
) -> Table:
    """A row per name; bold where p, adjusted for the number of comparisons, is below 1 - level."""
    first, *others = columns
    below = 1 - result["level"]
    return Table(
        caption + (f", bold where the adjusted p is below {below:.2g}" if result["draws"] else ""),
        [(first, "text"), *((title, "difference") for title in others)],
        [(name, *row) for name, row in zip(names, cells, strict=True)],
        "text",
        [
            (place, column)
            for place, row in enumerate(cells)
            for column, cell in enumerate(row, 1)
            if isinstance(cell, Mapping) and cell["p_holm"] is not None and cell["p_holm"] < below
        ],
    )


# ---------------------------------------------------------------- groups and findings


def _groups(result: dict, name: str) -> dict:
    table = pd.DataFrame(
        {row["name"]: [row[f"mAP_{group}"] for group in GROUPS] for row in result["runs"]}, index=GROUPS, dtype=float
    )
    undefined = {*result["without_positives"], *result.get("without_negatives", ())}
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
    means = {row["name"]: row["mAP"] for row in result["runs"]}
    shown = max(others, key=lambda run: -np.inf if means[run] is None else means[run])
    about = f"difference in average precision to {result['baseline']}"
    cells = [[_of_finding(result, row, run) for run in others] for row in rows]
    caption = f"Difference in average precision to {result['baseline']}"
    drawn, named = [row["differences"][shown] for row in known], [row["finding"] for row in known]
    return {
        "run": shown,
        "figure": _figure(f"{name}-findings", result, drawn, named, about) if known else None,
        "ap": _ap_table(result, rows),
        "table": _difference_table(result, caption, ("Finding", *others), names, cells),
    }


def _of_finding(result: dict, row: dict, run: str) -> Mapping | str:
    """A difference, or why it has no interval."""
    found = row["differences"][run]
    if result["draws"] and found["difference"] is not None and remarks.too_few(row, result["fewest_patients"]):
        return f"{signed(found['difference'])} ({remarks.TOO_FEW})"
    return found


def _ap_table(result: dict, rows: Sequence[dict]) -> Table:
    names = _names(result)
    counts = [("Group", "text"), ("Training images", "count"), (scored_images(result).capitalize(), "count")]
    counts += [("Patients", "count")] if result["unit"] == "patient" else []
    return Table(
        "Average precision",
        [("Finding", "text"), *((name, "score") for name in names), *counts],
        [
            (row["finding"], *(row["AP"][name] for name in names), row["group"], row["train_positives"],
             row["positives"], row["positive_patients"])[: 1 + len(names) + len(counts)]
            for row in rows
        ],
    )  # fmt: skip
