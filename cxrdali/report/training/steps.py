"""The report's sections on the steps of Yamagishi & Hanaoka: AP per finding from stage 1 to the ensemble, and frontal
against lateral.

No value is marked as the best: only mAP has intervals of differences, by step and of the ensemble's members to it.
"""

from collections.abc import Mapping, Sequence

import pandas as pd

from cxrdali.report import published
from cxrdali.report.kit import plots
from cxrdali.report.kit.numbers import NOTHING, count, verdict
from cxrdali.report.kit.page import Figure
from cxrdali.report.kit.tables import Table
from cxrdali.report.training.folder import SPLITS, Evaluation, PaperFolder
from cxrdali.report.training.models import APART, MIMIC, comparability
from cxrdali.report.training.sources import Sources
from cxrdali.runs.layout import MEMBERS

# steps of the paper: how a column is headed, and whose predictions it is
STEPS = {
    "stage1": ("Stage 1", "model0"),
    "stage2": ("Stage 2", "model2"),
    "oversampling": ("Oversampling", "model3"),
    "postprocess": ("Postprocess", "model3-views"),
    "ensemble": ("Ensemble", "ensemble-views"),
}
_CHANCE = [("Its interval", "bounds"), ("p", "probability"), ("p, Holm", "probability"), ("Adjusted for all", "text")]
ENSEMBLE = "ensemble"  # of its members alone, without view rules
SPLIT_NAMES = {"test": "test split", "dev": "development split", "val": "validation fold"}


def steps(sources: Sources) -> dict | None:
    """AP per finding by step, a table per split; None without a folder of `cxrdali paper`, and of other studies."""
    folder = sources.folder
    if folder is None or sources.table is not None:
        return None
    splits = {split: found for split in SPLITS if (found := step_evaluations(folder, split))}
    if not splits:
        return {
            "missing": f"No step has an evaluation yet ({folder.path.name}/evaluations/model0.test.json and so on); "
            "`cxrdali paper` writes them."
        }
    first, tables = next(iter(splits)), step_tables(folder)
    without_views = tables.get("ensemble") == "ensemble"
    together = published.is_its_data(sources.runs, sources.options.synthetic) and not without_views
    shown = {split: _split(split, found, folder, together) for split, found in splits.items()}
    return {
        "comparability": comparability(sources),
        "left_out": [_heading(step) for step in STEPS if step not in tables],
        "without_views": without_views,
        "side_by_side": together,
        "splits": [each if split == first else {**each, "figure": None} for split, each in shown.items()],
    }


def step_tables(folder: PaperFolder) -> dict[str, str]:
    """Whose predictions a step has here, by step in the order of the paper, without those that are not planned.

    Where images of one kind of view leave nothing to postprocess, the ensemble is the one without view rules.
    """
    words = [step["name"].split(" ") for step in folder.steps]
    planned = {name for kind, *name_and_split in words if kind == "evaluate" for name in name_and_split[:1]}
    there = planned | {name for name, _ in folder.evaluations}
    tables = {step: name for step, (_, name) in STEPS.items()}
    if "ensemble" in there and not there & {tables["postprocess"], tables["ensemble"]}:
        tables["ensemble"] = "ensemble"
    return {step: name for step, name in tables.items() if name in there or not planned}


def step_evaluations(folder: PaperFolder, split: str) -> dict[str, Evaluation]:
    """By step, in the order of the paper, those that are there."""
    return {
        step: folder.evaluations[name, split]
        for step, name in step_tables(folder).items()
        if (name, split) in folder.evaluations
    }


def last_step(folder: PaperFolder) -> tuple[str, str, Evaluation] | None:
    """Name, split and evaluation of the furthest step, on the most telling split that has one."""
    for split in SPLITS:
        if found := step_evaluations(folder, split):
            step = list(found)[-1]
            return step_tables(folder)[step], split, found[step]
    return None


def _split(split: str, found: Mapping[str, Evaluation], folder: PaperFolder, together: bool) -> dict:
    """together: the numbers of the paper may stand in one table with these."""
    tables, compared = step_tables(folder), folder.comparisons.get(split, {})
    scores = {step: pd.DataFrame(each.content["all"]["findings"]).set_index("finding") for step, each in found.items()}
    ap, facts = ap_table(scores)
    means = pd.Series({step: each.mean for step, each in found.items()}, dtype=float)
    shown = ap.dropna(how="all").rename(columns=_heading)
    name, paper = SPLIT_NAMES[split], paper_steps(split)
    images = sorted({each.content["images"] for each in found.values()})
    counted = f"{name}, {' or '.join(map(count, images))} images"
    return {
        "split": name,
        "absent": [(_heading(step), f"{table}.{split}.json") for step, table in tables.items() if step not in found],
        "different_images": _different_images(found),
        "means": _means_by_step(counted, folder, split, (ap, means), paper if together else None),
        "members": _members(counted, folder, split),
        "compared": len(compared.get("differences", ())) if compared.get("draws") else 0,
        "level": compared.get("level"),
        "figure": Figure(f"steps-{split}", plots.ap_per_finding, (shown, facts.loc[shown.index, "prevalence"]))
        if len(shown)
        else None,
        "findings": _gains_table(f"AP per finding and step, {counted}", (ap, means), [*tables], facts["positives"]),
        "without_ap": without_ap(ap, facts),
        "printed": None
        if paper is None
        else _gains_table(
            f"AP per finding and step, {name}: {MIMIC}" if together else f"{APART}AP per finding and step, {name}",
            (paper.drop("Mean"), paper.loc["Mean"]),
            [*STEPS],
        ),
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


def without_ap(ap: pd.DataFrame, facts: pd.DataFrame) -> dict[str, list[str]]:
    """Of `ap_table`: the findings that no table has an AP of, by what they have no image of."""
    undefined = ap.index[ap.isna().all(axis=1)]
    some = (facts.loc[undefined, "positives"] > 0).to_numpy()
    return {"positive": list(undefined[~some]), "negative": list(undefined[some])}


def paper_steps(split: str) -> pd.DataFrame | None:
    """AP by finding in the paper ("Mean" last) and step; None: it prints none for this split."""
    table = published.finding_ap()
    if f"{published.STEPS[0]}_{split}" not in table:
        return None
    return pd.DataFrame({step: table[f"{step}_{split}"] for step in published.STEPS})


def gains(values: pd.Series, steps: Sequence[str]) -> pd.Series:
    """`values` by step: each minus the one right before it in `steps`; NaN without it."""
    return values.astype(float) - values.astype(float).reindex(steps).shift(1).reindex(values.index)


def _means_by_step(
    name: str, folder: PaperFolder, split: str, scores: tuple[pd.DataFrame, pd.Series], paper: pd.DataFrame | None
) -> Table:
    """mAP, what it gained and how many findings did, those of the paper beside them if it is given."""
    (ap, means), tables = scores, step_tables(folder)
    gained, improved = gains(means, [*tables]), _improved(ap, [*tables])
    columns = [("Step", "text"), ("mAP", "score"), ("Gain", "gain"), *_CHANCE, ("Findings improved", "text")]
    if paper is not None:
        columns += [(f"mAP, {MIMIC}", "score"), ("Gain, paper", "gain"), ("Improved, paper", "text")]
        theirs, counted = paper.loc["Mean"], _improved(paper.drop("Mean"), [*STEPS])
    rows, before = [], None
    for step, predictions in tables.items():
        chance = _by_chance(folder, split, (predictions, before), gained.get(step))
        cells = [means.get(step), gained.get(step), *chance, improved.get(step)]
        if paper is not None:
            cells += [theirs.get(step), gains(theirs, [*STEPS]).get(step), counted.get(step)]
        rows.append((_heading(step), *cells, predictions))
        before = predictions
    return Table(f"mAP by step, {name}", [*columns, ("Predictions", "text")], rows)


def _by_chance(folder: PaperFolder, split: str, pair: tuple[str, str | None], value: float | None) -> tuple:
    """What the comparison of two tables says of their difference in mAP, if it was that: the cells of _CHANCE."""
    compared = folder.comparisons.get(split, {})
    for row in compared.get("differences", ()):
        known = (row["run"], row["against"]) == pair and None not in (value, row["p"])
        if known and abs(row["difference"] - value) < 1e-6:  # else of predictions that were made again
            return (row["low"], row["high"]), row["p"], row["p_holm"], verdict(row, compared["level"])
    return (None, None), NOTHING, NOTHING, NOTHING


def _members(name: str, folder: PaperFolder, split: str) -> dict | None:
    """The ensemble's members against it, and which of them is the highest; None if it was not evaluated."""
    whole = folder.evaluations.get((ENSEMBLE, split))
    means = {run: folder.evaluations[run, split].mean for run in MEMBERS if (run, split) in folder.evaluations}
    means = {run: mean for run, mean in means.items() if mean is not None}
    if whole is None or whole.mean is None or not means:
        return None
    less = {run: mean - whole.mean for run, mean in means.items()}
    found = {run: _by_chance(folder, split, (run, ENSEMBLE), value) for run, value in less.items()}
    columns = [("Member", "text"), ("mAP", "score"), ("Less the ensemble's", "gain"), *_CHANCE]
    rows = [(run, means[run], less[run], *cells) for run, cells in found.items()]
    highest = max(means, key=means.get)
    return {
        "table": Table(f"The ensemble's members against it, {name}", columns, rows),
        "mean": whole.mean,
        "highest": highest,
        "worse": means[highest] > whole.mean,
        "said": found[highest][-1],
    }


def _improved(ap: pd.DataFrame, steps: Sequence[str]) -> dict[str, str]:
    """By step: how many findings are better than in the step right before, of those that have both."""
    by_step = ap.apply(gains, axis=1, steps=steps)
    return {
        step: f"{(by_step[step] > 0).sum()} of {by_step[step].notna().sum()}"
        for step in by_step
        if by_step[step].notna().any()
    }


def _gains_table(
    caption: str, numbers: tuple[pd.DataFrame, pd.Series], steps: Sequence[str], positives: pd.Series | None = None
) -> Table:
    """Every finding's AP by step with its gain over the step before."""
    ap, means = numbers
    scores = [("Mean over findings (mAP)", means), *ap.iterrows()]
    rows = [(name, *zip(values, gains(values, steps), strict=True)) for name, values in scores]
    columns = [("Finding", "text"), *((_heading(step), "with_gain") for step in ap.columns)]
    if positives is not None:
        columns.append(("Positives", "count"))
        rows = [(*row, count) for row, count in zip(rows, ["", *positives], strict=True)]
    return Table(caption, columns, rows, "steps")


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
    if table is None and folder.steps and "postprocess" not in step_tables(folder):
        return {
            "missing": "This study has no view rules: its validation images are not both frontal and lateral, or it "
            "is without the model that they are fitted to."
        }
    if table is None:
        return {"missing": f"No view rules were fitted yet ({folder.path.name}/views.json)."}
    table = table.assign(positives=table["frontal_positives"].fillna(0) + table["lateral_positives"].fillna(0))
    table = table.sort_values("positives", ascending=False, kind="stable")
    together = published.is_its_data(sources.runs, sources.options.synthetic)
    known = table[["frontal_ap", "lateral_ap"]].dropna(how="all").set_axis(["frontal", "lateral"], axis=1)
    return {
        "predictions": folder.views_from.get("predictions"),
        "superior": _superior(table),
        "figure": Figure("views", plots.ap_per_finding, (known,)) if len(known) else None,
        "table": _view_table(table, together),
        "printed": None if together else _printed_views(),
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


def _printed_views() -> Table:
    titles = [("AP, frontal", "score"), ("AP, lateral", "score"), ("Difference", "gain")]
    rows = list(published.view_ap()[["frontal", "lateral", "difference"]].itertuples())
    return Table(f"{APART}frontal against lateral", [("Finding", "text"), *titles], rows)


def _view_table(table: pd.DataFrame, together: bool) -> Table:
    columns = {
        "frontal_ap": ("AP, frontal", "score"), "lateral_ap": ("AP, lateral", "score"),
        "difference": ("Difference", "gain"), "superior": ("Superior", "text"),
        **({"paper": (f"Difference, {MIMIC}", "gain")} if together else {}),
        "frontal_positives": ("Positives, frontal", "count"), "lateral_positives": ("Positives, lateral", "count"),
    }  # fmt: skip
    shown = table.assign(
        superior=table["superior"].map({True: "yes", False: "no"}), paper=published.view_ap()["difference"]
    )
    rows = list(shown[list(columns)].itertuples(name=None))
    images = [table[f"{view}_images"].max() for view in ("frontal", "lateral")]
    return Table(
        "Frontal against lateral",
        [("Finding", "text"), *columns.values()],
        [("All images", *[""] * (len(columns) - 2), *images), *rows],
    )
