"""A study that pre-trains on one pack and goes on with other findings on another one."""

import numpy as np
import pytest
from scipy.special import expit

from cxrdali.predictions import read
from cxrdali.runs.config_file import read_config
from cxrdali.runs.steps import Book
from cxrdali.studies.estimate import measure
from cxrdali.studies.options import StudyOptions
from cxrdali.studies.plan import make_plan
from cxrdali.studies.reader import read_study
from cxrdali.studies.shipped import write_record
from cxrdali.studies.work import Part, work
from shards.errors import UserError
from shards.storage.sealed import read_json
from tests.cxrdali.studies.small import SETTINGS

TEXT = (
    SETTINGS
    + """[packs]
first = ""
second = ""
[demo]
first = "university"
second = "harbour"
[runs.before]
packs = "first"
labels = "chexpert"
data.folds = 4
[runs.after]
packs = "second"
starts_from = "before"
new_head = true
optimizer = { epochs = 2, head_epochs = 1, head_epochs_lr = 1e-3 }
grid = { seed = [0, 1] }
[runs.alone]
like = "after"
packs = "second"
starts_from = ""
new_head = false
optimizer = { head_epochs = 0, head_epochs_lr = "none" }
grid = { seed = [0, 1] }
[[predict]]
of = ["after", "alone"]
splits = "test"
[[comparisons]]
name = "stages"
tables = ["after", "alone"]
splits = "test"
by = "seed"
[gate]
of = "after-seed0"
normal = "No Finding"
[submission]
of = "after-seed0-gated"
"""
)


def study(tmp_path, text=TEXT):
    (tmp_path / "s.toml").write_text(text)
    return read_study(tmp_path / "s.toml")


def test_what_stands_on_which_pack(dataset, nih, tmp_path):
    plan = make_plan(tmp_path, {"first": dataset, "second": nih}, study(tmp_path), {}, StudyOptions(draws=0))
    rate = measure(plan.models["after-seed0"][0], nih)
    assert min(rate.trained, rate.predicted, rate.disk) > 0, (
        "a dry run measures it before there is the other's backbone"
    )
    assert plan.problems == () and list(plan.models)[0] == "before"
    assert plan.bases["before"].labels.name == "chexpert" and plan.bases["before"].dataset.id == dataset.id
    assert {plan.bases[f"after-seed{seed}"].dataset.id for seed in (0, 1)} == {nih.id}
    assert plan.record["splits"].keys() == {"val", "test"}, "those of the second pack, on which the tables are"
    assert [asked.model for asked in plan.asked if asked.split == "test"] == [
        "after-seed0", "after-seed1", "alone-seed0", "alone-seed1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[demo]\nfirst", "[demo]\nother"), "pack 'first' is not in both [packs] and [demo]"),
        (('labels = "chexpert"', 'labels = "none"'), "no labels 'none'"),
        (("data.folds = 4", 'data.folds = 4\nmodel.norm = "weights"'), "norm is 'imagenet', of before 'weights'"),
        (('normal = "No Finding"', 'normal = "Normal"'), "no finding 'Normal' among labels"),
        (('starts_from = ""', "data.folds = 4"), "alone-seed0: folds is 4, of after-seed0 3, and their validation"),
    ],
)
def test_what_cannot_be_is_one_line(dataset, nih, tmp_path, change, message):
    packs = {"first": dataset, "second": nih}
    try:
        plan = make_plan(tmp_path, packs, study(tmp_path, TEXT.replace(*change)), {}, StudyOptions(draws=0))
        found = "; ".join(plan.problems)
    except UserError as error:
        found = str(error)
    assert message in found and "\n" not in found


@pytest.mark.slow
def test_the_backbone_goes_on_with_other_findings(dataset, nih, tmp_path):
    root = tmp_path / "out"
    root.mkdir()
    plan = make_plan(root, {"first": dataset, "second": nih}, study(tmp_path), {}, StudyOptions(draws=0))
    write_record(root, plan.record)
    done = work(Book(root), plan.steps, plan.steps, Part())
    assert (done.failed, done.blocked) == ({}, [])
    before, after = (read_config(root / "runs" / name) for name in ("before", "after-seed1"))
    assert before["findings"] == ["Edema", "No Finding", "Pneumonia"] and len(after["findings"]) == len(
        nih.labels().findings
    )
    assert after["settings"]["model"]["init"].endswith("runs/before") and after["settings"]["model"]["new_head"]
    table = read(root / "predictions" / "after-seed0.test.parquet")
    assert table.findings == nih.labels().findings
    rows = read_json(root / "comparisons" / "stages.test.json")["differences"]
    assert {(row["run"], row["against"], row["n"]) for row in rows} == {("alone", "after", 2)}
    gated = read(root / "predictions" / "after-seed0-gated.test.parquet")
    p, q = (expit(each.values.astype(np.float64)) for each in (table, gated))
    place = table.findings.index("No Finding")
    expected = np.where(np.arange(p.shape[1]) == place, p, p * np.sqrt(1 - p[:, [place]]))
    np.testing.assert_allclose(q, expected, rtol=1e-5)
    assert (root / "submission.zip").is_file()
    again = make_plan(root, {"first": dataset, "second": nih}, study(tmp_path), {}, StudyOptions(draws=0))
    assert set(Book(root).plan(again.steps).values()) == {None}
