"""`cxrdali retrain-head` as a user types it."""

import json

import pytest
from safetensors.torch import load_file

from cxrdali.runs.names import flatten
from tests.cli.cli import call


@pytest.fixture(scope="module")
def trained(pack_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("retrained")
    result = call("train", "--stage", 1, "--size", 48, "--batch", 8, "--epochs", 1, "--arch", "test_byobnet",
                  "--no-pretrained", "--device", "cpu", "--loss", "ldam", "--oversample", "Mass", "--cutout", "random",
                  "--micro-batch", 4,
                  "--data", pack_folder, "--out", "run", cwd=folder)  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder


def retrain(folder, pack, *more, cwd="."):
    return call("retrain-head", "--epochs", 1, "--data", pack, *more, cwd=folder / cwd)


def test_from_inside_the_run_a_folder_beside_it_is_made_and_kept(trained, pack_folder):
    result = retrain(trained, pack_folder, "--run", ".", "--micro-batch", 4, "--seed", 5, cwd="run")
    assert result.returncode == 0, result.stderr
    assert "features of" in result.stdout and "computed once" in result.stdout
    config = json.loads((trained / "run-crt" / "config.json").read_text())
    settings = flatten(config["settings"])
    wanted = {
        "loss": "bce", "sampler": "class-balanced", "oversample": [], "flips": "none",
        "cutout": "off", "frozen": True, "new_head": True, "epochs": 1, "micro_batch": 4, "batch": 8, "seed": 5,
    }  # fmt: skip
    assert {name: settings[name] for name in wanted} == wanted and "ldam_scale" not in settings
    again = retrain(trained, pack_folder, "--run", "run", "--seed", 5)
    assert again.returncode == 0 and "run-crt: was already finished" in again.stdout


def test_a_kept_classifier_with_the_run_s_augmentation(trained, pack_folder):
    result = retrain(trained, pack_folder, "--run", "run", "--head", "kept", "--augment", "--out", "kept")
    assert result.returncode == 0, result.stderr
    assert "computed once" not in result.stdout
    settings = json.loads((trained / "kept" / "config.json").read_text())["settings"]
    settings = flatten(settings)
    assert (settings["flips"], settings["cutout"], settings["new_head"]) == ("horizontal", "random", False)
    assert settings["micro_batch"] is None  # the classifier needs none
    before, after = (load_file(trained / name / "best.safetensors") for name in ("run", "kept"))
    assert {key for key in before if not before[key].equal(after[key])} == {"head.fc.weight", "head.fc.bias"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--run", "other"], "other: no run (no config.json in it)"),
        (["--run", "run", "--asl-clip", 0.1], "asl-clip 0.1: the loss bce has no such parameter; it has pos-weight"),
        (["--run", "run", "--micro-batch", 3], "micro-batch 3: must divide the batch, 8"),
    ],
)
def test_a_mistake_is_one_line(trained, pack_folder, more, message):
    result = retrain(trained, pack_folder, *more, "--out", "new")
    assert result.returncode == 1 and message in result.stderr and "Traceback" not in result.stderr
    assert not (trained / "new").exists()
