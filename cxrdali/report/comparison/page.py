"""What `cxrdali.evaluate.compare.compare` found, as a part of a page or as a page of its own."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxrdali.metrics.longtail import GROUPS
from cxrdali.report.comparison import plots as comparison_plots
from cxrdali.report.kit import html as page
from cxrdali.report.kit import svg as plots
from cxrdali.report.kit.html import Html, count, duration, join, missing, paragraph, score, sentence
from shards.storage.files import sha256_bytes, write_bytes

TITLES = {
    "mAP": "mAP", "macro_AUROC": "Macro AUROC", "macro_F1": "Macro F1", "macro_ECE": "ECE", "macro_Brier": "Brier",
    "mAP_head": "mAP, head", "mAP_medium": "mAP, medium", "mAP_tail": "mAP, tail",
}  # fmt: skip
LOW_IS_GOOD = ("macro_ECE", "macro_Brier")
SHARES = {"head": "at least 10 %", "medium": "1 % to 10 %", "tail": "below 1 %"}
DRAWN = ["difference", "low", "high"]
MINUS = "\u2212"


def write_comparison(result: dict, out: Path, title: str) -> Path:
    """The page, self-contained."""
    header = join(
        Html(f"<h1>{page.safe(title)}</h1>"),
        paragraph(
            f"Runs of long-tail, multi-label chest X-ray classifiers compared, labels {result['labels']}.", "soft"
        ),
    )
    footer = paragraph(
        f"Written by cxrdali compare: dataset {result['dataset'][:12]}, {count(result['draws'])} draws, "
        f"seed {result['seed']}.",
        "soft",
    )
    write_bytes(out, page.document(title, header, comparison(result), footer).encode())
    return out


def comparison(result: dict) -> Html:
    """Scores, what they cost, differences to the baseline with intervals, groups, findings. `result`: of `compare`."""
    # keeps the ids of drawings apart where a page has several comparisons
    name = "comparison-" + sha256_bytes(repr([row["name"] for row in result["runs"]]).encode())[:8]
    return join(
        _lead(result),
        *[missing(text) for text in result["notes"]],
        _scores(result),
        _costs(result),
        _settings(result),
        page.heading("Is a difference more than chance?"),
        _differences(result, name),
        page.heading("Head, medium and tail"),
        _groups(result, name),
        page.heading("Finding by finding"),
        _findings(result, name),
    )


def _names(result: dict) -> list[str]:
    return [row["name"] for row in result["runs"]]


def _others(result: dict) -> list[str]:
    return [name for name in _names(result) if name != result["baseline"]]


def _lead(result: dict) -> Html:
    known = [row for row in result["runs"] if row["mAP"] is not None]
    text = (
        f"{len(result['runs'])} runs on the same {count(result['images'])} validation images of "
        f"{count(result['studies'])} studies, each at its best epoch; differences are to "
        f"{page.bold(result['baseline'])}, the baseline."
    )
    if known:
        top = max(known, key=lambda row: row["mAP"])
        text = f"The best mAP is {page.bold(score(top['mAP']))}, of {page.bold(top['name'])}. {text}"
    return join(
        paragraph(Html(text), "lead"),
        paragraph(
            "The best epoch was chosen on these same images, so the scores are a little too good, in all runs alike.",
            "soft",
        ),
    )


def _scores(result: dict) -> Html:
    rows = result["runs"]
    studies, few = result["positive_studies"], result["fewest_positive_studies"]
    columns = {
        name: _best_in_bold([row[name] for row in rows], name in LOW_IS_GOOD, studies.get(name, few) >= few)
        for name in TITLES
    }
    undefined = result["without_positives"]
    return join(
        page.table(
            "Scores on the validation images, the best in bold"
            + (f" where {few} studies or more have such findings" if min(studies.values()) < few else ""),
            ("Run", *TITLES.values()),
            [(row["name"], *(columns[name][place] for name in TITLES)) for place, row in enumerate(rows)],
        ),
        paragraph(
            f"Means over findings. F1 at thresholds that were learnt on the other {result['folds'] - 1} of "
            f"{result['folds']} parts of the subjects; ECE (expected calibration error) and Brier score: low is good.",
            "soft",
        ),
        paragraph(
            f"Without a positive validation image, so in no mean but those of ECE and Brier: {sentence(undefined)}.",
            "soft",
        )
        if undefined
        else None,
    )


def _best_in_bold(values: Sequence[float | None], low_is_good: bool = False, enough: bool = True) -> list[str]:
    """Compared before rounding; nothing to compare, or scores of too few studies: nothing bold."""
    known = [value for value in values if value is not None and enough]
    best = (min if low_is_good else max)(known) if len(set(known)) > 1 else None
    return [page.bold(score(value)) if best is not None and value == best else score(value) for value in values]


def _costs(result: dict) -> Html:
    rows = [
        (
            row["name"], row["arch"] or page.NOTHING, f"{row['size']} px", row["loss"], row["sampler"],
            count(row["epochs"]) if row["finished"] else f"{row['epochs']} of {row['epochs_planned']}",
            count(row["best_epoch"]), count(row["images_per_second"]), duration(row["hours"] * 3600),
        )
        for row in result["runs"]
    ]  # fmt: skip
    columns = ("Run", "Network", "Size", "Loss", "Sampler", "Epochs", "Best epoch", "Images/s", "Time")
    return join(
        page.table("What they are, and what they took to train", columns, rows),
        paragraph("Images/s in training, waiting for data included; time of training and validation.", "soft"),
    )


def _settings(result: dict) -> Html | None:
    names = _names(result)
    rows = [(row["setting"], *(_setting(row["values"][name]) for name in names)) for row in result["settings"]]
    if not rows:
        return paragraph("All settings of these runs are the same.", "soft")
    return page.details("Settings in which they differ", page.table("Differing settings", ("Setting", *names), rows))


def _setting(value: object) -> str:
    if value is None:
        return page.NOTHING
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


# ---------------------------------------------------------------- differences


def _differences(result: dict, name: str) -> Html:
    tested = [each for each in TITLES if any(row["metric"] == each for row in result["differences"])]
    by_run = {(row["run"], row["metric"]): row for row in result["differences"]}
    few = result["fewest_positive_studies"]
    thin = [TITLES[each] for each in tested if result["positive_studies"][each] < few]
    whole = pd.DataFrame([by_run[run, "mAP"] for run in _others(result)], columns=DRAWN, dtype=float)
    drawn = whole["difference"].notna().any()
    return join(
        _how_to_read(result),
        page.figure(
            plots.svgs(comparison_plots.differences(whole, _others(result), "difference in mAP"), f"{name}-mean"),
            f"Dot plot of the difference in mAP to {result['baseline']}, one row per run; the table has the numbers.",
            f"Difference in mAP to {result['baseline']}. Blue: better, orange: worse, by an interval without 0; grey: "
            "neither is shown.",
        )
        if drawn
        else None,
        page.table(
            f"Difference to {result['baseline']}, bold where the interval leaves out 0",
            ("Run", *(TITLES[each] for each in tested)),
            [(run, *(_cell(by_run[run, each]) for each in tested)) for run in _others(result)],
            "text",
        ),
        paragraph(f"Without an interval, for want of studies with such findings: {sentence(thin)}.", "soft")
        if thin and result["draws"]
        else None,
    )


def _how_to_read(result: dict) -> Html:
    if not result["draws"]:
        return missing("No intervals were asked for. Without `--draws 0` they tell chance from more.")
    return join(
        paragraph(
            f"In brackets: {result['level'] * 100:g} % intervals from {count(result['draws'])} draws of whole studies, "
            "the same draws for every run, so that what makes the images hard or easy falls out of the difference. "
            "p: how often draws lie on the other side of 0, twice the smaller side; it is never under "
            f"{2 / (result['draws'] + 1):.2g}, for want of more draws."
        ),
        paragraph(
            "They answer how these trained networks would compare on other studies of this kind. They do not say how "
            "much another training of the same recipe, with another seed, would differ, and p is not corrected for the "
            "number of comparisons. Of fewer than "
            f"{result['fewest_positive_studies']} studies with a finding, neither is given.",
            "soft",
        ),
    )


def _cell(row: dict) -> Html | str:
    """+0.012 p 0.13, and below it (-0.003 to +0.027)."""
    if row["difference"] is None:
        return page.NOTHING
    value = signed(row["difference"])
    if row["low"] is None:
        return value
    bold = page.bold(value) if _clear(row) else value
    bounds = f"({signed(row['low'])} to {signed(row['high'])})"
    return Html(f'{bold} <span class="soft">p {_p(row["p"])}<br>{bounds.replace(" ", "&nbsp;")}</span>')


def _clear(row: dict) -> bool:
    """Whether the interval leaves out 0."""
    return row["low"] is not None and (row["low"] > 0 or row["high"] < 0)


def signed(value: float) -> str:
    """+0.012; 0.000 has no sign."""
    text = f"{abs(value):.3f}"
    return text if float(text) == 0 else ("+" if value > 0 else MINUS) + text


def _p(value: float) -> str:
    return f"{value:.3f}" if value < 0.095 else f"{value:.2f}"


# ---------------------------------------------------------------- groups and findings


def _groups(result: dict, name: str) -> Html:
    table = pd.DataFrame(
        {row["name"]: [row[f"mAP_{group}"] for group in GROUPS] for row in result["runs"]}, index=GROUPS, dtype=float
    )
    undefined = set(result["without_positives"])
    labels = [f"{group.capitalize()} ({_how_many(result['groups'][group], undefined)})" for group in GROUPS]
    shown = table.notna().any(axis=1).to_numpy()
    drawn = table.set_axis(labels)[shown]
    return join(
        paragraph(
            f"By how many of the {count(result['train_images'])} training images have the finding: "
            + "; ".join(f"{group} {SHARES[group]}" for group in GROUPS)
            + "."
        ),
        page.figure(
            plots.svgs(comparison_plots.groups(drawn), f"{name}-groups"),
            "Dot plot of mAP by group of findings, a dot per run; the table of scores has the numbers.",
            "mAP of the findings of each group; in brackets, how many findings.",
        )
        if len(drawn)
        else None,
        page.details("Which findings are in which group", _members(result)),
    )


def _how_many(names: Sequence[str], undefined: set[str]) -> str:
    without = sum(name in undefined for name in names)
    return str(len(names)) + (f", {without} without AP" if without else "")


def _members(result: dict) -> Html:
    rows = [(group.capitalize(), ", ".join(result["groups"][group]) or "none") for group in GROUPS]
    return page.table("Findings by group", ("Group", "Findings"), rows, "text")


def _findings(result: dict, name: str) -> Html:
    rows = sorted(result["findings"], key=lambda row: -row["train_positives"])
    known = [row for row in rows if any(value is not None for value in row["AP"].values())]
    others = _others(result)
    shown = max(others, key=lambda run: _mean(result, run))
    table = pd.DataFrame([row["differences"][shown] for row in known], columns=DRAWN, dtype=float)
    few = result["fewest_positive_studies"]
    return join(
        page.figure(
            plots.svgs(
                comparison_plots.differences(
                    table, [row["finding"] for row in known], "difference in average precision"
                ),
                f"{name}-findings",
            ),
            f"Dot plot of the difference in average precision of {shown} to {result['baseline']}, one row per finding.",
            f"{shown} against {result['baseline']}: difference in average precision, the finding with most training "
            f"images on top. Blue: better, orange: worse, by an interval without 0. Empty: fewer than {few} studies "
            "have the finding, too few for an interval.",
        )
        if len(known)
        else None,
        page.details("Average precision of every finding and run", _ap_table(result, rows)),
        page.details(
            f"Difference to {result['baseline']} of every finding and run",
            page.table(
                f"Difference in average precision to {result['baseline']}, bold where the interval leaves out 0",
                ("Finding", *others),
                [(row["finding"], *(_cell(row["differences"][run]) for run in others)) for row in rows],
                "text",
            ),
        ),
    )


def _mean(result: dict, run: str) -> float:
    value = next(row["mAP"] for row in result["runs"] if row["name"] == run)
    return -np.inf if value is None else value


def _ap_table(result: dict, rows: Sequence[dict]) -> Html:
    names, few = _names(result), result["fewest_positive_studies"]
    cells = [
        (
            row["finding"],
            *_best_in_bold([row["AP"][name] for name in names], enough=row["positive_studies"] >= few),
            row["group"], count(row["train_positives"]), count(row["positives"]),
        )
        for row in rows
    ]  # fmt: skip
    columns = ("Finding", *names, "Group", "Training images", "Validation images")
    return page.table(f"Average precision, the best in bold where {few} studies or more have it", columns, cells)
