"""Odd names on the command line, from a table to a score: the same everywhere, or refused at once."""

import csv
import os

import cv2
import numpy as np
import pandas as pd
import pytest

from cxrdali.predictions import read
from cxrdali.runs.reader import Run
from shards.dataset.packed import PackedDataset
from tests.cli.cli import call, run
from tests.releases import smooth_image

pytestmark = pytest.mark.slow

IDS = ["+x", "-5", "@a", "a b", "é", "__key__", "../x", "<b>", "%2F", "\U0001f600", "'=1", "a'b", "_"]
FINDINGS = ["Edema", "=HYPER(1)", "<b>x</b>", "__key__", "É"]


def done(folder, *arguments) -> str:
    result = call(*arguments, cwd=folder)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_ids_findings_and_folders_with_odd_names_go_all_the_way(tmp_path):
    (tmp_path / "img").mkdir()
    rows = []
    for row, image in enumerate(IDS):
        cv2.imwrite(str(tmp_path / "img" / f"{row}.png"), smooth_image(np.random.default_rng(row), 64, 64))
        rows.append(
            [image, f"{row}.png", ("train", "train", "test")[row % 3], *((row // (1 + n)) % 2 for n in range(5))]
        )
    table = pd.DataFrame(rows, columns=["key", "file", "fold", *FINDINGS])
    table.loc[0, "file"] = "=absent.png"
    table.to_csv(tmp_path / "labels\u00a02024.csv", index=False)
    pack, run_folder = "out é\nmore \U0001f600", "run =1"
    said = done(tmp_path, "shard", "--source", "img", "--table", "labels\u00a02024.csv", "--path-column", "file",
                "--id-column", "key", "--split-column", "fold", "--findings", "all others", "--sizes", "32",
                "--max-reject-fraction", "0.5", "--out", pack)  # fmt: skip
    assert r"labels are called 'labels 2024', as the file's name 'labels\xa02024.csv'" in said
    done(tmp_path, "verify", pack)
    assert "+x" in done(tmp_path, "inspect", pack) and "'+x" not in done(tmp_path, "inspect", pack)
    dataset = PackedDataset.open(tmp_path / pack)
    assert sorted(dataset.catalog["image_id"]) == sorted(IDS) and dataset.labels().findings == tuple(FINDINGS)
    with (tmp_path / pack / "rejects.csv").open(newline="") as file:
        assert [row[1:3] for row in csv.reader(file)] == [["id", "path"], ["'+x", "'=absent.png"]]
    done(tmp_path, "train", "--stage", "1", "--size", "32", "--batch", "4", "--epochs", "1", "--arch", "test_byobnet",
         "--no-pretrained", "--device", "cpu", "--data", pack, "--out", run_folder)  # fmt: skip
    assert "'=HYPER(1)" in (tmp_path / run_folder / "findings.csv").read_text()
    assert set(Run.open(tmp_path / run_folder).finding_metrics["finding"]) == set(FINDINGS)
    done(
        tmp_path, "predict", "--run", run_folder, "--data", pack, "--split", "test", "--device", "cpu", "--out", "p.csv"
    )
    predicted = read(tmp_path / "p.csv")
    assert predicted.findings == tuple(FINDINGS) and set(predicted.ids["image_id"]) == set(IDS[2::3])
    done(tmp_path, "evaluate", "p.csv", "--data", pack, "--out", "scores", "--draws", "20")
    with (tmp_path / "scores.csv").open(newline="") as file:
        assert {row["finding"] for row in csv.DictReader(file)} == {"", "'=HYPER(1)", *FINDINGS} - {"=HYPER(1)"}


def test_what_is_not_utf_8_is_refused_and_an_error_is_one_line_whatever_it_names(tmp_path):
    result = run("verify", os.fsdecode(b"caf\xe9"), cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    said = "this name is not UTF-8, so it cannot be written down; rename the file or folder\n"
    assert result.stderr == rf"error: caf\udce9: {said}"
    result = run("verify", "a\nb\x1b[2J\u00a0c", cwd=tmp_path)
    assert result.returncode == 1 and result.stderr.startswith(r"error: a\nb\x1b[2J\xa0c/dataset.json: no such file")
    assert len(result.stderr.splitlines()) == 1
