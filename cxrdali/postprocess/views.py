"""The view postprocess of Yamagishi & Hanaoka (2023): where a finding is seen better on frontal images, a study's
lateral images take over the mean of its frontal predictions.

"lateral" is their word for every view that is not frontal. Views and studies are the catalog's.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxrdali import predictions as tables
from cxrdali.data.splits import group_codes
from cxrdali.data.uncertain import canonical
from cxrdali.metrics.ranking import defined, score
from cxrdali.postprocess.crossfit import check_unseen, labelled
from cxrdali.postprocess.rules import Rules, check_derived, check_findings, check_origin, read_rules
from cxrdali.predictions import Predictions, mean_logit
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.storage.sealed import maybe
from shards.words import counted

KINDS = {  # of a finding's entry
    "finding": str, "superior": bool, "difference": maybe(float),
    "frontal_ap": maybe(float), "frontal_images": int, "frontal_positives": int,
    "lateral_ap": maybe(float), "lateral_images": int, "lateral_positives": int,
}  # fmt: skip


def is_superior(frontal_ap: float | None, lateral_ap: float | None) -> bool:
    """Whether frontal images are strictly better; never where one side has no AP (None)."""
    return frontal_ap is not None and lateral_ap is not None and frontal_ap > lateral_ap


@dataclass(frozen=True)
class ViewRule:
    """One finding on frontal and on all other images: AP, 0 to 1 (None: no positive image, or no negative), and counts.

    images: those whose label counts; positives: those that have the finding.
    """

    finding: str
    frontal_ap: float | None
    lateral_ap: float | None
    frontal_images: int
    frontal_positives: int
    lateral_images: int
    lateral_positives: int

    @property
    def difference(self) -> float | None:
        """Frontal minus lateral AP."""
        return None if None in (self.frontal_ap, self.lateral_ap) else self.frontal_ap - self.lateral_ap

    @property
    def superior(self) -> bool:
        return is_superior(self.frontal_ap, self.lateral_ap)

    @property
    def without_ap(self) -> str:
        """Words for why there is no difference; "" if there is one."""
        without: dict[str, list[str]] = {}
        for side in ("frontal", "lateral"):
            if getattr(self, f"{side}_ap") is None:
                none = "negative" if getattr(self, f"{side}_positives") else "positive"
                without.setdefault(none, []).append(side)
        words = " and ".join(f"no {none} {' or '.join(sides)} image" for none, sides in without.items())
        return f"{self.finding}: {words}, so no AP to compare; not superior" if words else ""


@dataclass(frozen=True)
class ViewRules(Rules):
    """rules: one per finding; made_from: what they were fitted to (predictions, run, split, tta, labels, dataset)."""

    rules: tuple[ViewRule, ...]
    made_from: dict

    @property
    def superior(self) -> tuple[str, ...]:
        return tuple(rule.finding for rule in self.rules if rule.superior)

    def content(self) -> dict:
        findings = [{**vars(rule), "difference": rule.difference, "superior": rule.superior} for rule in self.rules]
        return {"made_from": self.made_from, "findings": findings}


@dataclass(frozen=True)
class Changed:
    """What applying rules did. studies: those with both kinds of view; images: their lateral ones, which took over
    values; frontal_only, lateral_only: studies left as they are."""

    studies: int
    images: int
    frontal_only: int
    lateral_only: int


def fit(
    path: Path, dataset: PackedDataset, labels: Labels, uncertain: str = "negative", allow_leak: bool = False
) -> ViewRules:
    """Fit the rules to predictions with labels (in the paper: those of model3 on validation).

    Raises UserError if the table is not of this dataset and these labels, has no frontal or no lateral image, or holds
    images that were trained on (unless that is allowed).
    """
    table, uncertain = tables.read(path), canonical(uncertain)
    check_unseen(path, table.provenance, allow_leak)
    rows, places, truth = labelled(path, table, dataset, labels, uncertain)
    values = table.values[:, places]
    frontal = (dataset.catalog["view"].iloc[rows] == "frontal").to_numpy()
    if frontal.all() or not frontal.any():
        missing = "lateral" if frontal.all() else "frontal"
        raise UserError(f"{path}: no {missing} image among {len(rows)}; fit to predictions that have both kinds")
    sides = [score(labels.findings, truth[mask], values[mask]) for mask in (frontal, ~frontal)]
    rules = []
    for place, finding in enumerate(labels.findings):
        ap = [defined(side.ap[place]) for side in sides]
        positives = [int(side.positives[place]) for side in sides]
        images = [count + int(side.negatives[place]) for count, side in zip(positives, sides, strict=True)]
        rules.append(ViewRule(finding, *ap, images[0], positives[0], images[1], positives[1]))
    made_from = {
        "predictions": path.name,
        "run": table.provenance.run,
        "split": table.provenance.split,
        "tta": table.provenance.tta,
        "labels": labels.name,
        "dataset": dataset.id,
        "uncertain": uncertain,
    }
    return ViewRules(tuple(rules), made_from)


def read(path: Path) -> ViewRules:
    """Raises UserError if `path` is not what `ViewRules.write` wrote, or was changed so that it contradicts itself."""
    fix = "fit the rules again with `cxrdali postprocess --fit`"
    return read_rules(path, _parse, KINDS, "view rules", fix, origin=())


def _parse(stored: dict) -> ViewRules:
    return ViewRules(tuple(_rule(row) for row in stored["findings"]), stored["made_from"])


def _rule(row: dict) -> ViewRule:
    name = row["finding"]
    for side in ("frontal", "lateral"):
        ap = row[f"{side}_ap"]
        if ap is not None and not 0 <= ap <= 1:
            raise ValueError(f"{name}: {side}_ap {ap!r} is neither null nor within 0..1")
        for what in ("images", "positives"):
            if row[f"{side}_{what}"] < 0:
                raise ValueError(f"{name}: {side}_{what} {row[f'{side}_{what}']!r} is no count")
        if ap is not None and row[f"{side}_images"] == row[f"{side}_positives"]:  # 1.0, of an older version
            raise ValueError(f"{name}: {side}_ap {ap!r} is of images of which none is negative, so it is none")
    rule = ViewRule(**{field: row[field] for field in ViewRule.__dataclass_fields__})
    check_derived(name, "difference", row["difference"], rule.difference, "AP say")
    if row["superior"] is not rule.superior:
        raise ValueError(f"{name}: superior is {row['superior']!r}, but its AP say {rule.superior}")
    return rule


def apply(
    path: Path, rules: ViewRules, dataset: PackedDataset, allow_other_run: bool = False
) -> tuple[Predictions, Changed]:
    """The table (logits) with the superior findings of lateral images replaced, in studies that have both kinds, by
    the logit of the mean probability of the study's frontal images. All other values stay bit for bit.

    Only the table's own images count: a study's images in another split are not looked at. Raises UserError for
    probabilities, findings that differ from the rules', a table of another run or TTA than theirs unless allowed, or
    images that the dataset does not have.
    """
    table = tables.as_logits(tables.read(path), path)
    check_findings(path, table, rules.findings, "rules")
    remark = check_origin(path, table.provenance, rules.made_from, allow_other_run)
    rows = tables.catalog_rows(table, path, dataset)
    frontal = (dataset.catalog["view"].iloc[rows] == "frontal").to_numpy()
    _, study = np.unique(group_codes(dataset, "study")[rows], return_inverse=True)
    frontals, laterals = (np.bincount(study[mask], minlength=study.max() + 1) for mask in (frontal, ~frontal))
    both = (frontals > 0) & (laterals > 0)
    places = [table.findings.index(name) for name in rules.superior]
    if not places:
        both[:] = False  # nothing is replaced anywhere
    replaced = np.flatnonzero(~frontal & both[study])
    values = table.values.copy()
    pooled = _frontal_means(table.values[:, places], study, frontal, frontals)
    values[np.ix_(replaced, places)] = pooled[study[replaced]]
    source = rules.made_from.get("predictions") or "rules"
    step = f"view postprocess by {source} ({len(places)} superior): {counted(len(replaced), 'image')}"
    changed = Changed(
        studies=int(both.sum()),
        images=len(replaced),
        frontal_only=int((laterals == 0).sum()),
        lateral_only=int((frontals == 0).sum()),
    )
    return table.after(values, step + remark), changed


def _frontal_means(values: np.ndarray, study: np.ndarray, frontal: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Per study the mean_logit of its frontal rows: float32 [studies, S] from values [n, S] (0 where it has none).

    study: int [n], 0 to studies - 1; frontal: bool [n]; counts: frontal rows per study, int [studies].
    """
    order = np.flatnonzero(frontal)
    order = order[np.argsort(study[order], kind="stable")]  # one study's frontal rows stand together
    starts = np.cumsum(counts) - counts
    pooled = np.zeros((len(counts), values.shape[1]), dtype=np.float32)
    for count in np.unique(counts[counts > 0]):  # studies with as many frontal images at once: no loop over studies
        some = np.flatnonzero(counts == count)
        members = order[starts[some] + np.arange(count)[:, None]]  # [count, some]
        pooled[some] = mean_logit(values[members])
    return pooled
