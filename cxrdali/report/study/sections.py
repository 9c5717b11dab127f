"""The report's sections on a loss-design study: models, losses, backbones, and what follows training."""

from collections.abc import Sequence

import pandas as pd

from cxrdali.evaluate.same_images import differing_settings
from cxrdali.metrics.longtail import GROUPS
from cxrdali.models.loss import LOSSES
from cxrdali.models.tta import TTA
from cxrdali.report.calibration.page import WORDS, reliability
from cxrdali.report.comparison.page import comparison
from cxrdali.report.kit import html as page
from cxrdali.report.kit import svg as plots
from cxrdali.report.kit.html import Html, count, duration, join, missing, paragraph, score, sentence
from cxrdali.report.study.folder import Study, final
from cxrdali.report.study.scores import HALF, finding_groups, how_to_read, score_tables, scores_of
from cxrdali.report.training.models import epochs
from cxrdali.report.training.sources import Sources
from cxrdali.report.training.steps import SPLIT_NAMES
from cxrdali.runs.reader import Run
from shards.errors import UserError


def models(sources: Sources) -> Html:
    """What each model is, and how far it came."""
    runs = {run.path.name: run for run in sources.runs}
    rows = [(name, *_model_row(runs[name])) for name in sources.study.models if name in runs]
    absent = [name for name in sources.study.models if name not in runs]
    columns = ("Model", "Network", "Loss", "Starts from", "Size", "Epochs", "Best", "Val mAP", "Time")
    return join(
        page.table("What each model is", columns, rows) if rows else None,
        missing(f"No run of {sentence(absent)} yet.") if absent else None,
        page.details("What they are there for", page.table("Roles", ("", "Models"), _role_rows(sources.study), "text")),
    )


def _model_row(run: Run) -> tuple:
    about = (run.setting("arch"), run.setting("loss", "bce"), run.origin, f"{run.setting('size')} px")
    if not len(run.metrics):
        return (*about, epochs(run), *[page.NOTHING] * 3)
    spent = run.metrics[["train_seconds", "val_seconds"]].to_numpy().sum()
    return (*about, epochs(run), count(run.best["epoch"]), score(run.best["mAP"]), duration(spent))


def _role_rows(study: Study) -> list[tuple]:
    roles = study.roles
    words = {
        "losses": "Losses on one network", "backbones": "Networks with one loss, averaged in the ensemble",
        "retrained": "Classifier retrained on a frozen backbone (cRT)", "others": "In no comparison",
    }  # fmt: skip
    rows = [(words[role], ", ".join(roles[role])) for role in words if roles[role]]
    main = "Main model: test-time augmentation and every calibration are shown on it"
    return [*rows, (main, roles["main"])]


def losses(sources: Sources) -> Html:
    study = sources.study
    rows = dict.fromkeys(study.roles["losses"], ())
    return join(
        _what_differs(sources, study.roles["losses"], ("loss", *LOSSES.parameters()), "the loss"),
        how_to_read(sources),
        score_tables(sources, "Losses", rows, ("Model",)),
        _group_figure(sources, list(rows), "losses"),
        _curves(sources, study.roles["losses"], "losses"),
        _compared(study, "losses"),
    )


def backbones(sources: Sources) -> Html:
    study = sources.study
    rows = dict.fromkeys(study.roles["backbones"], ())
    return join(
        _what_differs(sources, study.roles["backbones"], ("arch",), "the network"),
        score_tables(sources, "Backbones", rows, ("Model",)),
        _curves(sources, study.roles["backbones"], "backbones"),
        _compared(study, "backbones"),
    )


def retrained(sources: Sources) -> Html | None:
    """cRT: the classifier retrained on balanced draws, against the run that it starts from."""
    study = sources.study
    if not study.roles["retrained"]:
        return None
    names = [study.roles["main"], *study.roles["retrained"]]
    rows = {name: (_setting(sources, name, "sampler"),) for name in names}
    drawn = {_setting(sources, name, "sampler") for name in study.roles["retrained"]}
    return join(
        paragraph(
            "The backbone is frozen; its classifier is trained anew (cRT, Kang et al., 2020). "
            + (
                "Class-balanced draws: an image is drawn by the weight of its rarest finding."
                if drawn == {"class-balanced"}
                else "The method has class-balanced draws; those here are in the table."
            )
        ),
        score_tables(sources, "Before and after retraining the classifier", rows, ("Model", "Draws")),
        _compared(study, "retrained"),
    )


def augmented(sources: Sources) -> Html | None:
    """Test-time augmentation of the main model."""
    study = sources.study
    tables = study.of_kind("tta")
    if not tables:
        return None
    rows = {table.of: ("1",) for table in tables} | {table.name: (str(len(TTA[table.how])),) for table in tables}
    return join(
        paragraph(f"{study.roles['main']}, predicted once and from several views of the same image, averaged."),
        score_tables(sources, "Test-time augmentation", rows, ("Predictions", "Passes")),
    )


def calibrations(sources: Sources) -> Html | None:
    """What each method does to the main model, and the final one's reliability diagram."""
    study = sources.study
    tables = study.of_kind("calibrated")
    if not tables:
        return None
    rows = []
    for (of, method), each in study.calibrations.items():
        kept = sum(bool(rule.kept) for rule in each.rules)
        pairs = [f"{each.macro(name, when):.4f}" for name in ("ece", "brier") for when in ("before", "after")]
        held = [_test_errors(study, of, f"{of}+{method}", split) for split in ("dev", "test")]
        rows.append((f"{of}: {method}", *pairs, *held, count(kept)))
    shown = [(of, method, each) for (of, method), each in study.calibrations.items() if of != study.roles["main"]]
    shown = shown or [(of, method, each) for (of, method), each in study.calibrations.items()][:1]
    columns = ("Table and method", "ECE, val", "After", "Brier, val", "After", "ECE, dev", "ECE, test", "Kept as is")
    return join(
        paragraph(
            "Fitted on validation. Validation figures are cross-fitted over subjects, so the gain is not the fit's "
            "own; development and test: before → after, with the rules fitted on all of validation. Kept as is: "
            "findings with too few positives for a fit, or whose logits do not allow one."
        ),
        page.table("Calibration error before and after", columns, rows) if rows else missing("Not calibrated yet."),
        *(
            join(page.heading(f"{of}, {WORDS[method]}"), reliability(each, f"reliability-{place}"))
            for place, (of, method, each) in enumerate(shown)
        ),
    )


def _test_errors(study: Study, before: str, after: str, split: str) -> str:
    found = [study.evaluations.get((name, split)) for name in (before, after)]
    values = [each and each.content["all"].get("macro_ECE") for each in found]
    return page.NOTHING if None in values else f"{values[0]:.4f} → {values[1]:.4f}"


def decisions(sources: Sources) -> Html | None:
    """F1 at 0.5 against fitted thresholds, and the final table's thresholds by finding."""
    study = sources.study
    if not study.thresholds:
        return missing("No thresholds were fitted yet.")
    rows, end = [], final(study)
    for table in study.tables:
        rules = study.thresholds.get(table.name)
        if rules is None or (table.kind == "calibrated" and table.name != end):
            continue  # calibration keeps the ranking, so its fitted thresholds decide the same
        # a calibration saw these images: probability 0.5 is where it put it
        half = page.NOTHING if table.kind == "calibrated" else score(rules.macros["macro_F1_half"])
        cells = [half, score(rules.macros["macro_F1"])]
        for split in ("dev", "test"):
            found = scores_of(study, table.name, split, {}) or {}
            cells += [score(found.get(HALF)), score(found.get("F1"))]
        rows.append((table.name, *cells))
    columns = ("Predictions", "Val, 0.5", "Val, fitted", "Dev, 0.5", "Dev, fitted", "Test, 0.5", "Test, fitted")
    return join(
        paragraph(
            f"Macro F1 at probability 0.5, and with a threshold per finding ({study.strategy}) fitted on validation. "
            "Validation figures of fitted thresholds are cross-fitted over subjects."
        ),
        page.table("Macro F1", columns, rows),
        page.details(f"Thresholds of {end}, by finding", _threshold_table(study, end))
        if end in study.thresholds
        else None,
    )


def _threshold_table(study: Study, name: str) -> Html:
    rows = [
        (
            rule.finding, count(rule.positives), "never" if rule.probability is None else f"{rule.probability:.4f}",
            *(score(value) for value in (rule.F1, rule.precision, rule.recall, rule.specificity)),
        )
        for rule in sorted(study.thresholds[name].rules, key=lambda rule: -rule.positives)
    ]  # fmt: skip
    remarks = [f"{rule.finding}: {rule.remark}" for rule in study.thresholds[name].rules if rule.remark]
    columns = ("Finding", "Positives", "Probability", "F1", "Precision", "Recall", "Specificity")
    return join(
        page.table(f"Thresholds and what they yield on validation, cross-fitted, {name}", columns, rows),
        paragraph(f"{'; '.join(remarks)}.", "soft") if remarks else None,
    )


def pooled(sources: Sources) -> Html | None:
    """The ensemble of the backbones and its members."""
    study = sources.study
    tables = study.of_kind("ensemble")
    if not tables:
        return None
    weights = study.weights
    rows = {name: (f"{weights[name]:.3f}" if name in weights else page.NOTHING,) for name in study.roles["backbones"]}
    rows |= {table.name: ("",) for table in tables}
    return join(
        paragraph(
            "The mean probability of the backbones, with equal weights and with weights proportional to each member's "
            "validation mAP. The weights are made from validation, so the scores there flatter them a little."
        ),
        score_tables(sources, "Members and ensembles", rows, ("Predictions", "Weight")),
    )


def time_of_steps(sources: Sources) -> Html:
    """Seconds of each kind of step, and of each."""
    known = {name: seconds for name, seconds in sources.study.seconds.items() if seconds is not None}
    if not known:
        return missing("No step is done yet.")
    kinds = pd.Series(known).groupby(lambda name: name.split(" ")[0], sort=False).agg(["count", "sum"])
    rows = [(kind, count(row["count"]), duration(row["sum"])) for kind, row in kinds.iterrows()]
    rows.append(("All", count(len(known)), duration(sum(known.values()))))
    each = [(name, duration(seconds)) for name, seconds in known.items()]
    return join(
        page.table("Time by kind of step", ("Steps", "How many", "Time"), rows),
        page.details("Every step", page.table("Time of every step", ("Step", "Time"), each)),
    )


# ---------------------------------------------------------------- pieces


def _what_differs(sources: Sources, names: Sequence[str], own: Sequence[str], what: str) -> Html | None:
    """own: settings in which models of this role differ; which others do is said."""
    among = [run for run in sources.runs if run.path.name in names]
    if len(among) < 2:
        return None
    others = [row["setting"] for row in differing_settings(among) if row["setting"] not in own]
    if others:
        return missing(f"Not {what} alone differs: {sentence(others)} too, so a difference may be theirs.")
    return paragraph(f"The same images, order, schedule and all other settings; {what} alone differs.")


def _setting(sources: Sources, name: str, key: str) -> str:
    run = next((run for run in sources.runs if run.path.name == name), None)
    return page.NOTHING if run is None else str(run.setting(key, {"loss": "bce", "sampler": "natural"}.get(key, "")))


def _compared(study: Study, what: str) -> Html | None:
    found = study.comparisons.get(what)
    if found is None:
        return None
    try:
        drawn = comparison(found)
        title = f"Are the differences more than chance? Each against {found['baseline']}, on validation"
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"{study.path / 'comparisons' / what}.json: not as this version writes it ({error!r}); delete it and run "
            "the same `cxrdali loss-design` again"
        ) from error
    return page.details(title, drawn)


def _group_figure(sources: Sources, names: Sequence[str], what: str) -> Html | None:
    """mAP of head, medium and tail findings by model."""
    study, group = sources.study, finding_groups(sources)
    if not group or not study.splits:
        return None
    split = study.splits[0]
    found = {name: scores_of(study, name, split, group) for name in names}
    table = pd.DataFrame({name: cells for name, cells in found.items() if cells}).T
    shown = [name for name in GROUPS if name in table and table[name].notna().any()]
    if len(table) < 2 or not shown:
        return None
    table = table[["mAP", *shown]].astype(float).rename(columns={"mAP": "all findings"})
    return page.figure(
        plots.svgs(plots.ap_per_finding(table), f"groups-{what}"),
        f"Dot plot of mAP of head, medium and tail findings for each of {sentence(list(table.index))}.",
        f"mAP over all findings and over head, medium and tail ones, {SPLIT_NAMES[split]}.",
    )


def _curves(sources: Sources, names: Sequence[str], what: str) -> Html | None:
    wanted = [run for run in sources.runs if run.path.name in names and len(run.metrics)]
    if not wanted:
        return None
    lines = [plots.Line(run.name, None, 0, run.metrics, run.best_place, None) for run in wanted]
    return page.details(
        f"Learning curves of the {what}",
        page.figure(
            plots.svgs(plots.branches(lines), f"curves-{what}"),
            f"Line charts of losses and validation mAP of {sentence([run.name for run in wanted])}.",
            "Training loss, each run's own, so that different losses do not compare; validation loss, plain binary "
            "cross-entropy for all; validation mAP. Stars: best epochs.",
        ),
    )
