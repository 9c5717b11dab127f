"""A study of every hospital on every other: its runs, its matrix, and what cannot be."""

from dataclasses import replace

import numpy as np
import pytest

from cxrdali.predictions import read
from cxrdali.report.study.table import parts
from cxrdali.runs.steps import Book
from cxrdali.studies.options import StudyOptions
from cxrdali.studies.packs import of_each_pack
from cxrdali.studies.plan import make_plan
from cxrdali.studies.reader import read_study
from cxrdali.studies.shipped import names, write_record
from cxrdali.studies.table import study_table
from cxrdali.studies.work import Part, work
from shards.errors import UserError
from shards.storage.sealed import read_json
from tests.cxrdali.studies.small import SETTINGS

TEXT = (
    SETTINGS
    + """[runs.only]
packs = "each"
[runs.all]
[[predict]]
pack = "each"
splits = "test"
[matrix]
split = "test"
"""
)


def test_the_shipped_file_has_a_run_for_each_pack_and_for_all():
    study = of_each_pack(read_study(names()["external"]), ["A", "B", "C"])
    assert [(run.name, run.packs) for run in study.runs] == [
        ("only-A", ("A",)), ("only-B", ("B",)), ("only-C", ("C",)), ("all", ()),
    ]  # fmt: skip
    assert [(each.of, each.pack, each.splits) for each in study.predict] == [
        ((), pack, ("test",)) for pack in ("A", "B", "C")
    ]


def test_a_prediction_of_each_packs_runs_names_all_of_them(tmp_path):
    text = TEXT.replace('pack = "each"\nsplits', 'of = ["only", "all"]\npack = "each"\nsplits')
    (tmp_path / "s.toml").write_text(text)
    study = of_each_pack(read_study(tmp_path / "s.toml"), ["A", "B"])
    assert {each.of for each in study.predict} == {("only-A", "only-B", "all")}


@pytest.mark.parametrize(
    ("packs", "more", "message"),
    [
        (["A"], "", "line 9: this is of several packs; give --data NAME=PACK for each of them"),
        (["A", "b c"], "", "line 9: pack 'b c' names runs and files here; give it as NAME=PACK"),
        (["A", "each"], "", "a pack is called 'each'"),
        (["A", "B"], "[runs.only-A]\n", "two runs are called only-A; rename one of them"),
    ],
)
def test_what_cannot_be_is_one_line(packs, more, message, tmp_path):
    (tmp_path / "s.toml").write_text(TEXT + more)
    with pytest.raises(UserError) as error:
        of_each_pack(read_study(tmp_path / "s.toml"), packs)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.slow
def test_every_run_is_judged_on_every_pack(dataset, nih, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "s.toml").write_text(TEXT + "allow_overlap = true\n")  # drawings of 48 pixels are alike
    packs, root = {"mimic": dataset, "nih": nih}, tmp_path / "out"
    study = of_each_pack(read_study(tmp_path / "s.toml"), list(packs))
    root.mkdir()
    plan = make_plan(root, packs, study, {}, StudyOptions(draws=20))
    write_record(root, plan.record)
    done = work(Book(root), plan.steps, plan.steps, Part())
    assert (done.failed, done.blocked) == ({}, [])
    found = read_json(root / "matrix.json")
    assert found["trained"] == ["mimic", "nih", "mimic+nih"] and [c["judged"] for c in found["columns"]] == list(packs)
    for column in found["columns"]:
        own = [cell["trained"] for cell in column["cells"] if cell["own"]]
        assert own == [column["judged"]] and len(column["cells"]) == 3
        there = read(root / f"predictions/all@{column['judged']}.test.parquet")
        assert column["images"] == len(there.values), "all test images of the pack"
        own = next(cell for cell in column["cells"] if cell["own"])
        others = [cell for cell in column["cells"] if not cell["own"]]
        for cell in (cell for cell in others if cell["difference"]["difference"] is not None):
            np.testing.assert_allclose(cell["difference"]["difference"], cell["mAP"] - own["mAP"], atol=1e-9)
    assert set(found["copies"]) == {"mimic on nih", "nih on mimic"}
    strict = make_plan(
        root, packs, study.changed(matrix=replace(study.matrix, allow_overlap=False)), {}, StudyOptions(draws=20)
    )
    failed = work(Book(root), strict.steps, strict.steps, Part()).failed
    assert "near copies: " in failed["matrix"] and "say allow_overlap = true in [matrix]" in failed["matrix"]
    assert 'then data.exclude = ["overlap.csv"] in [settings]' in failed["matrix"]
    assert work(Book(root), plan.steps, plan.steps, Part()).failed == {}
    result = study_table(root)
    assert result["matrix"]["columns"] == found["columns"]
    assert parts(result)[0].caption.startswith("mAP of each run")
    assert "heat" in (root / "report.html").read_text().lower() and (root / "matrix.html").is_file()
    again = make_plan(root, packs, study, {}, StudyOptions(draws=20))
    assert set(Book(root).plan(again.steps).values()) == {None}
