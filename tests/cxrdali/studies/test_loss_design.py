"""The loss-design study over a real packed dataset: networks of 100,000 parameters, two epochs, 48 pixels."""

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, f1_score

from cxrdali.data.splits import released_rows
from cxrdali.data.targets import targets
from cxrdali.postprocess import calibration, thresholds
from cxrdali.postprocess.options import CALIBRATIONS
from cxrdali.predictions import read
from cxrdali.report.study.claims import at_a_glance
from cxrdali.report.study.folder import read_study
from cxrdali.report.study.scores import scores_of
from cxrdali.report.study.sections import losses
from cxrdali.report.training.page import STUDY_SECTIONS, ReportOptions, write_report
from cxrdali.report.training.sources import read_sources
from cxrdali.runs import layout as runs
from cxrdali.runs import recipes
from cxrdali.runs.config_file import read_config
from cxrdali.runs.layout import RECORD
from cxrdali.runs.settings import names as setting_names
from cxrdali.runs.settings import settings_of
from cxrdali.runs.steps import Book
from cxrdali.studies.expand import roles as roles_of
from cxrdali.studies.ground import Base
from cxrdali.studies.kept import read_weights
from cxrdali.studies.options import StudyOptions
from cxrdali.studies.plan import make_plan
from cxrdali.studies.shipped import open_study, write_record
from shards.errors import UserError
from shards.storage.sealed import read_json, sealed_json
from tests.cxrdali.report.pages import Page, check_numbers, section_html

pytestmark = pytest.mark.slow

TINY = """
[every]
stage = 1
arch = "test_efficientnet"
pretrained = false
epochs = 2
warmup_epochs = 0
batch = 8
size = 48
flips = "none"
cutout = "off"
[ld-bce]
loss = "bce"
[ld-asl]
loss = "asl"
[ld-ldam-drw]
loss = "ldam-drw"
drw_epoch = 1
[ld-byobnet]
loss = "ldam-drw"
drw_epoch = 1
arch = "test_byobnet"
[ld-crt]
starts_from = "ld-byobnet"
arch = "test_byobnet"
frozen = true
new_head = true
sampler = "class-balanced"
epochs = 1
"""
MODELS = ("ld-bce", "ld-asl", "ld-ldam-drw", "ld-byobnet", "ld-crt")
LABELS = "cxr-lt-2023"
STUDY = open_study("loss-design")
OPTIONS = StudyOptions(MODELS, tta=("hflip",), draws=5, synthetic=True, labels=LABELS)
MAIN, FINAL = "ld-byobnet", "ensemble+platt"


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    file = tmp_path_factory.mktemp("recipes") / "tiny.toml"
    file.write_text(TINY)
    return recipes.load(file)


def plan_of(root, dataset, known, options=OPTIONS):
    return make_plan(root, {"": dataset}, STUDY, known, options)


def do(root, dataset, known, options=OPTIONS):
    plan = plan_of(root, dataset, known, options)
    write_record(root, plan.record)
    return Book(root).run(plan.steps), plan


@pytest.fixture(scope="module")
def done(dataset, known, tmp_path_factory):
    """A folder in which everything was done."""
    root = tmp_path_factory.mktemp("study")
    count, plan = do(root, dataset, known)
    assert count == len(plan.steps)
    return root


def outdated(root, dataset, known, options=OPTIONS):
    return {name: why for name, why in Book(root).plan(plan_of(root, dataset, known, options).steps).items() if why}


# ---------------------------------------------------------------- roles


def model(arch="resnet10t", loss="bce", **changes):
    settings = settings_of(stage=1, arch=arch, loss=loss, **changes)
    return settings, {
        "name": "",
        "starts_from": Path(settings.model.init).name if settings.model.init else None,
        "overridden": {},
    }


def roles(models):
    found = roles_of(STUDY, models)
    return SimpleNamespace(**{name: tuple(each) if isinstance(each, list) else each for name, each in found.items()})


def test_roles_follow_from_settings_and_not_from_names_or_results():
    models = {
        "ld-bce": model(), "ld-ldam-drw": model(loss="ldam-drw"), "big": model("resnet14t", "ldam-drw"),
        "odd": model("resnet14t", "focal"), "bigger": model("resnet18", "ldam-drw"),
        "head": model("resnet14t", frozen=True, init="runs/big"),
    }  # fmt: skip
    found = roles(models)
    assert (found.reference, found.main) == ("ld-ldam-drw", "big")
    assert found.losses == ("ld-bce", "ld-ldam-drw")
    assert found.backbones == ("ld-ldam-drw", "big", "bigger")
    assert (found.retrained, found.others) == (("head",), ("odd",))


def test_without_the_paper_s_choice_or_a_retrained_classifier_the_first_and_the_last_stand_in():
    found = roles({"a": model(), "b": model(loss="asl"), "c": model("resnet14t")})
    assert (found.reference, found.main) == ("a", "c")
    assert (found.losses, found.backbones, found.retrained, found.others) == (("a", "b"), ("a", "c"), (), ())
    with pytest.raises(UserError, match="models head: all are frozen; add one that is trained as a whole"):
        roles({"head": model(frozen=True, init="runs/big")})


def test_a_loss_of_other_parameters_another_head_or_more_epochs_are_no_like_for_like():
    found = roles({
        "ld-ldam-drw": model(loss="ldam-drw"), "later": model("resnet14t", "ldam-drw", drw_epoch=12),
        "cosine": model("resnet14t", "ldam-drw", head="cosine"), "longer": model(loss="asl", epochs=31),
        "alike": model("resnet14t", "ldam-drw", dropout=0.5), "head": model(frozen=True, init="runs/longer"),
    })  # fmt: skip
    assert (found.losses, found.backbones) == (("ld-ldam-drw",), ("ld-ldam-drw", "alike"))
    assert (found.others, found.main) == (("later", "cosine", "longer"), "alike")


def test_the_paper_s_and_the_demo_s_recipes_fill_every_role():
    shared = ("bce", "bce-plain", "focal", "cb-focal", "cb-focal-ours", "asl", "asl-sqrt", "ldam", "drw", "ldam-drw")
    for own, main, backbones, more in (
        (recipes.LOSS_DESIGN, "ld-convnext-large", 13, ("ldam-cosine", "ldam-drw-cosine", "ldam-drw-ours")),
        (recipes.LOSS_DESIGN_DEMO, "ld-convnext", 4, ("ldam-cosine",)),
    ):
        known = recipes.read(own)
        found = roles({name: recipe.resolve(Path("runs")) for name, recipe in known.items()})
        assert found.losses == tuple(f"ld-{loss}" for loss in (*shared, *more))
        assert (found.reference, found.main, len(found.backbones)) == ("ld-ldam-drw", main, backbones)
        assert found.retrained[-1] == "ld-crt-ours" and all(name.startswith("ld-crt-") for name in found.retrained)
        # each compared with the run that it starts from alone
        starts = {known[name].starts_from for name in found.retrained}
        assert set(found.others) <= starts
        assert set(known) == {*found.losses, *found.backbones, *found.retrained, *found.others}


# ---------------------------------------------------------------- what is made


def test_a_second_time_nothing_is_to_be_done(done, dataset, known):
    assert outdated(done, dataset, known) == {}


def test_everything_that_is_promised_is_there(done):
    calibrated = [f"{MAIN}+{method}" for method in CALIBRATIONS] + [FINAL]
    tables = [*MODELS, f"{MAIN}+hflip", "ensemble", "ensemble+weighted"]
    for split in ("val", "dev", "test"):
        for name in (*tables, *calibrated):
            assert (done / "predictions" / f"{name}.{split}.parquet").is_file()
            scored = (done / "evaluations" / f"{name}.{split}.json").is_file()
            assert scored == (split != "val" or name in tables), (name, split)
    for name in (*tables, *calibrated):
        assert (done / "thresholds" / f"{name}.json").is_file()
    for name in ("losses", "backbones", "retrained"):
        assert (done / "comparisons" / f"{name}.json").is_file()
    record = json.loads((done / RECORD).read_bytes())
    assert [table["name"] for table in record["tables"]] == [*tables, *calibrated]
    assert record["roles"]["main"] == MAIN


def test_the_retrained_classifier_has_its_start_s_backbone_and_a_head_of_its_own(done):
    from safetensors.torch import load_file

    start, own = (load_file(done / "runs" / name / runs.BEST) for name in (MAIN, "ld-crt"))
    differing = [key for key in start if not start[key].equal(own[key])]
    assert differing and all(key.startswith("head.fc") for key in differing)
    assert read_config(done / "runs" / "ld-crt")["recipe"]["starts_from"] == MAIN


def probabilities(done, name, split):
    return 1 / (1 + np.exp(-read(done / "predictions" / f"{name}.{split}.parquet").values.astype(np.float64)))


def test_ensembles_are_means_of_the_backbones_by_hand(done):
    members = ("ld-ldam-drw", "ld-byobnet")
    both = [probabilities(done, name, "test") for name in members]
    np.testing.assert_allclose(probabilities(done, "ensemble", "test"), np.mean(both, axis=0), atol=1e-6)
    weights = read_weights(done / "weights.json")
    maps = np.array(
        [json.loads((done / f"evaluations/{name}.val.json").read_bytes())["all"]["mAP"] for name in members]
    )
    np.testing.assert_allclose(weights.values, maps / maps.sum(), rtol=1e-6)
    expected = np.average(both, axis=0, weights=maps)
    np.testing.assert_allclose(probabilities(done, "ensemble+weighted", "test"), expected, atol=1e-6)


def test_calibrations_are_those_fitted_on_validation(done, dataset):
    rules = calibration.read(done / "calibrations" / f"{MAIN}.temperature.json")
    assert (rules.made_from["split"], rules.made_from["run"]) == ("val", MAIN)
    before, after = (read(done / f"predictions/{name}.test.parquet").values for name in (MAIN, f"{MAIN}+temperature"))
    maps = {rule.map for rule in rules.rules}
    assert len(maps) == 1
    np.testing.assert_allclose(after, maps.pop().slope * before.astype(np.float64), rtol=1e-6)


def test_scores_of_the_test_split_by_scikit_learn_and_by_hand(done, dataset):
    """mAP, F1 with thresholds from validation, and F1 at 0.5, from the tables alone."""
    labels = dataset.labels(LABELS)
    truth = targets(labels)[released_rows(dataset, labels, "test")]
    for name in ("ld-asl", MAIN, FINAL):
        logits = read(done / f"predictions/{name}.test.parquet").values
        part = json.loads((done / f"evaluations/{name}.test.json").read_bytes())["all"]
        there = [place for place in range(truth.shape[1]) if truth[:, place].any()]
        ap = [average_precision_score(truth[:, place], logits[:, place]) for place in there]
        assert part["mAP"] == pytest.approx(np.mean(ap))
        limits = [rule.threshold for rule in thresholds.read(done / f"thresholds/{name}.json").rules]
        called = logits >= np.array([np.inf if limit is None else limit for limit in limits])
        for decided, key in ((called, "macro_F1"), (logits >= 0, "macro_F1_half")):
            f1 = [f1_score(truth[:, place], decided[:, place], zero_division=0) for place in there]
            assert part[key] == pytest.approx(np.mean(f1))


def test_validation_is_scored_without_what_was_fitted_on_it(done):
    content = json.loads((done / f"evaluations/{MAIN}.val.json").read_bytes())
    assert content["thresholds"]["strategy"] == "fixed=0.5"
    assert content["all"]["macro_F1"] == content["all"]["macro_F1_half"]
    assert json.loads((done / f"evaluations/{MAIN}.test.json").read_bytes())["thresholds"]["split"] == "val"


def test_comparisons_are_of_the_models_by_role(done):
    found = {path.stem: json.loads(path.read_bytes()) for path in (done / "comparisons").iterdir()}
    names = {what: [row["name"] for row in each["runs"]] for what, each in found.items()}
    assert names == {
        "losses": ["ld-bce", "ld-asl", "ld-ldam-drw"], "backbones": ["ld-ldam-drw", "ld-byobnet"],
        "retrained": ["ld-byobnet", "ld-crt"],
    }  # fmt: skip
    assert {what: each["baseline"] for what, each in found.items()} == {what: its[0] for what, its in names.items()}


# ---------------------------------------------------------------- what is done again


@pytest.mark.parametrize(
    ("file", "some", "untouched"),
    [
        ("predictions/ld-bce.val.parquet", ["thresholds ld-bce", "evaluate ld-bce test", "report"], "ensemble val"),
        (
            "calibrations/ensemble.platt.json",
            ["calibrated ensemble platt test", f"evaluate {FINAL} dev", f"thresholds {FINAL}"],
            f"evaluate {MAIN}+platt test",
        ),
        (
            f"predictions/{MAIN}.test.parquet",
            [f"calibrated {MAIN} platt test", "ensemble test", "ensemble weighted test", f"evaluate {MAIN} test"],
            f"calibrated {MAIN} platt dev",
        ),
        ("weights.json", ["ensemble weighted val", "evaluate ensemble+weighted dev"], "ensemble val"),
        ("thresholds/ld-asl.json", ["evaluate ld-asl dev", "report"], "evaluate ld-asl val"),
        ("comparisons/losses.json", ["compare losses", "report"], "compare backbones"),
        ("runs/ld-byobnet/progress.json", ["train ld-crt", f"predict {MAIN}+hflip dev", "report"], "compare losses"),
    ],
)  # fmt: skip
def test_a_missing_file_outdates_what_depends_on_it(done, dataset, known, file, some, untouched):
    aside = done / "aside"
    (done / file).rename(aside)
    try:
        found = outdated(done, dataset, known)
    finally:
        aside.rename(done / file)
    assert set(some) <= set(found)
    assert untouched not in found
    assert outdated(done, dataset, known) == {}


@pytest.mark.parametrize(
    ("change", "reason", "untouched"),
    [
        (
            {"overrides": {"ld-asl": {"asl_clip": 0.1}}},
            ("train ld-asl", "asl_clip changed: 0.05 -> 0.1"),
            "compare backbones",
        ),
        (
            {"thresholds": "recall=0.9"},
            (f"thresholds {FINAL}", 'strategy changed: "f1" -> "recall=0.9"'),
            f"evaluate {MAIN} val",
        ),
        ({"draws": 6}, ("compare losses", "draws changed: 5 -> 6"), "thresholds ld-bce"),
        ({"synthetic": False}, ("report", "synthetic changed: true -> false"), "compare losses"),
        ({"calibration": "isotonic"}, ("calibrate ensemble isotonic", "not done yet"), "ensemble val"),
        ({"tta": ("hflip", "flips")}, (f"predict {MAIN}+flips val", "not done yet"), f"predict {MAIN}+hflip val"),
        ({"overrides": {"": {"threads": 1, "device": "cpu"}}}, None, "report"),
    ],
)  # fmt: skip
def test_a_changed_setting_outdates_what_depends_on_it(done, dataset, known, change, reason, untouched):
    found = outdated(done, dataset, known, replace(OPTIONS, **change))
    assert untouched not in found
    if reason is None:
        assert found == {}
    else:
        assert found[reason[0]] == reason[1]
        assert "report" in found


def test_the_label_release_is_part_of_every_step(done, dataset, known):
    found = outdated(done, dataset, known, replace(OPTIONS, labels="chexpert"))
    assert set(found) == {
        step.name for step in plan_of(done, dataset, known, replace(OPTIONS, labels="chexpert")).steps
    }


# ---------------------------------------------------------------- smaller studies


def test_every_retrained_classifier_is_compared_with_the_run_that_it_starts_from(dataset, tmp_path):
    file = tmp_path / "r.toml"
    again = '[ld-crt2]\nstarts_from = "ld-asl"\nfrozen = true\ncb_terms = "positives"\nloss = "cb-focal"\n'
    file.write_text(TINY + again)
    plan = plan_of(tmp_path, dataset, recipes.load(file), replace(OPTIONS, models=(*MODELS, "ld-crt2")))
    compared = {step.name: step.settings["runs"] for step in plan.steps if step.name.startswith("compare retrained")}
    assert compared == {
        "compare retrained-ld-byobnet": ["ld-byobnet", "ld-crt"], "compare retrained-ld-asl": ["ld-asl", "ld-crt2"],
    }  # fmt: skip
    assert plan.record["roles"]["main"] == MAIN, "ld-asl is no backbone"
    assert {"train ld-crt2", "evaluate ld-crt2 test"} <= {step.name for step in plan.steps}


def test_steps_of_an_older_version_are_the_same(done, dataset, known):
    """It had no dropout, schedule and cb_terms: nothing that was trained is trained again."""
    steps = {step.name: step.settings for step in plan_of(done, dataset, known).steps if step.name.startswith("train")}
    assert all({"dropout", "lr_schedule", "cb_terms"}.isdisjoint(each) for each in steps.values())
    given = replace(OPTIONS, overrides={"ld-asl": {"dropout": 0.5, "lr_schedule": "epoch"}})
    assert outdated(done, dataset, known, given)["train ld-asl"].startswith("dropout changed: null -> 0.5")


def test_the_table_of_settings_is_of_the_runs_themselves(done, page):
    table = page.table("Other than published, or not said there")
    rows = list(zip(table.index, table["As published"], table["As run here"], table["Models"], strict=True))
    assert ("size", "512", "48", "all") in rows and ("fold", "not said", "0", "all") in rows
    assert ("pos weight", "ratio", "none", "ld-bce") in rows and ("dropout", "0.5", "0", "all") in rows
    assert "Not of the paper: ld-byobnet and ld-crt." in page.text
    assert not re.search("[Ee]very setting of the models", page.text)


def test_the_pooled_ece_has_a_column_of_its_own_where_it_is_known(done, tmp_path):
    copy = shutil.copytree(done, tmp_path / "study")
    file = copy / "evaluations/ld-bce.test.json"
    for value, there in ((None, False), (0.0123, True)):
        change(file, lambda content, value=value: content["all"].update(pooled_ECE=value))
        for each in (copy / "evaluations").glob("*.json"):
            if each != file:
                change(each, lambda content: content["all"].pop("pooled_ECE", None))
        scores = losses(read_sources([copy], None, (), ReportOptions("Study")))["scores"]["tables"][0]
        titles = [title for title, _ in scores.columns]
        assert ("pooled ECE" in titles) == there
    assert scores.rows[0][titles.index("pooled ECE")] == 0.0123


def test_fewer_models_come_with_what_they_need_and_without_what_they_lack(dataset, known, tmp_path):
    plan = plan_of(tmp_path, dataset, known, replace(OPTIONS, models=("ld-crt",)))
    assert [step.name for step in plan.steps][:2] == ["train ld-byobnet", "train ld-crt"]
    text = "\n".join(plan.notes)
    assert "ld-byobnet too: the others need it" in text
    assert "no ensemble: ld-byobnet is the only backbone among the models" in text
    assert "no comparison of losses: ld-byobnet alone" in text
    names = [step.name for step in plan.steps]
    assert "compare retrained" in names and "compare losses" not in names
    assert f"calibrate {MAIN} platt" in names and not any("ensemble" in name for name in names)


def test_a_single_loss_makes_a_study_and_a_page(dataset, known, tmp_path):
    options = replace(OPTIONS, models=("ld-bce",), tta=(), draws=0)
    _, plan = do(tmp_path, dataset, known, options)
    assert "no comparison of retrained: no classifier is retrained" in plan.notes
    page = Page(tmp_path / "report.html")
    assert re.search(r"On the test split \([\d,]+ images\), ld-bce reaches a mAP of", page.text)
    here = page.table("What came out here")["Here"]
    assert here["LDAM-DRW against BCE"] == "Not compared: ld-ldam-drw is not among the losses"
    assert here["Loss with the highest mAP"] == "Not compared: ld-bce alone"


def test_a_split_without_labels_is_predicted_and_not_evaluated(dataset, known, tmp_path, monkeypatch):
    monkeypatch.setattr(Base, "labelled", lambda self, split: split != "test")
    plan = plan_of(tmp_path, dataset, known)
    names = [step.name for step in plan.steps]
    assert "predict ld-bce test" in names and "evaluate ld-bce dev" in names
    assert not [name for name in names if name.startswith("evaluate") and name.endswith("test")]
    assert "test is predicted, not evaluated: it was released without labels" in plan.notes
    assert plan.record["splits"] == {"val": True, "dev": True, "test": False}


def test_a_validation_of_one_subject_has_no_cross_fit_and_is_said(dataset, known, tmp_path, monkeypatch):
    one = np.zeros(len(dataset.catalog), dtype=np.int64)
    monkeypatch.setattr("cxrdali.studies.ground.group_codes", lambda *given: one)
    plan = plan_of(tmp_path, dataset, known)
    kinds = {step.name.split()[0] for step in plan.steps}
    assert kinds == {"train", "predict", "ensemble", "weights", "evaluate", "report"}
    assert "no calibration, thresholds or comparisons: validation has images of a single subject" in plan.notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": ()}, "no model: give --models, names with commas"),
        ({"tta": ("vflip",)}, "tta 'vflip': did you mean hflip or flips? choose one of none, hflip, flips"),
        ({"calibration": "beta"}, "calibration 'beta': choose one of temperature, per-finding-temperature"),
        ({"thresholds": "best"}, "best"),
        ({"draws": -1}, "draws -1: 0 or more"),
    ],
)
def test_options_that_cannot_be_are_refused(change, message):
    with pytest.raises(UserError) as error:
        replace(OPTIONS, **change)
    assert message in str(error.value)


def test_an_augmentation_given_twice_is_predicted_once():
    assert replace(OPTIONS, tta=("flips", "hflip", "flips")).tta == ("flips", "hflip")


def test_a_trial_that_validates_on_other_images_is_not_compared(dataset, known, tmp_path):
    """limit_batches 1: a batch of 4 validates on 4 images, the others' on 8."""
    changed = {"": {"limit_batches": 1}, "ld-crt": {"batch": 4}}
    plan = plan_of(tmp_path, dataset, known, replace(OPTIONS, overrides=changed))
    names = [step.name for step in plan.steps]
    assert "compare losses" in names and "compare retrained" not in names
    assert "no comparison of retrained: limit_batches leaves them different validation images" in plan.notes


def test_what_would_fail_after_hours_is_a_problem_before_them(dataset, known, tmp_path):
    changed = replace(OPTIONS, overrides={"ld-asl": {"fold": 1}, "ld-crt": {"arch": "test_efficientnet"}})
    problems = "\n".join(plan_of(tmp_path, dataset, known, changed).problems)
    assert "ld-asl: fold is 1, of ld-bce 0, and their validation would differ" in problems
    assert "ld-crt: arch is 'test_efficientnet', of ld-byobnet 'test_byobnet', and it starts from these" in problems


# ---------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def page(done):
    return Page(done / "report.html")


def page_of(root):
    return Page(write_report(root / "page.html", [root], options=ReportOptions("Study")))


def scored(root, name, split):
    return json.loads((root / f"evaluations/{name}.{split}.json").read_bytes())["all"]


def change(path, act):
    content = json.loads(path.read_bytes())
    act(content)
    path.write_bytes(sealed_json(content))


def test_scores_on_the_page_are_those_of_the_evaluations(done, page):
    table = page.table("Losses, test split")
    assert list(table.index) == ["ld-bce", "ld-asl", "ld-ldam-drw"]
    config = read_config(done / "runs" / "ld-bce")
    shares = np.array(config["train_positives"]) / config["selection"]["train_images"]
    for name in table.index:
        part = scored(done, name, "test")
        for column, key in (("mAP", "mAP"), ("AUROC", "macro_AUROC"), ("F1, fitted", "macro_F1")):
            assert table.loc[name, column] == f"{part[key]:.3f}"
        assert table.loc[name, "F1 at 0.5"] == f"{part['macro_F1_half']:.3f}"
        assert table.loc[name, "ECE"] == f"{part['macro_ECE']:.4f}"
        ap = dict(zip(config["findings"], shares, strict=True))
        for column, low, high in (("mAP, head", 0.1, 2), ("mAP, medium", 0.01, 0.1), ("mAP, tail", -1, 0.01)):
            inside = [row["AP"] for row in part["findings"] if low <= ap[row["finding"]] < high]
            known = [value for value in inside if value is not None]
            assert table.loc[name, column] == (f"{np.mean(known):.3f}" if known else "–")
    (caption,) = [each for each in page.tables if each.startswith("Losses, test split")]
    assert not [each for each, *_ in page.bold if each == caption], "no interval says which is the best"
    assert caption == f"Losses, test split, {scored(done, 'ld-bce', 'test')['images']:,} images"


def test_validation_on_the_page_is_cross_fitted(done, page):
    table = page.table("Losses, validation fold")
    for name in table.index:
        rules = json.loads((done / f"thresholds/{name}.json").read_bytes())
        assert table.loc[name, "F1, fitted"] == f"{rules['macro_F1']:.3f}"
    errors = page.table("Calibration error before and after")
    for method in CALIBRATIONS:
        rules = json.loads((done / f"calibrations/{MAIN}.{method}.json").read_bytes())
        assert errors.loc[f"{MAIN}: {method}"].tolist()[:2] == [f"{rules[f'macro_ECE_{when}']:.4f}" for when in
                                                              ("before", "after")]  # fmt: skip
        before, after = (scored(done, name, "test")["macro_ECE"] for name in (MAIN, f"{MAIN}+{method}"))
        assert errors.loc[f"{MAIN}: {method}", "ECE, test"] == f"{before:.4f} → {after:.4f}"
    floors = page.table("Calibration error, test split")
    for name in (MAIN, *(f"{MAIN}+{method}" for method in CALIBRATIONS)):
        part = scored(done, name, "test")
        floor = part["ECE_floor"]["pooled_ECE"]
        numbers = (part["pooled_ECE"], floor["mean"], floor["p95"])
        assert floors.loc[name, "Pooled, equal width"] == "{:.4f} ({:.4f}, to {:.4f})".format(*numbers)


def test_every_part_of_the_study_is_on_the_page(done, page):
    assert list(page.table("What each model is").index) == list(MODELS)
    assert list(page.table("Where the numbers come from").columns) == list(MODELS)
    assert list(page.table("Backbones, test split").index) == ["ld-ldam-drw", "ld-byobnet"]
    assert list(page.table("Before and after retraining the classifier, test split").index) == ["ld-byobnet", "ld-crt"]
    assert page.table("Test-time augmentation, test split")["Passes"].tolist() == ["1", "2"]
    assert list(page.table("Members and ensembles, test split").index)[-2:] == ["ensemble", "ensemble+weighted"]
    assert page.table("Macro F1").index[-1] == FINAL
    assert page.table("Time by kind of step").loc["train", "How many"] == "5"
    test = scored(done, FINAL, "test")
    said = f"On the test split ({test['images']:,} images), {FINAL} reaches a mAP of {test['mAP']:.3f}"
    assert said in page.text
    assert "Synthetic data." in page.text and "steps are done" not in page.text
    assert page.addresses == [each for each in page.addresses if each.startswith(("#", "data:"))], "self-contained"
    ids = re.findall(r'\bid="([^"]+)"', page.source)
    assert len(ids) == len(set(ids))


def test_every_number_of_a_table_stands_in_the_json_beside_the_page(page):
    assert check_numbers(page) > 1000


def test_claims_beside_figures_worked_by_hand(done, tmp_path):
    """Validation mAP: BCE 0.24, LDAM-DRW 0.30, so 25 % better, ASL 0.40 the best; like beside like, so not of test."""
    copy = shutil.copytree(done, tmp_path / "study")
    figures = {
        ("ld-bce", "test"): 0.20, ("ld-ldam-drw", "test"): 0.35, ("ld-bce", "val"): 0.24, ("ld-asl", "val"): 0.4,
        ("ld-ldam-drw", "val"): 0.3, ("ld-byobnet", "val"): 0.35, ("ld-byobnet", "dev"): 0.5,
        ("ld-byobnet", "test"): 0.29,
    }  # fmt: skip
    for (name, split), value in figures.items():
        change(copy / f"evaluations/{name}.{split}.json", lambda content, value=value: content["all"].update(mAP=value))
    change(
        copy / "evaluations/ld-byobnet.test.json",
        lambda content: content["all"].update(macro_F1=0.31, macro_F1_half=0.12),
    )
    ldam_drw = {"run": "ld-ldam-drw", "metric": "mAP", "difference": 0.2, "low": 0.01, "high": 0.31, "p": 0.0324}
    asl = {"run": "ld-asl", "metric": "mAP", "difference": -0.2, "low": -0.3, "high": -0.1, "p": 0.002}
    ldam_drw |= {"p_holm": 0.324, "without_one": None}
    asl |= {"p_holm": 0.02, "without_one": None}
    mine = {(row["run"], row["metric"]): row for row in (ldam_drw, asl)}

    def compare(content):
        content["differences"] = [mine.get((each["run"], each["metric"]), each) for each in content["differences"]]

    change(copy / "comparisons/losses.json", compare)
    (copy / "comparisons/backbones.json").unlink()
    made = json.loads((copy / "comparisons/losses.json").read_bytes())["comparisons"]["means"]
    page = page_of(copy)
    here, theirs = page.table("What came out here")["Here"], page.table("The paper, on other images")["The paper"]
    assert here.index.tolist() == theirs.index.tolist() and theirs["LDAM-DRW against BCE"].startswith("Over 30 %")
    assert not {caption for caption, rows in page.tables.items() for row in rows if {"The paper", "Here"} <= set(row)}
    assert "The paper has other images, so nothing here confirms or contradicts it." in page.text
    assert here["LDAM-DRW against BCE"] == (
        "0.300 against 0.240 on test_efficientnet (validation fold): 25.0 % higher than a BCE with pos_weight none, "
        f"not (N - n) / n. +0.200 mAP (+0.010 to +0.310, p 0.032, 0.32 adjusted for {made} comparisons): not separable"
    )
    assert here["Loss with the highest mAP"] == (
        "ld-asl by validation mAP, 0.400 (lower, against ld-bce); ld-ldam-drw, 0.300, is number 2 of 3"
    )
    assert here["Backbone with the highest mAP"] == "ld-byobnet by validation mAP, 0.350"
    assert here["From internal validation to test"] == "0.350 to 0.290 mAP (ld-byobnet)"
    assert theirs["From internal validation to test"].startswith("0.5220 to 0.3950")
    assert "F1 0.3765 on its internal validation" in theirs["Backbone with the highest mAP"]
    change(copy / "runs/ld-bce/config.json", lambda content: content["settings"]["loss"].update(pos_weight="ratio"))
    weighted = dict(at_a_glance(read_sources([copy], None, (), ReportOptions("Study")))["claims"].rows)
    assert "25.0 % higher. +0.200 mAP" in weighted["LDAM-DRW against BCE"], "the baseline of Sulake (2026)"
    assert here["F1"].startswith("0.120 at probability 0.5, 0.310 with thresholds fitted on validation")


@pytest.mark.parametrize(
    ("difference", "low", "high", "p", "said"),
    [
        (0.1, 0.01, 0.3, 0.02, ": higher"),
        (-0.1, -0.3, -0.01, 0.02, ": lower"),
        (0.1, -0.01, 0.3, 0.2, ": not separable"),
        (0.1, 0.01, 0.3, 0.051, ": not separable"),
        (0.1, None, None, None, "; no interval says whether by more than chance"),
    ],
)
def test_a_difference_is_higher_or_lower_only_by_its_adjusted_p(done, tmp_path, difference, low, high, p, said):
    copy = shutil.copytree(done, tmp_path / "study")
    row = {"run": "ld-ldam-drw", "metric": "mAP", "difference": difference, "low": low, "high": high, "p": p and 0.001}
    row |= {"p_holm": p, "without_one": None}
    change(copy / "comparisons/losses.json", lambda content: content.update(differences=[row]))
    claims = at_a_glance(read_sources([copy], None, (), ReportOptions("Study")))["claims"]
    assert claims.rows[0][1].endswith(said) and not re.search("better|worse|confirm", claims.rows[0][1])


def test_the_paper_stands_beside_a_study_of_its_images_alone(done, tmp_path):
    copy = shutil.copytree(done, tmp_path / "study")
    change(copy / RECORD, lambda content: content.update(synthetic=False))

    def as_published(train):
        for config in (copy / "runs").glob("*/config.json"):
            change(
                config,
                lambda content: (
                    content["settings"]["data"].update(labels="cxr-lt-2026")
                    or content["labels"].update(name="cxr-lt-2026")
                    or content["selection"].update(train_images=train, val_images=28_600)
                ),
            )
        return at_a_glance(read_sources([copy], None, (), ReportOptions("Study")))

    together, apart = as_published(114_400), as_published(100_000)
    assert [title for title, _ in together["claims"].columns] == ["", "The paper", "Here"]
    assert together["printed"] is None
    assert [title for title, _ in apart["claims"].columns] == ["", "Here"]
    assert [title for title, _ in apart["printed"].columns] == ["", "The paper"]


def test_the_lead_is_of_the_most_telling_split_that_the_final_table_has(done, tmp_path):
    copy = shutil.copytree(done, tmp_path / "study")
    (copy / f"evaluations/{FINAL}.test.json").unlink()
    assert "On the development split (" in part(copy, "summary")


def test_sections_say_which_images_were_fitted_on_and_which_were_scored(done, page):
    fitted, dev, test = (scored(done, "ensemble", split)["images"] for split in ("val", "dev", "test"))
    said = (
        f"on the {fitted:,} images of the validation fold; scored on the test split ({test:,} images), the development "
        f"split ({dev:,} images) and the validation fold ({fitted:,} images)."
    )
    assert page.text.count(f"itted {said}") == 2, "calibration and thresholds"
    assert f"Fitted: the weights, on the {fitted:,} images of the validation fold" in page.text
    assert "Nothing is fitted, so every split is scored as it is." in page.text
    assert f"Members and ensembles, validation fold, {fitted:,} images" in page.tables


def part(root, *sections):
    """The text of some of the page's sections alone: most of the time of a page is its drawings."""
    sources = read_sources([root], None, (), ReportOptions("Study"))
    chosen = [each for each in STUDY_SECTIONS if each.template.removeprefix("study/") in sections]
    text = re.sub(r"<[^>]+>", "", " ".join(section_html(section, sources) for section in chosen))
    return html.unescape(re.sub(r"\s+", " ", text))


def test_a_claim_of_ldam_drw_against_bce_is_of_just_these_losses(done, tmp_path):
    copy = shutil.copytree(done, tmp_path / "study")
    config = copy / "runs/ld-ldam-drw/config.json"
    change(config, lambda content: content["settings"].update(loss="focal"))
    assert "Not compared: ld-ldam-drw has the loss focal" in part(copy, "summary")
    change(config, lambda content: content["settings"].update(loss="ldam-drw"))
    change(copy / RECORD, lambda content: content["roles"].update(reference="ld-asl", losses=["ld-bce", "ld-asl"]))
    assert "Not compared: ld-ldam-drw is not among the losses" in part(copy, "summary")


def test_what_differs_beside_the_loss_the_network_or_the_draws_is_said(done, page, tmp_path):
    assert "The same images, order, schedule and all other settings; the loss alone differs." in page.text
    assert "The same images, order, schedule and all other settings; the network alone differs." in page.text
    assert "Class-balanced sampling: an image is sampled by the weight of its rarest finding." in page.text
    copy = shutil.copytree(done, tmp_path / "study")
    for name, changed in (("ld-asl", {"lr": 0.5, "sampler": "sqrt"}), ("ld-crt", {"sampler": "natural"})):
        file = copy / "runs" / name / "config.json"
        change(file, lambda content, changed=changed: setting_names().put(content["settings"], changed))
    shutil.rmtree(copy / "comparisons")
    text = part(copy, "losses", "retrained")
    assert "Not the loss alone differs: sampler and lr too, so a difference may be theirs." in text
    assert "the loss alone differs." not in text
    assert "The method has class-balanced sampling; that of these models is in the table." in text


def test_weights_of_before_the_re_weighting_are_named(done, tmp_path):
    """Epoch 1 is without, epoch 2 with it."""
    copy = shutil.copytree(done, tmp_path / "study")
    said = "ld-ldam-drw: its best epoch, 1, is not after epoch 1, when re-weighting begins"
    metrics, progress = (copy / "runs/ld-ldam-drw" / name for name in ("metrics.csv", "progress.json"))
    progress.write_bytes(sealed_json({**read_json(progress), "checksums": {}}))
    for first, last in ((0.9, 0.1), (0.1, 0.9)):
        table = pd.read_csv(metrics, dtype={"epoch": str})
        table["mAP"] = [first, last]
        table.to_csv(metrics, index=False)
        assert (said in part(copy, "summary")) == (first > last)


def test_f1_that_no_threshold_was_fitted_for_is_not_called_fitted(done, page, tmp_path):
    """A validation of one subject fits none: test is evaluated at probability 0.5 for all."""
    assert "a macro F1 of" in page.text
    copy = shutil.copytree(done, tmp_path / "study")
    shutil.rmtree(copy / "thresholds")
    for path in (copy / "evaluations").glob("*.test.json"):
        change(path, lambda content: content["thresholds"].update(strategy="fixed=0.5", predictions=None))
    found = scores_of(read_study(copy), MAIN, "test")
    assert (found["F1"], found["F1 at 0.5"]) == (None, scored(copy, MAIN, "test")["macro_F1_half"])
    assert "a macro F1 of" not in part(copy, "summary")


def test_f1_at_0_5_of_a_calibrated_table_is_not_shown_where_it_was_fitted(page):
    table = page.table("Macro F1")
    assert table.loc[FINAL, "Val, 0.5"] == "–"
    assert (table.drop(FINAL)["Val, 0.5"] != "–").all() and table.loc[FINAL, "Test, 0.5"] != "–"


def test_a_run_that_is_no_longer_of_the_study_is_left_out_and_said(done, dataset, tmp_path):
    """Of another dataset, as a study of more models left it: the report would end with an error."""
    copy = shutil.copytree(done, tmp_path / "study")
    shutil.copytree(copy / "runs/ld-bce", copy / "runs/ab-old")
    change(copy / "runs/ab-old/config.json", lambda content: content.update(dataset={"id": "another"}))
    found = read_sources([copy], dataset.root, (), ReportOptions("Study"))
    assert [run.path.name for run in found.runs] == list(MODELS)
    assert f"Not of this study's models, so left out: {copy / 'runs/ab-old'}." in part(copy, "summary")


def test_a_half_done_study_is_a_page_that_says_what_is_left(done, dataset, known, tmp_path):
    """From nothing, step by step: what is there is shown, and what is not is said."""
    root = tmp_path / "study"
    root.mkdir()
    write_record(root, plan_of(root, dataset, known).record)
    empty = page_of(root)
    steps = json.loads((root / RECORD).read_bytes())["steps"]
    assert "Synthetic data." in empty.text, "the study's record says so"
    assert f"0 of {len(steps) - 1} steps are done; the next one: train ld-bce." in empty.text
    assert "No run of ld-bce, ld-asl, ld-ldam-drw, ld-byobnet and ld-crt yet." in empty.text
    for folder, names in (
        ("runs", ("ld-bce", "ld-asl")),
        (".steps", ("train-ld-bce.made.json", "train-ld-asl.made.json")),
    ):
        for name in names:
            (root / folder).mkdir(exist_ok=True)
            copy = shutil.copytree if folder == "runs" else shutil.copyfile
            copy(done / folder / name, root / folder / name)
    trained = page_of(root)
    assert f"2 of {len(steps) - 1} steps are done; the next one: train ld-ldam-drw." in trained.text
    assert list(trained.table("What each model is").index) == ["ld-bce", "ld-asl"]
    assert "No run of ld-ldam-drw, ld-byobnet and ld-crt yet." in trained.text
    for folder in ("evaluations", "thresholds"):
        (root / folder).mkdir()
        for path in (done / folder).glob("ld-bce.*"):
            shutil.copyfile(path, root / folder / path.name)
    table = page_of(root).table("Losses, test split")
    assert list(table.index) == ["ld-bce"]


def test_figures_of_a_model_that_is_trained_again_are_not_shown(done, tmp_path):
    """Its record is gone while it trains. What was made from it is left out, and left over to be done."""
    copy = shutil.copytree(done, tmp_path / "study")
    whole = read_study(copy)
    (copy / ".steps/train-ld-asl.made.json").unlink()
    found = read_study(copy)
    assert ("ld-asl", "test") in whole.evaluations and ("ld-asl", "test") not in found.evaluations
    assert found.evaluations.keys() == {pair for pair in whole.evaluations if pair[0] != "ld-asl"}
    assert set(whole.thresholds) - set(found.thresholds) == {"ld-asl"}
    assert (set(whole.comparisons), set(found.comparisons)) == (
        {"losses", "backbones", "retrained"}, {"backbones", "retrained"},
    )  # fmt: skip
    left = [name for name, seconds in found.seconds.items() if seconds is None]
    assert left == [name for name in whole.seconds if "ld-asl" in name or name in ("compare losses", "report")]
    record = copy / ".steps/predict-ld-byobnet-val.made.json"
    change(record, lambda content: content.update(made="again"))
    found = read_study(copy)
    assert not found.weights and not found.calibrations and set(found.comparisons) == {"backbones", "retrained"}


def test_without_a_training_split_there_is_no_head_medium_and_tail(done, tmp_path):
    copy = shutil.copytree(done, tmp_path / "study")
    for path in (copy / "evaluations").glob("*.json"):
        change(path, lambda content: content["all"].update(groups=None))
    table = page_of(copy).table("Losses, test split")
    assert "mAP, tail" not in table.columns


@pytest.mark.parametrize(
    ("file", "act", "message"),
    [
        (RECORD, lambda content: content.update(format=2), "loss-design.json: not what .*format 2, this"),
        (RECORD, lambda content: content.pop("roles"), "loss-design.json: not what .*roles is missing.*; delete it"),
        (RECORD, lambda content: content["roles"].update(main=3), "roles.main is 3, not text"),
        ("weights.json", lambda content: content.pop("members"), "weights.json: not what .*members is missing"),
        ("comparisons/losses.json", lambda content: content.pop("runs"), "losses.json: .*runs is missing"),
        ("thresholds/ld-bce.json", lambda content: content.pop("strategy"), "ld-bce.json: no thresholds"),
        ("calibrations/ensemble.platt.json", lambda content: content.update(method="x"), "platt.json: no calibration"),
    ],
)  # fmt: skip
def test_damaged_files_are_one_line_that_names_them(done, tmp_path, file, act, message):
    copy = shutil.copytree(done, tmp_path / "study")
    change(copy / file, act)
    with pytest.raises(UserError, match=message) as error:
        page_of(copy)
    assert "\n" not in str(error.value)


def test_two_studies_are_two_pages(done, tmp_path):
    copy = shutil.copytree(done, tmp_path / "study")
    with pytest.raises(UserError, match="a second folder of `cxrdali loss-design`; make a report of each"):
        write_report(tmp_path / "page.html", [done, copy], options=ReportOptions("Two"))
