"""What `cxrdali.evaluate.external.external` found, as a page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from cxrdali.evaluate import remarks
from cxrdali.report.external import plots
from cxrdali.report.kit.numbers import written
from cxrdali.report.kit.page import Figure, render
from cxrdali.report.kit.tables import Table
from shards.storage.files import write_bytes

TITLES = {  # of a measure, and how it is written
    "AP": ("AP", "interval"), "AP_reweighted": ("AP at home's prevalence", "interval"), "AUROC": ("AUROC", "interval"),
    "prevalence": ("Prevalence", "interval"), "recall": ("Sensitivity", "interval"),
    "specificity": ("Specificity", "interval"), "F1": ("F1", "interval"), "ECE": ("ECE", "small_interval"),
    "Brier": ("Brier", "small_interval"), "ECE_raw": ("ECE as trained", "small_interval"),
}  # fmt: skip
RANKING, RULES = ("AP", "AP_reweighted", "AUROC", "prevalence"), ("recall", "specificity", "F1", "ECE", "Brier")


def write_external(result: dict, out: Path) -> Path:
    """The page, self-contained; `result` itself is its numbers, which `cxrdali.evaluate.external.write` writes."""
    data = {
        "title": f"{result['run']}, at home and away",
        **{"result": result, "synthetic": result["synthetic"], "people": remarks.sampled_from},
        **{"resampled": remarks.resampled({**result, "unit": result["home"]["unit"]}), "of_means": remarks.MEANS},
        "hospitals": [_hospital(each, number, result["level"]) for number, each in enumerate(result["away"])],
    }
    write_bytes(out, render("external/page.html.j2", data).encode(errors="backslashreplace"))
    return out


def _hospital(away: dict, number: int, level: float) -> dict:
    rows = sorted(away["findings"], key=lambda row: -row["train_positives"])
    names = {"Ranking and prevalence": RANKING, "Decisions and probabilities": (*RULES, "ECE_raw")}
    means = [
        _table(f"{what}, means over the findings in common", "Score",
               [(TITLES[name][0], away["means"], name) for name in own], away["name"], level)
        for what, own in names.items()
    ]  # fmt: skip
    neither = [each for each in (away["common"] or {}).get("only_predictions", ()) if each not in away["only_home"]]
    return {
        "about": away,
        **{"means": means, "neither": neither},
        "figures": {
            name: Figure(f"away-{number}-{name}", plots.sides, (_shown(rows, "home", name), _shown(rows, "away", name),
                         away["name"], TITLES[name][0])) for name in ("AP", "AUROC")
            if any(row[side][name] is not None for row in rows for side in ("home", "away"))
        },
        "findings": {
            name: _table(title, "Finding", [(row["finding"], row, name) for row in rows], away["name"], level)
            for name, (title, _) in TITLES.items()
        },
        "counts": _counts(rows, away["name"]),
    }  # fmt: skip


def _table(caption: str, first: str, rows: Sequence[tuple[str, Mapping, str]], name: str, level: float) -> Table:
    """rows: title, the SIDES and the measure. Bold: differences whose adjusted p is below 1 - level."""
    again = any(measure in RULES for _, _, measure in rows)
    cells, bold = [], []
    for place, (title, sides, measure) in enumerate(rows):
        kind, home = TITLES[measure][1], "" if measure == "AP_reweighted" else "home"
        shown = [written(_of(sides[side], measure), kind) if side else "" for side in (home, "away")]
        row = [title, *shown, sides["difference"][measure]]
        if again:
            ruled = measure in RULES
            row += [written(_of(sides["refitted"], measure), kind), sides["mended"][measure]] if ruled else ["", ""]
        bold += [(place, column) for column in (3, 5) if _sure(row[column : column + 1], level)]
        cells.append(row)
    columns = [(first, "text"), ("Home", "text"), (name, "text"), ("Home \u2212 away", "difference")]
    columns += [(f"{name}, fitted again", "text"), ("Mended", "difference")] if again else []
    return Table(f"{caption}; bold: the adjusted p is below {1 - level:.2g}", columns, cells, best=bold)


def _sure(cell: Sequence, level: float) -> bool:
    """Whether a cell, if there is one, is a difference with an adjusted p below 1 - level."""
    return any(isinstance(each, Mapping) and each["p_holm"] is not None and each["p_holm"] < 1 - level for each in cell)


def _of(scores: Mapping, name: str) -> tuple:
    return tuple(scores.get(f"{name}{end}") for end in ("", "_low", "_high"))


def _shown(rows: Sequence[Mapping], side: str, name: str) -> pd.DataFrame:
    """For `plots.sides`, the findings in their order."""
    chance = "prevalence" if name == "AP" else ""
    values = [(row["finding"], *_of(row[side], name), row[side].get(chance)) for row in rows]
    numbers = ["value", "low", "high", "chance"]
    return pd.DataFrame(values, columns=["finding", *numbers]).astype(dict.fromkeys(numbers, float))


def _counts(rows: Sequence[Mapping], name: str) -> Table:
    sides = (("home", "home"), (name, "away"))
    columns = [(f"{what}, {title}", "count") for title, _ in sides for what in ("Positives", "Patients", "Negatives")]
    keys = ("positives", "positive_patients", "negatives")
    return Table(
        "Images with and without each finding, and patients with it",
        [("Finding", "text"), ("Group", "text"), ("Training images", "count"), *columns],
        [
            (row["finding"], row["group"], row["train_positives"],
             *(row["counts"][side][key] for _, side in sides for key in keys))
            for row in rows
        ],
    )  # fmt: skip
