"""A run's predictions on another hospital's pack, and what is fitted to them and scored."""

import json
import shutil

import numpy as np
import pytest

from cxrdali.predict.options import PredictOptions
from cxrdali.predict.predict import predict
from cxrdali.predictions import read
from cxrdali.runs.layout import CONFIG
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import settings_of
from shards.errors import UserError
from shards.storage.sealed import sealed_json
from tests.cli.cli import call, done
from tests.heard import heard

pytestmark = pytest.mark.slow
COMMON = ["Edema", "Hernia", "Mass", "No Finding", "Pneumonia"]  # all of the run's are NIH's, too


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    from cxrdali.train.trainer import train

    given = {"stage": 1, "size": 48, "batch": 8, "epochs": 1, "arch": "test_byobnet", "pretrained": False}
    out = tmp_path_factory.mktemp("runs") / "home"
    train(settings_of(**given, device="cpu", folds=2, limit_batches=2), dataset, out)
    return out


@pytest.fixture(scope="module")
def away(run, nih, tmp_path_factory):
    path = tmp_path_factory.mktemp("away") / "nih.parquet"
    predict(run, nih, "all", PredictOptions(device="cpu")).write(path)
    return path


def test_the_pack_s_own_labels_are_taken_and_the_table_says_what_it_was_trained_on(run, nih, away):
    lines = []
    with heard(lines):
        table = predict(run, nih, "test", PredictOptions(device="cpu"))
    assert any("has no labels 'cxr-lt-2023', on which the run was trained; its default ones count" in x for x in lines)
    about, trained = table.provenance, Run.open(run)
    assert (about.labels, about.dataset, about.seen) == ("chestx-ray14", nih.id, ())
    assert about.home.images == trained.selection["train_images"]
    assert dict(about.home.positives) == trained.train_positives
    whole = read(away)
    assert whole.provenance.home == about.home and len(whole.values) == len(nih.catalog)
    rows = whole.ids.index[np.isin(whole.ids["image_id"], table.ids["image_id"])]
    np.testing.assert_allclose(whole.values[rows], table.values, atol=1e-5)


def test_a_run_of_a_version_that_did_not_count_its_positives_predicts_elsewhere(run, nih, tmp_path):
    shutil.copytree(run, tmp_path / "old")
    config = json.loads((run / CONFIG).read_text())
    del config["train_positives"]
    (tmp_path / "old" / CONFIG).write_bytes(sealed_json(config))
    assert predict(tmp_path / "old", nih, "test", PredictOptions(device="cpu")).provenance.home is None


def test_a_run_s_own_folds_are_not_elsewhere(run, nih):
    with pytest.raises(UserError, match="choose dev, test or all"):
        predict(run, nih, "val", PredictOptions(device="cpu"))


def test_commands_take_such_a_table(run, nih, away, tmp_path):
    """Findings by name: scored, calibrated, with thresholds; the table is the run's on another pack."""
    given = ("--data", nih.root)
    said = done(tmp_path, "evaluate", away, *given, "--out", tmp_path / "m", "--draws", 0).stdout
    found = json.loads((tmp_path / "m.json").read_bytes())
    assert found["common"]["same"] == {name: name for name in COMMON} and found["groups"]["home"] == "home"
    assert "left out, unknown to the predictions: " in said and "Effusion" in found["common"]["only_labels"]
    done(tmp_path, "thresholds", "--fit", away, *given, "--out", tmp_path / "t.json", "--folds", 2)
    done(tmp_path, "calibrate", away, "--fit", away, "--method", "platt", *given, "--out", tmp_path / "c.parquet",
         "--folds", 2, "--allow-same-images")  # fmt: skip
    assert [row["finding"] for row in json.loads((tmp_path / "t.json").read_bytes())["findings"]] == COMMON
    assert read(tmp_path / "c.parquet").findings == tuple(COMMON)
    done(tmp_path, "evaluate", away, *given, "--thresholds", tmp_path / "t.json", "--out", tmp_path / "m2",
         "--draws", 0, "--allow-same-images")  # fmt: skip
    assert json.loads((tmp_path / "m2.json").read_bytes())["all"]["macro_recall"] is not None


def test_a_run_at_home_and_away_end_to_end(run, dataset, nih, tmp_path):
    """Home's validation fold by the table that the run has, away all of another pack; numbers, table and page."""
    away = ("--data", dataset.root, "--away", f"chest={nih.root}", "--draws", 20, "--device", "cpu")
    # these small smooth pictures look alike, as copies do
    result = call("external", "--run", run, *away, "--out", tmp_path / "e", cwd=tmp_path)
    assert (
        result.returncode == 1 and "near copies: 13, so these scores would not be those of strangers" in result.stderr
    )
    assert not list((tmp_path / "e").iterdir())
    away = (*away, "--allow-overlap")
    said = done(tmp_path, "external", "--run", run, *away, "--folds", 2, "--refit", 0.5, "--out", tmp_path / "e").stdout
    found = json.loads((tmp_path / "e" / "external.json").read_bytes())
    assert found["home"]["split"] == "val" and found["home"]["images"] == Run.open(run).selection["val_images"]
    (one,) = found["away"]
    assert (one["name"], one["images"], one["labels"]) == ("chest", len(nih.catalog), "chestx-ray14")
    assert [row["finding"] for row in one["findings"]] == COMMON
    assert f"chest: {one['images']} images" in said and "written: " in said
    assert one["copies"]["near"] == 13
    page = (tmp_path / "e" / "external.html").read_text()
    assert "exact copies not checked, near copies 13; home and " in page
    assert "home, at home and away" in page and "chest" in page and (tmp_path / "e" / "external.csv").exists()
    done(tmp_path, "external", "--run", run, *away, "--split", "test", "--away-split", "test", "--refit", 0.5, "--out",
         tmp_path / "t", "--away-labels", "chest=chestx-ray14")  # fmt: skip
    other = json.loads((tmp_path / "t" / "external.json").read_bytes())
    assert (other["home"]["split"], other["fitted_on"]["cross_fitted"]) == ("test", False)
    assert read(tmp_path / "t" / "home.test.parquet").provenance.split == "test"


def test_images_that_the_run_trained_on_are_refused_before_they_are_predicted(run, dataset, tmp_path):
    given = ("--run", run, "--data", dataset.root, "--out", tmp_path / "e")
    result = call("external", *given, "--away", f"copy={dataset.root}", "--device", "cpu", cwd=tmp_path)
    assert result.returncode == 1 and "were trained on by home" in result.stderr and "--allow-leak" in result.stderr
    assert not list((tmp_path / "e").iterdir())
    for words, said in (
        (("--away", dataset.root, "--away-labels", "x=y"), "--away-labels x=...: the away packs are pack"),
        (("--away", dataset.root, "--away-labels", "y"), "'y': give NAME=RELEASE"),
        (("--away", f"home={dataset.root}"), "home is the dataset of --data here; call the pack otherwise, NAME=PACK"),
    ):
        result = call("external", *given, *words, cwd=tmp_path)
        assert result.returncode == 2 and said in result.stderr
