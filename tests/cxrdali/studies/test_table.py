"""The numbers of a study, of files that its steps left: worked out by hand; what is missing says why."""

import csv
import json
import shutil
import subprocess

import pytest

from cxrdali.report.kit.tables import Table
from cxrdali.report.study.table import parts
from cxrdali.runs.steps import Book, Step
from cxrdali.studies.table import study_table
from cxrdali.studies.table_files import latex, markdown, write_files
from shards.errors import UserError
from shards.storage.sealed import sealed_json

MAP = {  # by run: two cells of three seeds; the last of b fails
    "a-seed0": 0.30, "a-seed1": 0.32, "a-seed2": 0.40,
    "b-seed0": 0.34, "b-seed1": 0.33,
}  # fmt: skip
NAMES = [f"{cell}-seed{seed}" for cell in "ab" for seed in range(3)]


def evaluation(value, images="same", finding="Mass"):
    groups = {"head": {"mAP": value + 0.1}, "tail": {"mAP": None}}
    return {
        "hashes": images,
        "labels": "nih",
        "all": {"findings": [{"finding": finding}], "mAP": value, "macro_AUROC": 0.7, "groups": groups},
    }


def writes(path, content):
    def do():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(sealed_json(content))

    return do


@pytest.fixture
def root(tmp_path):
    """A study whose runs were predicted on test: one failed, one was not done."""
    runs = {name: {"cell": name[0], "axes": {"seed": int(name[-1])}, "repeat": f"seed {name[-1]}"} for name in NAMES}
    book, steps = Book(tmp_path), []
    for name in NAMES:
        train = Step(f"train {name}", (f"{name}.json",), {}, (), writes(tmp_path / f"{name}.json", {}))
        out = f"evaluations/{name}.test.json"
        do = writes(tmp_path / out, evaluation(MAP.get(name, 0.0)))
        steps += [train, Step(f"evaluate {name} test", (out,), {}, (train.name,), do)]
    val = [f"evaluate {name} val" for name in NAMES]
    record = {
        "title": "A & B", "synthetic": True, "models": NAMES, "runs": runs, "notes": [],
        "steps": [*(step.name for step in steps), *val],
        "tables": [{"name": name, "kind": "model", "of": name, "how": "none"} for name in NAMES],
    }  # fmt: skip
    (tmp_path / "study.json").write_bytes(sealed_json(record))
    for step in steps:
        if step.name == "train b-seed2":
            book.fail(step, "loss is not finite")
        elif "b-seed2" not in step.name:
            book.make(step)
    return tmp_path


def row_of(rows, **wanted):
    (row,) = (row for row in rows if all(row[key] == value for key, value in wanted.items()))
    return row


def test_scores_and_differences_by_hand(root):
    result = study_table(root)
    a = row_of(result["scores"], run="a", split="test", metric="mAP")
    assert (a["n"], a["values"]) == (3, {"seed 0": 0.30, "seed 1": 0.32, "seed 2": 0.40})
    assert a["mean"] == pytest.approx(0.34) and a["sd"] == pytest.approx(0.0529150262)
    assert row_of(result["scores"], run="b", split="test", metric="mAP")["n"] == 2
    assert row_of(result["scores"], run="b", split="test", metric="mAP_head")["mean"] == pytest.approx(0.435)
    tail = row_of(result["scores"], run="a", split="test", metric="mAP_tail")
    assert (tail["n"], tail["mean"]) == (0, None), "an undefined mean is not measured, and not left out"
    pair = row_of(result["differences"], metric="mAP")
    assert (pair["run"], pair["against"], pair["n"]) == ("b", "a", 2)
    assert pair["values"] == pytest.approx({"seed 0": 0.04, "seed 1": 0.01})
    reach = 12.7062047364 * 0.0212132034 / 2**0.5  # t of one degree of freedom, 97.5 %
    assert [pair["low"], pair["high"]] == pytest.approx([0.025 - reach, 0.025 + reach])


def test_what_failed_and_what_is_not_done_is_said(root):
    result = study_table(root)
    assert row_of(result["runs"], name="b-seed2")["state"] == "failed: loss is not finite"
    missing = {(row["name"], row["split"]): row["why"] for row in result["missing"]}
    assert missing["b-seed2", "test"] == "b-seed2 failed: loss is not finite"
    assert missing["a-seed0", "val"] == "not done yet"
    text = markdown("t", parts(result))
    assert "| b-seed2 | test | b-seed2 failed: loss is not finite |" in text
    assert "| a | val | 0 | not measured |" in text, "a cell without any score has a row"


def test_other_images_are_not_paired(root):
    """A's second seed was judged on other images."""
    (root / "evaluations" / "a-seed1.test.json").write_bytes(sealed_json(evaluation(0.32, "other")))
    pair = row_of(study_table(root)["differences"], metric="mAP")
    assert (pair["values"], pair["n"], pair["low"]) == ({"seed 0": pytest.approx(0.04)}, 1, None)
    assert "+0.040 (interval not measured)" in markdown("t", parts(study_table(root)))


def test_other_findings_are_not_paired(root):
    """A run elsewhere is judged on the findings that it knows: means over others do not compare."""
    for name in NAMES[:3]:
        path = root / "evaluations" / f"{name}.test.json"
        path.write_bytes(sealed_json(evaluation(MAP[name], finding="Nodule")))
    assert study_table(root)["differences"] == []


def test_a_step_that_is_outdated_does_not_count(root):
    path = root / ".steps" / "train-a-seed0.made.json"
    record = json.loads(path.read_text())
    path.write_bytes(sealed_json({**{k: v for k, v in record.items() if k != "sha256"}, "made": "again"}))
    result = study_table(root)
    assert row_of(result["scores"], run="a", split="test", metric="mAP")["n"] == 2
    assert row_of(result["missing"], name="a-seed0", split="test")["why"].startswith("to be made again")


def test_files_have_the_same_numbers(root):
    result = study_table(root)
    paths = write_files(result, root)
    assert [path.name for path in paths] == ["table.json", "table.csv", "table.tex", "table.md"]
    with (root / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    row = row_of(rows, kind="score", run="a", split="test", metric="mAP")
    assert float(row["mean"]) == pytest.approx(0.34) and row["n"] == "3"
    assert row_of(rows, kind="missing", run="b-seed2", split="test")["why"] == "b-seed2 failed: loss is not finite"
    tex = (root / "table.tex").read_text()
    assert r"a & test & 3 & 0.340 $\pm$ 0.053" in tex and r"\toprule" in tex and r"mean $\pm$ standard" in tex
    assert latex("x_1", []).startswith("% x_1") and "95 \\% t intervals" in tex
    for block in tex.split(r"\begin{tabular}")[1:]:
        rows = [line for line in block.splitlines() if line.endswith(r"\\")]
        assert len({row.count(" & ") for row in rows}) == 1, "every row of a table has its columns"
        assert max(map(len, rows)) < 100, "a page of one column of text holds them"


def test_latex_prints_wide_tables_and_any_letter(tmp_path):
    """With a TeX, compiled: no error, and nothing that sticks out of the line."""
    says = "A_b & 50 % ~ ^ {x} \\ #1 <> | ≥ ≤ × → – — ± −"
    wide = Table("Wide", [("Run", "text"), *((f"metric {n}", "score") for n in range(12))], [("a_b", *range(12))])
    text = latex("x", [wide, Table("Said", [("Claim", "text"), ("Verdict", "text")], [(says * 3, "holds")])])
    blocks = text.split(r"\begin{tabular}")[1:-1]
    heads = [name.strip(" \\") for block in blocks for name in block.splitlines()[2].split(" & ")]
    assert [name for name in heads if name != "Run"] == [f"metric {n}" for n in range(12)]
    assert heads.count("Run") == len(blocks) > 1, "the name of a row is in each part"
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex")
    whole = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}" + text + "\\end{document}"
    (tmp_path / "t.tex").write_text(whole)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "t.tex"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0 and "Overfull" not in done.stdout, done.stdout


def test_a_folder_without_a_study_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no study was begun there; run it first, or give its --out"):
        study_table(tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(UserError, match=r"study.json: .*; delete it and run the study again"):
        study_table(tmp_path)
