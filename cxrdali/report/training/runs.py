"""The report's sections on the runs themselves: at a glance, learning curves, AP per finding, time."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from cxrdali.report.kit import plots
from cxrdali.report.kit.numbers import count, duration, sentence
from cxrdali.report.kit.page import Figure
from cxrdali.report.kit.tables import Table
from cxrdali.report.training import plots as run_plots
from cxrdali.report.training import roc
from cxrdali.report.training.folder import SPLITS
from cxrdali.report.training.lineage import Placed, is_line, lineage
from cxrdali.report.training.models import epochs, sizes
from cxrdali.report.training.sources import Sources
from cxrdali.report.training.steps import SPLIT_NAMES, ap_table, last_step, without_ap
from cxrdali.runs.layout import MODELS
from cxrdali.runs.reader import Run

STAGES = (1, 2, 3)
MOST_DOTS = 4  # runs in the drawing of AP per finding; with more, a row of dots is a heap
TIMES = ("Training", "Waiting for data", "Validation", "Total")


def summary(sources: Sources) -> dict:
    """Scores of held-out images, the best run, and one row per run where no table of models has them."""
    trained = sources.trained
    held_out = _held_out(sources)
    return {
        "trained": bool(trained),
        "held_out": held_out,
        "held_out_table": _held_out_table(held_out) if len(held_out) > 1 else None,
        "best": _best_run(trained),
        "runs": _summary_table(trained) if trained and not any(run.recipe for run in sources.runs) else None,
        "missing_runs": _missing_runs(sources),
        "in_table": sources.table is not None and any(row["split"] in SPLITS[:2] for row in sources.table["scores"]),
        "seen": seen_images(sources),
    }


def _held_out(sources: Sources) -> list[dict]:
    """What every evaluation of images that no run chose anything by found, the test split first."""
    found = last_step(sources.folder) if sources.folder else None
    known = [(found[0], found[1], found[2].content)] if found else []
    given = [(each.name, each.content) for each in sources.evaluations]
    known += [(its.get("run") or its.get("predictions") or name, its.get("split"), its) for name, its in given]
    names = {run.path.resolve().name: run.name for run in sources.runs}
    return [
        {
            "name": names.get(name, name),
            "split": SPLIT_NAMES[split],
            **{key: content[key] for key in ("images", "studies", "labels")},
            "level": content.get("level") if content.get("draws") else None,
            "mAP": [content["all"].get(key) for key in ("mAP", "mAP_low", "mAP_high")],
            "macro_AUROC": content["all"]["macro_AUROC"],
            "stranger": bool(names) and _made_by(content).isdisjoint(names) and content.get("run") is not None,
        }
        for split in SPLITS[:2]
        for name, its, content in known
        if its == split
    ]


def _made_by(content: dict) -> set[str]:
    """The runs whose predictions were evaluated: of an ensemble its members."""
    return set((content.get("run") or "").removeprefix("ensemble of ").split(", "))


def _held_out_table(held_out: list[dict]) -> Table:
    columns = [
        ("Predictions", "text"), ("Split", "text"), ("mAP", "interval"), ("Macro AUROC", "score"), ("Images", "count"),
        ("Studies", "count"), ("Labels", "text"),
    ]  # fmt: skip
    keys = ("name", "split", "mAP", "macro_AUROC", "images", "studies", "labels")
    return Table("Scores on held-out images", columns, [tuple(each[key] for key in keys) for each in held_out])


def seen_images(sources: Sources) -> list[str]:
    """Scores of images that were trained on: whose, and how many images."""
    folder = sources.folder or sources.study
    inside = folder.evaluations.items() if folder else ()
    said = [(run.name, run.config) for run in sources.trained]
    said += [(f"{name}, {SPLIT_NAMES[split]}", each.content) for (name, split), each in inside]
    said += [(each.name, each.content) for each in sources.evaluations]
    return [f"{name}: {text}." for name, content in said for text in content.get("seen") or ()]


def _best_run(trained: list[Run]) -> dict | None:
    if not any(run.best["mAP"] >= 0 for run in trained):
        return None
    top = _top(trained)
    spent = sum(run.metrics[["train_seconds", "val_seconds"]].to_numpy().sum() for run in trained)
    return {
        **{"run": top.name, "epoch": top.best["epoch"], "mAP": top.best["mAP"], "by": top.chosen_by},
        "images": top.selection.get("val_images"),
        "seconds_of_all_runs": spent,
    }


def _top(trained: Sequence[Run]) -> Run:
    """The run of the highest validation mAP; the first if it is undefined in all."""
    return max(trained, key=lambda run: np.nan_to_num(run.best["mAP"], nan=-1))


def _summary_table(trained: list[Run]) -> Table:
    by = sentence(sorted({run.chosen_by for run in trained}))
    columns = [
        ("Run", "text"), ("Validation mAP", "score"), ("Best epoch", "count"), ("Epochs", "text"), ("Size", "pixels"),
        ("Batch", "count"), ("Images/s", "count"), ("Training", "duration"), ("of it waiting", "duration"),
        ("Validation", "duration"),
    ]  # fmt: skip
    rows = []
    for run in trained:
        spent = run.metrics[["train_seconds", "wait_seconds", "val_seconds"]].sum()
        best_epoch = None if np.isnan(run.best["mAP"]) else run.best["epoch"]
        setup = (epochs(run), sizes(run), run.setting("batch"))
        rows.append((run.name, run.best["mAP"], best_epoch, *setup, _rate(run), *spent))
    caption = "One row per run. mAP is on the validation images at the best epoch, chosen on them by the highest"
    return Table(f"{caption} {by}", columns, rows)


def _rate(run: Run) -> float | None:
    """Training images per second, waiting included; None for a run that counts studies."""
    if run.settings.study:
        return None
    spent = run.metrics[["images", "train_seconds"]].sum()
    return spent["images"] / spent["train_seconds"] if spent["train_seconds"] else None


def _missing_runs(sources: Sources) -> dict:
    """Which models, stages and epochs are not there."""
    runs, folder = sources.runs, None if sources.table else sources.folder  # a study says itself what is missing
    models = folder.models if folder else MODELS if any(run.recipe for run in runs) else ()
    absent = [name for name in models if name not in {run.recipe.get("name") for run in runs}]
    stages = {run.setting("stage") for run in runs}
    is_one_of_stages = not models and bool(stages & set(STAGES))
    return {
        "without_run": not runs and not folder,
        "in_folder": folder is not None,
        "models": absent if folder or len(absent) < len(models) else [],
        "stages": [str(stage) for stage in STAGES if stage not in stages] if is_one_of_stages else [],
        "submission": folder is not None and not folder.submission,
        "waiting": [run.name for run in runs if not len(run.metrics)],
        "unread": list(map(str, sources.unread)),
    }


def curves(sources: Sources) -> dict:
    """Losses and mAP over all stages: one line, or one that branches where several runs start from the same."""
    if not sources.trained:
        return {"missing": "No run has a complete epoch, so there are no curves to draw."}
    placed = [each for each in lineage(sources.runs) if len(each.run.metrics)]
    one_line = is_line(placed)
    lines = [line for each in placed for line in (lines_of(each) if one_line else [line_of(each)])]
    return {
        "one_line": one_line,
        "runs": [each.run.name for each in placed],
        "figure": Figure("curves", run_plots.curves if one_line else run_plots.branches, (lines,)),
        "places": None if one_line else _places_table(placed),
        "orphans": [
            f"{each.run.name} starts from {each.run.origin}"
            for each in placed
            if each.parent is None and each.run.setting("init")
        ],
    }


def line_of(placed: Placed) -> run_plots.Line:
    run, parent = placed.run, placed.parent
    last = parent.reached.iloc[-1] if parent is not None and len(parent.metrics) else None
    return run_plots.Line(
        run.name, run.reached, run.best_place, run.setting("stage"), run.setting("size"), placed.before, last
    )


def lines_of(placed: Placed) -> list[run_plots.Line]:
    """One for each size that a run has reached: mAP of two sizes is not compared."""
    line, found = line_of(placed), []
    for each in placed.run.settings.segments:
        rows = line.metrics.iloc[each.start : each.end]
        if len(rows):
            values = rows[placed.run.chosen_by]
            best = len(values) - 1 if values.isna().all() else int(values.argmax())
            found.append(replace(line, metrics=rows, best=best, size=each.size, before=line.before + each.start))
    return found


def _places_table(placed: list[Placed]) -> Table:
    columns = [
        ("Run", "text"), ("Starts from", "text"), ("Epochs on the axis", "text"), ("Best at", "text"),
        ("Last training loss", "score"), ("Last validation loss", "score"), ("Best mAP", "score"),
    ]  # fmt: skip
    rows = [
        (
            each.run.name, each.run.origin, f"{each.before + 1} to {each.before + len(each.run.metrics)}",
            each.before + each.run.best_place + 1, each.run.reached["train_loss"].iloc[-1],
            each.run.reached["val_loss"].iloc[-1], each.run.best["mAP"],
        )
        for each in placed
    ]  # fmt: skip
    return Table("Epochs on the axis", columns, rows)


def findings(sources: Sources) -> dict:
    """AP per finding at each run's best epoch, side by side."""
    trained = [run for run in sources.trained if len(run.best_findings)]
    if not trained:
        return {"missing": "No run has scores per finding yet; a run writes them with its first complete epoch."}
    tables = {run.name: run.best_findings for run in trained}
    ap, facts = ap_table(
        {
            name: table.assign(prevalence=table["positives"] / (table["positives"] + table["negatives"]))
            for name, table in tables.items()
        }
    )
    undefined = [name for name in ap.index if ap.loc[name].isna().all()]
    known = ap.drop(index=undefined)
    counts = [run.train_positives for run in trained if "train_positives" in run.config]
    few = len(trained) <= MOST_DOTS
    figure = Figure("findings", plots.ap_per_finding, (known, facts.loc[known.index, "prevalence"]))
    return {
        "few_runs": few,
        "figure": figure if len(known) and few else None,
        "table": _findings_table(trained, ap, facts),
        "curves": roc.of_validation(_top(trained), sources.dataset),
        "without_ap": without_ap(ap, facts),
        "without_training": [name for name in known.index if any(each.get(name) == 0 for each in counts)],
        "different_images": len({run.selection.get("val_sha256") for run in trained}) > 1,
    }


def _findings_table(runs: list[Run], ap: pd.DataFrame, facts: pd.DataFrame) -> Table:
    scores = [("Mean over findings (mAP)", [run.best["mAP"] for run in runs])]
    scores += [(name, list(values)) for name, values in ap.iterrows()]
    counts = [("", ""), *facts[["positives", "prevalence"]].itertuples(index=False)]
    return Table(
        "Average precision per finding",
        [
            ("Finding", "text"),
            *((run.name, "score") for run in runs),
            ("Positives", "count"),
            ("Prevalence", "percent"),
        ],
        [(name, *values, *known) for (name, values), known in zip(scores, counts, strict=True)],
    )


def time_spent(sources: Sources) -> dict:
    """Where the seconds of every run, epoch and stage went."""
    trained = sources.trained
    if not trained:
        return {"missing": "No run has a complete epoch, so no time was measured."}
    table = seconds_table(trained)
    rows = [(name, *_times(parts)) for name, parts in table.iterrows()]
    if len(rows) > 1:
        rows.append(("All runs", *_times(table.sum())))
    return {
        "figure": Figure("seconds", run_plots.seconds, (table,)),
        "runs": _times_table("Time per run", "Run", rows),
        "epochs": _epoch_table(trained),
        "stages": _stage_times(trained, table),
        "steps": _step_times(sources),
    }


def _times_table(caption: str, of: str, rows: Sequence[tuple]) -> Table:
    columns = [(of, "text"), *((name, "duration") for name in TIMES), ("Waiting, of training time", "percent")]
    return Table(caption, columns, rows)


def _epoch_table(trained: list[Run]) -> Table:
    columns = [
        ("Run", "text"), ("Epochs", "count"), ("Images/s", "count"), ("Training and waiting", "duration"),
        ("Validation", "duration"), ("Both", "duration"), ("Slowest", "text"),
    ]  # fmt: skip
    rows = []
    for run in trained:
        both = run.metrics["train_seconds"] + run.metrics["val_seconds"]
        medians = [each.median() for each in (run.metrics["train_seconds"], run.metrics["val_seconds"], both)]
        slowest = f"{duration(both.max())} (epoch {count(run.metrics['epoch'][both.idxmax()])})"
        rows.append((run.name, len(both), _rate(run), *medians, slowest))
    return Table("Time per epoch: median of the run's epochs, and the slowest", columns, rows)


def _stage_times(trained: list[Run], table: pd.DataFrame) -> Table | None:
    """Sums over the runs of a stage, where a stage has several."""
    stages = pd.Series({run.name: run.setting("stage") for run in trained}, dtype=object).dropna()
    if stages.nunique() == len(trained):
        return None
    rows = []
    for stage, names in stages.groupby(stages).groups.items():
        title = f"Stage {stage}: {names[0] if len(names) == 1 else f'{len(names)} runs'}"
        rows.append((title, *_times(table.loc[names].sum())))
    return _times_table("Time per stage", "Stage", rows) if rows else None


def _step_times(sources: Sources) -> Table | None:
    """The steps that `cxrdali paper` has noted."""
    if not (sources.folder and sources.folder.steps):
        return None
    rows = [(step["name"], step["status"], step.get("seconds")) for step in sources.folder.steps]
    return Table("Steps", [("Step", "text"), ("Status", "text"), ("Time", "duration")], rows)


def seconds_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Seconds by run: training (without waiting), waiting for data, validation."""
    rows = {}
    for run in runs:
        spent = run.metrics[["train_seconds", "wait_seconds", "val_seconds"]].sum()
        rows[run.name] = {
            "training": spent["train_seconds"] - spent["wait_seconds"],
            "waiting for data": spent["wait_seconds"],
            "validation": spent["val_seconds"],
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _times(parts: pd.Series) -> tuple:
    both = parts["training"] + parts["waiting for data"]
    share = parts["waiting for data"] / both if both else None
    return (*(parts[name] for name in run_plots.TIME_COLOURS), parts.sum(), share)
