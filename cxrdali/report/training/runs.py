"""The report's sections on the runs themselves: at a glance, learning curves, AP per finding, time."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxrdali.report.kit import html as page
from cxrdali.report.kit import svg as plots
from cxrdali.report.kit.html import Html, count, duration, join, missing, paragraph, percent, score, sentence
from cxrdali.report.training.lineage import Placed, is_line, lineage
from cxrdali.report.training.models import epochs
from cxrdali.report.training.sources import Sources
from cxrdali.report.training.steps import SPLIT_NAMES, last_step
from cxrdali.runs.layout import MODELS
from cxrdali.runs.reader import Run

STAGES = (1, 2, 3)
MOST_DOTS = 4  # runs in the drawing of AP per finding; with more, a row of dots is a heap


def summary(sources: Sources) -> Html:
    """The best run in a sentence, and one row per run where no table of models has them."""
    trained = sources.trained
    columns = ("Run", "Size", "Batch", "Epochs", "mAP", "Best epoch", "Images/s", "Training", "of it waiting",
               "Validation")  # fmt: skip
    return join(
        _headline(trained) if trained else None,
        _reached(sources),
        page.table(_glance_caption(trained), columns, [_summary_row(run) for run in trained])
        if trained and not any(run.recipe for run in sources.runs)
        else None,
        _missing_runs(sources),
    )


def _headline(trained: list[Run]) -> Html | None:
    scored = [run for run in trained if not np.isnan(run.best["mAP"])]
    if not scored:
        return paragraph("No validation image has any of the findings, so no mAP is defined.", "lead")
    top = max(scored, key=lambda run: run.best["mAP"])
    spent = sum(run.metrics[["train_seconds", "val_seconds"]].to_numpy().sum() for run in trained)
    return paragraph(
        Html(
            f"The best validation mAP is {page.bold(score(top.best['mAP']))} ({page.safe(top.name)}, "
            f"epoch {count(top.best['epoch'])}), after {page.bold(duration(spent))} of training and validation in all."
        ),
        "lead",
    )


def _reached(sources: Sources) -> Html | None:
    """How far the steps of the paper have come."""
    found = last_step(sources.folder) if sources.folder else None
    if found is None:
        return None
    name, split, evaluation = found
    return paragraph(
        Html(f"On the {SPLIT_NAMES[split]}, {page.safe(name)} reaches a mAP of {page.bold(score(evaluation.mean))}."),
        "lead",
    )


def _glance_caption(trained: list[Run]) -> str:
    by = sentence(sorted({run.chosen_by for run in trained}))
    return f"One row per run. mAP is on the validation images at the best epoch, the one with the highest {by}"


def _summary_row(run: Run) -> tuple:
    spent = run.metrics[["images", "train_seconds", "wait_seconds", "val_seconds"]].sum()
    return (
        run.name,
        f"{run.setting('size', page.NOTHING)} px",
        count(run.setting("batch")),
        epochs(run),
        score(run.best["mAP"]),
        page.NOTHING if np.isnan(run.best["mAP"]) else count(run.best["epoch"]),
        count(_rate(run)),
        duration(spent["train_seconds"]),
        duration(spent["wait_seconds"]),
        duration(spent["val_seconds"]),
    )


def _rate(run: Run) -> float | None:
    """Training images per second, waiting included."""
    spent = run.metrics[["images", "train_seconds"]].sum()
    return spent["images"] / spent["train_seconds"] if spent["train_seconds"] else None


def _missing_runs(sources: Sources) -> Html | None:
    """Which models, stages and epochs are not there."""
    said = []
    if sources.folder:
        said += _missing_in_folder(sources)
    elif not sources.runs:
        return missing("No run was given. `cxrdali train` writes one; give its folder.")
    elif any(run.recipe for run in sources.runs):
        absent = _absent(MODELS, sources.runs)
        if 0 < len(absent) < len(MODELS):
            said.append(f"No run of {sentence(absent)} was given.")
    else:
        stages = {run.setting("stage") for run in sources.runs}
        absent = [str(stage) for stage in STAGES if stage not in stages]
        if absent and stages & set(STAGES):
            said.append(f"No run of stage {sentence(absent)} was given.")
    waiting = [run.name for run in sources.runs if not len(run.metrics)]
    if waiting:
        said.append(f"No epoch of {sentence(waiting)} is complete yet.")
    if sources.unread:
        said.append(f"No run (no config.json), so left out: {sentence([str(path) for path in sources.unread])}.")
    return missing(" ".join(said)) if said else None


def _missing_in_folder(sources: Sources) -> list[str]:
    folder, said = sources.folder, []
    absent = _absent(folder.models, sources.runs)
    if absent:
        said.append(f"No run of {sentence(absent)} yet.")
    if not folder.submission:
        said.append("No submission.zip yet.")
    return said


def _absent(models: Sequence[str], runs: Sequence[Run]) -> list[str]:
    there = {run.recipe.get("name") for run in runs}
    return [name for name in models if name not in there]


def curves(sources: Sources) -> Html:
    """Losses and mAP over all stages: one line, or one that branches where several runs start from the same."""
    if not sources.trained:
        return missing("No run has a complete epoch, so there are no curves to draw.")
    placed = [each for each in lineage(sources.runs) if len(each.run.metrics)]
    names = sentence([each.run.name for each in placed])
    orphans = [
        f"{each.run.name} starts from {each.run.origin}"
        for each in placed
        if each.parent is None and each.run.setting("init")
    ]
    if is_line(placed):
        stages = [(each.run.name, each.run.setting("size"), each.run.metrics, each.run.best_place) for each in placed]
        drawing, caption = plots.curves(stages), (
            "Loss (above) and validation mAP (below). Dashed lines: a new stage begins. "
            "Rings: the best epoch of each stage."
        )  # fmt: skip
    else:
        drawing, caption = plots.branches([_line(each) for each in placed]), (
            "Training loss, validation loss and validation mAP. A run continues on the axis after the last epoch of "
            "the run that it starts from; thin lines join the two. Dashed lines: runs begin. Stars: best epochs."
        )  # fmt: skip
    return join(
        page.figure(
            plots.svgs(drawing, "curves"),
            f"Line charts of training loss, validation loss and validation mAP over the epochs of {names}.",
            caption,
        ),
        page.details("Where each run stands on the axis", _places_table(placed)) if not is_line(placed) else None,
        missing(f"Not among the runs: what {sentence(orphans)}. Drawn from epoch 1.") if orphans else None,
    )


def _line(placed: Placed) -> plots.Line:
    run, parent = placed.run, placed.parent
    last = parent.metrics.iloc[-1] if parent is not None and len(parent.metrics) else None
    return plots.Line(run.name, run.setting("stage"), placed.before, run.metrics, run.best_place, last)


def _places_table(placed: list[Placed]) -> Html:
    rows = [
        (
            each.run.name, each.run.origin, f"{each.before + 1} to {each.before + len(each.run.metrics)}",
            each.before + each.run.best_place + 1, score(each.run.metrics["train_loss"].iloc[-1]),
            score(each.run.metrics["val_loss"].iloc[-1]), score(each.run.best["mAP"]),
        )
        for each in placed
    ]  # fmt: skip
    columns = ("Run", "Starts from", "Epochs on the axis", "Best at", "Last training loss", "Last validation loss",
               "Best mAP")  # fmt: skip
    return page.table("Epochs on the axis", columns, rows)


def findings(sources: Sources) -> Html:
    """AP per finding at each run's best epoch, side by side."""
    trained = [run for run in sources.trained if len(run.best_findings)]
    if not trained:
        return missing("No run has scores per finding yet; a run writes them with its first complete epoch.")
    ap, facts = ap_table(trained)
    undefined = [name for name in ap.index if ap.loc[name].isna().all()]
    drawn = ap.drop(index=undefined)
    return join(
        paragraph(
            "Average precision on the validation images, each run at its best epoch, most frequent finding first. "
            "The best epoch was chosen on these same images, so the values are a little too good; "
            "with few positives they are also uncertain."
        ),
        _different_validation(trained),
        page.figure(
            plots.svgs(plots.ap_per_finding(drawn, facts.loc[drawn.index, "prevalence"]), "findings"),
            "Dot plot of average precision per finding, one dot per run; the table below has the numbers.",
            "Average precision per finding. Grey ticks: the prevalence, which is what guessing would score.",
        )
        if len(drawn) and len(trained) <= MOST_DOTS
        else None,
        _ap_html(trained, ap, facts)
        if len(trained) <= MOST_DOTS
        else page.details("Every finding and run", _ap_html(trained, ap, facts)),
        paragraph(
            f"Without a positive validation image, so without AP and left out of mAP: {sentence(undefined)}.", "soft"
        )
        if undefined
        else None,
    )


def ap_table(runs: Sequence[Run]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """AP by finding and run (NaN: undefined), and positives and prevalence by finding, most frequent first.

    Findings are matched by name; their counts are the last run's that has them.
    """
    ap = pd.concat({run.name: run.best_findings["AP"] for run in runs}, axis=1, sort=False)
    facts = pd.concat([run.best_findings[["positives", "negatives"]] for run in runs])
    facts = facts[~facts.index.duplicated(keep="last")].reindex(ap.index)
    facts["prevalence"] = facts["positives"] / (facts["positives"] + facts["negatives"])
    facts = facts.sort_values("positives", ascending=False, kind="stable")
    return ap.loc[facts.index], facts


def _ap_html(runs: list[Run], ap: pd.DataFrame, facts: pd.DataFrame) -> Html:
    means = pd.Series({run.name: run.best["mAP"] for run in runs})
    rows = [("Mean over findings (mAP)", *_best_in_bold(means), "", "")]
    rows += [
        (
            name,
            *_best_in_bold(ap.loc[name]),
            count(facts.loc[name, "positives"]),
            percent(facts.loc[name, "prevalence"]),
        )
        for name in ap.index
    ]
    return page.table(
        "Average precision per finding" + (", the best in bold" if len(runs) > 1 else ""),
        ("Finding", *(run.name for run in runs), "Positives", "Prevalence"),
        rows,
    )


def _best_in_bold(values: pd.Series) -> list[str]:
    """Compared before rounding; nothing to compare, nothing bold."""
    best = values.max() if values.notna().sum() > 1 else None
    return [page.bold(score(value)) if value == best else score(value) for value in values]


def _different_validation(runs: list[Run]) -> Html | None:
    if len({run.config.get("selection", {}).get("val_sha256") for run in runs}) == 1:
        return None
    return missing("These runs validated on different images, so their values are not comparable with one another.")


def time_spent(sources: Sources) -> Html:
    """Where the seconds of every run, epoch and stage went."""
    trained = sources.trained
    if not trained:
        return missing("No run has a complete epoch, so no time was measured.")
    table = seconds_table(trained)
    columns = ("Run", "Training", "Waiting for data", "Validation", "Total", "Waiting, of training time")
    rows = [(name, *_durations(parts)) for name, parts in table.iterrows()]
    if len(rows) > 1:
        rows.append(("All runs", *_durations(table.sum())))
    return join(
        page.figure(
            plots.svgs(plots.seconds(table), "seconds"),
            "Stacked bars of the time each run spent training, waiting for data and validating; numbers below.",
            "Time per run. Training is without the time that it waited for data.",
        ),
        page.table("Time per run", columns, rows),
        page.table(
            "Time per epoch: median of the run's epochs, and the slowest",
            ("Run", "Epochs", "Images/s", "Training and waiting", "Validation", "Both", "Slowest"),
            [_epoch_row(run) for run in trained],
        ),
        _stage_times(trained, table, columns),
        _step_times(sources),
    )


def _epoch_row(run: Run) -> tuple:
    both = run.metrics["train_seconds"] + run.metrics["val_seconds"]
    medians = (run.metrics["train_seconds"], run.metrics["val_seconds"], both)
    slowest = f"{duration(both.max())} (epoch {count(run.metrics['epoch'][both.idxmax()])})"
    return (run.name, count(len(both)), count(_rate(run)), *(duration(each.median()) for each in medians), slowest)


def _stage_times(trained: list[Run], table: pd.DataFrame, columns: Sequence[str]) -> Html | None:
    """Sums over the runs of a stage, where a stage has several."""
    stages = {run.name: run.setting("stage") for run in trained}
    known = sorted({stage for stage in stages.values() if stage is not None})
    if len(known) == len(trained):
        return None
    rows = []
    for stage in known:
        names = [name for name, its in stages.items() if its == stage]
        title = f"Stage {stage}: {names[0] if len(names) == 1 else f'{len(names)} runs'}"
        rows.append((title, *_durations(table.loc[names].sum())))
    return page.table("Time per stage", ("Stage", *columns[1:]), rows) if rows else None


def _step_times(sources: Sources) -> Html | None:
    """The steps that `cxrdali paper` has noted."""
    if not (sources.folder and sources.folder.steps):
        return None
    rows = [(step["name"], step["status"], duration(step.get("seconds"))) for step in sources.folder.steps]
    return page.details(
        "Every step of `cxrdali paper`".replace("`", ""), page.table("Steps", ("Step", "Status", "Time"), rows)
    )


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


def _durations(parts: pd.Series) -> tuple[str, ...]:
    both = parts["training"] + parts["waiting for data"]
    share = percent(parts["waiting for data"] / both) if both else page.NOTHING
    return (*(duration(parts[name]) for name in plots.TIME_COLOURS), duration(parts.sum()), share)
