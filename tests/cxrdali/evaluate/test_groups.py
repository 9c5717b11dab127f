"""Groups of images and their scores, against NumPy and scikit-learn by hand."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from cli.options.group_scores import print_groups
from cxrdali.evaluate.by_group import groups_by, write
from cxrdali.evaluate.group_scores import MEASURES, worst
from cxrdali.evaluate.groups import dimensions
from cxrdali.evaluate.options import ByOptions
from cxrdali.metrics.bootstrap import Images
from cxrdali.metrics.calibration_error import ece
from shards.errors import UserError

FINDINGS = ("Edema", "Mass", "Hernia")


class People:
    """A dataset whose catalog is a table."""

    def __init__(self, **columns):
        self.table = pd.DataFrame(columns)

    def has(self, name):
        return name in self.table

    def of_rows(self, rows, *names):
        return pa.Table.from_pandas(self.table[[*names]]).take(rows).to_pandas().set_axis(rows)


def scored(patients=300, seed=0, findings=FINDINGS, lost=()):
    """Images of patients, each of one sex; the signal of images in `lost` is absent. Returns them and each sex."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    sex = np.array(["F", "M"])[rng.integers(0, 2, patients)][patient]
    truth = (rng.random((len(patient), len(findings))) < [0.4, 0.25, 0.02][: len(findings)]).astype(float)
    values = rng.normal(size=truth.shape) + np.where(np.isin(sex, lost)[:, None], 0, 1.5) * truth
    return Images(truth, values, patient, 1 / (1 + np.exp(-values)), values > 0.7), sex


def the_group(block, by, name):
    part = next(part for part in block["dimensions"] if part["by"] == by)
    return next(row for row in part["groups"] if row["group"] == name)


# ---------------------------------------------------------------- which images


def test_groups_are_those_of_the_columns():
    people = People(
        sex=["F", None, "M", "F"],
        age=pd.array([17.9, 18, None, 80], dtype="Float32"),
        manufacturer=["Philips", "Philips", None, None],
        model=["D9", None, None, "X"],
        year=pd.array([2014, 2015, None, 2014], dtype="Int32"),
        view_position=["PA", "", "AP", "PA"],
    )
    rows = np.array([3, 0, 1, 2])
    found = {each.by: each for each in dimensions(people, rows, ("sex", "age", "scanner", "year", "view_position"),
                                                  ("18", "40", "80"))}  # fmt: skip
    words = {by: [each.names[code] for code in each.codes] for by, each in found.items()}
    assert words["sex"] == ["F", "F", "unknown", "M"]
    assert words["age"] == ["80 and over", "under 18", "18 to 39", "unknown"]
    assert words["scanner"] == ["X", "Philips D9", "Philips", "unknown"]
    assert words["year"] == ["2014", "2014", "2015", "unknown"]
    assert words["view_position"] == ["PA", "PA", "unknown", "AP"]
    assert found["sex"].names == ("F", "M", "unknown")
    assert found["age"].names == ("under 18", "18 to 39", "80 and over", "unknown")  # without those of nobody
    (crossed,) = dimensions(people, rows, ("sex*age",), ("18", "40", "80"))
    assert [crossed.names[code] for code in crossed.codes] == [
        "F, 80 and over", "F, under 18", "unknown, 18 to 39", "M, unknown",
    ]  # fmt: skip
    assert crossed.names == ("F, under 18", "F, 80 and over", "M, unknown", "unknown, 18 to 39")


def test_what_there_is_not_says_how_to_get_it():
    people, rows = People(sex=["F", "M"]), np.arange(2)
    (age,) = dimensions(people, rows, ("age",), ("18",))
    assert age.missing.startswith("age: not measured: no age is known of these images; attach it (`cxrdali subjects")
    (crossed,) = dimensions(people, rows, ("sex*scanner",), ("18",))
    assert "scanner: not measured: no manufacturer or model is known" in crossed.missing
    (pack,) = dimensions(people, rows, ("pack",), ("18",))
    assert pack.missing == "pack: not measured: the images are of one pack"
    with pytest.raises(UserError, match="by 'sexx': did you mean sex"):
        dimensions(people, rows, ("age*sexx",), ("18",))
    for wrong in (("40", "18"), ("18", "18"), ("0",), ("a",), ("18.5",), ("130",)):
        with pytest.raises(UserError, match="age-bins"):
            dimensions(people, rows, ("age",), wrong)


# ---------------------------------------------------------------- scores


@pytest.fixture(scope="module")
def block_and_images():
    images, sex = scored()
    people = People(sex=sex, view=np.where(np.arange(len(sex)) % 3, "frontal", "lateral"))
    options = ByOptions(draws=60, by=("sex", "view", "sex*view"), min_group=20)
    return groups_by(images, people, np.arange(len(sex)), FINDINGS, options), images, sex


def test_groups_that_are_all_too_small_are_printed_as_such(capsys):
    images, sex = scored(patients=30)
    options = ByOptions(draws=20, by=("sex",), min_group=1000)
    print_groups({"groups_by": groups_by(images, People(sex=sex), np.arange(len(sex)), FINDINGS, options)})
    said = capsys.readouterr().out.splitlines()
    assert said[0].split()[:5] == ["by", "sex", "images", "patients", "findings"]
    for line, name in zip(said[1:3], ("F", "M"), strict=True):
        counts = [f"{(sex == name).sum()}", f"{len(np.unique(images.patient[sex == name]))}"]
        assert line.split()[:3] == [name, *counts] and "too small" in line


def test_scores_of_groups_are_scikit_learns(block_and_images):
    block, images, sex = block_and_images
    for name in ("F", "M"):
        row, mask = the_group(block, "sex", name), sex == name
        assert row["images"] == mask.sum() and row["patients"] == len(np.unique(images.patient[mask]))
        aps, aurocs, eces, recalls, specificities = [], [], [], [], []
        for place, found in enumerate(row["findings"]):
            y, s, c = (each[mask, place] for each in (images.truth, images.values, images.called))
            counts = [len(np.unique(images.patient[mask][y == label])) for label in (1, 0)]
            assert found["positives"] == (y == 1).sum() and found["negatives"] == (y == 0).sum()
            assert [found["positive_patients"], found["negative_patients"]] == counts
            assert found["too_small"] == (min(counts) < 20)
            if found["too_small"]:
                assert found["AP"] is None and found["recall"] is None and found["ECE"] is None
                continue
            aps.append(average_precision_score(y, s))
            aurocs.append(roc_auc_score(y, s))
            eces.append(ece(y[:, None], images.probabilities[mask][:, [place]])[0])
            recalls.append(c[y == 1].mean())
            specificities.append(1 - c[y == 0].mean())
            wanted = (aps[-1], aurocs[-1], eces[-1], recalls[-1], specificities[-1])
            for score, value in zip(("AP", "AUROC", "ECE", "recall", "specificity"), wanted, strict=True):
                assert found[score] == pytest.approx(value), score
                assert found[f"{score}_low"] <= found[f"{score}_high"]
        assert row["scored"] == ["Edema", "Mass"] and row["findings"][2]["too_small"]
        means = dict(zip(MEASURES, map(np.mean, (aps, aurocs, recalls, specificities, eces)), strict=False))
        for measure, value in means.items():
            assert row[measure] == pytest.approx(value), measure
        ill = (images.truth[mask] == 1).any(axis=1)
        assert row["underdiagnosis"] == pytest.approx(1 - images.called[mask][ill].any(axis=1).mean())
        assert row["underdiagnosis_low"] < row["underdiagnosis"] < row["underdiagnosis_high"]


def test_gaps_are_to_the_rest_on_the_same_samples_of_patients(block_and_images):
    block, images, sex = block_and_images
    row = the_group(block, "sex", "F")
    own, rest = (images.where(sex == name) for name in ("F", "M"))

    def auroc(part, rows, place):
        return roc_auc_score(part.truth[rows, place], part.values[rows, place])

    everyone = slice(None)
    wanted = np.mean([auroc(own, everyone, place) - auroc(rest, everyone, place) for place in (0, 1)])
    assert row["gaps"]["macro_AUROC"]["difference"] == pytest.approx(wanted)
    picked = np.random.default_rng(0).integers(0, 300, (60, 300))
    samples = []
    for sample in picked:
        rows = [np.concatenate([np.flatnonzero(part.patient == one) for one in sample]) for part in (own, rest)]
        samples.append(np.mean([auroc(own, rows[0], place) - auroc(rest, rows[1], place) for place in (0, 1)]))
    gap = row["gaps"]["macro_AUROC"]
    assert (gap["low"] + gap["high"]) / 2 == pytest.approx(2 * wanted - np.mean(samples), abs=1e-6)
    assert (gap["high"] - gap["low"]) / 2 == pytest.approx(1.96 * np.std(samples), rel=0.03)
    of_men = the_group(block, "sex", "M")["gaps"]["macro_AUROC"]
    assert of_men["difference"] == pytest.approx(-gap["difference"]) and of_men["low"] == pytest.approx(-gap["high"])


def test_gaps_of_groups_of_the_same_patients_are_paired(block_and_images):
    """A patient has images of both views: what makes the patient hard is in both, and falls out of the gap."""
    block, _, _ = block_and_images
    gap = the_group(block, "view", "frontal")["gaps"]["mAP"]
    assert gap["low"] < 0 < gap["high"] and gap["p_holm"] >= gap["p"]


def test_the_number_of_comparisons_is_that_of_all_gaps(block_and_images):
    block, _, _ = block_and_images
    gaps = [gap for part in block["dimensions"] for row in part["groups"] for gap in row["gaps"].values()]
    gaps += [gap for part in block["dimensions"] for gap in part["gaps"]]
    ps = [gap["p"] for gap in gaps if gap["p"] is not None]
    assert block["comparisons"]["means"] == len(ps) == (2 + 2 + 4) * 6 + 3 * 6
    smallest = min(gaps, key=lambda gap: gap["p"])
    assert smallest["p_holm"] == pytest.approx(min(1, smallest["p"] * len(ps)))


def test_best_less_worst_pays_for_the_choice(block_and_images):
    block, _, _ = block_and_images
    for part, pairs in zip(block["dimensions"], (1, 1, 6), strict=True):
        for gap in part["gaps"]:
            rows = {row["group"]: row for row in part["groups"]}
            sign = 1 if MEASURES[gap["metric"]][1] else -1
            furthest = sorted(rows, key=lambda name: sign * rows[name]["gaps"][gap["metric"]]["difference"])
            assert (gap["worst"], gap["best"], gap["pairs"]) == (furthest[0], furthest[-1], pairs)
            assert gap["difference"] == pytest.approx(
                rows[gap["best"]][gap["metric"]] - rows[gap["worst"]][gap["metric"]]
            )
            assert gap["p"] <= 1
    crossed = next(gap for gap in block["dimensions"][2]["gaps"] if gap["metric"] == "macro_AUROC")
    assert crossed["p"] > 0.05  # there is no difference, though the worst was looked for


def test_a_group_that_is_ahead_is_not_called_behind():
    """One group of a size that can be compared, better than its rest but for ECE, where less is better."""
    gap = {"difference": 0.25, "low": 0.0, "high": 0.5, "p": 0.1, "p_holm": 0.2}
    row = {"group": "F", "findings": [], **dict.fromkeys(MEASURES, 0.5), "gaps": dict.fromkeys(MEASURES, gap)}
    behind = worst([{"by": "sex", "groups": [row]}], [])["means"]
    assert [each["metric"] for each in behind] == [name for name, (_, more) in MEASURES.items() if not more] != []


def test_a_planted_failure_is_the_worst_group():
    images, sex = scored(lost=("F",), seed=1)
    rng = np.random.default_rng(2)
    people = People(sex=sex, age=pd.array(rng.integers(20, 90, 300)[images.patient], dtype="Float32"))
    options = ByOptions(draws=100, by=("sex", "age"), min_group=20)
    block = groups_by(images, people, np.arange(len(sex)), FINDINGS, options)
    worst = {row["metric"]: row for row in block["worst"]["means"]}
    for measure in ("mAP", "macro_AUROC", "macro_recall", "underdiagnosis"):
        assert (worst[measure]["by"], worst[measure]["group"]) == ("sex", "F"), measure
        assert worst[measure]["p_holm"] < 0.001, measure
        sign = 1 if measure == "underdiagnosis" else -1
        assert sign * worst[measure]["difference"] > 0 and sign * worst[measure]["low"] > 0, measure
    findings = {(row["finding"], row["metric"]): row for row in block["worst"]["findings"]}
    for finding in ("Edema", "Mass"):
        assert findings[finding, "AUROC"]["group"] == "F" and findings[finding, "AUROC"]["p_holm"] < 0.01
    assert the_group(block, "sex", "F")["macro_AUROC"] == pytest.approx(0.5, abs=0.06)


def test_groups_that_are_too_small_are_shown():
    images, sex = scored()
    sex[images.patient < 9] = "X"
    block = groups_by(images, People(sex=sex), np.arange(len(sex)), FINDINGS, ByOptions(draws=20, by=("sex",)))
    row = the_group(block, "sex", "X")
    assert row["too_small"] and row["patients"] == 9 and row["images"] == (sex == "X").sum() and not row["scored"]
    assert all(row[measure] is None and row["gaps"][measure]["difference"] is None for measure in MEASURES)
    assert row["findings"][0]["positives"] == images.truth[sex == "X", 0].sum()
    assert {gap["worst"] for gap in block["dimensions"][0]["gaps"]} <= {"F", "M"}


def test_one_group_of_all_has_no_gap():
    images, sex = scored()
    people = People(sex=np.where(sex == "F", "F", "F"))
    block = groups_by(images, people, np.arange(len(sex)), FINDINGS, ByOptions(draws=20, by=("sex",)))
    (row,) = block["dimensions"][0]["groups"]
    assert row["mAP"] is not None and row["gaps"]["mAP"]["difference"] is None and not block["dimensions"][0]["gaps"]
    assert block["worst"] == {"means": [], "findings": []} and block["comparisons"] == {"means": 0, "findings": 0}


@pytest.mark.parametrize("name", ["No Finding", "Normal", "no_finding"])
def test_underdiagnosis_is_by_the_finding_that_says_there_is_none(name):
    """The share called No Finding of the images whose No Finding is 0 (Seyyed-Kalantari et al. 2021)."""
    images, sex = scored(findings=("Edema", name))
    images.truth[::11, 1] = np.nan
    block = groups_by(images, People(sex=sex), np.arange(len(sex)), ("Edema", name), ByOptions(draws=20, by=("sex",)))
    assert block["underdiagnosis"] == name
    for sex_of in ("F", "M"):
        ill = (sex == sex_of) & (images.truth[:, 1] == 0)
        assert the_group(block, "sex", sex_of)["underdiagnosis"] == pytest.approx(images.called[ill, 1].mean())


def test_without_a_threshold_for_no_finding_nobody_is_called_well_or_ill():
    """Thresholds that were fitted elsewhere may know other findings alone."""
    images, sex = scored(findings=("Edema", "No Finding"))
    called = np.where([True, False], images.called, np.nan)
    images = Images(images.truth, images.values, images.patient, images.probabilities, called)
    options = ByOptions(draws=20, by=("sex",))
    block = groups_by(images, People(sex=sex), np.arange(len(sex)), ("Edema", "No Finding"), options)
    for row in block["dimensions"][0]["groups"]:
        assert row["underdiagnosis"] is None and row["macro_recall"] == row["findings"][0]["recall"]


def test_without_decisions_there_is_no_sensitivity():
    images, sex = scored()
    plain = Images(images.truth, images.values, images.patient)
    block = groups_by(plain, People(sex=sex), np.arange(len(sex)), FINDINGS, ByOptions(draws=20, by=("sex",)))
    row = the_group(block, "sex", "F")
    assert row["mAP_low"] is not None
    for measure in ("macro_recall", "macro_specificity", "macro_ECE", "underdiagnosis"):
        assert row[measure] is None and row["gaps"][measure]["p"] is None
    assert {gap["metric"] for gap in block["dimensions"][0]["gaps"]} == {"mAP", "macro_AUROC"}


def test_without_samples_there_are_values_alone():
    images, sex = scored()
    block = groups_by(images, People(sex=sex), np.arange(len(sex)), FINDINGS, ByOptions(draws=0, by=("sex",)))
    row = the_group(block, "sex", "F")
    assert row["mAP"] is not None and row["mAP_low"] is None and row["gaps"]["mAP"]["p"] is None


def test_the_csv_has_a_row_per_group_and_finding(block_and_images, tmp_path):
    block, _, _ = block_and_images
    table = pd.read_csv(write(block, tmp_path / "g.csv"))
    assert len(table) == 8 * 4 and list(table.columns[:5]) == ["by", "group", "finding", "images", "patients"]
    means = table[table["finding"].isna()].set_index(["by", "group"])
    row = the_group(block, "sex", "F")
    assert means.loc[("sex", "F"), "AP"] == pytest.approx(row["mAP"])
    assert means.loc[("sex", "F"), "AUROC_gap_p_holm"] == pytest.approx(row["gaps"]["macro_AUROC"]["p_holm"])
    assert means.loc[("sex", "F"), "underdiagnosis_low"] == pytest.approx(row["underdiagnosis_low"])
    edema = table[(table["finding"] == "Edema") & (table["by"] == "sex")].set_index("group")
    assert edema.loc["M", "AP_gap"] == pytest.approx(
        the_group(block, "sex", "M")["findings"][0]["gaps"]["AP"]["difference"]
    )


@pytest.mark.slow
def test_gaps_of_equal_groups_hold_zero_as_often_as_they_say():
    held, pairs, count = dict.fromkeys(MEASURES, 0), 0, 40
    for seed in range(count):
        images, sex = scored(200, seed, FINDINGS[:2])
        group = np.where(np.random.default_rng(seed).random(200)[images.patient] < 0.3, "X", sex)
        options = ByOptions(draws=80, by=("race",), min_group=10)
        block = groups_by(images, People(race=group), np.arange(len(sex)), FINDINGS[:2], options)
        for measure, gap in the_group(block, "race", "X")["gaps"].items():
            held[measure] += gap["low"] <= 0 <= gap["high"]
        (gap,) = (gap for gap in block["dimensions"][0]["gaps"] if gap["metric"] == "macro_AUROC")
        pairs += gap["low"] <= 0 <= gap["high"]
    for measure, times in held.items():
        assert times >= 0.83 * count, (measure, times)
    assert sum(held.values()) <= 0.98 * count * len(held)  # nor are they wider than need be
    assert pairs >= 0.9 * count  # best less worst of three groups, chosen by the data
