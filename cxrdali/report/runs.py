"""The report's sections on the runs themselves: at a glance, learning curves, AP per finding, time."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cxrdali.report import page, plots
from cxrdali.report.page import Html, count, duration, join, missing, paragraph, percent, score, sentence
from cxrdali.report.sources import Run, Sources

STAGES = (1, 2, 3)


def summary(sources: Sources) -> Html:
    """One row per run, and the best of them in a sentence."""
    trained = sources.trained
    return join(
        _headline(trained) if trained else None,
        page.table(
            _glance_caption(trained),
            (
                "Stage",
                "Size",
                "Batch",
                "Epochs",
                "mAP",
                "Best epoch",
                "Images/s",
                "Training",
                "of it waiting",
                "Validation",
            ),
            [_summary_row(run) for run in trained],
        )
        if trained
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


def _glance_caption(trained: list[Run]) -> str:
    by = sentence(sorted({run.chosen_by for run in trained}))
    return f"One row per run. mAP is on the validation images at the best epoch, the one with the highest {by}"


def _summary_row(run: Run) -> tuple:
    done, planned = len(run.metrics), run.setting("epochs")
    spent = run.metrics[["images", "train_seconds", "wait_seconds", "val_seconds"]].sum()
    rate = spent["images"] / spent["train_seconds"] if spent["train_seconds"] else None
    return (
        run.name,
        f"{run.setting('size', page.NOTHING)} px",
        count(run.setting("batch")),
        count(done) if planned in (None, done) else f"{count(done)} of {count(planned)}",
        score(run.best["mAP"]),
        page.NOTHING if np.isnan(run.best["mAP"]) else count(run.best["epoch"]),
        count(rate),
        duration(spent["train_seconds"]),
        duration(spent["wait_seconds"]),
        duration(spent["val_seconds"]),
    )


def _missing_runs(sources: Sources) -> Html | None:
    """Which of the three stages, and which runs' epochs, are not there."""
    if not sources.runs:
        return missing("No run was given. `cxrdali train` writes one; give its folder.")
    said = []
    stages = {run.setting("stage") for run in sources.runs}
    absent = [str(stage) for stage in STAGES if stage not in stages]
    if absent and stages & set(STAGES):
        said.append(f"No run of stage {sentence(absent)} was given.")
    waiting = [run.name for run in sources.runs if not len(run.metrics)]
    if waiting:
        said.append(f"No epoch of {sentence(waiting)} is complete yet.")
    return missing(" ".join(said)) if said else None


def curves(sources: Sources) -> Html:
    """Losses and mAP over all stages."""
    trained = sources.trained
    if not trained:
        return missing("No run has a complete epoch, so there are no curves to draw.")
    stages = [(run.name, run.setting("size"), run.metrics, run.best_place) for run in trained]
    return join(
        page.figure(
            plots.svgs(plots.curves(stages), "curves"),
            f"Line charts of training loss, validation loss and validation mAP over the epochs of "
            f"{sentence([run.name for run in trained])}.",
            "Loss (above) and validation mAP (below). Dashed lines: a new stage begins. "
            "Rings: the best epoch of each stage.",
        ),
    )


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
            "Average precision on the validation images, each stage at its best epoch, most frequent finding first. "
            "The best epoch was chosen on these same images, so the values are a little too good; "
            "with few positives they are also uncertain."
        ),
        _different_validation(trained),
        page.figure(
            plots.svgs(plots.ap_per_finding(drawn, facts.loc[drawn.index, "prevalence"]), "findings"),
            "Dot plot of average precision per finding, one dot per stage; the table below has the numbers.",
            "Average precision per finding. Grey ticks: the prevalence, which is what guessing would score.",
        )
        if len(drawn)
        else None,
        _ap_html(trained, ap, facts),
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
    """Where the seconds of every stage went."""
    trained = sources.trained
    if not trained:
        return missing("No run has a complete epoch, so no time was measured.")
    table = seconds_table(trained)
    rows = [(name, *_durations(parts)) for name, parts in table.iterrows()]
    if len(rows) > 1:
        rows.append(("All stages", *_durations(table.sum())))
    return join(
        page.figure(
            plots.svgs(plots.seconds(table), "seconds"),
            "Stacked bars of the time each stage spent training, waiting for data and validating; numbers below.",
            "Time per stage. Training is without the time that it waited for data.",
        ),
        page.table(
            "Time per stage",
            ("Stage", "Training", "Waiting for data", "Validation", "Total", "Waiting, of training time"),
            rows,
        ),
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
