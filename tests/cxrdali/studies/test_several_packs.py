"""A study of two packs: runs on one, on both, and predictions of either on each pack alone."""

import numpy as np
import pytest

from cxrdali.predictions import read
from cxrdali.runs.config_file import read_config
from cxrdali.runs.steps import Book
from cxrdali.studies.options import StudyOptions
from cxrdali.studies.plan import make_plan
from cxrdali.studies.reader import read_study
from cxrdali.studies.shipped import write_record
from cxrdali.studies.work import Part, work
from shards.storage.sealed import read_json

pytestmark = pytest.mark.slow

TEXT = """
[settings]
stage = 1
model = { arch = "test_byobnet", pretrained = false }
optimizer = { epochs = 1, batch = 8, warmup_epochs = 0 }
data = { size = 48, folds = 3 }
runtime.device = "cpu"
[packs]
mimic = "mimic"
nih = "nih"
[runs.both]
[runs.mimic]
packs = "mimic"
[[predict]]
of = ["both", "mimic"]
pack = "mimic"
splits = ["val", "test"]
[[predict]]
of = ["both", "mimic"]
pack = "nih"
splits = "test"
[[comparisons]]
name = "away"
tables = ["mimic@nih", "both@nih"]
[[claims]]
higher = "both@mimic"
than = "mimic@mimic"
split = "test"
"""


def test_runs_of_one_and_of_both_packs_are_judged_on_each(dataset, nih, tmp_path):
    (tmp_path / "two.toml").write_text(TEXT)
    packs, study, root = {"mimic": dataset, "nih": nih}, read_study(tmp_path / "two.toml"), tmp_path / "out"
    root.mkdir()

    def plan():
        return make_plan(root, packs, study, {}, StudyOptions(draws=0))

    steps = plan().steps
    write_record(root, plan().record)  # as the command does, before the steps
    found = work(Book(root), steps, steps, Part())
    assert (found.failed, found.blocked, found.done) == ({}, [], len(steps))
    assert [each["name"] for each in read_config(root / "runs" / "both")["dataset"]["packs"]] == ["mimic", "nih"]
    assert "packs" not in read_config(root / "runs" / "mimic")["dataset"]
    one, other = (read(root / f"predictions/{name}@mimic.val.parquet") for name in ("both", "mimic"))
    assert list(one.ids["image_id"]) == list(other.ids["image_id"]), "each validates on the same images of a pack"
    away = read(root / "predictions" / "mimic@nih.test.parquet")
    assert set(away.ids["image_id"]) <= set(nih.catalog["image_id"])
    compared = read_json(root / "comparisons" / "away.test.json")
    assert [row["name"] for row in compared["runs"]] == ["mimic@nih.test", "both@nih.test"]
    scores = {name: read_json(root / f"evaluations/{name}@mimic.test.json")["all"]["mAP"] for name in ("both", "mimic")}
    (claim,) = read_json(root / "claims.json")["claims"]
    np.testing.assert_allclose(claim["scores"], [scores["both"], scores["mimic"]])
    assert claim["difference"] == pytest.approx(scores["both"] - scores["mimic"])
    assert set(Book(root).plan(plan().steps).values()) == {None}
