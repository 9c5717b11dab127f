"""The report's sections on a loss-design study: models, losses, backbones, and what follows training."""

from collections.abc import Sequence

import pandas as pd

from cxrdali.evaluate.same_images import differing_settings
from cxrdali.metrics.longtail import GROUPS
from cxrdali.models.loss import LOSSES
from cxrdali.models.tta import TTA
from cxrdali.report.as_published import as_published
from cxrdali.report.calibration.errors import error_table
from cxrdali.report.calibration.page import WORDS, reliability
from cxrdali.report.comparison.page import comparison
from cxrdali.report.kit import plots
from cxrdali.report.kit.page import Figure
from cxrdali.report.kit.tables import Table
from cxrdali.report.study.folder import Study, final
from cxrdali.report.study.scores import HALF, group_sizes, images_of, score_tables, scores_of
from cxrdali.report.training import plots as run_plots
from cxrdali.report.training.models import epochs, sizes
from cxrdali.report.training.sources import Sources
from cxrdali.report.training.steps import SPLIT_NAMES
from cxrdali.runs.reader import Run
from shards.errors import UserError

MODEL, PREDICTIONS = ("Model", "text"), ("Predictions", "text")
ROLES = {
    "losses": "Losses on one network",
    "backbones": "Networks with one loss, averaged in the ensemble",
    "retrained": "Classifier retrained on a frozen backbone (cRT)",
    "others": "In no comparison",
}


def models(sources: Sources) -> dict:
    """What each model is, and how far it came."""
    runs = {run.path.name: run for run in sources.runs}
    columns = [
        MODEL, ("Network", "text"), ("Loss", "text"), ("Starts from", "text"), ("Size", "pixels"), ("Epochs", "text"),
        ("Best", "count"), ("Val mAP", "score"), ("Time", "duration"),
    ]  # fmt: skip
    rows = [(name, *_model_row(runs[name])) for name in sources.study.models if name in runs]
    return {
        "table": Table("What each model is", columns, rows) if rows else None,
        "absent": [name for name in sources.study.models if name not in runs],
        "published": as_published("loss-design", sources.runs),
        "roles": Table("Roles", [("", "text"), ("Models", "text")], _role_rows(sources.study), "text"),
    }


def _model_row(run: Run) -> tuple:
    about = (run.setting("arch"), run.setting("loss", "bce"), run.origin, sizes(run), epochs(run))
    if not len(run.metrics):
        return (*about, None, None, None)
    spent = run.metrics[["train_seconds", "val_seconds"]].to_numpy().sum()
    return (*about, run.best["epoch"], run.best["mAP"], spent)


def _role_rows(study: Study) -> list[tuple]:
    rows = [(words, ", ".join(study.roles[role])) for role, words in ROLES.items() if study.roles[role]]
    return [*rows, ("Main model: test-time augmentation and every calibration are shown on it", study.roles["main"])]


def losses(sources: Sources) -> dict:
    names = sources.study.roles["losses"]
    return {
        "strategy": sources.study.strategy,
        "group_sizes": group_sizes(sources.study),
        "groups": _group_figure(sources.study, names),
        **_side_by_side(sources, "losses", ("loss", *LOSSES.parameters())),
    }


def backbones(sources: Sources) -> dict:
    return _side_by_side(sources, "backbones", ("arch",))


def _side_by_side(sources: Sources, what: str, own: Sequence[str]) -> dict:
    """Models of a role against each other. own: settings in which they are meant to differ."""
    names = sources.study.roles[what]
    return {
        "differing": _what_differs(sources, names, own),
        "scores": score_tables(sources, what.capitalize(), dict.fromkeys(names, ()), [MODEL]),
        "curves": _curves(sources, names, what),
        "comparison": _compared(sources.study, what),
    }


def retrained(sources: Sources) -> dict | None:
    """cRT: the classifier retrained on balanced samples, against the run that it starts from."""
    study = sources.study
    if not study.roles["retrained"]:
        return None
    runs = {run.path.name: run for run in sources.runs}
    names = study.roles["retrained"]
    starts = {name: runs[name].recipe.get("starts_from") if name in runs else None for name in names}
    rows = {}
    for name in dict.fromkeys(each for new in names for each in (starts[new] or study.roles["main"], new)):
        run = runs.get(name)
        kind = "" if run is None or name not in names else "new" if run.setting("new_head") else "kept"
        rows[name] = (run.setting("sampler", "natural") if run else None, kind)
    caption = "Before and after retraining the classifier"
    columns = [MODEL, ("Sampler", "text"), ("Classifier", "text")]
    compared = [what for what in study.comparisons if what.startswith("retrained")]
    return {
        "samplers": sorted({str(rows[name][0]) for name in names}),
        "scores": score_tables(sources, caption, rows, columns),
        "comparisons": [_compared(study, what) for what in compared],
    }


def augmented(sources: Sources) -> dict | None:
    """Test-time augmentation of the main model."""
    study = sources.study
    tables = study.of_kind("tta")
    if not tables:
        return None
    rows = {table.of: (1,) for table in tables} | {table.name: (len(TTA[table.how]),) for table in tables}
    columns = [PREDICTIONS, ("Passes", "count")]
    return {"main": study.roles["main"], "scores": score_tables(sources, "Test-time augmentation", rows, columns)}


def calibrations(sources: Sources) -> dict | None:
    """What each method does to the main model, and the final one's reliability diagram."""
    study = sources.study
    if not study.of_kind("calibrated"):
        return None
    columns = [
        ("Table and method", "text"), ("ECE, val", "small"), ("After", "small"), ("Brier, val", "small"),
        ("After", "small"), ("ECE, dev", "before_after"), ("ECE, test", "before_after"), ("Kept as is", "count"),
    ]  # fmt: skip
    rows = []
    for (of, method), each in study.calibrations.items():
        kept = sum(bool(rule.kept) for rule in each.rules)
        pairs = [each.macro(name, when) for name in ("ece", "brier") for when in ("before", "after")]
        held_out = [_test_errors(study, of, f"{of}+{method}", split) for split in ("dev", "test")]
        rows.append((f"{of}: {method}", *pairs, *held_out, kept))
    shown = [(of, method, each) for (of, method), each in study.calibrations.items() if of != study.roles["main"]]
    shown = shown or [(of, method, each) for (of, method), each in study.calibrations.items()][:1]
    split = study.splits[0] if study.splits else ""
    names = dict.fromkeys(name for of, method in study.calibrations for name in (of, f"{of}+{method}"))
    there = {name: study.evaluations[name, split] for name in names if (name, split) in study.evaluations}
    parts = [(name, each.content["all"]) for name, each in there.items()]
    return {
        "errors": error_table(f"Calibration error, {SPLIT_NAMES.get(split)}", "Predictions", parts),
        "fitted_on": next((each.made_from["images"] for each in study.calibrations.values()), None),
        "images": images_of(study),
        "table": Table("Calibration error before and after", columns, rows) if rows else None,
        "diagrams": [
            {"title": f"{of}, {WORDS[method]}", "calibration": reliability(each, f"reliability-{place}")}
            for place, (of, method, each) in enumerate(shown)
        ],
    }


def _test_errors(study: Study, before: str, after: str, split: str) -> list[float | None]:
    found = [study.evaluations.get((name, split)) for name in (before, after)]
    return [each.content["all"].get("macro_ECE") if each else None for each in found]


def decisions(sources: Sources) -> dict:
    """F1 at 0.5 against fitted thresholds, and the final table's thresholds by finding."""
    study = sources.study
    if not study.thresholds:
        return {"missing": "No thresholds were fitted yet."}
    rows, end = [], final(study)
    for table in study.tables:
        rules = study.thresholds.get(table.name)
        if rules is None or (table.kind == "calibrated" and table.name != end):
            continue  # calibration keeps the ranking, so its fitted thresholds decide the same
        # a calibration saw these images: probability 0.5 is where it put it
        cells = [None if table.kind == "calibrated" else rules.macros["macro_F1_half"], rules.macros["macro_F1"]]
        for split in ("dev", "test"):
            found = scores_of(study, table.name, split) or {}
            cells += [found.get(HALF), found.get("F1")]
        rows.append((table.name, *cells))
    columns = [f"{split}, {at}" for split in ("Val", "Dev", "Test") for at in ("0.5", "fitted")]
    return {
        "strategy": study.strategy,
        "fitted_on": next(iter(study.thresholds.values())).made_from["images"],
        "images": images_of(study),
        "table": Table("Macro F1", [PREDICTIONS, *((title, "score") for title in columns)], rows),
        "final": _thresholds(study, end) if end in study.thresholds else None,
    }


def _thresholds(study: Study, name: str) -> dict:
    rules = study.thresholds[name].rules
    scores = ("F1", "precision", "recall", "specificity")
    rows = [
        (
            rule.finding, rule.positives, "never" if rule.probability is None else rule.probability,
            *(getattr(rule, each) for each in scores),
        )
        for rule in sorted(rules, key=lambda rule: -rule.positives)
    ]  # fmt: skip
    columns = [("Finding", "text"), ("Positives", "count"), ("Probability", "small")]
    columns += [(f"{each[0].upper()}{each[1:]}", "score") for each in scores]
    return {
        "name": name,
        "table": Table(f"Thresholds and what they yield on validation, cross-fitted, {name}", columns, rows),
        "remarks": [f"{rule.finding}: {rule.remark}" for rule in rules if rule.remark],
    }


def pooled(sources: Sources) -> dict | None:
    """The ensemble of the backbones and its members."""
    study = sources.study
    tables = study.of_kind("ensemble")
    if not tables:
        return None
    rows: dict[str, tuple] = {name: (study.weights.get(name),) for name in study.roles["backbones"]}
    rows |= {table.name: ("",) for table in tables}
    return {
        "fitted_on": images_of(study).get(SPLIT_NAMES["val"]),
        "scores": score_tables(sources, "Members and ensembles", rows, [PREDICTIONS, ("Weight", "score")]),
    }


def time_of_steps(sources: Sources) -> dict:
    """Seconds of each kind of step, and of each."""
    known = {name: seconds for name, seconds in sources.study.seconds.items() if seconds is not None}
    if not known:
        return {"missing": "No step is done yet."}
    kinds = pd.Series(known).groupby(lambda name: name.split(" ")[0], sort=False).agg(["count", "sum"])
    rows = [*kinds.itertuples(), ("All", len(known), sum(known.values()))]
    columns = [("Steps", "text"), ("How many", "count"), ("Time", "duration")]
    return {
        "kinds": Table("Time by kind of step", columns, rows),
        "steps": Table("Time of every step", [("Step", "text"), ("Time", "duration")], list(known.items())),
    }


# ---------------------------------------------------------------- pieces


def _what_differs(sources: Sources, names: Sequence[str], own: Sequence[str]) -> list[str] | None:
    """Settings beside `own` in which these models differ; None where there are not two of them."""
    among = [run for run in sources.runs if run.path.name in names]
    if len(among) < 2:
        return None
    return [row["setting"] for row in differing_settings(among) if row["setting"] not in own]


def _compared(study: Study, what: str) -> dict | None:
    found = study.comparisons.get(what)
    if found is None:
        return None
    try:
        return comparison(found)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f"{study.path / 'comparisons' / what}.json: not as this version writes it ({error!r}); delete it and run "
            "the same `cxrdali loss-design` again"
        ) from error


def _group_figure(study: Study, names: Sequence[str]) -> dict | None:
    """mAP of head, medium and tail findings by model."""
    if not study.splits:
        return None
    split = study.splits[0]
    table = pd.DataFrame({name: cells for name in names if (cells := scores_of(study, name, split))}).T
    shown = [name for name in GROUPS if name in table and table[name].notna().any()]
    if len(table) < 2 or not shown:
        return None
    table = table[["mAP", *shown]].astype(float).rename(columns={"mAP": "all findings"})
    return {
        "split": SPLIT_NAMES[split],
        "models": list(table.index),
        "figure": Figure("groups-losses", plots.ap_per_finding, (table,)),
    }


def _curves(sources: Sources, names: Sequence[str], what: str) -> dict | None:
    wanted = [run for run in sources.runs if run.path.name in names and len(run.metrics)]
    if not wanted:
        return None
    lines = [run_plots.Line(run.name, run.reached, run.best_place) for run in wanted]
    return {"runs": [run.name for run in wanted], "figure": Figure(f"curves-{what}", run_plots.branches, (lines,))}
