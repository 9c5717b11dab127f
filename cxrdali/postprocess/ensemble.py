"""Several tables of predictions for the same images -> one: pooled by a method, with weights that may be fitted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from cxrdali import predictions as tables
from cxrdali.data.options import TRAINED_ON
from cxrdali.data.splits import balanced_parts, group_ids
from cxrdali.fitted import APPLY, WEIGHTS, Fitted, here, joined
from cxrdali.metrics.ranking import macro
from cxrdali.postprocess.crossfit import check_not_trained_on, check_unseen, labelled, origin
from cxrdali.postprocess.options import DEFAULTS, FitOptions
from cxrdali.postprocess.rules import check_alike
from cxrdali.predictions import METHODS, Kind, Predictions, Provenance, first_of, ranks
from shards.dataset.dataset import Dataset
from shards.dataset.labels import Labels
from shards.errors import UserError
from shards.progress import progress_bar
from shards.words import choices

ADDITIONS = 10  # of one member each to the bag that the search for weights begins with
STEPS = {  # what the history says of a pooling
    "mean": "mean probability of {names}",
    "geometric": "geometric mean probability (mean logit) of {names}",
    "rank": "mean rank among these {images:,} images of {names}: no probability, and of this set of images alone",
}


@dataclass(frozen=True)
class Weights:
    """values: one per member, of sum 1; how: where they come from, in words; runs, ttas: the members' (None: not known;
    no ttas in weights of an older version); maps: each member's own validation mAP; calibrated: the calibrations that
    each went through (None: not known); fitted: the images that they were made from."""

    values: tuple[float, ...]
    how: str
    runs: tuple[str | None, ...]
    maps: tuple[float, ...]
    ttas: tuple[str | None, ...] = ()
    calibrated: tuple[tuple[str, ...] | None, ...] = ()
    fitted: Fitted = Fitted((WEIGHTS,))


@dataclass(frozen=True, kw_only=True)
class FittedWeights(Weights):
    """Validation mAP of the ensemble: fitted_map, by these weights on the images that they were fitted to;
    cross_fitted_map, where each image's weights were fitted without its subject; equal_map, by equal weights."""

    fitted_map: float
    cross_fitted_map: float
    equal_map: float


def ensemble(
    paths: Sequence[Path],
    weights: Sequence[float] | Weights | None = None,
    method: str = "mean",
    allow_leak: bool = False,
    allow_other_run: bool = False,
    allow_same_images: bool = False,
) -> Predictions:
    """Images and findings in the order of the first table; the others are matched by image_id and by name.

    Args:
        paths: At least two tables of logits.
        weights: One per table, above 0 (None: equal).
        method: One of `cxrdali.predictions.METHODS`.
        allow_leak: Pool tables of images that a member was trained on, too; of split train and all they may be.
        allow_other_run: Whether weights may be of other runs' tables, or of another TTA; the history then says so.
        allow_same_images: Whether weights may be of the same dev or test images.

    Raises:
        UserError: Tables of other images, findings, studies, splits or datasets, of probabilities, or one table given
            twice; weights that were made from other runs' tables, from raw ones for calibrated ones, or from the same
            dev or test images; images that were trained on.
    """
    pool = _pool(method)
    members = read_members(paths)
    for path, about in zip(paths, members.provenances, strict=True):
        check_unseen(path, about, allow_leak or about.split in TRAINED_ON)
    values, how, made = weights, "", list(members.fitted)
    if isinstance(weights, Weights):
        remarks = _check_runs(members, weights, allow_other_run)
        values, how = weights.values, f" ({weights.how}){''.join(dict.fromkeys(remarks))}"
        here([weights.fitted], members.first.ids, members.first.provenance.split).check(
            paths[0], allow_same_images, APPLY
        )
        made.append(weights.fitted)
    if isinstance(weights, Weights):  # a greedy selection leaves members out
        pooled = _pooled(members.values, np.array(values), pool)
    else:
        pooled = pool(members.values, values)
    by = "" if values is None else f" by weights {', '.join(f'{value:g}' for value in values)}{how}"
    step = STEPS[method].format(names=members.names + by, images=len(pooled))
    kind = Kind.RANK if method == "rank" else Kind.LOGIT
    return replace(members.first, values=pooled, provenance=_provenance(members, kind, step, joined(made)))


def weights_by_map(paths: Sequence[Path], dataset: Dataset, labels: Labels, options: FitOptions = DEFAULTS) -> Weights:
    """Weights proportional to the mAP of the members' tables of validation images, in the order of the members."""
    members = _validation(paths, options.allow_leak)
    maps = members.maps(_truth(members, dataset, labels, options)[0])
    values = tuple(value / sum(maps) for value in maps)
    how = f"proportional to the mAP of {members.names}"
    return Weights(values, how, members.runs, maps, **members.made_from(dataset, labels))


def fitted_weights(
    paths: Sequence[Path], dataset: Dataset, labels: Labels, method: str = "mean", options: FitOptions = DEFAULTS,
    greedy: bool = False,
) -> FittedWeights:  # fmt: skip
    """Weights under which the members' tables of validation images, pooled by `method`, have a high mAP.

    mAP is no smooth function of the weights, so they are searched (ensemble selection with replacement, Caruana et
    al., ICML 2004): from a bag with every member once, the member whose addition makes the highest mAP is added,
    ADDITIONS times; the weights are the counts of the best bag on the way. greedy: from an empty bag, as there, so that
    members may be left out, with a weight of 0. Their gain on the images that they were fitted to is partly the fit's
    own, so it is measured on subjects that were left out, too.
    """
    pool, folds = _pool(method), options.folds
    members = _validation(paths, options.allow_leak)
    truth, subjects = _truth(members, dataset, labels, options)
    if not 2 <= folds <= len(np.unique(subjects)):
        raise UserError(
            f"folds {folds}: 2 to {len(np.unique(subjects))}, the subjects in {members.paths[0]}; "
            "give tables of more subjects, or other folds"
        )
    values = members.values
    if method == "rank":  # ranks are an image's place among all of the table's, also where a part of them is pooled
        values, pool = np.stack([ranks(each) for each in values]), _average
    unseen = np.empty(values[0].shape, dtype=np.float32)
    with progress_bar("search for weights", folds + 1, " searches") as bar:
        weights = _search(values, truth, pool, greedy)
        bar.update()
        part = balanced_parts(subjects, folds)
        for number in range(folds):
            seen, held_out = part != number, part == number
            own = _search(values[:, seen], truth[seen], pool, greedy)
            unseen[held_out] = _pooled(values[:, held_out], own, pool)
            bar.update()
    return FittedWeights(
        tuple(weights.tolist()), f"fitted to the mAP of {members.names}", members.runs, members.maps(truth),
        **members.made_from(dataset, labels),
        fitted_map=_map(truth, _pooled(values, weights, pool)), cross_fitted_map=_map(truth, unseen),
        equal_map=_map(truth, pool(values, None)),
    )  # fmt: skip


@dataclass(frozen=True)
class Members:
    """first: the table of paths[0], whose rows and columns all have; values: float32 [K, n, F], logits."""

    paths: tuple[Path, ...]
    first: Predictions
    values: np.ndarray
    provenances: tuple[Provenance, ...]
    fitted: tuple[Fitted, ...]

    @property
    def names(self) -> str:
        return ", ".join(short_names(self.paths))

    @property
    def runs(self) -> tuple[str | None, ...]:
        return tuple(each.run for each in self.provenances)

    def made_from(self, dataset: Dataset, labels: Labels) -> dict:
        """What weights say of the tables that they are made from, beside their runs."""
        released = labels.split[tables.catalog_rows(self.first, self.paths[0], dataset)]
        known = origin(self.paths[0], self.first, released)
        return {
            "ttas": tuple(each.tta for each in self.provenances),
            "calibrated": tuple(None if each.says_nothing else each.calibrated for each in self.provenances),
            "fitted": Fitted((WEIGHTS,), known["hashes"], known["split"]),
        }

    def maps(self, truth: np.ndarray) -> tuple[float, ...]:
        """Each member's own mAP."""
        return tuple(_map(truth, values) for values in self.values)


def short_names(paths: Sequence[Path]) -> list[str]:
    """Each file's name, or all its path where two are called alike."""
    names = [path.name for path in paths]
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]


def read_members(paths: Sequence[Path]) -> Members:
    """Images and findings in the order of the first table.

    Raises UserError for fewer than two tables, one given twice, probabilities, or other images, findings or datasets.
    """
    if len(paths) < 2:
        raise UserError(f"an ensemble of {len(paths)}: give at least two tables of predictions")
    for place, path in enumerate(paths):
        if path.resolve() in [other.resolve() for other in paths[:place]]:
            raise UserError(f"{path}: is given twice; to count it more than the others, use --weights")
    found = [tables.as_logits(tables.read(path), path) for path in paths]
    _check_same("split", paths, [member.provenance.split for member in found])
    first = found[0]
    values = [_aligned(member, first, path, paths[0]) for path, member in zip(paths, found, strict=True)]
    images = {member.provenance.images for member in found}
    if None in images or len(images) > 1:  # the same ones are pooled whichever shards they were in
        _check_same("dataset", paths, [member.provenance.dataset for member in found])
    made = joined(entry for member in found for entry in member.fitted)
    return Members(tuple(paths), first, np.stack(values), tuple(member.provenance for member in found), made)


def _check_same(name: str, paths: Sequence[Path], values: Sequence[str | None]) -> None:
    """Where it is known at all, it is the same."""
    known = {value: path for path, value in zip(paths, values, strict=True) if value is not None}
    if len(known) > 1:
        (one, at), (other, there) = list(known.items())[:2]
        raise UserError(
            f"{there}: was predicted on {name} {other!r}, {at} on {one!r}; predict both on the same {name} first"
        )


def _aligned(table: Predictions, first: Predictions, path: Path, first_path: Path) -> np.ndarray:
    """The values of `table` in the rows and columns of `first`: float32 [n, F]."""
    for what, theirs, ours in (
        ("finding", table.findings, first.findings),
        ("image", table.ids["image_id"], first.ids["image_id"]),
    ):
        for holder, names, other, others in ((path, theirs, first_path, ours), (first_path, ours, path, theirs)):
            only = pd.Index(names)[~pd.Index(names).isin(others)]
            if len(only):
                raise UserError(
                    f"{holder}: {what} {first_of(only)} is not in {other}; "
                    "give tables of the same split, of models trained on the same labels"
                )
    rows = pd.Index(table.ids["image_id"]).get_indexer(first.ids["image_id"])
    for column in ("study_id", "view"):
        theirs, ours = table.ids[column].to_numpy()[rows], first.ids[column].to_numpy()
        differing = np.flatnonzero(theirs != ours)
        if len(differing):
            images, place = first.ids["image_id"].iloc[differing], differing[0]
            raise UserError(
                f"{path}: {column} of image {first_of(images)} is {theirs[place]!r}, in {first_path} "
                f"{ours[place]!r}; give tables of the same dataset"
            )
    columns = [table.findings.index(name) for name in first.findings]
    return table.values[rows][:, columns]


def _search(values: np.ndarray, truth: np.ndarray, pool: Callable[..., np.ndarray], greedy: bool) -> np.ndarray:
    """Weights of sum 1, float64 [K], for members [K, n, F] and their targets [n, F]; see `fitted_weights`."""
    counts = np.zeros(len(values)) if greedy else np.ones(len(values))
    best, reached = counts, -np.inf if greedy else _map(truth, pool(values, counts))
    for _ in range(ADDITIONS):
        grown = counts + np.eye(len(values))
        scores = [_map(truth, _pooled(values, each, pool)) for each in grown]
        chosen = int(np.argmax(scores))
        counts = grown[chosen]
        if scores[chosen] > reached:
            best, reached = counts, scores[chosen]
    return best / best.sum()


def _pooled(values: np.ndarray, weights: np.ndarray, pool: Callable[..., np.ndarray]) -> np.ndarray:
    """Of those members [K, n, F] whose weight is not 0."""
    return pool(values[weights > 0], weights[weights > 0])


def _average(values: np.ndarray, weights: Sequence[float] | None) -> np.ndarray:
    """float32, in which images of equal mean rank are equal again, whatever the weights round to."""
    return np.average(values, axis=0, weights=weights).astype(np.float32)


def _pool(method: str) -> Callable[..., np.ndarray]:
    if method not in METHODS:
        raise UserError(f"method {method!r}: {choices(method, METHODS)}")
    return METHODS[method]


def _validation(paths: Sequence[Path], allow_leak: bool) -> Members:
    """The members' tables, of images that were not trained on, unless that is allowed."""
    members = read_members(paths)
    for path, about in zip(paths, members.provenances, strict=True):
        check_not_trained_on(path, about, allow_leak)
    return members


def _truth(members: Members, dataset: Dataset, labels: Labels, options: FitOptions) -> tuple[np.ndarray, np.ndarray]:
    """Targets in the members' rows and columns, float32 [n, F], and the subjects' ids, [n]."""
    path, table = members.paths[0], members.first
    rows, known, same = labelled(path, table, dataset, labels, options)
    truth = np.full(table.values.shape, np.nan, dtype=known.dtype)  # of a finding that the labels do not know
    truth[:, [table.findings.index(name) for name in same.findings]] = known
    if not ((truth == 1).any(axis=0) & (truth == 0).any(axis=0)).any():
        raise UserError(
            f"{path}: no finding has both a positive and a negative image, so there is no mAP; give tables of more "
            "images, or another --uncertain"
        )
    return truth, group_ids(dataset, "subject")[rows]


def _map(truth: np.ndarray, values: np.ndarray) -> float:
    """Findings without a positive or a negative image are left out (NaN: all are). AP alone:
    `cxrdali.metrics.ranking.score` takes ten times as long."""
    aps = []
    for wanted, ranked in zip(truth.T, values.T, strict=True):
        known, both = ~np.isnan(wanted), (wanted == 1).any() and (wanted == 0).any()
        aps.append(average_precision_score(wanted[known], ranked[known]) if both else np.nan)
    return macro(np.array(aps))


def _check_runs(members: Members, weights: Weights, allow_other_run: bool) -> list[str]:
    """What the history says where the weights were made from tables of other runs or TTA than the members', or in
    another order; raises UserError if they were, unless that is allowed."""
    if len(weights.values) != len(members.paths):
        raise UserError(
            f"{len(weights.values)} validation tables for {len(members.paths)} tables to pool: give one for each, in "
            "the same order"
        )
    fix, there = "give the validation tables of the same runs, in the same order", "the validation table in its place"
    unknown = (None,) * len(weights.runs)  # of an older version
    origins = zip(weights.runs, weights.ttas or unknown, weights.calibrated or unknown, strict=True)
    return [
        check_alike(
            path, about,
            {"predictions": there, "run": run, "tta": tta, "calibrated": None if done is None else list(done)},
            WEIGHTS, allow_other_run, fix,
        )
        for path, about, (run, tta, done) in zip(members.paths, members.provenances, origins, strict=True)
    ]  # fmt: skip


def _provenance(members: Members, kind: Kind, step: str, fitted: tuple[Fitted, ...]) -> Provenance:
    """What all members have in common, and which they are. One of them that does not know leaves it unknown."""
    names, each = short_names(members.paths), members.provenances
    common = {
        name: getattr(each[0], name) if len({getattr(other, name) for other in each}) == 1 else None
        for name in ("split", "labels", "dataset", "tta", "images", "home")
    }
    run = "ensemble of " + ", ".join(known.run or name for name, known in zip(names, each, strict=True))
    before = tuple(f"{name}: {text}" for name, known in zip(names, each, strict=True) for text in known.history)
    seen = tuple(f"{name}: {text}" for name, known in zip(names, each, strict=True) for text in known.seen or ())
    known_of_all = seen or None not in [known.seen for known in each]
    calibrated = tuple(f"table {place}: {text}" for place, known in enumerate(each, 1) for text in known.calibrated)
    return Provenance(
        kind, run, **common, history=(*before, step), calibrated=calibrated, seen=seen if known_of_all else None,
        fitted=fitted,
    )  # fmt: skip
