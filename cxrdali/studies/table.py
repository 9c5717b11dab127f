"""A study's numbers as one JSON, table.json: what its table, files and page are made of.

Nothing is computed again: scores stand in the evaluations, and of runs that are not predicted on validation in their
best epoch. A cell's runs differ in seed or fold alone. What is missing stands there with its reason.

    title, synthetic, level, seconds (by step; None: not done), claims, notes
    runs            name, cell, repeat ("seed 0 fold 1"), state ("done", or why not)
    scores          run (a cell), split, metric, values by repeat, mean, sd, n, low, high
    differences     run, against, split, metric, values by repeat, mean, sd, n, low, high, p, p_holm: paired by repeat,
                    on the same images and findings; t intervals; Holm's adjustment over those of a split and metric
    by_patient      comparison, run, against, metric, difference, low, high, p, p_holm: of samples of patients
    matrix          of `cxrdali.evaluate.matrix`, of studies that have one
    missing         name, split, why
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cxrdali.evaluate.differences import TESTED
from cxrdali.metrics.intervals import holm
from cxrdali.report.training.folder import RECORD as PAPER
from cxrdali.runs.layout import RECORD, STUDY
from cxrdali.runs.reader import Run
from cxrdali.runs.steps import Book
from cxrdali.studies.ground import FIT
from cxrdali.studies.seeds import LEVEL, means, spread, tested
from shards.errors import UserError
from shards.storage.files import json_bytes
from shards.storage.sealed import read_json

FORMAT = 1
OVERLAPPING = "Folds train on overlapping images, so intervals over them are too narrow"
DONE = "done"


@dataclass(frozen=True)
class Entry:
    """A table or run on a split. images: what says which those are, and which findings; scores: by metric; why: there
    are none."""

    name: str
    cell: str
    repeat: str
    split: str
    images: str = ""
    scores: Mapping[str, float | None] | None = None
    why: str = ""


def study_table(root: Path) -> dict:
    """The numbers of the module's text. Raises UserError if there is no study in the folder, or a file is damaged."""
    return found_in(root)[0]


def found_in(root: Path) -> tuple[dict, list[Entry]]:
    """The numbers in a study's folder, and the scores that their means are of."""
    record = _record(root)
    steps = [each["name"] if isinstance(each, dict) else each for each in record["steps"]]
    states, seconds = _states(Book(root), steps)
    known = record.get("runs", {})
    runs = {name: known.get(name, {"cell": name, "repeat": ""}) for name in record["models"]}
    entries = [*_evaluated(root, record, runs, states), *_validated(root, runs, states)]
    compared = {
        name: _json(root / "comparisons" / f"{name}.json")
        for name in (step.removeprefix("compare ").replace(" ", ".") for step in steps if step.startswith("compare "))
        if states[_step_of(name, steps)] == DONE
    }
    by_seed = [each for each in compared.values() if each.get("by") == "seed"]
    entries = [_with_groups(each, by_seed) for each in entries]
    folds = any("fold" in each.get("axes", {}) for each in runs.values())
    result = {
        "format": FORMAT,
        "title": record.get("title", root.name),
        "synthetic": bool(record.get("synthetic")),
        "level": LEVEL,
        "runs": [
            {"name": name, "cell": each["cell"], "repeat": each["repeat"], "state": states.get(f"train {name}", DONE)}
            for name, each in runs.items()
        ],
        **over_repeats(entries, [each["baseline"] for each in by_seed]),
        "by_patient": [row for name, each in compared.items() if each not in by_seed for row in _patients(name, each)],
        "missing": [{"name": each.name, "split": each.split, "why": each.why} for each in entries if each.why],
        "matrix": _json(root / "matrix.json") if states.get("matrix") == DONE else None,
        "claims": _json(root / "claims.json")["claims"] if states.get("claims") == DONE else [],
        "notes": [*record.get("notes", []), *([OVERLAPPING] if folds else [])],
        "seconds": {step: seconds.get(step) for step in steps},
    }
    return result, entries


def over_repeats(entries: Sequence[Entry], baselines: Sequence[str]) -> dict:
    """scores and differences of the module's text; baselines: cells that others are compared with."""
    found = list(_differences(entries, baselines))
    return {"scores": list(_scores(entries)), "differences": adjusted(found, "split", "metric")}


def _record(root: Path) -> dict:
    for name in (STUDY, RECORD, PAPER):
        if (root / name).is_file():
            found = _json(root / name)
            if isinstance(found.get("steps"), list) and isinstance(found.get("models"), list):
                return found
            raise UserError(f"{root / name}: is no record of a study; delete it and run the study again")
    raise UserError(f"{root}: no study was begun there; run it first, or give its --out")


def _json(path: Path) -> dict:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; delete it and run the study again") from error


def _states(book: Book, steps: Sequence[str]) -> tuple[dict[str, str], dict[str, float]]:
    """Of every step "done", or why it is not, and seconds of those that are."""
    seconds, outdated = book.recorded(steps)
    failed = book.failed(steps)
    states = {}
    for step in steps:
        again = "to be made again: what it is made of changed" if step in outdated else "not done yet"
        states[step] = DONE if step in seconds else f"failed: {failed[step]}" if step in failed else again
    return states, seconds


def _step_of(comparison: str, steps: Iterable[str]) -> str:
    return next(step for step in steps if step.removeprefix("compare ").replace(" ", ".") == comparison)


# ------------------------------------------------------------ what was scored


def _evaluated(root: Path, record: dict, runs: Mapping[str, dict], states: Mapping[str, str]) -> Iterable[Entry]:
    tables = {each["name"]: each for each in record["tables"] if isinstance(each, dict)}
    for step in states:
        if not step.startswith("evaluate "):
            continue
        _, name, split = step.split(" ")
        cell, run = _cell(name, tables, runs)
        about = (name, cell, runs[run]["repeat"] if run else "", split)
        if states[step] == DONE:
            found = _json(root / "evaluations" / f"{name}.{split}.json")
            in_labels = found.get("common", {}).get("same", {})
            findings = sorted(in_labels.get(row["finding"], row["finding"]) for row in found["all"]["findings"])
            images = json_bytes([found.get("hashes"), found["labels"], findings]).decode()
            yield Entry(*about, images, means(found["all"]))
        else:
            trained = states.get(f"train {run}", DONE)
            own = states[step]
            why = f"{run} {trained}" if own == "not done yet" and trained.startswith("failed") else own
            yield Entry(*about, why=why)


def _cell(name: str, tables: Mapping[str, dict], runs: Mapping[str, dict]) -> tuple[str, str]:
    """A table's name with the cell in the place of its run, and that run ("": of several)."""
    if name in runs:
        return runs[name]["cell"], name
    of = tables.get(name, {}).get("of", "")
    if not of or of == name or of not in name:
        return name, ""
    cell, run = _cell(of, tables, runs)
    return name.replace(of, cell, 1), run


def _validated(root: Path, runs: Mapping[str, dict], states: Mapping[str, str]) -> Iterable[Entry]:
    """Runs that have no evaluation on validation: their best epoch there."""
    for name, each in runs.items():
        state = states.get(f"train {name}", DONE)
        if f"evaluate {name} {FIT}" in states:
            continue
        about = (name, each["cell"], each["repeat"], FIT)
        if state == DONE:
            run = Run.open(root / "runs" / name)
            best = {metric: run.best[metric] for metric in ("mAP", "macro_AUROC") if metric in run.best}
            known = {metric: None if value != value else float(value) for metric, value in best.items()}
            yield Entry(*about, str(run.selection.get("val_sha256")), known)
        else:
            yield Entry(*about, why=state)


def _with_groups(entry: Entry, by_seed: Sequence[dict]) -> Entry:
    """The means that a comparison over seeds found of a run's own validation, which its epochs do not have."""
    more = {
        row["metric"]: row["values"][entry.repeat]
        for each in by_seed if each["split"] == entry.split == FIT
        for row in each["scores"] if row["run"] == entry.cell and entry.repeat in row["values"]
    }  # fmt: skip
    if entry.scores is None or not more:
        return entry
    return Entry(entry.name, entry.cell, entry.repeat, entry.split, entry.images, {**more, **entry.scores})


# ------------------------------------------------------------ over seeds and folds


def by_cell(entries: Sequence[Entry]) -> dict[str, dict[str, dict[str, Entry]]]:
    """By split, cell and repeat."""
    found: dict[str, dict[str, dict[str, Entry]]] = {}
    for each in entries:
        cell = found.setdefault(each.split, {}).setdefault(each.cell, {})
        if each.scores is not None:
            cell[each.repeat] = each
    return found


def _scores(entries: Sequence[Entry]) -> Iterable[dict]:
    for split, cells in by_cell(entries).items():
        known = [
            metric for metric in TESTED if any(metric in e.scores for cell in cells.values() for e in cell.values())
        ]
        for cell, repeats in cells.items():
            for metric in known or ["mAP"]:
                values = {repeat: each.scores.get(metric) for repeat, each in repeats.items()}
                there = [value for value in values.values() if value is not None]
                yield {"run": cell, "split": split, "metric": metric, "values": values, **spread(there)}


def _differences(entries: Sequence[Entry], baselines: Sequence[str]) -> Iterable[dict]:
    """Of each cell to the first that was judged on the same images; a baseline of the study's comparisons before."""
    for split, cells in by_cell(entries).items():
        order = sorted(cells, key=lambda cell: cell not in baselines)
        for place, cell in enumerate(order):
            for first in order[:place]:
                pairs = {
                    repeat: (each, cells[first][repeat])
                    for repeat, each in cells[cell].items()
                    if repeat in cells[first] and cells[first][repeat].images == each.images
                }
                if pairs:
                    about = {"run": cell, "against": first, "split": split}
                    yield from ({**about, **row} for row in _paired(pairs))
                    break


def _paired(pairs: Mapping[str, tuple[Entry, Entry]]) -> Iterable[dict]:
    for metric in TESTED:
        both = {repeat: [side.scores.get(metric) for side in pair] for repeat, pair in pairs.items()}
        values = {repeat: one - other for repeat, (one, other) in both.items() if None not in (one, other)}
        if values:
            yield {"metric": metric, "values": values, **tested(list(values.values()))}


def adjusted(rows: Sequence[dict], *family: str) -> list[dict]:
    """With p_holm: Holm's adjustment of p over the rows that are alike in these keys."""
    found: dict[int, float | None] = {}
    for alike in dict.fromkeys(tuple(row[key] for key in family) for row in rows):
        own = [place for place, row in enumerate(rows) if tuple(row[key] for key in family) == alike]
        found |= dict(zip(own, holm([rows[place]["p"] for place in own]), strict=True))
    return [{**row, "p_holm": found[place]} for place, row in enumerate(rows)]


def _patients(name: str, comparison: dict) -> Iterable[dict]:
    for row in comparison["differences"]:
        about = {"comparison": name, "run": row["run"], "against": row.get("against", comparison.get("baseline"))}
        numbers = {key: row.get(key) for key in ("difference", "low", "high", "p", "p_holm")}
        yield {**about, "metric": row.get("metric", "mAP"), **numbers}
