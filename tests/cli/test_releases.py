"""Releases other than MIMIC-CXR-JPG on the command line: CXR-LT 2026 from PNG to metrics, and any table."""

import json
import shutil

import pandas as pd
import pytest

from tests.cli.cli import call, run
from tests.releases import PADCHEST_FINDINGS, PADCHEST_TABLE, write_nih, write_padchest, write_table

pytestmark = pytest.mark.slow

SMALL = ["--sizes", "48", "--shard-images", "16", "--jobs", "1"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """release/ in PadChest's form, packed in data/packed by `cxrdali shard`; the truth and what was said."""
    root = tmp_path_factory.mktemp("padchest")
    truth = write_padchest(root / "release")
    made = run("shard", "--source", "release", *SMALL, cwd=root)
    assert made.returncode == 0, made.stderr
    return root, truth, made.stdout


def failed(result, code=1):
    assert result.returncode == code and "Traceback" not in result.stderr, result.stdout + result.stderr
    return result.stderr


def test_packing_says_what_it_found_and_what_it_left_out(project):
    _, truth, said = project
    assert "padchest: 64 images in release" in said
    for line in (
        f"subjects, studies and views: from {PADCHEST_TABLE}",
        "6 images are MONOCHROME1 and inverted",
        "images: 24 in release/0 and 2 more folders",
        "CXRLT_2026_TEST_ALL_TASK1.csv: its 5 columns of findings have no name and no value; no known",
        "Removal.csv: left out of training: 20 images of CXRLT_2026_TRAINING.csv; 12 of its 20 images are in the",
    ):
        assert f"  {line}" in said
    assert "labels cxr-lt-2026: 5 findings; 52 train, 12 dev, 0 test" in said
    assert "64 converted to 8-bit gray, baseline and upright: 16-bit" in said
    assert "6 converted to 8-bit gray, baseline and upright: MONOCHROME1" in said


def test_train_predict_and_evaluate_follow(project):
    root, truth, _ = project
    small = ["--arch", "test_byobnet", "--no-pretrained", "--batch", "8", "--size", "48", "--epochs", "1"]
    done = call("train", "--stage", "1", *small, cwd=root)
    assert done.returncode == 0, done.stderr
    config = json.loads((root / "runs/stage1/config.json").read_text())
    assert config["findings"] == list(PADCHEST_FINDINGS)
    for split in ("val", "dev"):
        done = call("predict", "--run", "runs/stage1", "--split", split, "--out", f"{split}.parquet", cwd=root)
        assert done.returncode == 0, done.stderr
    dev = pd.read_parquet(root / "dev.parquet")
    assert sorted(dev["image_id"]) == sorted(truth.loc[truth["split"] == "test", "ImageID"])
    done = call("evaluate", "val.parquet", "--draws", "20", cwd=root)
    assert done.returncode == 0, done.stderr
    result = json.loads((root / "val.metrics.json").read_text())
    known = truth.set_index("ImageID").loc[pd.read_parquet(root / "val.parquet")["image_id"]]
    assert result["all"]["images"] == len(known)
    assert result["frontal"]["images"] == (known["view"] == "frontal").sum()
    assert not set(known["PatientID"]) & set(truth.loc[truth["split"] == "test", "PatientID"])


def test_the_windows_are_told_apart_and_full_names_its_way_out(project):
    root, _, _ = project
    said = failed(call("shard", "--source", "release", "--out", "full", *SMALL, "--window", "full", cwd=root))
    assert "64 nearly black under --window full, pack with --window percentile or minmax" in said
    said = failed(call("shard", "--source", "release", *SMALL, "--window", "minmax", "--out", "data/packed", cwd=root))
    assert "another option 'window': percentile there, minmax now" in said
    dry = call("shard", "--source", "release", "--out", "no", *SMALL, "--window", "full", "--dry-run", cwd=root)
    assert "32 of the 32 would be rejected: nearly black under --window full" in dry.stdout


def test_patients_as_floats_are_one_line(project, tmp_path):
    root, _, _ = project
    release = shutil.copytree(root / "release", tmp_path / "release")
    (release / PADCHEST_TABLE).unlink()
    said = failed(call("shard", "--source", "release", "--out", "pack", *SMALL, cwd=tmp_path))
    assert "holds '1.90E+38', a float that several patients share" in said and not (tmp_path / "pack").exists()


def test_chestx_ray14_is_packed_and_its_lists_are_splits(tmp_path):
    write_nih(tmp_path / "release")
    made = call("shard", "--source", "release", "--out", "pack", *SMALL, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "chestx-ray14: 20 images in release" in made.stdout
    assert "labels chestx-ray14: 15 findings; 16 train, 0 dev, 4 test" in made.stdout


# ---------------------------------------------------------------- any table


@pytest.fixture
def folder(tmp_path):
    write_nih(tmp_path / "images", place="")
    lines = [f"{number},{path.name},{number % 2}" for number, path in enumerate(sorted(tmp_path.rglob("*.png")))]
    write_table(tmp_path / "mine.csv", "key,file,Edema", *lines)
    return tmp_path


TABLE = ["--source", "images", "--out", "pack", "--table", "mine.csv", *SMALL]
NAMED = ["--path-column", "file", "--id-column", "key", "--findings", "Edema"]


def test_a_table_is_packed_and_another_is_attached(folder):
    made = call("shard", *TABLE, *NAMED, cwd=folder)
    assert made.returncode == 0, made.stderr
    assert "table: 20 images in images" in made.stdout and "labels mine: 1 finding; 20 train" in made.stdout
    assert "no --subject-column: every image counts as a patient of its own" in made.stdout
    again = call("shard", *TABLE, *NAMED, cwd=folder)
    assert "already finished, nothing to do" in again.stdout
    write_table(folder / "more.csv", "key,Mass,Nodule", "3,1,0", "4,0,1", "99,1,1")
    made = call("label", "pack", "--table", "more.csv", "--id-column", "key", "--findings", "all others", cwd=folder)
    assert made.returncode == 0, made.stderr
    assert "labels more: attached; 1 more images are not in this dataset" in made.stdout
    assert "  no --split-column: every image is in the split train" in made.stdout
    assert "more: 2 findings; 2 train, 0 dev, 0 test" in made.stdout
    assert "--table FILE --id-column" in failed(call("label", "pack", "--labels", "images", cwd=folder))


def test_rows_of_one_file_are_refused_or_joined_in_images_and_in_labels(folder):
    lines = [f"{3 * n + reader},{n:08d}_000.png,{int(reader == n % 3)}" for n in range(1, 6) for reader in range(3)]
    write_table(folder / "mine.csv", "key,file,Edema", *lines)
    said = failed(call("shard", *TABLE, *NAMED, cwd=folder))
    assert "mine.csv: the image file '00000001_000.png' is in more than one row (line 2 and line 3; 10 rows" in said
    assert "--join-rows any or --join-rows majority" in said
    made = call("shard", *TABLE, *NAMED, "--join-rows", "any", cwd=folder)
    assert made.returncode == 0, made.stderr
    assert "15 rows are of 5 images (--join-rows any); their ids differ" in made.stdout
    assert "5 of 5 images packed" in made.stdout
    labels = pd.read_parquet(folder / "pack" / "labels" / "mine.parquet")
    assert labels["Edema"].tolist() == [1] * 5
    write_table(folder / "more.csv", "key,Mass", "3,1", "3,0", "3,0", "6,1", "6,0")
    more = ["label", "pack", "--table", "more.csv", "--id-column", "key", "--findings", "Mass"]
    assert "more.csv: image '3' is in more than one row (line 2 and line 3;" in failed(call(*more, cwd=folder))
    made = call(*more, "--join-rows", "majority", cwd=folder)
    assert made.returncode == 0 and "5 rows are of 2 images (--join-rows majority)" in made.stdout
    by_id = pd.read_parquet(folder / "pack" / "catalog.parquet")["image_id"].to_list()
    labels = pd.read_parquet(folder / "pack" / "labels" / "more.parquet")["Mass"]
    assert (labels[by_id.index("3")], labels[by_id.index("6")]) == (0, -1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["shard", *TABLE], "--table needs --path-column and --id-column and --findings too"),
        (["shard", *TABLE, *NAMED[:2]], "--table needs --id-column and --findings too"),
        (["shard", "--source", "images", *NAMED], "--path-column names a column of a table; give --table FILE too"),
        (["shard", *TABLE, *NAMED, "--labels", "images"], "--labels is for known releases"),
        (["label", "pack", "--table", "mine.csv", "--id-column", "key"], "--table needs --findings too"),
        (["label", "pack", "--split-column", "fold"], "--split-column names a column of a table"),
        (["label", "pack", "--join-rows", "any"], "--join-rows joins the rows of a table; give --table FILE or "),
        (["shard", *TABLE, *NAMED, "--join-rows", "all"], "'all': choose one of any, majority"),
        (["label", "pack", "--table", "mine.csv", "--path-column", "file"], "No such option '--path-column'"),
        (["shard", "--window", "log"], "'log': choose one of percentile, minmax, full, dicom"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_exits_with_2_and_names_the_option(folder, arguments, said):
    assert said in failed(call(*arguments, cwd=folder), code=2)


def test_help_tells_the_windows_and_the_columns(folder):
    text = call("shard", "--help", cwd=folder).stdout
    for words in (
        "percentile|minmax|full|dicom",
        "0.5 and 99.5 percentile",
        "65,535",
        "--subject-column",
        '"all others"',
    ):
        assert words in text
