"""A run's predictions on another hospital's pack, and what is fitted to them and scored."""

import json

import numpy as np
import pytest

from cxrdali.predict.options import PredictOptions
from cxrdali.predict.predict import predict
from cxrdali.predictions import read
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import settings_of
from shards.errors import UserError
from tests.cli.cli import done
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
