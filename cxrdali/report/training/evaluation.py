"""The report's section on held-out images: metrics with confidence intervals, by view and by finding."""

import pandas as pd

from cxrdali.report.kit import html as page
from cxrdali.report.kit import svg as plots
from cxrdali.report.kit.html import Html, count, interval, join, missing, paragraph, percent, score, sentence
from cxrdali.report.training.folder import SPLITS, PaperFolder
from cxrdali.report.training.scores import Evaluation
from cxrdali.report.training.sources import Sources
from cxrdali.report.training.steps import SPLIT_NAMES, last_step

VIEWS = {"all": "all views", "frontal": "frontal", "lateral": "lateral"}
# an evaluation's names of scores that older ones have not, and a column's; from F1 on only with thresholds
LATER = {
    "ECE": "ECE", "Brier": "Brier", "F1": "F1", "precision": "Precision", "recall": "Recall",
    "specificity": "Specificity",
}  # fmt: skip


def evaluation(sources: Sources) -> Html:
    """Held-out metrics with confidence intervals: all views, frontal and lateral, per finding."""
    inside = sources.folder.evaluations if sources.folder else {}
    if not sources.evaluations and not inside:
        return missing(
            "No evaluation was given. `cxrdali evaluate` writes one from predictions; give its .json with "
            "`--evaluation`."
        )
    return join(
        _folder_overview(sources.folder) if inside else None,
        _evaluation_overview(sources.evaluations) if sources.evaluations else None,
        *map(_evaluation_details, enumerate([*_furthest(sources.folder), *sources.evaluations])),
    )


def _folder_overview(folder: PaperFolder) -> Html:
    """One row per predictions, a table per split."""
    parts = [_how_to_read([*folder.evaluations.values()])]
    shown = [split for split in SPLITS if any(where == split for _, where in folder.evaluations)]
    for split in shown:
        rows = [
            (
                name, _with_interval(each.content["all"], "mAP"), _with_interval(each.content["all"], "macro_AUROC"),
                score(each.content["all"]["LRAP"]),
                *(score((each.content.get(view) or {}).get("mAP")) for view in ("frontal", "lateral")),
                count(each.content["images"]),
            )
            for (name, where), each in folder.evaluations.items()
            if where == split
        ]  # fmt: skip
        columns = ("Predictions", "mAP", "Macro AUROC", "LRAP", "mAP, frontal", "mAP, lateral", "Images")
        named = [(name, each.content["all"]) for (name, where), each in folder.evaluations.items() if where == split]
        table = join(
            page.table(f"Metrics on the {SPLIT_NAMES[split]}", columns, rows),
            _probabilities(f"Probabilities and decisions on the {SPLIT_NAMES[split]}", named),
        )
        parts.append(table if split == shown[0] else page.details(f"The same on the {SPLIT_NAMES[split]}", table))
    return join(*parts)


def _furthest(folder: PaperFolder | None) -> list[Evaluation]:
    """The one of the folder's evaluations that is shown finding by finding."""
    found = last_step(folder) if folder else None
    return [Evaluation(f"{found[0]}, {SPLIT_NAMES[found[1]]}", found[2].content)] if found else []


def _probabilities(caption: str, parts: list[tuple[str, dict | None]]) -> Html | None:
    """Macro means that need probabilities or decisions instead of an order; older evaluations have none of them."""
    added = _added([part for _, part in parts if part])
    rows = [(label, *(_written(key, (part or {}).get(f"macro_{key}")) for key in added)) for label, part in parts]
    return page.table(caption, ("Predictions", *added.values()), rows) if added else None


def _added(parts: list[dict]) -> dict[str, str]:
    """Names of scores that only some evaluations have, if one of these parts has them, and of their columns."""
    return {key: name for key, name in LATER.items() if any(f"macro_{key}" in part for part in parts)}


def _written(key: str, value: float | None) -> str:
    """Calibration errors of rare findings are a few thousandths."""
    return f"{value:.4f}" if key in ("ECE", "Brier") and value is not None else score(value)


def _evaluation_overview(evaluations: list[Evaluation]) -> Html:
    rows, parts = [], []
    for each in evaluations:
        for view, name in VIEWS.items():
            part = each.content.get(view)
            label = f"{each.name}: {name}" if len(evaluations) > 1 else name.capitalize()
            parts.append((label, part))
            if part is None:
                rows.append((label, *[page.NOTHING] * 3, "no image", page.NOTHING))
                continue
            rows.append(
                (
                    label,
                    _with_interval(part, "mAP"),
                    _with_interval(part, "macro_AUROC"),
                    score(part["LRAP"]),
                    count(part["images"]),
                    count(part["studies"]),
                )
            )
    return join(
        _how_to_read(evaluations),
        page.table("Metrics by view", ("Predictions", "mAP", "Macro AUROC", "LRAP", "Images", "Studies"), rows),
        _probabilities("Probabilities and decisions by view", parts),
    )


def _how_to_read(evaluations: list[Evaluation]) -> Html:
    levels = sorted({each.content["level"] for each in evaluations if each.content.get("draws")})
    added = _added([each.content["all"] for each in evaluations])
    probabilities = (
        " ECE (expected calibration error) and Brier score: how far probabilities are from what happens, 0 is best; "
        "means over the findings."
    )
    decisions = " F1, precision, recall and specificity: of decisions at a threshold per finding."
    in_brackets = f" In brackets: {sentence([f'{level * 100:g} %' for level in levels])} confidence" if levels else ""
    return paragraph(
        "Macro means over the findings that have a positive image; LRAP ranks the findings of each image. "
        "Lateral means every view that is not frontal."
        + (probabilities if "ECE" in added else "")
        + (decisions if "F1" in added else "")
        + (f"{in_brackets} intervals, from resampling whole studies." if levels else "")
    )


def _with_interval(values: dict, name: str) -> str:
    return interval(values[name], values.get(f"{name}_low"), values.get(f"{name}_high"))


def _evaluation_details(numbered: tuple[int, Evaluation]) -> Html:
    number, each = numbered
    whole = pd.DataFrame(each.content["all"]["findings"]).sort_values("positives", ascending=False, kind="stable")
    numeric = ("prevalence", "AP", "AP_low", "AP_high")
    drawn = whole.reindex(columns=["finding", *numeric]).astype(dict.fromkeys(numeric, float)).dropna(subset=["AP"])
    undefined = each.content["all"]["without_positives"]
    bounds = ", with its confidence interval" if each.content.get("draws") else ""
    return join(
        page.heading(each.name),
        paragraph(
            f"{count(each.content['images'])} images of {count(each.content['studies'])} studies, "
            f"labels {each.content['labels']}."
        ),
        page.figure(
            plots.svgs(plots.ap_intervals(drawn), f"evaluation-{number}"),
            f"Dot plot of average precision per finding with intervals, {each.name}; the table below has the numbers.",
            f"Average precision per finding, all views{bounds}. Grey ticks: the prevalence.",
        )
        if len(drawn)
        else None,
        paragraph(f"Without a positive image, so without AP: {sentence(undefined)}.", "soft") if undefined else None,
        _thresholds(each.content.get("thresholds")),
        page.details(f"Every finding, {each.name}", _evaluation_table(each.content, list(whole["finding"]))),
    )


def _thresholds(about: dict | None) -> Html | None:
    """Where the decisions come from, and what their reader should know."""
    if not about:
        return None
    source = f", learnt from {about['predictions']}" if about.get("predictions") else ""
    never = about.get("without_threshold")
    return paragraph(
        f"Decisions: thresholds {about['strategy']}{source}. Recall is sensitivity."
        + (f" Without a threshold, never called positive: {sentence(never)}." if never else "")
        + "".join(f" Note: {remark}." for remark in about.get("remarks", [])),
        "soft",
    )


def _evaluation_table(content: dict, names: list[str]) -> Html:
    parts = {
        view: {row["finding"]: row for row in (content.get(view) or {"findings": []})["findings"]} for view in VIEWS
    }
    rows = []
    for name in names:
        whole = parts["all"][name]
        apart = [score(parts[view].get(name, {}).get("AP")) for view in ("frontal", "lateral")]
        rows.append(
            (
                name,
                _with_interval(whole, "AP"),
                _with_interval(whole, "AUROC"),
                *apart,
                count(whole["positives"]),
                percent(whole["prevalence"]),
            )
        )
    columns = ("Finding", "AP", "AUROC", "AP, frontal", "AP, lateral", "Positives", "Prevalence")
    return join(
        page.table("Metrics per finding", columns, rows), _decisions_table([parts["all"][name] for name in names])
    )


def _decisions_table(findings: list[dict]) -> Html | None:
    """Probabilities and decisions of each finding, if the evaluation has them."""
    added = {key: title for key, title in LATER.items() if any(row.get(key) is not None for row in findings)}
    if not added:
        return None
    limits = ("Threshold, logit",) if "F1" in added else ()
    rows = [
        (
            row["finding"],
            *(_written(key, row.get(key)) for key in added),
            *(score(row.get("threshold")) for _ in limits),
            count(row["positives"]),
        )
        for row in findings
    ]
    columns = ("Finding", *added.values(), *limits, "Positives")
    return page.table("Probabilities and decisions per finding", columns, rows)
