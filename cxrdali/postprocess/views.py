"""The view postprocess of Yamagishi & Hanaoka (2023): where a finding is seen better on frontal images, a study's
lateral images take over the mean of its frontal predictions.

"lateral" is their word for every view that is not frontal. Views and studies are the catalog's. A finding that few
patients have gets no rule, since chance decides it. What the rules gain is measured by cross-fitting over subjects.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from cxrdali import predictions as tables
from cxrdali.data.splits import group_codes
from cxrdali.fitted import APPLY, VIEW_RULES, here, joined
from cxrdali.metrics.ranking import defined, score
from cxrdali.postprocess.crossfit import check_unseen, read_held_out
from cxrdali.postprocess.options import DEFAULTS, FitOptions
from cxrdali.postprocess.rules import Rules, check_alike, check_derived, fitted, read_rules, with_rules
from cxrdali.postprocess.study_mean import study_means
from cxrdali.predictions import Predictions
from shards.dataset.dataset import Dataset
from shards.dataset.labels import Labels
from shards.errors import UserError
from shards.storage.sealed import check_kinds, maybe
from shards.words import counted

KINDS = {  # of a finding's entry
    "finding": str, "superior": bool, "difference": maybe(float),
    "frontal_ap": maybe(float), "frontal_images": int, "frontal_positives": int,
    "lateral_ap": maybe(float), "lateral_images": int, "lateral_positives": int,
    "frontal_patients?": maybe(int), "lateral_patients?": maybe(int),
}  # fmt: skip
ENOUGH = 10  # positive patients in either view; of fewer, one more or less turns a rule around


def is_superior(frontal_ap: float | None, lateral_ap: float | None) -> bool:
    """Whether frontal images are strictly better; never where one side has no AP (None)."""
    return frontal_ap is not None and lateral_ap is not None and frontal_ap > lateral_ap


@dataclass(frozen=True)
class ViewRule:
    """One finding on frontal and on all other images: AP, 0 to 1 (None: no positive or no negative image), and counts.

    images: those whose label counts; positives: those with the finding; patients: whose these are (None: unknown).
    """

    finding: str
    frontal_ap: float | None
    lateral_ap: float | None
    frontal_images: int
    frontal_positives: int
    lateral_images: int
    lateral_positives: int
    frontal_patients: int | None = None
    lateral_patients: int | None = None

    @property
    def difference(self) -> float | None:
        """Frontal minus lateral AP."""
        return None if None in (self.frontal_ap, self.lateral_ap) else self.frontal_ap - self.lateral_ap

    @property
    def superior(self) -> bool:
        return not self.without_rule and is_superior(self.frontal_ap, self.lateral_ap)

    @property
    def without_rule(self) -> str:
        """Words for why there is no rule; "" if there is one."""
        sides = {"frontal": self.frontal_patients, "lateral": self.lateral_patients}
        few = [f"{count} {side}" for side, count in sides.items() if count is not None and count < ENOUGH]
        if few:
            return f"{self.finding}: no rule, positive patients: {', '.join(few)}; fewer than {ENOUGH}"
        if None in (self.frontal_ap, self.lateral_ap):
            return f"{self.finding}: no rule, without a positive or a negative image of one view there is no AP"
        return ""


@dataclass(frozen=True)
class ViewRules(Rules):
    """rules: one per finding; made_from: as in HeldOut. map_before, map_after: of the images that they were fitted to,
    cross-fitted (None: undefined, or of an older version); crossed: how, in the process that fitted them."""

    rules: tuple[ViewRule, ...]
    made_from: dict
    map_before: float | None = None
    map_after: float | None = None
    crossed: "Crossed | None" = field(default=None, compare=False, repr=False)

    @property
    def superior(self) -> tuple[str, ...]:
        return tuple(rule.finding for rule in self.rules if rule.superior)

    def content(self) -> dict:
        findings = [{**vars(rule), "difference": rule.difference, "superior": rule.superior} for rule in self.rules]
        means = {"mAP_before": self.map_before, "mAP_after": self.map_after}
        return {"made_from": self.made_from, **means, "findings": findings}


@dataclass(frozen=True, eq=False)
class Crossed:
    """part: of each image by its id, 0 to folds - 1; superior: bool [folds, F], by the rules of the other parts."""

    part: pd.Series
    superior: np.ndarray


@dataclass(frozen=True)
class Changed:
    """What applying rules did. studies: those with both kinds of view; images: their lateral ones, which took over
    values; frontal_only, lateral_only: studies left as they are."""

    studies: int
    images: int
    frontal_only: int
    lateral_only: int


def fit(path: Path, dataset: Dataset, labels: Labels, options: FitOptions = DEFAULTS) -> ViewRules:
    """Fit the rules to predictions with labels (in the paper: those of model3 on validation).

    Of fewer subjects than folds there are as many folds. Raises UserError as `read_held_out`, or without both views.
    """
    table = tables.read(path)
    check_unseen(path, table.provenance, options.allow_leak)
    catalog = dataset.catalog.iloc[tables.catalog_rows(table, path, dataset)]
    frontal = (catalog["view"] == "frontal").to_numpy()
    if frontal.all() or not frontal.any():
        missing = "lateral" if frontal.all() else "frontal"
        raise UserError(f"{path}: no {missing} image among {len(frontal)}; fit to predictions that have both kinds")
    folds = max(2, min(options.folds, catalog["subject_id"].nunique()))
    data = read_held_out(path, dataset, labels, replace(options, folds=folds, allow_leak=True))
    subject, study = (group_codes(dataset, group)[data.rows] for group in ("subject", "study"))
    study = np.unique(study, return_inverse=True)[1]

    def rules(some: np.ndarray) -> tuple[ViewRule, ...]:
        return _fit(data.findings, data.truth[some], data.logits[some], frontal[some], subject[some])

    superior = np.array([[rule.superior for rule in rules(data.part != part)] for part in range(folds)])
    after = _replaced(data.logits, superior[data.part], study, frontal)
    maps = (defined(score(data.findings, data.truth, values).macro_ap) for values in (data.logits, after))
    crossed = Crossed(pd.Series(data.part, table.ids["image_id"].to_numpy()), superior)
    return ViewRules(rules(np.ones(len(frontal), dtype=bool)), data.made_from, *maps, crossed)


def _ap(found: np.ndarray, logits: np.ndarray) -> float | None:
    return float(average_precision_score(found, logits)) if found.any() and not found.all() else None


def _fit(
    findings: Sequence[str], truth: np.ndarray, logits: np.ndarray, frontal: np.ndarray, subject: np.ndarray
) -> tuple[ViewRule, ...]:
    """truth, logits: float [n, F]; frontal: bool [n]; subject: int [n]."""
    rules = []
    for place, finding in enumerate(findings):
        known, found = ~np.isnan(truth[:, place]), truth[:, place] == 1
        sides = [
            (
                _ap(found[side], logits[side, place]), int(side.sum()), int(found[side].sum()),
                len(np.unique(subject[side & found])),
            )
            for side in (frontal & known, ~frontal & known)
        ]  # fmt: skip
        (*one, patients), (*other, others) = sides
        rules.append(ViewRule(finding, one[0], other[0], *one[1:], *other[1:], patients, others))
    return tuple(rules)


def read(path: Path) -> ViewRules:
    """Raises UserError if `path` is not what `ViewRules.write` wrote, or was changed so that it contradicts itself."""
    fix = "fit the rules again with `cxrdali postprocess --fit`"
    return read_rules(path, _parse, KINDS, "view rules", fix, origin=())


def _parse(stored: dict) -> ViewRules:
    check_kinds(stored, {"mAP_before?": maybe(float), "mAP_after?": maybe(float)})
    means = (stored.get(name) for name in ("mAP_before", "mAP_after"))
    return ViewRules(tuple(_rule(row) for row in stored["findings"]), stored["made_from"], *means)


def _rule(row: dict) -> ViewRule:
    name = row["finding"]
    for side in ("frontal", "lateral"):
        ap = row[f"{side}_ap"]
        if ap is not None and not 0 <= ap <= 1:
            raise ValueError(f"{name}: {side}_ap {ap!r} is neither null nor within 0..1")
        for what in ("images", "positives", "patients"):
            if (row.get(f"{side}_{what}") or 0) < 0:
                raise ValueError(f"{name}: {side}_{what} {row[f'{side}_{what}']!r} is no count")
        if ap is not None and row[f"{side}_images"] == row[f"{side}_positives"]:  # 1.0, of an older version
            raise ValueError(f"{name}: {side}_ap {ap!r} is of images of which none is negative, so it is none")
    rule = ViewRule(**{name: row.get(name) for name in ViewRule.__dataclass_fields__})
    check_derived(name, "difference", row["difference"], rule.difference, "AP say")
    if row["superior"] is not rule.superior:
        raise ValueError(f"{name}: superior is {row['superior']!r}, but its AP say {rule.superior}")
    return rule


def apply(
    path: Path, rules: ViewRules, dataset: Dataset, allow_other_run: bool = False, allow_same_images: bool = False
) -> tuple[Predictions, Changed]:
    """The table (logits) with the superior findings of lateral images replaced, in studies that have both kinds, by
    the logit of the mean probability of the study's frontal images. All other values stay bit for bit.

    Only the table's own images count: a study's images in another split are not looked at. Raises UserError for
    probabilities, no finding that the rules know, logits calibrated otherwise, images that the dataset does not
    have; and, unless allowed, for another run or TTA than theirs, or dev or test images that they were fitted to.
    Validation images that rules were fitted to in this process take over values by rules fitted to the other parts;
    with `allow_same_images`, or by rules from a file, by these, and the table says so.
    """
    table = tables.as_logits(tables.read(path), path)
    with_rules(path, table, rules.findings, "rules")
    remark = check_alike(path, table.provenance, rules.made_from, VIEW_RULES, allow_other_run)
    entry = fitted(VIEW_RULES, rules.made_from)
    same = here([entry], table.ids, table.provenance.split)
    same.check(path, allow_same_images, APPLY)
    superior = np.tile([rule.superior for rule in rules.rules], (len(table.values), 1))
    source, how, made = rules.made_from.get("predictions") or "rules", "", [*table.fitted, entry]
    if rules.crossed is not None and same.words and not allow_same_images:
        part = rules.crossed.part.reindex(table.ids["image_id"]).to_numpy()
        own = ~np.isnan(part)
        superior[own] = rules.crossed.superior[part[own].astype(np.int64)]
        how, made = f", cross-fitted over {len(rules.crossed.superior)} parts by subject", [*table.fitted]
    never = np.zeros(len(superior), dtype=bool)  # of a finding without a rule
    columns = dict(zip(rules.findings, superior.T, strict=True))
    superior = np.stack([columns.get(name, never) for name in table.findings], axis=1)
    rows = tables.catalog_rows(table, path, dataset)
    frontal = (dataset.catalog["view"].iloc[rows] == "frontal").to_numpy()
    _, study = np.unique(group_codes(dataset, "study")[rows], return_inverse=True)
    values = _replaced(table.values, superior, study, frontal)
    frontals, laterals = (np.bincount(study[mask], minlength=study.max() + 1) for mask in (frontal, ~frontal))
    replaced = ~frontal & (frontals > 0)[study] & superior.any(axis=1)
    step = (
        f"view postprocess by {source} ({len(rules.superior)} superior){how}: {counted(int(replaced.sum()), 'image')}"
    )
    changed = Changed(
        studies=len(np.unique(study[replaced])),
        images=int(replaced.sum()),
        frontal_only=int((laterals == 0).sum()),
        lateral_only=int((frontals == 0).sum()),
    )
    return table.after(values, step + remark, fitted=joined(made)), changed


def _replaced(values: np.ndarray, superior: np.ndarray, study: np.ndarray, frontal: np.ndarray) -> np.ndarray:
    """values, float32 [n, F], with those of lateral images replaced where `superior`, bool [n, F], says so, and the
    study, int64 [n], 0 to studies - 1, has frontal images, bool [n]."""
    counts = np.bincount(study[frontal], minlength=study.max() + 1)
    places = np.flatnonzero(superior.any(axis=0))
    pooled = study_means(values[:, places], study, frontal)[study]
    taken = superior[:, places] & (~frontal & (counts > 0)[study])[:, None]
    result = values.copy()
    result[:, places] = np.where(taken, pooled, values[:, places])
    return result
