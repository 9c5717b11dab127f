"""ensemble -> postprocess -> evaluate -> submit over a packed dataset, as a user types it."""

import csv
import io
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from scipy.special import expit

from cxrdali.predictions import Predictions, Provenance, read
from shards.storage.sealed import sealed_json
from tests.cli.cli import call, refused
from tests.releases import FINDINGS, write_table


@pytest.fixture
def folder(dataset, tmp_path):
    """a and b: predictions of two runs for train and test; template.csv in another order."""
    labels = dataset.labels("cxr-lt-2023")
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        rows = np.flatnonzero((labels.split == split) & dataset.packed)
        ids = dataset.catalog.iloc[rows][["image_id", "study_id", "view"]]
        for name in ("a", "b"):
            values = (rng.normal(size=(len(rows), 5)) + 2 * labels.values[rows]).astype(np.float32)
            about = Provenance("logit", name, split, labels.name, dataset.id, "hflip")
            Predictions(ids, FINDINGS, values, about).write(tmp_path / f"{name}.{split}.parquet")
    lines = [f"{image},,," for image in ids["image_id"][::-1]]
    write_table(tmp_path / "template.csv", "dicom_id,subject_id,Mass,Edema", *lines)
    return tmp_path


def done(folder, *arguments):
    result = call(*arguments, cwd=folder)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_from_two_runs_to_a_submission(folder, pack_folder):
    said = done(folder, "ensemble", "a.test.parquet", "b.test.parquet", "--weights", "1,3", "--out", "e.test.parquet")
    images = len(read(folder / "a.test.parquet").ids)
    assert said.splitlines() == [
        "mean probability of a.test.parquet, b.test.parquet by weights 1, 3",
        f"e.test.parquet: {images} images, 5 findings, logit",
        "next: cxrdali evaluate e.test.parquet",
    ]
    tables = [read(folder / f"{name}.test.parquet").values.astype(np.float64) for name in "ab"]
    mean = 0.25 * expit(tables[0]) + 0.75 * expit(tables[1])
    np.testing.assert_allclose(expit(read(folder / "e.test.parquet").values), mean, rtol=1e-5)

    fit = ("postprocess", "e.test.parquet", "--fit", "a.train.parquet", "--data", pack_folder)
    other = "run 'ensemble of a, b' here, 'a' in a.train.parquet"
    refused(*fit, "--out", "v.test.parquet", cwd=folder, code=1, said=other)
    said = done(folder, *fit, "--allow-other-run", "--out", "v.test.parquet")
    rules = json.loads((folder / "views.json").read_text())
    lines = said.splitlines()
    assert lines[0].split() == ["frontal", "AP", "lateral", "AP", "difference", "superior"]
    for line, row in zip(lines[1:6], rules["findings"], strict=True):
        few = min(row["frontal_patients"], row["lateral_patients"]) < 10
        assert line.startswith(row["finding"])
        assert line.endswith("yes" if row["superior"] else "no rule" if few else "no")
    superior = [row["finding"] for row in rules["findings"] if row["superior"]]
    assert lines[6] == f"superior: {len(superior)} of 5 findings"
    without = [line.split(":")[0] for line in lines if "no rule, positive patients: " in line]
    assert "Hernia: no rule, positive patients: 0 frontal, 0 lateral; fewer than 10" in lines
    gain = f"mAP of a.train.parquet {rules['mAP_before']:.4f} -> {rules['mAP_after']:.4f}, cross-fitted over 5 parts"
    lines = lines[7 + len(without) :]
    assert lines[0] == f"{gain} by subject" and ", in which 0 lateral images changed;" in lines[1] and not superior
    assert lines[2:] == [
        "views.json: rules fitted to a.train.parquet",
        f"v.test.parquet: {images} images, 5 findings, logit",
        f"next: cxrdali evaluate v.test.parquet --data {pack_folder}",
    ]
    for row in rules["findings"]:  # as an older version fitted them: to however few patients
        del row["frontal_patients"], row["lateral_patients"]
        row["superior"] = (row["difference"] or 0) > 0
    (folder / "views.json").write_bytes(sealed_json(rules))
    by_rules = ("postprocess", "e.test.parquet", "--rules", "views.json", "--data", pack_folder, "--allow-other-run")
    said = done(folder, *by_rules, "--out", "v.test.parquet")
    before, after = read(folder / "e.test.parquet"), read(folder / "v.test.parquet")
    changed = (before.values != after.values).any(axis=1)
    assert changed.any() and (before.ids["view"][changed] != "frontal").all()
    assert f", in which {changed.sum()} lateral images changed;" in said
    assert after.provenance.history[0].startswith("mean probability of") and len(after.provenance.history) == 2

    said = done(folder, "evaluate", "v.test.parquet", "--data", pack_folder, "--draws", 0)
    assert "mAP" in said and f"note: v.test.parquet was {after.provenance.history[1]}" in said
    assert f"(allowed: {other}" in json.loads((folder / "v.test.metrics.json").read_text())["history"][1]

    (folder / "code").mkdir()
    (folder / "code" / "train.py").write_text("print()\n")
    said = done(folder, "submit", "v.test.parquet", "--template", "template.csv", "--out", "s.zip", "--code", "code")
    assert said.splitlines() == [
        f"s.zip: predictions.csv with {images} images and 2 findings, as in template.csv",
        "copied from the template: subject_id",
        "predicted, but not asked for: Hernia, No Finding, Pneumonia",
        "code/: 1 file of code",
    ]
    with zipfile.ZipFile(folder / "s.zip") as file:
        rows = list(csv.reader(io.StringIO(file.read("predictions.csv").decode())))
    assert [row[0] for row in rows] == ["dicom_id", *after.ids["image_id"][::-1]]
    wanted = expit(after.values[::-1].astype(np.float64))[:, [FINDINGS.index("Mass"), FINDINGS.index("Edema")]]
    np.testing.assert_allclose(np.array([row[2:] for row in rows[1:]], dtype=np.float64), wanted, rtol=1e-14)


def test_probabilities_are_for_the_last_step_only(folder, pack_folder):
    done(folder, "ensemble", "a.test.parquet", "b.test.parquet", "--as", "probability", "--out", "p.parquet")
    assert read(folder / "p.parquet").provenance.kind == "probability"
    result = call("postprocess", "p.parquet", "--fit", "a.train.parquet", "--data", pack_folder, "--out", "q.parquet",
                  cwd=folder)  # fmt: skip
    assert result.returncode == 1 and "p.parquet: holds probabilities, which saturate" in result.stderr
    assert not (folder / "q.parquet").exists() and not (folder / "views.json").exists()
    done(folder, "submit", "p.parquet", "--template", "template.csv", "--out", "s.zip")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("ensemble a.test.parquet b.test.parquet --out e.csv --weights 1,x", 2, "'1,x': numbers with commas between"),
        ("ensemble a.test.parquet b.test.parquet --out e.csv --weights 1", 1, "weights [1.0]: give 2, one per table"),
        ("ensemble a.test.parquet --out e.csv", 1, "give at least two tables"),
        ("ensemble --out e.csv", 2, "Missing argument"),
        ("ensemble a.test.parquet b.train.parquet --out e.csv", 1, "was predicted on split 'train', a.test.parquet on"),
        ("ensemble a.test.parquet b.test.parquet --out b.test.parquet", 1, "is a table that this one is made from"),
        ("ensemble a.test.parquet none.parquet --out e.csv", 1, "none.parquet: no such file"),
        ("ensemble a.test.parquet b.test.parquet --out e.txt", 1, "written as .parquet or .csv"),
        ("postprocess a.test.parquet --out e.csv", 2, "give one of --fit"),
        ("postprocess a.test.parquet --fit a.train.parquet --rules v.json --out e.csv", 2, "give one of --fit"),
        (
            "postprocess a.test.parquet --rules v.json --views w.json --out e.csv",
            2,
            "--views belongs to --fit",
        ),
        ("postprocess a.test.parquet --rules v.json --data {pack} --out e.csv", 1, "v.json: no such file; fit"),
        ("postprocess a.test.parquet --fit a.train.parquet --views v.csv --out e.csv", 1, "rules are written as .json"),
        ("postprocess a.test.parquet --fit a.train.parquet --labels x --data {pack} --out e.csv", 1, "no labels 'x'"),
        ("postprocess a.test.parquet --fit a.train.parquet --out a.train.parquet", 1, "is made from; give another"),
        ("submit a.train.parquet --template template.csv --out s.zip", 1, "template.csv is not in the predictions"),
        ("submit a.test.parquet --template template.csv --out s.tar", 1, "a submission is a .zip"),
        ("submit a.test.parquet --out s.zip", 2, "give --form, of a challenge that is known, or --template"),
    ],
)
def test_mistakes_are_named(folder, pack_folder, arguments, code, said):
    refused(*arguments.format(pack=pack_folder).split(), cwd=folder, code=code, said=said)


@pytest.mark.parametrize(
    "command",
    [
        "evaluate", "compare", "calibrate", "thresholds", "ensemble", "postprocess", "submit", "paper", "loss-design",
        "demo",
    ],
)  # fmt: skip
def test_help_answers_without_what_takes_seconds_to_load(command):
    heavy = ("torch", "timm", "torchvision", "sklearn", "scipy", "pandas", "pyarrow")
    code = f"""
import sys, time
sys.argv = ["cxrdali", {command!r}, "--help"]
from cli.main import main
try:
    main()
finally:
    print([name for name in {heavy} if name in sys.modules], time.process_time() < 1, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("Usage: ")
    assert done.stderr.strip() == "[] True"
