"""The report's section on held-out images: metrics with confidence intervals, by view and by finding."""

import pandas as pd

from cxrdali.report import page, plots
from cxrdali.report.folder import SPLITS, PaperFolder
from cxrdali.report.page import Html, count, interval, join, missing, paragraph, percent, score, sentence
from cxrdali.report.scores import Evaluation
from cxrdali.report.sources import Sources
from cxrdali.report.steps import SPLIT_NAMES, last_step

VIEWS = {"all": "all views", "frontal": "frontal", "lateral": "lateral"}
PROBABILITIES = {"ECE": "ECE", "Brier": "Brier"}  # an evaluation's name of a score, and a column's
DECISIONS = {"F1": "F1", "precision": "Precision", "recall": "Recall", "specificity": "Specificity"}


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
    added = _added([*folder.evaluations.values()])
    parts = [_how_to_read([*folder.evaluations.values()])]
    shown = [split for split in SPLITS if any(where == split for _, where in folder.evaluations)]
    for split in shown:
        rows = [
            (
                name, _with_interval(each.content["all"], "mAP"), _with_interval(each.content["all"], "macro_AUROC"),
                score(each.content["all"]["LRAP"]),
                *(score((each.content.get(view) or {}).get("mAP")) for view in ("frontal", "lateral")),
                *_macros(each.content["all"], added), count(each.content["images"]),
            )
            for (name, where), each in folder.evaluations.items()
            if where == split
        ]  # fmt: skip
        scores = ("mAP", "Macro AUROC", "LRAP", "mAP, frontal", "mAP, lateral", *added.values())
        columns = ("Predictions", *scores, "Images")
        table = page.table(f"Metrics on the {SPLIT_NAMES[split]}", columns, rows)
        parts.append(table if split == shown[0] else page.details(f"The same on the {SPLIT_NAMES[split]}", table))
    return join(*parts)


def _furthest(folder: PaperFolder | None) -> list[Evaluation]:
    """The one of the folder's evaluations that is shown finding by finding."""
    found = last_step(folder) if folder else None
    return [Evaluation(f"{found[0]}, {SPLIT_NAMES[found[1]]}", found[2].content)] if found else []


def _added(evaluations: list[Evaluation]) -> dict[str, str]:
    """The scores that only some evaluations have, if one of these has them: older ones know no ECE, and F1 needs
    thresholds."""
    names = {**PROBABILITIES, "F1": "F1"}
    return {
        key: name for key, name in names.items() if any(f"macro_{key}" in each.content["all"] for each in evaluations)
    }


def _macros(part: dict, added: dict[str, str]) -> list[str]:
    return [_written(key, part.get(f"macro_{key}")) for key in added]


def _written(key: str, value: float | None) -> str:
    """Calibration errors of rare findings are a few thousandths."""
    return f"{value:.4f}" if key in PROBABILITIES and value is not None else score(value)


def _evaluation_overview(evaluations: list[Evaluation]) -> Html:
    added = _added(evaluations)
    rows = []
    for each in evaluations:
        for view, name in VIEWS.items():
            part = each.content.get(view)
            label = f"{each.name}: {name}" if len(evaluations) > 1 else name.capitalize()
            if part is None:
                rows.append((label, *[page.NOTHING] * (3 + len(added)), "no image", page.NOTHING))
                continue
            rows.append(
                (
                    label,
                    _with_interval(part, "mAP"),
                    _with_interval(part, "macro_AUROC"),
                    score(part["LRAP"]),
                    *_macros(part, added),
                    count(part["images"]),
                    count(part["studies"]),
                )
            )
    return join(
        _how_to_read(evaluations),
        page.table(
            "Metrics by view", ("Predictions", "mAP", "Macro AUROC", "LRAP", *added.values(), "Images", "Studies"), rows
        ),
    )


def _how_to_read(evaluations: list[Evaluation]) -> Html:
    levels = sorted({each.content["level"] for each in evaluations if each.content.get("draws")})
    added = _added(evaluations)
    probabilities = (
        " ECE (expected calibration error) and Brier score: how far probabilities are from what happens, 0 is best; "
        "means over the findings."
    )
    decisions = " F1: of decisions at a threshold per finding."
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
    added = {
        key: title
        for key, title in (PROBABILITIES | DECISIONS).items()
        if any(row.get(key) is not None for row in parts["all"].values())
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
                *(_written(key, whole.get(key)) for key in added),
                count(whole["positives"]),
                percent(whole["prevalence"]),
            )
        )
    scores = ("AP", "AUROC", "AP, frontal", "AP, lateral", *added.values())
    columns = ("Finding", *scores, "Positives", "Prevalence")
    return page.table("Metrics per finding", columns, rows)
