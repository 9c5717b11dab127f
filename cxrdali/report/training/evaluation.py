"""The report's section on held-out images: metrics with confidence intervals, by view and by finding."""

from collections.abc import Sequence

import pandas as pd

from cxrdali.evaluate import remarks
from cxrdali.fitted import in_words
from cxrdali.metrics.calibration_error import TITLES
from cxrdali.metrics.longtail import GROUPS
from cxrdali.postprocess.rules import ALLOWED
from cxrdali.report.calibration.errors import error_table
from cxrdali.report.groups.tables import groups
from cxrdali.report.kit import plots
from cxrdali.report.kit.numbers import score
from cxrdali.report.kit.page import Figure
from cxrdali.report.kit.tables import Table, with_fitted, without_one
from cxrdali.report.training import roc
from cxrdali.report.training.folder import SPLITS, Evaluation, PaperFolder
from cxrdali.report.training.sources import Sources
from cxrdali.report.training.steps import SPLIT_NAMES, last_step
from shards.words import counted

VIEWS = {"all": "all views", "frontal": "frontal", "lateral": "lateral"}
# scores that older evaluations have not: a column's title and format; from F1 on only with thresholds.
# Calibration errors of rare findings are a few thousandths.
LATER = {
    "ECE": ("ECE", "small_interval"), "ECE_equal_mass": ("ECE, equal mass", "small_interval"),
    "ECE_debiased": ("ECE, debiased", "small_interval"), "Brier": ("Brier", "small_interval"),
    "F1": ("F1", "interval"), "precision": ("Precision", "interval"), "recall": ("Recall", "interval"),
    "specificity": ("Specificity", "interval"),
}  # fmt: skip
MEANS = [("Predictions", "text"), ("mAP", "interval"), ("Macro AUROC", "interval"), ("LRAP", "score")]
Part = tuple[str, dict | None]  # what it is called, and an evaluation's scores of a view (None: no image)


def evaluation(sources: Sources) -> dict:
    """Held-out metrics with confidence intervals: all views, frontal and lateral, per finding."""
    inside = sources.folder.evaluations if sources.folder else {}
    given = sources.evaluations
    if not given and not inside:
        return {
            "missing": "No evaluation was given. `cxrdali evaluate` writes one from predictions; give its .json with "
            "`--evaluation`."
        }
    shown = [*_furthest(sources.folder), *given]
    return {
        "folder": {"about": _about([*inside.values()]), "splits": _splits(sources.folder)} if inside else None,
        "given": {"about": _about(given), **_by_view(given)} if given else None,
        "evaluations": [_details(each, number) for number, each in enumerate(shown)],
    }


def _splits(folder: PaperFolder) -> list[dict]:
    """Of a folder's evaluations: one row per predictions, tables per split."""
    columns = [*MEANS, ("mAP, frontal", "score"), ("mAP, lateral", "score"), ("Images", "count")]
    splits = []
    for split in SPLITS:
        found = {name: each.content for (name, where), each in folder.evaluations.items() if where == split}
        if not found:
            continue
        rows = [
            (
                name, *_means(content["all"]),
                *((content.get(view) or {}).get("mAP") for view in ("frontal", "lateral")), content["images"],
            )
            for name, content in found.items()
        ]  # fmt: skip
        of = f"on the {SPLIT_NAMES[split]}"
        parts = [(name, content["all"]) for name, content in found.items()]
        whole = Table(f"Metrics {of}", *with_fitted(columns, rows, list(found.values())))
        splits.append({"split": SPLIT_NAMES[split], "tables": [whole, *_more(of, parts)]})
    return splits


def _furthest(folder: PaperFolder | None) -> list[Evaluation]:
    """The one of the folder's evaluations that is shown finding by finding."""
    found = last_step(folder) if folder else None
    return [Evaluation(f"{found[0]}, {SPLIT_NAMES[found[1]]}", found[2].content)] if found else []


def _by_view(evaluations: Sequence[Evaluation]) -> dict:
    parts: list[Part] = [
        (f"{each.name}: {name}" if len(evaluations) > 1 else name.capitalize(), each.content.get(view))
        for each in evaluations
        for view, name in VIEWS.items()
    ]
    unknown = (None, None, None)  # a value and its interval
    rows = [
        (label, *_means(part), part["images"], part["studies"])
        if part
        else (label, unknown, unknown, None, "no image", None)
        for label, part in parts
    ]
    columns = [*MEANS, ("Images", "count"), ("Studies", "count")]
    whole = Table("Metrics by view", *with_fitted(columns, rows, [each.content for each in evaluations for _ in VIEWS]))
    return {"tables": [whole, *_more("by view", parts)]}


def _means(part: dict) -> tuple:
    return _with_interval(part, "mAP"), _with_interval(part, "macro_AUROC"), part["LRAP"]


def _with_interval(values: dict, name: str) -> tuple[float | None, ...]:
    return values.get(name), values.get(f"{name}_low"), values.get(f"{name}_high")


def _more(of: str, parts: Sequence[Part]) -> list[Table]:
    """Means that only some evaluations have: of groups of findings, and of probabilities and decisions."""
    tables = []
    if any(part and part.get("groups") for _, part in parts):
        columns = [(f"mAP, {group}", "interval") for group in GROUPS]
        columns += [(f"Macro AUROC, {group}", "score") for group in GROUPS]
        rows = [(label, *_group_means((part or {}).get("groups") or {})) for label, part in parts]
        tables.append(Table(f"Head, medium and tail {of}", [("Predictions", "text"), *columns], rows))
    shares = [(label, part["mAP"], part.get("mAP_without_one")) for label, part in parts if part]
    tables += filter(None, [without_one(f"mAP without any one finding, {of}", "Predictions", "score", shares)])
    added = _added([part for _, part in parts if part])
    if added:
        shown = [key for key in added if key not in TITLES or key == "ECE"]  # the others are in a table of their own
        columns = [("Predictions", "text"), *(added[key] for key in shown)]
        rows = [(label, *(_with_interval(part or {}, f"macro_{key}") for key in shown)) for label, part in parts]
        tables.append(Table(f"Probabilities and decisions {of}", columns, rows))
    floors = error_table(f"Calibration error {of}", "Predictions", parts)
    return [*tables, floors] if floors else tables


def _group_means(groups: dict) -> list:
    means = [groups.get(group, {}) for group in GROUPS]
    return [*(_with_interval(each, "mAP") for each in means), *(each.get("macro_AUROC") for each in means)]


def _added(parts: Sequence[dict]) -> dict[str, tuple[str, str]]:
    """Those of LATER that one of these parts has."""
    return {key: column for key, column in LATER.items() if any(f"macro_{key}" in part for part in parts)}


def _about(evaluations: Sequence[Evaluation]) -> dict:
    """What there is to explain about the means."""
    added = _added([each.content["all"] for each in evaluations])
    sampled = [each for each in evaluations if each.content.get("draws")]
    return {
        # as older versions resampled: studies, at percentiles of the samples
        "older": [each.name for each in sampled if "unit" not in each.content],
        "units": sorted({counted(2, each.content.get("unit", "study"))[2:] for each in sampled}),
        "levels": sorted({level for each in sampled if (level := each.content.get("level"))}),
        "probabilities": "ECE" in added,
        "decisions": "F1" in added,
        "groups": any(each.content["all"].get("groups") for each in evaluations),
    }


def _details(each: Evaluation, number: int) -> dict:
    content, block = each.content, each.content.get("groups_by")
    whole = pd.DataFrame(content["all"]["findings"]).sort_values("positives", ascending=False, kind="stable")
    numeric = ("prevalence", "AP", "AP_low", "AP_high")
    known = whole.reindex(columns=["finding", *numeric]).astype(dict.fromkeys(numeric, float)).dropna(subset=["AP"])
    names = list(whole["finding"])
    return {
        "name": each.name,
        **{name: content[name] for name in ("images", "studies", "labels")},
        "split": content.get("split"),
        "seen": content.get("seen") or (),
        "fitted": in_words(content),
        "intervals": bool(content.get("draws")),
        "off_centre": remarks.off_centre_in(content["all"]) if "unit" in content else [],
        "off_centre_because": remarks.OFF_CENTRE,
        "figure": Figure(f"evaluation-{number}", plots.ap_intervals, (known,)) if len(known) else None,
        "curves": roc.figures(f"evaluation-{number}", content["all"]["findings"], content.get("curves") or {}),
        "without_ap": {each: content["all"].get(f"without_{each}s") for each in ("positive", "negative")},
        "without_training": content.get("without_training"),
        "common": content.get("common"),
        "allowed": [step for step in content.get("history", []) if ALLOWED in step],
        "history": [step for step in content.get("history", []) if ALLOWED not in step],
        "thresholds": content.get("thresholds") or None,
        "by_group": groups(block, content["level"], f"groups-{number}") if block else None,
        "findings": _finding_table(content, names),
        "decisions": _decision_table(content, names),
    }


def _finding_table(content: dict, names: Sequence[str]) -> Table:
    parts = {view: _by_finding(content.get(view)) for view in VIEWS}
    counts = [key for key in ("positives", "positive_patients") if key in parts["all"][names[0]]]
    columns = [
        ("Finding", "text"), ("AP", "interval"), ("AUROC", "interval"), ("AP, frontal", "score"),
        ("AP, lateral", "score"), *((key.capitalize().replace("_", " "), "count") for key in counts),
        ("Prevalence", "percent"),
    ]  # fmt: skip
    rows = []
    for name in names:
        whole = parts["all"][name]
        apart = [parts[view].get(name, {}).get("AP") for view in ("frontal", "lateral")]
        scores = [_with_interval(whole, each) for each in ("AP", "AUROC")]
        if content.get("draws") and remarks.too_few(whole, content.get("fewest_patients")):
            scores = [f"{score(value)} ({remarks.TOO_FEW})" for value, *_ in scores]
        rows.append((name, *scores, *apart, *(whole[key] for key in counts), whole["prevalence"]))
    return Table("Metrics per finding", columns, rows)


def _by_finding(part: dict | None) -> dict[str, dict]:
    return {row["finding"]: row for row in part["findings"]} if part else {}


def _decision_table(content: dict, names: Sequence[str]) -> Table | None:
    """Probabilities and decisions of each finding, if the evaluation has them."""
    findings = _by_finding(content["all"])
    columns = {key: each for key, each in LATER.items() if any(row.get(key) is not None for row in findings.values())}
    if not columns:
        return None
    columns |= {"threshold": ("Threshold, logit", "score")} if "F1" in columns else {}
    columns |= {"positives": ("Positives", "count")}
    rows = [
        (name, *(_with_interval(findings[name], key) if key in LATER else findings[name].get(key) for key in columns))
        for name in names
    ]
    return Table("Probabilities and decisions per finding", [("Finding", "text"), *columns.values()], rows)
