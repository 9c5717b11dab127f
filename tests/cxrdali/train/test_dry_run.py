"""`train --dry-run`: what a run would take, from a few of its own steps, and what a start refuses."""

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file

from cxrdali.runs import layout
from cxrdali.runs.settings import settings_of
from cxrdali.train import dry_run as dry
from cxrdali.train.dry_run import dry_run
from cxrdali.train.hooks import Hooks
from cxrdali.train.trainer import train
from shards.errors import UserError
from shards.storage.files import only_one
from tests.cli.cli import call, refused

OPTIONS = ("--size", 48, "--batch", 8, "--arch", "test_efficientnet", "--no-pretrained", "--device", "cpu")


def settings(**changes):
    given = {"size": 48, "batch": 8, "arch": "test_efficientnet", "pretrained": False, "device": "cpu", "epochs": 3}
    return settings_of(stage=1, **{**given, **changes})


def files(folder):
    return {path: path.is_file() and path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "stage1"
    train(settings(epochs=2), dataset, out)
    return out


def test_it_counts_as_training_does_and_writes_nothing(dataset, tmp_path, finished):
    out = tmp_path / "new" / "stage1"
    found = dry_run(settings(epochs=2), dataset, out)
    assert not list(tmp_path.iterdir())
    rows = (finished / layout.METRICS).read_text().splitlines()
    images = int(rows[1].split(",")[rows[0].split(",").index("images")])
    assert (found.planned, found.epochs, found.steps_per_epoch) == (2, 2, images // 8)
    assert found.steps == 2 * found.steps_per_epoch and found.measured == found.steps_per_epoch - dry.WARM_UP
    assert found.training_seconds == pytest.approx(found.steps * found.step_seconds) and found.validation_seconds > 0
    kept = [finished / name for name in (layout.BEST, layout.LAST, layout.VAL_PREDICTIONS)]
    assert found.disk_bytes == pytest.approx(sum(path.stat().st_size for path in kept), rel=0.1)
    assert not found.on_gpu and not found.cached and 2e8 < found.memory_bytes < 2e10


def test_warm_up_does_not_count(dataset, tmp_path, monkeypatch):
    """The first steps take a second each, of this clock, the others a tenth."""
    clock, steps = [0.0], []

    def step(self, *given):
        steps.append(1)
        clock[0] += 1.0 if len(steps) <= dry.WARM_UP else 0.1
        return torch.zeros(())

    monkeypatch.setattr("cxrdali.train.step.Step.__call__", step)
    monkeypatch.setattr(dry.time, "perf_counter", lambda: clock[0])
    found = dry_run(settings(), dataset, tmp_path / "stage1")
    assert found.step_seconds == pytest.approx(0.1) and found.measured == len(steps) - dry.WARM_UP
    monkeypatch.setattr(dry, "ENOUGH_SECONDS", 0.5)  # the first step took longer: it has to do
    steps.clear()
    found = dry_run(settings(), dataset, tmp_path / "stage1")
    assert (found.measured, len(steps)) == (1, 1) and found.step_seconds == pytest.approx(1.0)


def test_a_run_that_has_begun_says_what_is_left(dataset, tmp_path):
    out, steps = tmp_path / "stage1", []

    def stop():
        steps.append(1)
        return 15 if len(steps) == 12 else 0  # 6 steps, 2 batches of validation, 4 steps

    with pytest.raises(BaseException, match="saved"):
        train(settings(), dataset, out, hooks=Hooks(should_stop=stop))
    before, state = files(out), torch.load(out / layout.LAST, weights_only=True)
    assert state["epoch"] == 1 and state["position"]
    found = dry_run(settings(), dataset, out)
    assert (found.planned, found.epochs) == (3, 2)
    assert found.steps == 2 * found.steps_per_epoch - state["position"] // 8
    assert files(out) == before


def test_a_finished_run_has_nothing_left(dataset, finished):
    before = files(finished)
    assert dry_run(settings(epochs=2), dataset, finished) is None and files(finished) == before


def test_a_frozen_backbone_s_features_count_once(dataset, finished, tmp_path):
    frozen = {"init": str(finished), "frozen": True, "flips": "none", "cutout": "off"}
    one, many = (dry_run(settings(epochs=n, **frozen), dataset, tmp_path / "a") for n in (2, 2000))
    assert one.cached and many.cached and many.steps == 1000 * one.steps
    assert many.training_seconds < 100 * one.training_seconds  # not a thousand times
    assert not dry_run(settings(**{**frozen, "flips": "both"}), dataset, tmp_path / "a").cached


def test_what_a_start_refuses_is_refused_and_nothing_is_left(dataset, finished, tmp_path):
    for given, out, said in (
        ({"lr": 0.1}, finished, "holds a run with another lr"),
        ({"batch": 4000}, tmp_path / "a", "batch"),
        ({"init": str(tmp_path / "none")}, tmp_path / "a", "none"),
        ({"device": "cuda:7"}, tmp_path / "a", "device 'cuda"),
        ({}, tmp_path, "which is no run"),
    ):
        (tmp_path / "notes.txt").touch()
        before = files(out) if out.exists() else None
        with pytest.raises(UserError, match=said):
            dry_run(settings(epochs=2).changed(**given), dataset, out)
        assert (files(out) if before else out.exists()) == (before or False)
    held = shutil.copytree(finished, tmp_path / "held")
    with only_one(held / ".lock", "training into it"), pytest.raises(UserError, match="another process is training"):
        dry_run(settings(epochs=2), dataset, held)


def test_the_command_says_it_in_words(pack_folder, tmp_path):
    words = ("train", "--stage", 1, *OPTIONS, "--patience", 2, "--data", pack_folder, "--dry-run")
    said = call(*words, cwd=tmp_path).stdout
    hours = r"30 epochs of \d+ steps, \d+ steps in all: at most .* training, .* validation\), measured over \d steps of"
    assert re.search(hours, said)
    assert re.search(r"disk: about [\d.]+ MB in runs/stage1, .*; memory: [\d.]+ [MG]B of this process at the", said)
    assert said.endswith("nothing was written\n") and not list(tmp_path.iterdir()) and "next:" not in said
    wrong = ("train", "--stage", 2, *OPTIONS, "--data", pack_folder, "--dry-run")
    refused(*wrong, cwd=tmp_path, code=1, said="stage 2 starts from runs/stage1, which does not exist")


def test_an_average_and_kept_epochs_are_counted_in_disk_and_validation(dataset, tmp_path, monkeypatch, finished):
    monkeypatch.setattr(dry, "_validate", lambda parts: 0.5)
    found = [
        dry_run(settings(init=str(finished), epochs=3, **changes), dataset, tmp_path / "run")
        for changes in ({}, {"ema": 0.9, "keep_epochs": 2})
    ]
    assert found[1].validation_seconds == 2 * found[0].validation_seconds
    weights = sum(value.numel() * value.element_size() for value in load_file(finished / layout.BEST).values())
    assert found[1].disk_bytes - found[0].disk_bytes == 5 * weights  # last.pt's average, twice two epochs


def test_epochs_of_the_classifier_alone_cost_what_they_cost(dataset, tmp_path, monkeypatch, finished):
    """By this clock, a step of the classifier takes a second and one of all takes ten."""
    clock = [0.0]

    def step(self, *given):
        clock[0] += 1.0 if self.by_hand else 10.0
        return torch.zeros(())

    monkeypatch.setattr("cxrdali.train.step.Step.__call__", step)
    monkeypatch.setattr(dry.time, "perf_counter", lambda: clock[0])
    found = dry_run(settings(init=str(finished), epochs=3, head_epochs=1), dataset, tmp_path / "run")
    assert found.training_seconds == found.steps_per_epoch * (1 + 2 * 10)
