"""The report's sections on the paper's steps: AP per finding from stage 1 to the ensemble, frontal against lateral."""

from collections.abc import Mapping

import pandas as pd

from cxrdali.report import published
from cxrdali.report.kit import html as page
from cxrdali.report.kit import svg as plots
from cxrdali.report.kit.html import Html, count, join, missing, paragraph, score, sentence
from cxrdali.report.training.folder import SPLITS, PaperFolder
from cxrdali.report.training.models import MIMIC, comparability
from cxrdali.report.training.scores import Evaluation
from cxrdali.report.training.sources import Sources

# the paper's steps: how a column is headed, and whose predictions it is
STEPS = {
    "stage1": ("Stage 1", "model0"),
    "stage2": ("Stage 2", "model2"),
    "oversampling": ("Oversampling", "model3"),
    "postprocess": ("Postprocess", "model3-views"),
    "ensemble": ("Ensemble", "ensemble-views"),
}
SPLIT_NAMES = {"test": "test split", "dev": "development split", "val": "validation fold"}


def steps(sources: Sources) -> Html | None:
    """AP per finding by step, a table per split; None where no folder of `cxrdali paper` was given."""
    folder = sources.folder
    if folder is None:
        return None
    splits = {split: found for split in SPLITS if (found := step_evaluations(folder, split))}
    if not splits:
        return missing(
            f"No step has an evaluation yet ({folder.path.name}/evaluations/model0.test.json and so on); "
            "`cxrdali paper` writes them."
        )
    first, *others = splits
    return join(
        paragraph(
            "What each step of the paper adds. Small numbers: the gain over the step before. Gains and the best are "
            "found before rounding; the paper's, from what it prints."
        ),
        comparability(sources),
        _split(first, splits[first], drawn=True),
        *(
            page.details(f"The same on the {SPLIT_NAMES[split]}", _split(split, splits[split], drawn=False))
            for split in others
        ),
    )


def step_evaluations(folder: PaperFolder, split: str) -> dict[str, Evaluation]:
    """By step, in the paper's order, those that are there."""
    return {
        step: folder.evaluations[name, split]
        for step, (_, name) in STEPS.items()
        if (name, split) in folder.evaluations
    }


def last_step(folder: PaperFolder) -> tuple[str, str, Evaluation] | None:
    """Name, split and evaluation of the furthest step, on the most telling split that has one."""
    for split in SPLITS:
        if found := step_evaluations(folder, split):
            step = list(found)[-1]
            return STEPS[step][1], split, found[step]
    return None


def _split(split: str, found: Mapping[str, Evaluation], drawn: bool) -> Html:
    ap, facts = step_table(found)
    means = pd.Series({step: each.mean for step, each in found.items()}, dtype=float)
    shown = ap.dropna(how="all").rename(columns=_heading)
    undefined = [name for name in ap.index if ap.loc[name].isna().all()]
    name = SPLIT_NAMES[split]
    paper = paper_steps(split)
    return join(
        page.heading(f"On the {name}"),
        _missing_steps(split, found),
        _different_images(found),
        page.table(f"mAP by step, {name}", *_means_by_step(ap, means, paper)),
        page.figure(
            plots.svgs(plots.ap_per_finding(shown, facts.loc[shown.index, "prevalence"]), f"steps-{split}"),
            "Dot plot of average precision per finding, one dot per step; the table below has the numbers.",
            f"Average precision per finding on the {name}, step by step. Grey ticks: the prevalence.",
        )
        if drawn and len(shown)
        else None,
        page.table(
            f"AP per finding and step, {name}, the best in bold",
            ("Finding", *map(_heading, ap.columns), "Positives"),
            [
                (finding, *_with_gains(values), positives)
                for finding, values, positives in _rows_of(ap, means, facts["positives"])
            ],
            kind="steps",
        ),
        paragraph(f"Without a positive image, so without AP: {sentence(undefined)}.", "soft") if undefined else None,
        page.details(f"The same table as the paper printed it, {name}", _paper_table(paper, name))
        if paper is not None
        else paragraph("The paper prints no AP per finding and step for its validation fold.", "soft"),
    )


def step_table(found: Mapping[str, Evaluation]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """AP by finding and step (NaN: undefined), and positives and prevalence, most frequent finding first."""
    tables = {step: pd.DataFrame(each.content["all"]["findings"]).set_index("finding") for step, each in found.items()}
    ap = pd.concat({step: table["AP"].astype(float) for step, table in tables.items()}, axis=1, sort=False)
    facts = pd.concat([table[["positives", "prevalence"]].astype(float) for table in tables.values()])
    facts = facts[~facts.index.duplicated(keep="last")].sort_values("positives", ascending=False, kind="stable")
    return ap.loc[facts.index], facts


def paper_steps(split: str) -> pd.DataFrame | None:
    """The paper's AP by finding ("Mean" last) and step; None: it prints none for this split."""
    table = published.finding_ap()
    if f"{published.STEPS[0]}_{split}" not in table:
        return None
    return pd.DataFrame({step: table[f"{step}_{split}"] for step in published.STEPS})


def gains(values: pd.Series) -> pd.Series:
    """`values` by step: each minus the one of the step right before; NaN without it."""
    return values.astype(float) - values.astype(float).reindex(STEPS).shift(1).reindex(values.index)


def _means_by_step(ap: pd.DataFrame, means: pd.Series, paper: pd.DataFrame | None) -> tuple[tuple, list[tuple]]:
    """Columns and rows of the table of means, the paper's beside them where it has this split."""
    own = _improved(ap)
    printed = _improved(paper.drop("Mean")) if paper is not None else {}
    gained = gains(means)
    rows = []
    for step in STEPS:
        row = [_heading(step)]
        row += [score(means.get(step)), gain(gained.get(step)), own.get(step, page.NOTHING)]
        if paper is not None:
            mean = paper.loc["Mean"]
            row += [score(mean[step]), gain(gains(mean)[step]), printed.get(step, page.NOTHING)]
        rows.append((*row, STEPS[step][1]))
    columns = ("Step", "mAP", "Gain", "Findings improved")
    theirs = (f"mAP, {MIMIC}", "Gain, paper", "Improved, paper") if paper is not None else ()
    return (*columns, *theirs, "Predictions"), rows


def _improved(ap: pd.DataFrame) -> dict[str, str]:
    """By step: how many findings are better than in the step right before, of those that have both."""
    by_step = ap.apply(gains, axis=1)
    return {
        step: f"{(by_step[step] > 0).sum()} of {by_step[step].notna().sum()}"
        for step in by_step
        if by_step[step].notna().any()
    }


def gain(value: float | None) -> str:
    """+0.012, −0.003, ±0.000"""
    if value is None or value != value:
        return page.NOTHING
    text = f"{abs(value):.3f}"
    return f"{'±' if float(text) == 0 else '+' if value > 0 else '−'}{text}"


def _rows_of(ap: pd.DataFrame, means: pd.Series, positives: pd.Series):
    yield "Mean over findings (mAP)", means, ""
    for finding, values in ap.iterrows():
        yield finding, values, count(positives[finding])


def _with_gains(values: pd.Series) -> list[Html | str]:
    """The best in bold, and behind each value its gain over the step before."""
    best = values.max() if values.notna().sum() > 1 else None
    cells = []
    for value, more in zip(values, gains(values), strict=True):
        text = page.bold(score(value)) if value == best else page.safe(score(value))
        cells.append(Html(f'{text} <small class="gain">{gain(more)}</small>') if more == more else text)
    return cells


def _paper_table(paper: pd.DataFrame, name: str) -> Html:
    rows = [("Mean over findings (mAP)", *_with_gains(paper.loc["Mean"]))]
    rows += [(finding, *_with_gains(values)) for finding, values in paper.drop("Mean").iterrows()]
    return page.table(
        f"AP per finding and step, {name}: {MIMIC}", ("Finding", *map(_heading, paper.columns)), rows, kind="steps"
    )


def _heading(step: str) -> str:
    return STEPS[step][0]


def _missing_steps(split: str, found: Mapping[str, Evaluation]) -> Html | None:
    absent = [step for step in STEPS if step not in found]
    if not absent:
        return None
    files = sentence([f"{STEPS[step][1]}.{split}.json" for step in absent])
    return missing(f"Not evaluated on the {SPLIT_NAMES[split]}: {sentence(list(map(_heading, absent)))} ({files}).")


def _different_images(found: Mapping[str, Evaluation]) -> Html | None:
    counted = {
        tuple((row["finding"], row["positives"]) for row in each.content["all"]["findings"]) + (each.content["images"],)
        for each in found.values()
    }
    if len(counted) == 1:
        return None
    return missing("These steps were evaluated on different images, so their values are not comparable.")


def views(sources: Sources) -> Html | None:
    """Frontal against lateral AP per finding, as the view rules have it; None without a folder of `cxrdali paper`."""
    folder = sources.folder
    if folder is None:
        return None
    table = folder.views
    if table is None:
        return missing(f"No view rules were learnt yet ({folder.path.name}/views.json).")
    table = table.assign(positives=table["frontal_positives"].fillna(0) + table["lateral_positives"].fillna(0))
    table = table.sort_values("positives", ascending=False, kind="stable")
    drawn = table[["frontal_ap", "lateral_ap"]].dropna(how="all").set_axis(["frontal", "lateral"], axis=1)
    made_from = folder.views_from.get("predictions")
    return join(
        paragraph(
            "A finding is superior where its AP on frontal images is higher than on all others (lateral): there the "
            "postprocess replaces the lateral images' values of a study by the mean of its frontal ones."
            + (f" Learnt from {made_from}." if made_from else "")
        ),
        paragraph(_verdict(table)),
        page.figure(
            plots.svgs(plots.ap_per_finding(drawn), "views"),
            "Dot plot of average precision per finding on frontal and on lateral images; the table has the numbers.",
            "Average precision per finding on frontal images and on all others.",
        )
        if len(drawn)
        else None,
        page.table("Frontal against lateral", *_view_rows(table)),
    )


def _verdict(table: pd.DataFrame) -> str:
    paper = published.view_ap().drop("Mean")["difference"]
    text = f"Superior: {table['superior'].sum()} of {len(table)} findings (paper: {(paper > 0).sum()} of {len(paper)})."
    both = table.index.intersection(paper.index)
    if len(both):
        same = (table.loc[both, "superior"] == (paper[both] > 0)).sum()
        text += f" The two agree on {same} of the {len(both)} findings that both have."
    return text


def _view_rows(table: pd.DataFrame) -> tuple[tuple, list[tuple]]:
    paper = published.view_ap()["difference"]
    columns = ("Finding", "AP, frontal", "AP, lateral", "Difference", "Superior", f"Difference, {MIMIC}",
               "Positives, frontal", "Positives, lateral")  # fmt: skip
    rows = [
        (
            finding, score(row["frontal_ap"]), score(row["lateral_ap"]), gain(row["difference"]),
            "yes" if row["superior"] else "no", gain(paper.get(finding)), count(row["frontal_positives"]),
            count(row["lateral_positives"]),
        )
        for finding, row in table.iterrows()
    ]  # fmt: skip
    images = [table[f"{view}_images"].max() for view in ("frontal", "lateral")]
    return columns, [("All images", *[""] * 5, *map(count, images)), *rows]
