"""A run at home and away: every number against scikit-learn, and a planted shift of prevalence."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    precision_recall_curve,
    recall_score,
    roc_auc_score,
)

from cxrdali.data.splits import balanced_parts
from cxrdali.evaluate.external import SIDES, external, write
from cxrdali.evaluate.options import ExternalOptions
from cxrdali.metrics.calibration_error import ece
from cxrdali.predictions import read
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from tests.cxrdali.evaluate.hospitals import RUN, hospital

HOME, AWAY = (0.3, 0.3, 0.3), (0.08, 0.3, 0.3)  # only how often there is an A differs
OPTIONS = ExternalOptions(draws=200)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hospitals")
    return hospital(folder, "home", HOME), hospital(folder, "away", AWAY, seed=1)


@pytest.fixture(scope="module")
def result(places):
    return external(RUN, places[0], [places[1]], OPTIONS)


def parts_of(place):
    """Labels, logits and patients, in the order of the catalog."""
    return place.labels.values, read(place.path).values.astype(float), place.dataset.catalog["subject_id"].to_numpy()


def best_f1(truth, values):
    """The highest threshold of the best F1."""
    precision, recall, limits = precision_recall_curve(truth, values)
    found = (2 * precision * recall / np.maximum(precision + recall, 1e-12))[:-1]
    return limits[np.flatnonzero(found == found.max())[-1]]


def platt(truth, values):
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(values[:, None], truth)
    return lambda logits: model.predict_proba(logits[:, None])[:, 1]


def judged_by(truth, values, part, fitted_to):
    """Probabilities and calls of each part by rules fitted to the part or parts that `fitted_to` says."""
    chances, called = np.empty(len(truth)), np.empty(len(truth), dtype=bool)
    for number in range(part.max() + 1):
        inside, others = part == number, fitted_to(part, number)
        chances[inside] = platt(truth[others], values[others])(values[inside])
        called[inside] = values[inside] >= best_f1(truth[others], values[others])
    return chances, called


def scores_of(truth, chances, called):
    return {
        "recall": recall_score(truth, called),
        "specificity": recall_score(truth, called, pos_label=0),
        "F1": f1_score(truth, called),
        "ECE": ece(truth[:, None].astype(float), chances[:, None])[0],
        "Brier": brier_score_loss(truth, chances),
    }


def test_home_is_cross_fitted_and_away_is_judged_by_all_of_home_and_by_small_parts_of_itself(places, result):
    (home, raw, who), (away, there, whom) = map(parts_of, places)
    rows = result["away"][0]["findings"]
    for place, row in enumerate(rows):
        truth, values = home[:, place], raw[:, place]
        part = balanced_parts(who, 5)
        wanted = {"home": scores_of(truth, *judged_by(truth, values, part, lambda part, number: part != number))}
        limit, chances = best_f1(truth, values), platt(truth, values)(there[:, place])
        target, logits = away[:, place], there[:, place]
        wanted["away"] = scores_of(target, chances, logits >= limit)
        part = balanced_parts(whom, 5)
        again = judged_by(target, logits, part, lambda part, number: part == (number + 1) % 5)
        wanted["refitted"] = scores_of(target, *again)
        for side, scores in wanted.items():
            for name, value in scores.items():
                assert row[side][name] == pytest.approx(value, abs=2e-4), (side, name)
        for side, labels, scores in (("home", truth, values), ("away", target, logits)):
            assert row[side]["AP"] == pytest.approx(average_precision_score(labels, scores))
            assert row[side]["AUROC"] == pytest.approx(roc_auc_score(labels, scores))
            assert row[side]["prevalence"] == pytest.approx(labels.mean())
            raw_ece = ece(labels[:, None] * 1.0, expit(scores)[:, None])[0]
            assert row[side]["ECE_raw"] == pytest.approx(raw_ece, abs=1e-6)
        weight = np.where(target == 1, 1, (target.mean() / (1 - target.mean())) / (truth.mean() / (1 - truth.mean())))
        wanted = average_precision_score(target, logits, sample_weight=weight)
        assert row["away"]["AP_reweighted"] == pytest.approx(wanted)
        for name in ("AP", "AUROC", "recall", "prevalence"):
            assert row["difference"][name]["difference"] == pytest.approx(row["home"][name] - row["away"][name])
        for name in ("recall", "ECE"):
            assert row["mended"][name]["difference"] == pytest.approx(row["refitted"][name] - row["away"][name])
        assert row["difference"]["AP_reweighted"]["difference"] == pytest.approx(
            row["home"]["AP"] - row["away"]["AP_reweighted"]
        )
        assert row["counts"]["away"]["positives"] == target.sum()
        assert row["counts"]["home"]["negative_patients"] == len(set(who[truth == 0]))
    means = result["away"][0]["means"]
    for side in SIDES[:3]:
        assert means[side]["recall"] == pytest.approx(np.mean([row[side]["recall"] for row in rows]))
    assert means["scored"]["AP"] == 3 and result["away"][0]["refitted_on"] == 80


def test_a_shift_of_prevalence_breaks_calibration_and_ap_and_not_auroc(result):
    """Given the finding or not, A's logits are the same in both hospitals; B and C do not differ at all."""
    row, *same = result["away"][0]["findings"]

    def leaves_out_zero(side, name, of=row):
        return of[side][name]["low"] > 0 or of[side][name]["high"] < 0

    assert leaves_out_zero("difference", "prevalence") and leaves_out_zero("difference", "AP")
    assert leaves_out_zero("difference", "ECE") and row["difference"]["ECE"]["difference"] < -0.03
    assert leaves_out_zero("mended", "ECE") and row["mended"]["ECE"]["difference"] < -0.03
    assert leaves_out_zero("mended", "Brier") and row["mended"]["Brier"]["difference"] < 0
    for name in ("AUROC", "AP_reweighted"):
        assert not leaves_out_zero("difference", name), name
    assert row["away"]["AP"] < row["away"]["AP_reweighted"]
    for other in same:
        for name in ("prevalence", "AP", "AUROC", "ECE"):
            assert not leaves_out_zero("difference", name, other), name


def test_a_difference_is_of_two_independent_groups_of_patients(places):
    """Its spread is that of both: AUROC's, by samples of each hospital's own patients written out."""
    found = external(RUN, places[0], [places[1]], replace(OPTIONS, draws=300))["away"][0]["findings"][0]
    spreads = []
    for place, seed in zip(places, (5, 6), strict=True):
        truth, values, _ = parts_of(place)
        rng, made = np.random.default_rng(seed), []
        for _ in range(300):
            patients = rng.integers(0, 400, 400)
            rows = np.concatenate([2 * patients, 2 * patients + 1])
            made.append(roc_auc_score(truth[rows, 0], values[rows, 0]))
        spreads.append(np.std(made))
    width = found["difference"]["AUROC"]["high"] - found["difference"]["AUROC"]["low"]
    assert width == pytest.approx(2 * 1.99 * np.hypot(*spreads), rel=0.2)
    alone = [logit(found[side]["AUROC_high"]) - logit(found[side]["AUROC_low"]) for side in ("home", "away")]
    scale = [found[side]["AUROC"] * (1 - found[side]["AUROC"]) for side in ("home", "away")]
    assert width == pytest.approx(np.hypot(*np.multiply(alone, scale)), rel=0.2)


def test_home_may_be_other_images_than_validation(places, tmp_path):
    """Then all of home is judged by what was fitted to validation, as the others are."""
    test = hospital(tmp_path, "test", HOME, seed=2)
    found = external(RUN, test, [places[1]], OPTIONS, validation=places[0])
    assert found["fitted_on"] == {"images": 800, "cross_fitted": False, "kept": {}}
    (truth, values, _), (home, raw, _) = map(parts_of, (test, places[0]))
    for place, row in enumerate(found["away"][0]["findings"]):
        fitted = home[:, place], raw[:, place]
        wanted = scores_of(truth[:, place], platt(*fitted)(values[:, place]), values[:, place] >= best_f1(*fitted))
        assert {name: row["home"][name] for name in wanted} == pytest.approx(wanted, abs=2e-4)


def test_findings_that_only_one_side_has_are_listed_and_in_no_mean(places, tmp_path):
    """The run has A, B and C; the away pack's labels have B and D, and call C otherwise."""
    away = hospital(tmp_path, "away", (0.3, 0.3, 0.3), seed=1)
    labels = replace(away.labels, findings=("See", "B", "D"))
    (tmp_path / "map.toml").write_text('"See" = "C"\n')
    options = replace(OPTIONS, findings=str(tmp_path / "map.toml"))
    found = external(RUN, places[0], [replace(away, labels=labels)], options)
    (one,) = found["away"]
    assert [(row["finding"], row["in_labels"]) for row in one["findings"]] == [("B", "B"), ("C", "See")]
    assert one["only_home"] == ["A"] and one["only_away"] == []
    assert (one["common"]["only_predictions"], one["common"]["only_labels"]) == (("A",), ("D",))
    assert one["means"]["home"]["AP"] == pytest.approx(np.mean([row["home"]["AP"] for row in one["findings"]]))
    assert [row["group"] for row in one["findings"]] == ["medium", "tail"]
    _, path = write(found, tmp_path / "out.json")
    rows = list(csv.DictReader(path.open()))
    assert [(row["finding"], row["side"], row["AP"]) for row in rows[-1:]] == [("A", "left out, home only", "")]
    assert [row["side"] for row in rows[:5]] == [*SIDES] and float(rows[0]["AP"]) == one["means"]["home"]["AP"]
    assert float(rows[3]["AP_p_holm"]) == one["means"]["difference"]["AP"]["p_holm"]
    assert json.loads((tmp_path / "out.json").read_bytes())["away"][0]["only_home"] == ["A"]


def test_a_map_may_name_what_only_one_of_several_hospitals_has(places, tmp_path):
    """For all, or below [packs.NAME] by the name of --away; a name that none of them has is refused."""
    one, other = (hospital(tmp_path, name, (0.3, 0.3, 0.3), seed=seed) for name, seed in (("one", 1), ("other", 2)))
    one = replace(one, labels=replace(one.labels, findings=("Ay", "B", "C")))
    other = replace(other, labels=replace(other.labels, findings=("A", "Be", "C")))

    def found(names):
        result = external(RUN, places[0], [one, other], replace(OPTIONS, draws=0, findings=names))
        return [{row["in_labels"]: row["finding"] for row in each["findings"]} for each in result["away"]]

    same = [{"Ay": "A", "B": "B", "C": "C"}, {"A": "A", "Be": "B", "C": "C"}]
    assert found('{"Ay": "A", "Be": "B"}') == found('{"Ay": "A", "packs": {"other": {"Be": "B"}}}') == same
    with pytest.raises(UserError, match="findings: 'Aye': no such finding; did you mean Ay"):
        found('{"Aye": "A"}')
    with pytest.raises(UserError, match="packs.others: no such pack; did you mean other"):
        found('{"packs": {"others": {"Be": "B"}}}')


def test_images_without_labels_are_not_negatives(places, tmp_path):
    """Not listed, or of a split that was released without labels: left out and counted."""
    away = hospital(tmp_path, "away", HOME, seed=1)
    split, values = away.labels.split.copy(), away.labels.values.copy()
    split[:100], split[100:300], values[100:300] = None, "dev", Labels.BLANK
    part = external(RUN, places[0], [replace(away, labels=replace(away.labels, split=split, values=values))], OPTIONS)
    (one,) = part["away"]
    assert one["left_out"] == {"not listed": 100, "split dev, released without labels": 200} and one["images"] == 500
    truth, logits, _ = parts_of(away)
    assert one["findings"][0]["away"]["AP"] == pytest.approx(average_precision_score(truth[300:, 0], logits[300:, 0]))


def test_hospitals_that_call_their_images_alike_are_told_apart_by_pixels(places, tmp_path):
    """Each has an image 0, 1, ...; the same pixels are the same image."""
    home = places[0]

    def known(place, offset, name):
        dataset = PackedDataset(place.dataset.root, {**place.dataset.info, "id": name, "hashed": 8})
        pixels = [f"{offset + number:040x}" for number in range(len(place.dataset.catalog))]
        dataset.__dict__.update(
            {"catalog": place.dataset.catalog.assign(pixels=pixels), "packed": place.dataset.packed}
        )
        return replace(place, name=name, dataset=dataset)

    others = known(replace(home, name="b"), 10_000, "other")
    (one,) = external(RUN, known(home, 0, "here"), [others], replace(OPTIONS, draws=0))["away"]
    assert (one["name"], one["images"]) == ("other", 800)
    for same in (known(home, 799, "other"), known(home, 10_000, "here")):
        with pytest.raises(UserError, match="has images that .* has too; give another --away"):
            external(RUN, known(home, 0, "here"), [same], replace(OPTIONS, draws=0))


@pytest.mark.filterwarnings("error")
def test_a_finding_of_one_kind_alone_has_no_odds(places, tmp_path):
    """Unknown everywhere at home, or of all images away: no AP, and none at another prevalence."""
    home, away = places
    values, there = home.labels.values.copy(), away.labels.values.copy()
    values[:, 0], there[:, 1] = Labels.UNKNOWN, 1
    home, away = (
        replace(place, labels=replace(place.labels, values=own)) for place, own in ((home, values), (away, there))
    )
    (one,) = external(RUN, home, [away], replace(OPTIONS, draws=20))["away"]
    assert [row["away"]["AP_reweighted"] is None for row in one["findings"]] == [True, True, False]
    assert one["means"]["scored"]["AP_reweighted"] == 1


def test_what_cannot_be_judged_is_refused(places, tmp_path):
    home, away = places

    def refused(*given, **options):
        with pytest.raises(UserError) as error:
            external(RUN, home, given, replace(OPTIONS, **options))
        return str(error.value)

    trained = hospital(tmp_path, "trained", HOME)
    table = read(trained.path)
    seen = replace(table.provenance, seen=("5 of 800 images were trained on by run",))
    replace(table, provenance=seen).write(trained.path)
    assert "5 of 800 images were trained on by run: they look better than any other" in refused(away, trained)
    external(RUN, home, [trained], replace(OPTIONS, draws=0, allow_leak=True))
    assert f"has images that {home.path} has too; give another --away" in refused(replace(home, name="b"))
    others = replace(away.labels, findings=("X", "Y", "Z"))
    assert "none of its findings is in labels 'l'" in refused(replace(away, labels=others))
    few = hospital(tmp_path, "few", HOME, patients=4)
    assert "4 patients, --refit 0.2 needs at least 5" in refused(few)
    assert replace(OPTIONS, refit=0.333).refit == 0.333
    wrong = (({"refit": 0.6}, "refit 0.6"), ({"refit": 0.3}, "refit 0.3"), ({"strategy": "best"}, "strategy 'best'"))
    for options, said in wrong:
        with pytest.raises(UserError, match=said):
            replace(OPTIONS, **options)


def test_without_samples_there_are_scores_alone(places):
    (one,) = external(RUN, places[0], [places[1]], replace(OPTIONS, draws=0))["away"]
    assert one["means"]["away"]["AP"] > 0 and one["means"]["away"]["AP_low"] is None
    assert one["means"]["difference"]["AP"] == {
        "difference": one["means"]["home"]["AP"] - one["means"]["away"]["AP"],
        "low": None, "high": None, "p": None, "p_holm": None,
    }  # fmt: skip
