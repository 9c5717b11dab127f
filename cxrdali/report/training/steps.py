"""The report's sections on the steps of Yamagishi & Hanaoka: AP per finding from stage 1 to the ensemble, and frontal
against lateral."""

from collections.abc import Mapping

import pandas as pd

from cxrdali.report import published
from cxrdali.report.kit import plots
from cxrdali.report.kit.page import Figure
from cxrdali.report.kit.tables import Table, best
from cxrdali.report.training.folder import SPLITS, Evaluation, PaperFolder
from cxrdali.report.training.models import MIMIC, comparability
from cxrdali.report.training.sources import Sources

# steps of the paper: how a column is headed, and whose predictions it is
STEPS = {
    "stage1": ("Stage 1", "model0"),
    "stage2": ("Stage 2", "model2"),
    "oversampling": ("Oversampling", "model3"),
    "postprocess": ("Postprocess", "model3-views"),
    "ensemble": ("Ensemble", "ensemble-views"),
}
SPLIT_NAMES = {"test": "test split", "dev": "development split", "val": "validation fold"}


def steps(sources: Sources) -> dict | None:
    """AP per finding by step, a table per split; None where no folder of `cxrdali paper` was given."""
    folder = sources.folder
    if folder is None:
        return None
    splits = {split: found for split in SPLITS if (found := step_evaluations(folder, split))}
    if not splits:
        return {
            "missing": f"No step has an evaluation yet ({folder.path.name}/evaluations/model0.test.json and so on); "
            "`cxrdali paper` writes them."
        }
    first = next(iter(splits))
    return {
        "comparability": comparability(sources),
        "splits": [_split(split, found, with_figure=split == first) for split, found in splits.items()],
    }


def step_evaluations(folder: PaperFolder, split: str) -> dict[str, Evaluation]:
    """By step, in the order of the paper, those that are there."""
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


def _split(split: str, found: Mapping[str, Evaluation], with_figure: bool) -> dict:
    tables = {step: pd.DataFrame(each.content["all"]["findings"]).set_index("finding") for step, each in found.items()}
    ap, facts = ap_table(tables)
    means = pd.Series({step: each.mean for step, each in found.items()}, dtype=float)
    shown = ap.dropna(how="all").rename(columns=_heading)
    name, paper = SPLIT_NAMES[split], paper_steps(split)
    return {
        "split": name,
        "absent": [(_heading(step), f"{STEPS[step][1]}.{split}.json") for step in STEPS if step not in found],
        "different_images": _different_images(found),
        "means": _means_by_step(name, ap, means, paper),
        "figure": Figure(f"steps-{split}", plots.ap_per_finding, (shown, facts.loc[shown.index, "prevalence"]))
        if with_figure and len(shown)
        else None,
        "findings": _gains_table(f"AP per finding and step, {name}, the best in bold", ap, means, facts["positives"]),
        "without_ap": [name for name in ap.index if ap.loc[name].isna().all()],
        "printed": None
        if paper is None
        else _gains_table(f"AP per finding and step, {name}: {MIMIC}", paper.drop("Mean"), paper.loc["Mean"]),
    }


def ap_table(tables: Mapping[str, pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """AP by finding and table (NaN: undefined), and positives and prevalence, most frequent finding first.

    Args:
        tables: AP, positives and prevalence by finding. Findings are matched by name; their counts are the last
            table's that has them.
    """
    ap = pd.concat({name: table["AP"].astype(float) for name, table in tables.items()}, axis=1, sort=False)
    facts = pd.concat([table[["positives", "prevalence"]].astype(float) for table in tables.values()])
    facts = facts[~facts.index.duplicated(keep="last")].reindex(ap.index)
    facts = facts.sort_values("positives", ascending=False, kind="stable")
    return ap.loc[facts.index], facts


def paper_steps(split: str) -> pd.DataFrame | None:
    """AP by finding in the paper ("Mean" last) and step; None: it prints none for this split."""
    table = published.finding_ap()
    if f"{published.STEPS[0]}_{split}" not in table:
        return None
    return pd.DataFrame({step: table[f"{step}_{split}"] for step in published.STEPS})


def gains(values: pd.Series) -> pd.Series:
    """`values` by step: each minus the one of the step right before; NaN without it."""
    return values.astype(float) - values.astype(float).reindex(STEPS).shift(1).reindex(values.index)


def _means_by_step(name: str, ap: pd.DataFrame, means: pd.Series, paper: pd.DataFrame | None) -> Table:
    """mAP, what it gained and how many findings did, those of the paper beside them where it has this split."""
    columns = [("Step", "text"), ("mAP", "score"), ("Gain", "gain"), ("Findings improved", "text")]
    sides = [(means, _improved(ap))]
    if paper is not None:
        columns += [(f"mAP, {MIMIC}", "score"), ("Gain, paper", "gain"), ("Improved, paper", "text")]
        sides.append((paper.loc["Mean"], _improved(paper.drop("Mean"))))
    rows = []
    for step, (heading, predictions) in STEPS.items():
        cells = [(mean.get(step), gains(mean).get(step), improved.get(step)) for mean, improved in sides]
        rows.append((heading, *(cell for side in cells for cell in side), predictions))
    return Table(f"mAP by step, {name}", [*columns, ("Predictions", "text")], rows)


def _improved(ap: pd.DataFrame) -> dict[str, str]:
    """By step: how many findings are better than in the step right before, of those that have both."""
    by_step = ap.apply(gains, axis=1)
    return {
        step: f"{(by_step[step] > 0).sum()} of {by_step[step].notna().sum()}"
        for step in by_step
        if by_step[step].notna().any()
    }


def _gains_table(caption: str, ap: pd.DataFrame, means: pd.Series, positives: pd.Series | None = None) -> Table:
    """Every finding's AP by step with its gain over the step before, the best in bold."""
    scores = [("Mean over findings (mAP)", means), *ap.iterrows()]
    rows = [(name, *zip(values, gains(values), strict=True)) for name, values in scores]
    columns = [("Finding", "text"), *((_heading(step), "with_gain") for step in ap.columns)]
    if positives is not None:
        columns.append(("Positives", "count"))
        rows = [(*row, count) for row, count in zip(rows, ["", *positives], strict=True)]
    marked = [(row, place + 1) for row, (_, values) in enumerate(scores) for place in best(list(values))]
    return Table(caption, columns, rows, "steps", marked)


def _heading(step: str) -> str:
    return STEPS[step][0]


def _different_images(found: Mapping[str, Evaluation]) -> bool:
    counted = {
        tuple((row["finding"], row["positives"]) for row in each.content["all"]["findings"]) + (each.content["images"],)
        for each in found.values()
    }
    return len(counted) > 1


def views(sources: Sources) -> dict | None:
    """Frontal against lateral AP per finding, as the view rules have it; None without a folder of `cxrdali paper`."""
    folder = sources.folder
    if folder is None:
        return None
    table = folder.views
    if table is None:
        return {"missing": f"No view rules were fitted yet ({folder.path.name}/views.json)."}
    table = table.assign(positives=table["frontal_positives"].fillna(0) + table["lateral_positives"].fillna(0))
    table = table.sort_values("positives", ascending=False, kind="stable")
    known = table[["frontal_ap", "lateral_ap"]].dropna(how="all").set_axis(["frontal", "lateral"], axis=1)
    return {
        "predictions": folder.views_from.get("predictions"),
        "superior": _superior(table),
        "figure": Figure("views", plots.ap_per_finding, (known,)) if len(known) else None,
        "table": _view_table(table),
    }


def _superior(table: pd.DataFrame) -> dict[str, int]:
    """How many findings are superior here and in the paper, and on how many of those that both have they agree."""
    paper = published.view_ap().drop("Mean")["difference"] > 0
    both = table.index.intersection(paper.index)
    return {
        "here": int(table["superior"].sum()),
        "findings": len(table),
        "paper": int(paper.sum()),
        "paper_findings": len(paper),
        "same": int((table.loc[both, "superior"] == paper[both]).sum()),
        "both": len(both),
    }


def _view_table(table: pd.DataFrame) -> Table:
    columns = {
        "frontal_ap": ("AP, frontal", "score"), "lateral_ap": ("AP, lateral", "score"),
        "difference": ("Difference", "gain"), "superior": ("Superior", "text"),
        "paper": (f"Difference, {MIMIC}", "gain"),
        "frontal_positives": ("Positives, frontal", "count"), "lateral_positives": ("Positives, lateral", "count"),
    }  # fmt: skip
    shown = table.assign(
        superior=table["superior"].map({True: "yes", False: "no"}), paper=published.view_ap()["difference"]
    )
    rows = list(shown[list(columns)].itertuples(name=None))
    images = [table[f"{view}_images"].max() for view in ("frontal", "lateral")]
    return Table(
        "Frontal against lateral", [("Finding", "text"), *columns.values()], [("All images", *[""] * 5, *images), *rows]
    )
