"""The stage-training study over a real packed dataset: a network of 100,000 parameters, one epoch, 48 and 64 pixels."""

import json
import re
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from cxrdali.models.weights_file import identity
from cxrdali.postprocess.template import template_of
from cxrdali.predictions import read
from cxrdali.report.kit.numbers import gain
from cxrdali.report.training.page import ReportOptions, write_report
from cxrdali.report.training.steps import SPLIT_NAMES
from cxrdali.runs import layout as runs
from cxrdali.runs import recipes
from cxrdali.runs.config_file import read_config
from cxrdali.runs.steps import Book
from cxrdali.studies.estimate import Rate, epoch_images, predicting_hours, training_hours
from cxrdali.studies.options import StudyOptions
from cxrdali.studies.plan import make_plan
from cxrdali.studies.shipped import open_study
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.releases.open import open_release
from shards.renditions.rendition import Size
from shards.storage.sealed import sealed_json
from tests import releases
from tests.cxrdali.report.pages import Page

pytestmark = pytest.mark.slow

TINY = """
[every]
arch = "test_efficientnet"
pretrained = false
epochs = 1
batch = 8
size = 48
group = "study"
[model0]
stage = 1
[model2]
stage = 2
starts_from = "model0"
[model3]
stage = 2
starts_from = "model0"
oversample_below = 1.0
oversample_from = "model2"
[model5]
stage = 2
starts_from = "model0"
oversample_below = 0.9
oversample_from = "model2"
[model6]
stage = 2
starts_from = "model0"
size = 64
[model7]
stage = 3
starts_from = "model3"
size = 64
"""
STUDY = open_study("stage-training")
OPTIONS = StudyOptions(draws=5, synthetic=True, labels="cxr-lt-2023")


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    file = tmp_path_factory.mktemp("recipes") / "tiny.toml"
    file.write_text(TINY)
    return recipes.load(file)


def plan_of(root, dataset, known, options=OPTIONS):
    return make_plan(root, {"": dataset}, STUDY, known, options)


@pytest.fixture(scope="module")
def done(dataset, known, tmp_path_factory):
    """A folder in which everything was done."""
    root = tmp_path_factory.mktemp("paper")
    assert Book(root).run(plan_of(root, dataset, known).steps) == len(plan_of(root, dataset, known).steps)
    return root


def outdated(root, dataset, known, options=OPTIONS):
    return {name: why for name, why in Book(root).plan(plan_of(root, dataset, known, options).steps).items() if why}


def test_a_second_time_nothing_is_to_be_done(done, dataset, known):
    assert outdated(done, dataset, known) == {}


def test_everything_that_is_promised_is_there(done):
    names = ["model0", "model2", "model3", "model5", "model6", "model7", "ensemble", "model3-views", "ensemble-views"]
    for split in ("val", "dev", "test"):
        for name in names:
            assert (done / "predictions" / f"{name}.{split}.parquet").is_file()
            assert (done / "evaluations" / f"{name}.{split}.json").is_file()
        assert (done / "comparisons" / f"{split}.json").is_file()
    for name in ("views.json", "submission.zip", "submission-dev.zip", "report.html"):
        assert (done / name).is_file()
    assert "</html>" in (done / "report.html").read_text()


def test_the_models_start_from_each_other_as_the_recipes_say(done):
    for name, start in (("model2", "model0"), ("model3", "model0"), ("model7", "model3")):
        config = read_config(done / "runs" / name)
        assert config["recipe"]["starts_from"] == start
        assert config["init_sha256"] == identity(done / "runs" / start / runs.BEST)
    assert read_config(done / "runs" / "model0")["init_sha256"] is None
    doubled = read_config(done / "runs" / "model3")["oversampling"]
    assert doubled["images_doubled"] > 0
    assert read_config(done / "runs" / "model2")["oversampling"] is None


def test_the_final_predictions_are_the_mean_of_four_with_lateral_images_after_the_frontal_ones(done, dataset):
    """By hand from the models' tables: mean probability of four, then the view rule, study by study."""
    tables = [read(done / "predictions" / f"{name}.test.parquet") for name in ("model3", "model5", "model6", "model7")]
    assert all(table.provenance.tta == "hflip" for table in tables)
    mean = np.mean([1 / (1 + np.exp(-table.values.astype(np.float64))) for table in tables], axis=0)
    stored = json.loads((done / "views.json").read_bytes())
    assert (stored["made_from"]["predictions"], stored["made_from"]["run"]) == ("model3.val.parquet", "model3")
    rules = stored["findings"]
    superior = [rule["superior"] for rule in rules]
    ids = tables[0].ids
    expected = mean.copy()
    for place, row in ids.iterrows():
        same = (ids["study_id"] == row["study_id"]) & (ids["view"] == "frontal")
        if row["view"] != "frontal" and same.any():
            expected[place, superior] = mean[same.to_numpy()][:, superior].mean(axis=0)
    few = [min(rule["frontal_patients"], rule["lateral_patients"]) < 10 for rule in rules]
    better = [(rule["difference"] or 0) > 0 for rule in rules]
    assert superior == [b and not f for b, f in zip(better, few, strict=True)] and any(few) and any(better)
    final = read(done / "predictions" / "ensemble-views.test.parquet").as_probabilities()
    assert list(final.ids["image_id"]) == list(ids["image_id"])
    np.testing.assert_allclose(final.values, expected, atol=1e-6)
    with zipfile.ZipFile(done / "submission.zip") as archive:
        lines = archive.read("predictions.csv").decode().splitlines()
    assert lines[0].split(",")[1:] == list(final.findings)
    assert lines[1].split(",")[0] == ids["image_id"][0]
    np.testing.assert_allclose([float(text) for text in lines[1].split(",")[1:]], final.values[0], rtol=1e-6)


def test_every_step_is_compared_with_the_one_before_and_every_member_with_the_ensemble(done, dataset):
    """Differences by hand from the tables and labels, with scikit-learn's average precision."""
    labels = dataset.labels("cxr-lt-2023")
    for split in ("val", "dev", "test"):
        content = json.loads((done / "comparisons" / f"{split}.json").read_bytes())
        assert [(row["run"], row["against"]) for row in content["differences"]] == [
            ("model2", "model0"), ("model3", "model2"), ("model3-views", "model3"), ("ensemble-views", "model3-views"),
            ("model3", "ensemble"), ("model5", "ensemble"), ("model6", "ensemble"), ("model7", "ensemble"),
        ]  # fmt: skip
        means = {}
        for name in {name for row in content["differences"] for name in (row["run"], row["against"])}:
            table = read(done / "predictions" / f"{name}.{split}.parquet")
            rows = dataset.catalog.reset_index().set_index("image_id").loc[table.ids["image_id"], "index"].to_numpy()
            truth = labels.values[rows] == 1
            scored = truth.any(axis=0)
            means[name] = average_precision_score(truth[:, scored], table.values[:, scored], average="macro")
        for row in content["differences"]:
            assert row["difference"] == pytest.approx(means[row["run"]] - means[row["against"]], abs=1e-6)
            assert row["low"] is None or row["low"] <= row["high"]
        known = sorted((row["p"], row["p_holm"]) for row in content["differences"] if row["p"] is not None)
        adjusted = np.maximum.accumulate([p * (len(known) - rank) for rank, (p, _) in enumerate(known)])
        assert [holm for _, holm in known] == pytest.approx(np.minimum(adjusted, 1).tolist())
        page = Page(done / "report.html")
        assert len(page.table(f"The ensemble's members against it, {SPLIT_NAMES[split]}")) == 4


@pytest.mark.parametrize(
    ("file", "some", "untouched"),
    [
        (
            "predictions/model5.test.parquet",
            ["predict model5 test", "ensemble test", "submit test", "report"],
            "submit dev",
        ),
        (
            "views.json",
            ["views", "views ensemble dev", "views model3 val", "evaluate ensemble-views test"],
            "ensemble dev",
        ),
        ("evaluations/model0.val.csv", ["evaluate model0 val", "report"], "predict model0 val"),
        ("runs/model7/best.safetensors", ["train model7", "predict model7 dev", "ensemble val"], "train model3"),
        ("runs/model0/progress.json", ["train model0", "train model2", "train model7", "views"], None),
    ],
)
def test_a_missing_file_outdates_what_depends_on_it(done, dataset, known, file, some, untouched):
    aside = done / "aside"
    (done / file).rename(aside)
    try:
        found = outdated(done, dataset, known)
    finally:
        aside.rename(done / file)
    assert found[some[0]] == f"{file} is missing"
    assert set(some) <= set(found)
    assert untouched not in found
    assert outdated(done, dataset, known) == {}


@pytest.mark.parametrize(
    ("change", "reason", "count"),
    [
        ({"overrides": {"model7": {"lr": 5e-4}}}, ("train model7", "lr changed: 0.001 -> 0.0005"), None),
        ({"tta": ("none",)}, ("predict model0 val", 'tta changed: "hflip" -> "none"'), None),
        ({"draws": 6}, ("evaluate model0 val", "draws changed: 5 -> 6"), 31),
        ({"title": "Mine"}, ("report", 'title changed: "The stage-training ... -> "Mine"'), 1),
        ({"overrides": {"": {"threads": 1, "device": "cpu"}}}, None, 0),
    ],
)
def test_a_changed_setting_outdates_what_depends_on_it(done, dataset, known, change, reason, count):
    found = outdated(done, dataset, known, replace(OPTIONS, **change))
    if reason:
        assert found[reason[0]] == reason[1]
    if count is not None:
        assert len(found) == count
    else:
        assert "report" in found
        assert "train model0" not in found


def test_auto_and_the_precision_that_it_became_are_the_same(done, dataset, known):
    assert outdated(done, dataset, known, replace(OPTIONS, overrides={"": {"precision": "fp32"}})) == {}
    others = outdated(done, dataset, known, replace(OPTIONS, overrides={"model7": {"precision": "bf16"}}))
    assert others["train model7"] == 'precision changed: "auto" -> "bf16"'


def test_states_to_continue_from_may_be_deleted_when_training_is_done(done, dataset, known, tmp_path):
    """They are three quarters of the bytes."""
    copy = shutil.copytree(done, tmp_path / "smaller")
    states = [*copy.glob("runs/*/last.pt")]
    assert len(states) >= 4
    for path in states:
        path.unlink()
    assert outdated(copy, dataset, known) == {}


def test_the_label_release_is_part_of_every_step(done, dataset, known):
    found = outdated(done, dataset, known, replace(OPTIONS, labels="chexpert"))
    assert len(found) == len(plan_of(done, dataset, known).steps)


def test_fewer_models_come_with_what_they_need_and_without_what_they_lack(dataset, known, tmp_path):
    plan = plan_of(tmp_path, dataset, known, replace(OPTIONS, models=("model3",)))
    names = [step.name for step in plan.steps]
    assert [name for name in names if name.startswith("train")] == ["train model0", "train model2", "train model3"]
    assert "ensemble test" not in names
    assert "views model3 test" in names
    text = "\n".join(plan.notes)
    assert "model0, model2 too: the others need them" in text
    assert "no ensemble" in text
    plan = plan_of(tmp_path, dataset, known, replace(OPTIONS, models=("model2",)))
    assert "no view postprocess: model3 is not among the models" in "\n".join(plan.notes)
    assert plan.steps[-2].name == "submit test"
    assert plan.steps[-2].needs == ("predict model2 test",)


def test_what_cannot_be_trained_is_said_before_anything_is(dataset, tmp_path):
    plan = plan_of(tmp_path, dataset, recipes.load())
    assert any("model0: " in text and "make no batch of 256; --set model0.batch=N" in text for text in plan.problems)
    assert any("model7: " in text and "no rendition of 512 pixels or more" in text for text in plan.problems)


def test_a_template_of_other_images_or_findings_is_refused_before_anything_is_trained(dataset, known, tmp_path):
    labels = dataset.labels("cxr-lt-2023")
    file = tmp_path / "sample.csv"
    for text, message in (
        (template_of(dataset, labels, "dev").decode(), "test split of cxr-lt-2023: image .* is not in the predictions"),
        (template_of(dataset, labels, "test").decode().replace("Mass", "Bulla"), "asks for 'Bulla'"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            plan_of(tmp_path, dataset, known, replace(OPTIONS, templates={"test": file}))
    file.write_bytes(template_of(dataset, labels, "test"))
    plan_of(tmp_path, dataset, known, replace(OPTIONS, templates={"test": file}))


def test_an_unknown_model_is_named(dataset, tmp_path):
    with pytest.raises(UserError, match="no recipe 'model9'; did you mean model7"):
        plan_of(tmp_path, dataset, recipes.load(), replace(OPTIONS, models=("model9",)))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model7": {"fold": 1}}, "model7: fold is 1, of model0 0, and their validation would differ; --set fold="),
        ({"model3": {"group": "subject"}}, "model3: group is 'subject', of model0 'study'"),
        ({"model5": {"uncertain": "ignore"}}, "model5: uncertain is 'ignore', of model0 'negative'"),
        ({"model3": {"arch": "resnet10t"}}, "model3: arch is 'resnet10t', of model0 'test_efficientnet', and it start"),
        ({"model3": {"norm": "weights"}}, "model7: norm is 'imagenet', of model3 'weights', and it starts from these"),
        ({"": {"arch": "resnet10000"}}, "model0: arch 'resnet10000' is no timm model"),
        ({"model6": {"oversample": ["Bulla"]}}, "model6: oversample 'Bulla': no such finding; the labels have Edema"),
        ({"model7": {"device": "gpu"}}, "model7: device 'gpu': choose auto, cpu or cuda"),
        ({"model7": {"device": "cpu", "decode": "mixed"}}, "model7: decode 'mixed' needs a GPU"),
        ({"model7": {"device": "cpu", "precision": "fp16"}}, "model7: precision 'fp16' needs a GPU"),
    ],
)
def test_what_would_fail_after_hours_is_a_problem_before_them(dataset, known, tmp_path, overrides, message):
    problems = plan_of(tmp_path, dataset, known, replace(OPTIONS, overrides=overrides)).problems
    assert any(text.startswith(message) for text in problems), problems
    assert plan_of(tmp_path, dataset, known).problems == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"overrides": {"model1": {"lr": 1.0}}}, "model1.lr: model1 is not among the models; add it to --models"),
        ({"overrides": {"": {"labels": "chexpert"}}}, "model0: labels = 'chexpert', but all models need the same ones"),
        ({"overrides": {"": {"oversample_below": 0.2}}}, "model0: oversampling by AP needs --oversample-from"),
        ({"overrides": {"model7": {"lr": -1.0}}}, "model7: lr -1.0: above 0"),
        ({"overrides": {"model5": {"oversample_from": "gone"}}}, "gone: no such file or run"),
    ],
)
def test_settings_that_cannot_be_are_refused(dataset, known, tmp_path, change, message):
    with pytest.raises(UserError) as error:
        plan_of(tmp_path, dataset, known, replace(OPTIONS, **change))
    assert message in str(error.value)


def test_a_run_is_known_however_its_path_is_spelled(done, dataset, known, monkeypatch):
    """From another working directory, and with the AP's run given by hand."""
    monkeypatch.chdir(done)
    here = type(done)()
    assert outdated(here, dataset, known) == {}
    options = replace(OPTIONS, overrides={"model3": {"oversample_from": str(done / "runs" / ".." / "runs" / "model2")}})
    assert outdated(here, dataset, known, options) == {}
    options = replace(OPTIONS, overrides={"model3": {"oversample_from": "runs/model5"}})
    with pytest.raises(UserError, match="model3: needs model5, which is not trained before it"):
        plan_of(here, dataset, known, options)


def test_a_copy_of_the_folder_has_nothing_to_do(done, dataset, known, tmp_path):
    copy = shutil.copytree(done, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    assert outdated(copy, dataset, known) == {}


def test_without_its_records_the_runs_are_taken_over_as_they_are(done, dataset, known, tmp_path):
    copy = shutil.copytree(done, tmp_path / "copy")
    shutil.rmtree(copy / ".steps")
    plan = plan_of(copy, dataset, known)
    assert Book(copy).plan(plan.steps)["train model3"] == "takes over the run that is there"
    best = copy / "runs" / "model7" / runs.BEST
    before = best.stat().st_mtime_ns
    Book(copy).run([step for step in plan.steps if step.folder])
    assert best.stat().st_mtime_ns == before
    assert not (copy / "runs" / "replaced").exists()


def test_epoch_and_hours_are_arithmetic(done, dataset, known):
    plan = plan_of(done, dataset, known)
    assert epoch_images(plan, "model2") == (len(plan.bases["model2"].train_rows), True)
    doubled = read_config(done / "runs" / "model3")["oversampling"]
    assert epoch_images(plan, "model3") == (doubled["epoch_images"], True)
    rate = Rate(trained=100.0, predicted=200.0)
    assert training_hours(rate, images=36_000, validated=7_200, epochs=10) == pytest.approx(10 * (360 + 36) / 3600)
    # a frozen backbone: every image once, whatever the epochs
    assert training_hours(rate, images=36_000, validated=7_200, epochs=10, cached=True) == pytest.approx(216 / 3600)
    assert training_hours(rate, images=36_000, validated=7_200, epochs=0, cached=True) == 0
    assert predicting_hours(rate, 7_200, "none") == pytest.approx(0.01)
    assert predicting_hours(rate, 7_200, "flips") == pytest.approx(0.04)


def test_a_smaller_plan_s_report_leaves_out_what_a_larger_one_made(done, dataset, known):
    from cxrdali.report.training.folder import read_paper
    from cxrdali.runs.listing import run_folders

    whole = (done / "paper.json").read_bytes()
    assert ("ensemble-views", "test") in read_paper(done).evaluations
    (done / "runs" / "replaced" / "model3-1").mkdir(parents=True)
    assert run_folders(done)[1] == []
    record = json.loads(whole)
    record["tables"].remove("ensemble-views")
    (done / "paper.json").write_bytes(sealed_json(record))
    assert {name for name, _ in read_paper(done).evaluations} == set(record["tables"])
    (done / "paper.json").write_bytes(whole)


def test_frontal_images_alone_make_a_page_with_the_ensemble_and_no_view_rules(known, tmp_path, monkeypatch):
    monkeypatch.setattr(releases, "VIEWS", ("PA", "AP"))
    releases.write_release(tmp_path / "release")
    pack(open_release(tmp_path / "release"), tmp_path / "pack", PackOptions(sizes=(Size(48),), shard_images=64))
    options = StudyOptions(("model3", "model5"), draws=0, synthetic=True, labels="cxr-lt-2023")
    plan = plan_of(tmp_path, PackedDataset.open(tmp_path / "pack"), known, options)
    assert "no view postprocess: validation has not both frontal and lateral images" in plan.notes
    Book(tmp_path).run(plan.steps)
    page = Page(tmp_path / "report.html")
    table = page.table("mAP by step, test split")
    assert table["Predictions"].to_dict() == {
        "Stage 1": "model0", "Stage 2": "model2", "Oversampling": "model3", "Ensemble": "ensemble",
    }  # fmt: skip
    scores = [json.loads((tmp_path / f"evaluations/{name}.test.json").read_bytes())["all"]["mAP"]
              for name in ("model3", "ensemble")]  # fmt: skip
    assert table.loc["Ensemble"].tolist()[:2] == [f"{scores[1]:.3f}", gain(scores[1] - scores[0])]
    assert re.search(rf"On the test split \(.*?\), ensemble reaches a mAP of {scores[1]:.3f}", page.text)
    assert "p, Holm" in table and "is adjusted for" not in page.text, "without draws there is nothing to adjust"
    assert "This study has no view rules" in page.text and "Synthetic data." in page.text
    write_report(tmp_path / "again.html", [tmp_path], options=ReportOptions("Again"))
    assert "Synthetic data." in Page(tmp_path / "again.html").text, "its record says so"
