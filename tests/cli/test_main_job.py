"""The main job as a user does it: shard, train stage after stage, predict, evaluate; kills included."""

import csv
import json
import signal
import time

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tests.cli.cli import call, run, start
from tests.releases import FINDINGS

pytestmark = pytest.mark.slow

SMALL = ["--arch", "test_efficientnet", "--no-pretrained", "--batch", "8"]


@pytest.fixture(scope="module")
def project(release_folder, tmp_path_factory):
    """A folder where `cxrdali shard` alone has run: data/packed."""
    root = tmp_path_factory.mktemp("project")
    made = run("shard", "--sizes", "48,56,64", "--shard-images", "16", cwd=root, CXRDALI_SOURCE=str(release_folder))
    assert made.returncode == 0, made.stderr
    assert "120 of 120 images packed" in made.stdout and (root / "data/packed/dataset.json").exists()
    return root


@pytest.fixture(scope="module")
def trained(project):
    """Stages 1, 2 and 3 with default folders."""
    said = {}
    for stage, size in ((1, 48), (2, 56), (3, 64)):
        done = run("train", "--stage", stage, "--size", size, "--epochs", "2", *SMALL, cwd=project)
        assert done.returncode == 0, done.stderr
        said[stage] = done.stdout
    return said


def test_three_stages_train_in_turn_from_default_folders(project, trained):
    for stage in (1, 2, 3):
        folder = project / "runs" / f"stage{stage}"
        assert f"runs/stage{stage}: finished; best epoch" in trained[stage]
        config = json.loads((folder / "config.json").read_text())
        assert config["settings"]["model"]["init"] == (f"runs/stage{stage - 1}" if stage > 1 else None)
        assert len(list(csv.DictReader((folder / "metrics.csv").open()))) == 2


def test_the_same_command_again_does_nothing(project, trained):
    again = run("train", "--stage", "1", "--size", "48", "--epochs", "2", *SMALL, cwd=project)
    assert again.returncode == 0 and "was already finished" in again.stdout


def test_other_options_are_refused_in_one_line(project, trained):
    other = run("train", "--stage", "1", "--size", "56", "--epochs", "2", *SMALL, cwd=project)
    assert other.returncode == 1 and "another size: 48 there, 56 now" in other.stderr
    assert "Traceback" not in other.stderr and other.stderr.strip().splitlines()[-1].startswith("error: ")


def test_predict_and_evaluate_follow(project, trained):
    done = run(
        "predict", "--run", "runs/stage3", "--split", "test", "--out", "test.csv", "--as", "probability", cwd=project
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(project / "test.csv")
    assert list(table.columns) == ["image_id", "study_id", "view", *FINDINGS]
    assert len(table) == 24 and table[list(FINDINGS)].stack().between(0, 1).all()
    done = run("evaluate", "test.csv", "--draws", "20", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "not in mAP, no positive: Hernia" in done.stdout and "lateral: " in done.stdout
    result = json.loads((project / "test.metrics.json").read_text())
    assert result["all"]["images"] == 24 == result["frontal"]["images"] + result["lateral"]["images"]


def test_a_stage_without_the_one_before_says_what_to_do(project):
    done = run("train", "--stage", "2", "--out", "elsewhere/stage2", *SMALL, cwd=project)
    assert done.returncode == 1
    assert "stage 2 starts from elsewhere/stage1, which does not exist; run `cxrdali train --stage 1`" in done.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "--stage", "1", "--data", "nowhere"], "nowhere: no packed dataset; run `cxrdali shard` first"),
        (["train", "--stage", "1", "--arch", "resnet9000"], "arch 'resnet9000' is no timm model"),
        (["train", "--stage", "1", "--labels", "mine"], "no labels 'mine'; attached are cxr-lt-2023, chexpert"),
        (["train", "--stage", "3", "--init", "none.pt", "--size", "64"], "none.pt: no such weights file"),
        (["predict", "--run", "data", "--out", "x.csv"], "data: no run (no config.json in it)"),
        (["predict", "--run", "data", "--out", "x.txt"], "x.txt: predictions are written as .parquet or .csv"),
        (["evaluate", "none.csv"], "none.csv: no such file"),
        (["report", "data", "--out", "r.html"], "data: no run (no config.json in it)"),
        (["report", "nowhere"], "nowhere: no such folder; give run folders"),
    ],
)
def test_mistakes_end_in_one_line_with_the_way_out(project, tmp_path, arguments, message):
    out = ["--out", str(tmp_path / "run")] if arguments[0] == "train" else []
    done = call(*arguments, *out, cwd=project)
    assert done.returncode == 1 and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [["train"], ["train", "--stage", "7"], ["nonsense"], ["predict", "--split", "holdout"]]
)
def test_wrong_usage_is_exit_code_2(project, arguments):
    done = call(*arguments, cwd=project)
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_help_tells_defaults_and_units(project):
    text = call("train", "--help", cwd=project).stdout
    for words in ("224 px, batch 256", "[default: 30]", "tf_efficientnetv2_s.in21k_ft_in1k", "pixels", "subject"):
        assert words in text


# ---------------------------------------------------------------- kills


LONG = ["train", "--stage", "1", "--size", "48", "--epochs", "6", *SMALL]


@pytest.fixture(scope="module")
def unbroken(project):
    done = run(*LONG, "--out", "unbroken", cwd=project)
    assert done.returncode == 0, done.stderr
    return project / "unbroken"


def assert_same_run(one, two):
    left, right = load_file(one / "best.safetensors"), load_file(two / "best.safetensors")
    assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
    columns = ["epoch", "lr", "train_loss", "val_loss", "mAP", "LRAP"]
    tables = [pd.read_csv(run / "metrics.csv")[columns] for run in (one, two)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def wait_for(path, seconds=60):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.01)


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.2])
def test_a_run_killed_without_warning_ends_as_an_unbroken_one(project, unbroken, tmp_path, delay):
    """SIGKILL twice: some time after the first checkpoint, and again some time after the restart."""
    out = tmp_path / "run"
    process = start(*LONG, "--out", out, cwd=project)
    wait_for(out / "last.pt")
    time.sleep(delay)
    process.kill()
    process.wait()
    changed = (out / "last.pt").stat().st_mtime_ns
    process = start(*LONG, "--out", out, cwd=project)
    while process.poll() is None and (out / "last.pt").stat().st_mtime_ns == changed:
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = run(*LONG, "--out", out, cwd=project)
    assert done.returncode == 0, done.stderr
    assert_same_run(out, unbroken)
    assert not [path.name for path in out.iterdir() if ".new" in path.name or ".part" in path.name]


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_sigterm_and_ctrl_c_save_first(project, unbroken, tmp_path, number, code):
    out = tmp_path / "run"
    process = start(*LONG, "--out", out, cwd=project)
    wait_for(out / "last.pt")
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    state = torch.load(out / "last.pt", weights_only=True)
    assert state["epoch"] < 6
    done = run(*LONG, "--out", out, cwd=project)
    assert "continues after epoch" in done.stdout
    assert_same_run(out, unbroken)
