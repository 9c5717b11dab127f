"""A study's scores over seeds and folds, its differences and claims, of table.json (`cxrdali.studies.table`)."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from cxrdali.report.comparison import plots
from cxrdali.report.external.matrix import matrix_part
from cxrdali.report.kit.numbers import bounds, score, signed, unknown
from cxrdali.report.kit.page import Figure
from cxrdali.report.kit.tables import Table
from cxrdali.runs.layout import STUDY
from shards.errors import UserError
from shards.storage.sealed import read_json
from shards.words import counted

FILE = "table.json"
NOT_MEASURED = "not measured"
TITLES = {"macro_AUROC": "AUROC", "macro_F1": "F1", "macro_ECE": "ECE", "macro_Brier": "Brier"}
FIGURED = ("mAP",)


def read_table(root: Path) -> dict | None:
    """The numbers in a study's folder, if its page is of them. Raises UserError if the file is damaged."""
    path = root / FILE
    if not path.is_file() or not (root / STUDY).is_file():
        return None
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; make it again with `cxrdali study ... --table`") from error


def parts(result: Mapping) -> list[Table]:
    """The tables that there is something for."""
    matrix = matrix_part(result["matrix"]) if result["matrix"] else {}
    of_matrix = [matrix[key] for key in ("scores", "differences") if key in matrix]
    shown = [*of_matrix, _scores(result), _differences(result), _by_patient(result), _claims(result), _missing(result)]
    return [each for each in shown if each.rows]


def section(result: Mapping) -> dict:
    """For study/table.html.j2."""
    spent = [(step, seconds) for step, seconds in result["seconds"].items() if step != "report"]
    return {
        "parts": parts({**result, "matrix": None}),
        "matrix": result["matrix"] and matrix_part(result["matrix"]),
        "figures": list(_figures(result)),
        "notes": result["notes"],
        "level": result["level"],
        "repeats": any(row["n"] > 1 for row in result["scores"]),
        "seconds": Table("Seconds of every step", [("Step", "text"), ("Time", "duration")], spent),
    }


def _spread(row: Mapping) -> str:
    """0.412 ± 0.013; of one run without a standard deviation."""
    if unknown(row["mean"]):
        return NOT_MEASURED
    return score(row["mean"]) + ("" if unknown(row["sd"]) else f" ± {row['sd']:.3f}")


def _change(row: Mapping) -> str:
    """+0.012 (−0.003 to +0.027); without an interval, that it was not measured."""
    if unknown(row["low"]):
        return f"{signed(row['mean'])} (interval {NOT_MEASURED})"
    return f"{signed(row['mean'])} ({signed(row['low'])} to {signed(row['high'])})"


def _wide(rows: Iterable[Mapping], keys: tuple[str, ...], cell) -> tuple[list[str], list[tuple]]:
    """A row for each value of `keys`, a column for each metric; n of the first metric."""
    rows = list(rows)
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    found: dict[tuple, dict[str, Mapping]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), {})[row["metric"]] = row
    lines = [
        (*name, next(iter(each.values()))["n"], *(cell(each[m]) if m in each else NOT_MEASURED for m in metrics))
        for name, each in found.items()
    ]
    return [TITLES.get(metric, metric.replace("_", " ")) for metric in metrics], lines


def _scores(result: Mapping) -> Table:
    metrics, rows = _wide(result["scores"], ("run", "split"), _spread)
    head = [("Run", "text"), ("Split", "text"), ("n", "count"), *((name, "score") for name in metrics)]
    return Table("Scores: mean ± standard deviation over seeds and folds (n runs)", head, rows)


def _differences(result: Mapping) -> Table:
    metrics, rows = _wide(result["differences"], ("run", "against", "split"), _change)
    head = [("Run", "text"), ("Less", "text"), ("Split", "text"), ("n", "count")]
    caption = (
        f"Differences, paired by seed and fold, with {result['level'] * 100:g} % t intervals of their mean (n pairs)"
    )
    return Table(caption, [*head, *((name, "score") for name in metrics)], rows)


def _by_patient(result: Mapping) -> Table:
    numbers = ("difference", "low", "high", "p", "p_holm")
    rows = [
        (row["comparison"], row["run"], row["against"], {key: row[key] for key in numbers})
        for row in result["by_patient"] if row["metric"] == "mAP" and row["run"] != row["against"]
    ]  # fmt: skip
    head = [("Comparison", "text"), ("Run", "text"), ("Less", "text"), ("mAP", "difference")]
    return Table("Differences of single runs, with intervals from samples of the patients", head, rows)


def _claims(result: Mapping) -> Table:
    rows = []
    for claim in result["claims"]:
        rows.append(
            (
                claim["says"] or f"{claim['higher']} above {claim['than']}",
                f"{claim['metric']}, {claim['split']}",
                " and ".join(f"{each:g}" for each in claim["printed"]) or "none",
                " and ".join(score(each) for each in claim["scores"]),
                NOT_MEASURED if unknown(claim["difference"]) else signed(claim["difference"]),
                NOT_MEASURED if unknown(claim["low"]) else bounds([claim["low"], claim["high"]]),
                counted(claim["n"], "pair") if claim["unit"] == "seed" else "patients",
                claim["verdict"],
            )
        )
    names = ("Claim", "Of", "Printed", "Here", "Difference", "Interval", "Over", "Verdict")
    return Table("Claims", [(name, "text") for name in names], rows, "text")


def _missing(result: Mapping) -> Table:
    rows = [(row["name"], row["split"], row["why"]) for row in result["missing"]]
    return Table("Missing", [("Run or table", "text"), ("Split", "text"), ("Why", "text")], rows, "text")


def _figures(result: Mapping) -> Iterable[dict]:
    """Differences of mAP over seeds, a figure for each split."""
    rows = [row for row in result["differences"] if row["metric"] == "mAP"]
    for split in dict.fromkeys(row["split"] for row in rows):
        own = [row for row in rows if row["split"] == split]
        apart = [row["low"] is not None and (row["low"] > 0 or row["high"] < 0) for row in own]
        ends = {"difference": "mean", "low": "low", "high": "high"}
        table = pd.DataFrame({key: [row[name] for row in own] for key, name in ends.items()}, dtype=float)
        table["p_holm"] = [0.0 if each else 1.0 for each in apart]  # only the colour: whether the interval leaves out 0
        first = list(dict.fromkeys(row["against"] for row in own))
        names = [row["run"] if len(first) == 1 else f"{row['run']} – {row['against']}" for row in own]
        of = f"difference in mAP to {first[0]}, {split}" if len(first) == 1 else f"difference in mAP, {split}"
        yield {"split": split, "figure": Figure(f"seeds-{split}", plots.differences, (table, names, of, 0.5))}
