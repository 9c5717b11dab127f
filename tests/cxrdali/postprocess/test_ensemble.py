from dataclasses import replace
from math import log

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

from cxrdali.fitted import Fitted, sketch
from cxrdali.postprocess.ensemble import ensemble, fitted_weights, weights_by_map
from cxrdali.postprocess.options import FitOptions
from cxrdali.predictions import Predictions, Provenance, read
from shards.errors import UserError
from shards.storage.sidecar import beside
from tests.cxrdali.folds_by_hand import parts_by_hand

KNOWN = Provenance("logit", "model3", "val", "cxr-lt-2023", "d1", "hflip")


def table(values, provenance=KNOWN, images=("1", "2", "3"), findings=("A", "B")):
    ids = pd.DataFrame({"image_id": images, "study_id": ["s" + image for image in images], "view": "frontal"})
    return Predictions(ids, findings, np.array(values, dtype=np.float32), provenance)


THREE, MINUS = log(3), -log(3)  # probabilities 0.75 and 0.25
ONE = table([[THREE, 0], [0, 2], [5, -5]])
TWO = table([[MINUS, 0], [0, 2], [-5, -5]], replace(KNOWN, run="model5"))


@pytest.fixture
def paths(tmp_path):
    found = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
    for path, content in zip(found, (ONE, TWO), strict=True):
        content.write(path)
    return found


def refused(paths, **options):
    with pytest.raises(UserError) as caught:
        ensemble(paths, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_worked_by_hand(paths):
    made = ensemble(paths)
    np.testing.assert_allclose(made.values, [[0, 0], [0, 2], [0, -5]], atol=1e-6)
    assert made.ids.equals(ONE.ids) and made.findings == ("A", "B") and made.values.dtype == np.float32
    assert made.provenance == Provenance(
        "logit", "ensemble of model3, model5", "val", "cxr-lt-2023", "d1", "hflip",
        ("mean probability of one.parquet, two.parquet",), fitted=(Fitted(("best epoch",), sketch(ONE.ids), "val"),),
    )  # fmt: skip
    weighted = ensemble(paths, [3, 1])
    assert weighted.values[0, 0] == pytest.approx(log(0.625 / 0.375), rel=1e-6)
    assert weighted.provenance.history == ("mean probability of one.parquet, two.parquet by weights 3, 1",)


def test_rows_and_columns_may_stand_in_any_order(paths):
    in_order = ensemble(paths)
    shuffled = replace(TWO, ids=TWO.ids.iloc[[2, 0, 1]], findings=("B", "A"), values=TWO.values[[2, 0, 1]][:, ::-1])
    shuffled.write(paths[1])
    assert read(paths[1]).ids["image_id"].tolist() == ["3", "1", "2"]
    made = ensemble(paths)
    assert (made.values == in_order.values).all() and made.ids.equals(in_order.ids) and made.findings == ("A", "B")
    other_way = ensemble(paths[::-1])
    assert other_way.findings == ("B", "A") and other_way.ids["image_id"].tolist() == ["3", "1", "2"]
    assert (other_way.values == in_order.values[[2, 0, 1]][:, ::-1]).all()


def test_the_steps_before_are_kept(paths):
    replace(TWO, provenance=replace(TWO.provenance, history=("views",), tta="none")).write(paths[1])
    made = ensemble(paths).provenance
    assert made.history == ("two.parquet: views", "mean probability of one.parquet, two.parquet")
    assert made.tta is None


def test_files_of_one_name_are_told_apart(paths, tmp_path):
    (tmp_path / "other").mkdir()
    replace(ONE, provenance=replace(KNOWN, run=None, history=("views",))).write(tmp_path / "other" / "two.parquet")
    made = ensemble([*paths, tmp_path / "other" / "two.parquet"]).provenance
    one, two = tmp_path / "two.parquet", tmp_path / "other" / "two.parquet"
    assert made.history == (f"{two}: views", f"mean probability of one.parquet, {one}, {two}")
    assert made.run == f"ensemble of model3, model5, {two}"


def test_a_csv_that_says_nothing_leaves_unknown_what_it_does_not_say(paths, tmp_path):
    csv = tmp_path / "two.csv"
    TWO.write(csv)
    beside(csv).unlink()
    made = ensemble([paths[0], csv]).provenance
    assert (made.run, made.split, made.dataset) == ("ensemble of model3, two.csv", None, None)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (table([[0, 0]] * 2, images=("1", "2")), "one.parquet: image '3' is not in {two}; give tables of the same"),
        (table([[0, 0]] * 6, images=tuple("123456")), "two.parquet: image '4' (and 2 more) is not in {one}"),
        (table([[0]] * 3, findings=("A",)), "one.parquet: finding 'B' is not in {two}"),
        (table([[0] * 4] * 3, findings=("A", "B", "C", "D")), "two.parquet: finding 'C' (and 1 more) is not in {one}"),
        (replace(TWO, ids=TWO.ids.assign(study_id=["s1", "x", "y"])),
         "two.parquet: study_id of image '2' (and 1 more) is 'x', in {one} 's2'; give tables of the same dataset"),
        (replace(TWO, ids=TWO.ids.assign(view=["frontal", "frontal", "lateral"])),
         "two.parquet: view of image '3' is 'lateral', in {one} 'frontal'"),
        (TWO.as_probabilities(), "two.parquet: holds probabilities, which saturate"),
        (replace(TWO, provenance=replace(KNOWN, split="dev")),
         "two.parquet: was predicted on split 'dev', {one} on 'val'; predict both on the same split"),
        (replace(TWO, provenance=replace(KNOWN, dataset="d2")), "was predicted on dataset 'd2', {one} on 'd1'"),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_named(paths, second, message):
    second.write(paths[1])
    assert message.format(one=paths[0], two=paths[1]) in refused(paths)


def test_one_table_or_the_same_twice(paths, tmp_path):
    assert refused(paths[:1]) == "an ensemble of 1: give at least two tables of predictions"
    assert "one.parquet: is given twice; to count it more than the others, use --weights" in refused(
        [paths[0], paths[1], tmp_path / "." / "one.parquet"]
    )
    (tmp_path / "link.parquet").symlink_to(paths[0])
    assert "link.parquet: is given twice" in refused([paths[0], tmp_path / "link.parquet"])


def test_bad_tables_and_weights(paths):
    assert refused(paths, weights=[1]) == "weights [1]: give 2, one per table, each above 0"
    frame = ONE.ids.assign(A=[1.0, np.nan, 0], B=0.0)
    frame.to_parquet(paths[1])
    assert "two.parquet: finding 'A' is 'nan' for image '2', no number" in refused(paths)
    frame.assign(A=0.0, image_id="1").to_parquet(paths[1])
    assert "two.parquet: image '1' is in more than one row" in refused(paths)


# ---------------------------------------------------------------- other ways to pool


def test_the_geometric_mean_and_the_mean_rank(paths):
    made = ensemble(paths, [3, 1], "geometric")
    assert made.values[0, 0] == pytest.approx((3 * THREE + MINUS) / 4)
    assert made.provenance.history == (
        "geometric mean probability (mean logit) of one.parquet, two.parquet by weights 3, 1",
    )
    made = ensemble(paths, method="rank")
    ranks = [[rankdata(each.values[:, place]) for place in range(2)] for each in (ONE, TWO)]
    np.testing.assert_allclose(expit(made.values), (np.mean(ranks, axis=0).T - 0.5) / 3, rtol=1e-6)
    assert made.provenance.kind == "rank" and made.provenance.history == (
        "mean rank among these 3 images of one.parquet, two.parquet: no probability, and of this set of images alone",
    )
    assert refused(paths, method="median") == "method 'median': did you mean mean? choose one of mean, geometric, rank"


# ---------------------------------------------------------------- weights from validation


@pytest.fixture
def validation(dataset, tmp_path):
    """Three members' tables of the training split: one good, one fair, one of noise; and the truth."""
    labels = dataset.labels("cxr-lt-2023")
    rows = np.flatnonzero((labels.split == "train") & dataset.packed)
    ids = dataset.catalog.iloc[rows][["image_id", "study_id", "view"]]
    truth, rng = (labels.values[rows] == 1).astype(np.float64), np.random.default_rng(3)
    noise, found = rng.normal(0, 1, (3, *truth.shape)), []
    for name, skill, own in zip(("good", "fair", "noise"), (1.2, 0.9, 0.0), noise, strict=True):
        about = Provenance("logit", name, "val", labels.name, dataset.id, "none")
        found.append(tmp_path / f"{name}.val.parquet")
        Predictions(ids, labels.findings, (own + skill * truth).astype(np.float32), about).write(found[-1])
    subjects = dataset.catalog["subject_id"].to_numpy()[rows]
    return found, labels, truth, subjects


def mean_ap(truth, values):
    """Findings without a positive left out."""
    return np.mean([average_precision_score(t, v) for t, v in zip(truth.T, values.T, strict=True) if t.any()])


def test_weights_by_map_are_proportional_to_scikit_learns(validation, dataset):
    paths, labels, truth, _ = validation
    made = weights_by_map(paths, dataset, labels)
    maps = [mean_ap(truth, read(path).values) for path in paths]
    assert made.maps == pytest.approx(maps) and made.values == pytest.approx(np.array(maps) / sum(maps))
    assert maps[0] > maps[1] > maps[2] and made.runs == ("good", "fair", "noise")
    other = [path.with_name(path.name.replace("val", "test")) for path in paths]
    for source, target in zip(paths, other, strict=True):
        table = read(source)
        replace(table, provenance=replace(table.provenance, split="test")).write(target)
    pooled = ensemble(other, made)
    assert (pooled.values == ensemble(other, maps).values).all()
    (said,) = pooled.provenance.history
    assert said.endswith("(proportional to the mAP of good.val.parquet, fair.val.parquet, noise.val.parquet)")
    with pytest.raises(
        UserError, match=r"fair.test.parquet: run 'fair' here, 'good' in the validation table in its place"
    ):
        ensemble([other[1], other[0], other[2]], made)
    with pytest.raises(UserError, match=r"^3 validation tables for 2 tables to pool: give one for each"):
        ensemble(other[:2], made)


def searched(members, truth):
    """The greedy search with probabilities, from its description: counts of the best bag over their sum."""

    def reached(counts):
        return mean_ap(truth, np.average(members, axis=0, weights=counts))

    bags = [[1] * len(members)]
    for _ in range(10):
        grown = [[count + (place == other) for other, count in enumerate(bags[-1])] for place in range(len(members))]
        bags.append(max(grown, key=reached))
    best = max(bags, key=reached)
    return np.array(best) / sum(best)


def test_fitted_weights_are_those_of_the_search_and_their_gain_that_of_unseen_subjects(validation, dataset):
    paths, labels, truth, subjects = validation
    made = fitted_weights(paths, dataset, labels, options=FitOptions(folds=4))
    members = [expit(read(path).values.astype(np.float64)) for path in paths]
    weights = searched(members, truth)
    assert made.values == pytest.approx(weights) and made.values[0] > made.values[2]
    assert made.fitted_map == pytest.approx(mean_ap(truth, np.average(members, axis=0, weights=weights)))
    assert made.equal_map == pytest.approx(mean_ap(truth, np.mean(members, axis=0)))
    unseen = np.empty_like(truth)
    parts = parts_by_hand(subjects, 4)
    for number in range(4):
        seen, left_out = parts != number, parts == number
        own = searched([each[seen] for each in members], truth[seen])
        unseen[left_out] = np.average([each[left_out] for each in members], axis=0, weights=own)
    assert made.cross_fitted_map == pytest.approx(mean_ap(truth, unseen))
    assert made.fitted_map > made.equal_map > made.maps[2]
    assert "(fitted to the mAP of good.val.parquet, " in ensemble(paths, made).provenance.history[0]


def test_a_greedy_selection_begins_empty_and_leaves_members_out(validation, dataset):
    """By hand: the best member alone, then whatever raises the mAP of the mean the most, with repeats."""
    paths, labels, truth, _ = validation
    made = fitted_weights(paths, dataset, labels, options=FitOptions(folds=2), greedy=True)
    members = [expit(read(path).values.astype(np.float64)) for path in paths]
    counts, best, reached = np.zeros(len(members)), None, -1.0
    for _ in range(10):
        grown = [counts + row for row in np.eye(len(members))]
        scores = [mean_ap(truth, np.average(members, axis=0, weights=each)) for each in grown]
        counts = grown[int(np.argmax(scores))]
        if max(scores) > reached:
            best, reached = counts / counts.sum(), max(scores)
    assert made.values == pytest.approx(best) and made.fitted_map == pytest.approx(reached)
    assert 0 in made.values, "a member of little use is left out"
    pooled = ensemble(paths, made)
    expected = np.average(members, axis=0, weights=best)
    np.testing.assert_allclose(expit(pooled.values.astype(np.float64)), expected, atol=1e-6)
    with pytest.raises(UserError, match="each above 0"):
        ensemble(paths, list(made.values))


def test_weights_for_ranks_are_fitted_to_the_ranks_of_all_images(validation, dataset):
    paths, labels, truth, _ = validation
    made = fitted_weights(paths, dataset, labels, "rank", FitOptions(folds=2))
    values = [read(path).values for path in paths]
    ranks = [np.stack([rankdata(column) for column in each.T], axis=1) for each in values]
    assert made.equal_map == pytest.approx(mean_ap(truth, np.mean(ranks, axis=0)))
    assert made.values == pytest.approx(searched(ranks, truth))
    assert made.fitted_map == pytest.approx(mean_ap(truth, ensemble(paths, made, "rank").values))


@pytest.mark.parametrize(
    ("members", "pooled"),
    [
        (((), ()), ()),
        (((), None), None),
        ((("2 of 3 by x",), None), ("a.parquet: 2 of 3 by x",)),
        ((("2 of 3 by x",), ("1 of 3 by y",)), ("a.parquet: 2 of 3 by x", "b.parquet: 1 of 3 by y")),
    ],
)
def test_what_members_have_seen_goes_into_the_pooled_table(tmp_path, members, pooled):
    paths = [tmp_path / f"{name}.parquet" for name in "ab"]
    for path, seen in zip(paths, members, strict=True):
        table([[0, 1], [2, 3], [4, 5]], replace(KNOWN, seen=seen)).write(path)
    if pooled:
        with pytest.raises(UserError, match="a.parquet: 2 of 3 by x: they look better than any other; give a table of"):
            ensemble(paths)
    assert ensemble(paths, allow_leak=bool(pooled)).provenance.seen == pooled
    for path in paths:  # of training images nobody expects anything else
        replace(read(path), provenance=replace(read(path).provenance, split="train")).write(path)
    assert ensemble(paths).provenance.seen == pooled


def test_images_that_were_trained_on_weigh_nothing(validation, dataset):
    paths, labels, _, _ = validation
    table = read(paths[1])
    for split in ("train", "all"):
        for path in paths:
            replace(read(path), provenance=replace(table.provenance, split=split)).write(path)
        for make in (weights_by_map, fitted_weights):
            with pytest.raises(
                UserError, match=f"good.val.parquet: was predicted on split '{split}', whose images were"
            ):
                make(paths, dataset, labels)


def test_folds_that_cannot_be(validation, dataset):
    paths, labels, _, subjects = validation
    folds = len(set(subjects)) + 1
    with pytest.raises(UserError, match=f"^folds {folds}: 2 to {len(set(subjects))}, the subjects in .*good.val"):
        fitted_weights(paths, dataset, labels, options=FitOptions(folds=folds))
    with pytest.raises(UserError, match="^folds 1: at least 2"):
        FitOptions(folds=1)


def test_validation_without_a_positive_and_a_negative_has_no_map(dataset, tmp_path):
    labels = dataset.labels("cxr-lt-2023")
    row = next(
        row for row in np.flatnonzero(dataset.packed & (labels.split == "train")) if not labels.values[row].any()
    )
    ids = dataset.catalog.iloc[[row]][["image_id", "study_id", "view"]]
    for name in "ab":
        Predictions(ids, labels.findings, np.full((1, 5), 2.0, dtype=np.float32)).write(tmp_path / f"{name}.parquet")
    with pytest.raises(UserError, match="a.parquet: no finding has both a positive and a negative image, so there"):
        weights_by_map([tmp_path / "a.parquet", tmp_path / "b.parquet"], dataset, labels)
