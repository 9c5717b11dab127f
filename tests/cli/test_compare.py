"""cxrdali compare as a user types it."""

import csv
import json
import shutil

import pytest

from cxrdali.report.kit.numbers import probability
from tests.cli.cli import call, done, refused
from tests.cxrdali.comparable_runs import packed, write_run
from tests.cxrdali.report.pages import Page

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("cli-compare")
    dataset = packed(root)
    write_run(root / "runs" / "weak", dataset, 0.5, seed=1)
    write_run(root / "runs" / "strong", dataset, 2.0, seed=2, loss="focal", epochs=4)
    return root


def test_two_runs(root, tmp_path):
    result = done(tmp_path, "compare", root / "runs/weak", root / "runs/strong", "--data", root / "pack", "--draws", 40,
                  "--out", "c.html", "--title", "Two")  # fmt: skip
    found = json.loads((tmp_path / "c.json").read_text())
    lines = result.stdout.splitlines()
    assert lines[0] == (
        f"{found['images']} validation images of {found['studies']} studies of {found['subjects']} patients, labels "
        "cxr-lt-2023; each run by its best epoch"
    )
    assert lines[1].split()[:3] == ["mAP", "AUROC", "F1"]
    weak, strong = found["runs"]
    assert lines[2].split()[:2] == ["weak", f"{weak['mAP']:.3f}"] and lines[2].split()[-1] == "2"
    assert lines[3].split()[:2] == ["strong", f"{strong['mAP']:.3f}"] and lines[3].endswith("2 of 4")
    assert lines[4] == "F1: thresholds are cross-fitted over subjects"
    best = found["best"]["mAP"]
    assert lines[5] == (
        f"best mAP: strong, over weak by {best['difference']:+.3f} [{best['low']:+.3f}, {best['high']:+.3f}]"
    )
    assert lines[6] == (
        "difference to weak, 95 % intervals: 40 samples of the patients; p, and in brackets adjusted (Holm) for all "
        f"{found['comparisons']['means']} comparisons:"
    )
    row = found["differences"][0]
    assert lines[7].split() == [
        "strong", "mAP", f"{row['difference']:+.3f}", f"[{row['low']:+.3f},", f"{row['high']:+.3f}]", "p",
        probability(row["p"]), f"({probability(row['p_holm'])})",
    ]  # fmt: skip
    one = row["without_one"]
    assert (
        f"strong: difference in mAP without any one finding {one['low']:+.3f} (without {one['low_without']}) to "
        f"{one['high']:+.3f} (without {one['high_without']})"
    ) in lines
    assert "no positive, so in no mean but ECE and Brier: Hernia" in lines
    assert "strong: 2 of 4 epochs are done; compared by the best of these" in lines
    assert lines[-1] == "written: c.html, c.json, c.csv, c.findings.csv"
    assert len(list(csv.DictReader((tmp_path / "c.csv").open()))) == 2
    assert "<h1>Two</h1>" in (tmp_path / "c.html").read_text()


def test_a_table_beside_a_run_and_tables_alone(root, tmp_path):
    for name in ("weak", "strong"):
        shutil.copy(root / f"runs/{name}/val_predictions.parquet", tmp_path / f"{name}-e.parquet")
    given = ("--data", root / "pack", "--draws", 0, "--labels", "cxr-lt-2023", "--out", "c.html")
    result = done(tmp_path, "compare", root / "runs/weak", "strong-e.parquet", *given)
    lines = result.stdout.splitlines()
    assert " validation images of " in lines[0] and lines[0].endswith("each run by its best epoch")
    assert lines[3].split()[0] == "strong-e" and lines[3].split()[-3:] == ["-", "-", "-"]
    page = Page(tmp_path / "c.html")
    assert "2 runs and tables on the same" in page.text
    assert list(page.table("Scores on the validation images").index) == ["weak", "strong-e"]
    assert list(page.table("What they are, and what they took").index) == ["weak"]
    result = done(tmp_path, "compare", "weak-e.parquet", "strong-e.parquet", *given)
    lines = result.stdout.splitlines()
    assert lines[0].endswith("labels cxr-lt-2023") and "images/s" not in lines[1]
    text = Page(tmp_path / "c.html").text
    assert "2 tables on the same" in text and "What they are, and what they took" not in text


def test_a_folder_of_runs_is_printed_and_nothing_is_written(root, tmp_path):
    result = call("compare", root / "runs", "--data", root / "pack", "--baseline", "weak", "--draws", 0, cwd=tmp_path)
    assert result.returncode == 0 and "difference to weak:" in result.stdout and not list(tmp_path.iterdir())
    said = "highest mAP: strong; no interval says whether it differs from that of weak by more than chance\n"
    assert said in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("{runs}/weak", 1, "only weak has a finished epoch, and one run has nothing to be compared with"),
        ("{runs} --baseline x", 1, "baseline 'x': is none of the runs; choose one of strong, weak"),
        ("{runs} --out c.png", 2, "--out c.png: the page is a .html"),
        ("{runs} --out none/c.html", 1, "none: no such folder"),
        ("{runs} --level 2", 1, "level 2.0: between 0 and 1"),
        ("nothing", 1, "nothing: no run (no config.json in it)"),
        ("", 2, "Missing argument"),
    ],
)
def test_mistakes_are_named(root, tmp_path, arguments, code, said):
    arguments = arguments.format(runs=root / "runs").split()
    refused("compare", *arguments, "--data", root / "pack", cwd=tmp_path, code=code, said=said)
