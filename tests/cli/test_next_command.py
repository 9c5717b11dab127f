"""The next command, as each command prints it: the shell reads it, click parses it, and its files are there."""

import dataclasses
import shlex
from pathlib import Path

import click
import numpy as np
import pytest

from cli.main import cxrdali
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset
from tests.cli.cli import done
from tests.cxrdali.held_out import written

SMALL = ("--size", 48, "--batch", 8, "--epochs", 1, "--warmup-epochs", 0, "--no-pretrained", "--device", "cpu")
NEW = ("--out", "--save-rules")  # files that a command is still to make


def words_of(said: str, cwd: Path) -> list[str]:
    """The words of the next command; it and the other one parse, and what they read exists."""
    (line,) = [line for line in said.splitlines() if line.startswith("next: ")]
    found = [shlex.split(each, comments=True) for each in line.removeprefix("next: ").split("  # or: ")]
    for name, *words in (each[1:] for each in found):
        command = cxrdali.get_command(click.Context(cxrdali), name)
        context = command.make_context(name, [*words])  # raises UsageError
        made = {option.name for option in command.params if set(NEW) & set(option.opts)}
        for key, value in context.params.items():
            for each in value if isinstance(value, tuple) else (value,):
                if isinstance(each, Path):
                    assert (cwd / each).exists() != (key in made), (key, each)
    assert all(each[0] == "cxrdali" for each in found)
    return found[0][1:]


@pytest.fixture(scope="module")
def work(tmp_path_factory, pack_folder):
    """A folder whose name the shell must quote, with the dataset in it."""
    work = tmp_path_factory.mktemp("a b's")
    (work / "my pack").symlink_to(pack_folder)
    return work


@pytest.fixture(scope="module")
def stage1(work):
    """What training printed, fold 1 of 3 by study, stratified."""
    return done(
        work, "train", "--stage", 1, *SMALL, "--arch", "test_efficientnet", "--fold", 1, "--folds", 3,
        "--group", "study", "--stratify", "--fold-seed", 7, "--data", "my pack", "--out", "my runs/stage1",
    ).stdout  # fmt: skip


def test_the_next_stage_has_the_same_fold_and_network_and_runs(work, stage1):
    words = words_of(stage1, work)
    assert words == [
        "train", "--stage", "2", "--out", "my runs/stage2", "--size", "64", "--fold", "1", "--folds", "3",
        "--group", "study", "--fold-seed", "7", "--stratify", "--arch", "test_efficientnet",
        "--device", "cpu", "--data", "my pack",
    ]  # fmt: skip
    said = done(work, *words, "--size", 48, "--batch", 8, "--epochs", 1, "--warmup-epochs", 0).stdout
    assert words_of(said, work)[:5] == ["train", "--stage", "3", "--out", "my runs/stage3"]
    said = done(work, *words_of(said, work), "--size", 48, "--batch", 8, "--epochs", 1, "--warmup-epochs", 0).stdout
    assert words_of(said, work) == [
        "predict", "--run", "my runs/stage3", "--split", "test", "--out", "stage3.test.parquet", "--data", "my pack",
    ]  # fmt: skip
    said = done(work, *words_of(said, work), "--device", "cpu").stdout
    assert words_of(said, work) == ["evaluate", "stage3.test.parquet", "--data", "my pack"]


def test_a_run_of_another_name_is_named_as_the_start(work, stage1):
    same = ("train", "--stage", 1, *SMALL, "--arch", "test_efficientnet", "--data", "my pack", "--out", "mine")
    same += ("--uncertain", "positive")
    said = done(work, *same).stdout
    assert "  # or: cxrdali evaluate mine/val_predictions.parquet --uncertain positive --data 'my pack'\n" in said
    words = words_of(said, work)
    assert words[:7] == ["train", "--stage", "2", "--out", "mine-stage2", "--init", "mine"] and "--fold" not in words
    assert words_of(done(work, *same).stdout, work) == words  # and once more when it was finished


def test_the_parameters_of_a_head_are_taken_as_they_are_written(work, stage1):
    of_head = ("--arch", "resnet10t", "--head", "csra", "--out", "attention")
    words = words_of(done(work, "train", "--stage", 1, *SMALL, *of_head, "--data", "my pack").stdout, work)
    assert "csra_temperatures=1" in words and "csra_norm=false" in words
    done(work, *words, "--batch", 8, "--epochs", 1, "--warmup-epochs", 0)


def test_after_other_commands(work, stage1):
    val, data = "my runs/stage1/val_predictions.parquet", ("--data", "my pack")
    said = done(work, "evaluate", val, "--draws", 0, *data).stdout
    words = words_of(said, work)
    assert words[:2] == ["report", "my runs/stage1"] and words[-2:] == ["--data", "my pack"]
    done(work, *words)
    said = done(work, "retrain-head", "--run", "my runs/stage1", "--epochs", 1, "--device", "cpu", *data).stdout
    assert words_of(said, work)[:3] == ["predict", "--run", "my runs/stage1-crt"]
    said = done(work, "calibrate", "--fit", val, "--method", "platt", "--out", "platt.json", *data).stdout
    words = words_of(said, work)
    said = done(work, *words).stdout
    assert words_of(said, work)[:2] == ["evaluate", "my runs/stage1/val_predictions-platt.parquet"]


def test_a_table_without_labels_is_not_to_be_evaluated(tmp_path, dataset, pack_folder, monkeypatch):
    for name in "ab":
        written(tmp_path / f"{name}.parquet", dataset, "test", "test", run=name)
        written(tmp_path / f"{name}.val.parquet", dataset, run=name)
    pooled = ("ensemble", "a.parquet", "b.parquet", "--weights-by-map", "a.val.parquet,b.val.parquet")
    said = done(tmp_path, *pooled, "--data", pack_folder, "--out", "e.parquet").stdout
    assert words_of(said, tmp_path) == ["evaluate", "e.parquet", "--data", str(pack_folder)]
    for split in ("all", "train"):  # evaluate refuses the first
        for name in "cd":
            written(tmp_path / f"{name}.parquet", dataset, split, "test", run=name, seen=("3 of 9 were trained on",))
        said = done(tmp_path, "ensemble", "c.parquet", "d.parquet", "--out", f"{split}.parquet").stdout
        assert ("next: cxrdali evaluate train.parquet" in said) == (split == "train")
    labels = dataset.labels("cxr-lt-2023")
    values = np.where((labels.split == "test")[:, None], Labels.BLANK, labels.values)
    monkeypatch.setattr(PackedDataset, "labels", lambda self, name=None: dataclasses.replace(labels, values=values))
    assert "next:" not in done(tmp_path, *pooled, "--data", pack_folder, "--out", "f.parquet").stdout


def test_after_packing(tmp_path, release_folder):
    said = done(tmp_path, "shard", "--source", release_folder, "--sizes", 48, "--jobs", 1, "--out", "my pack").stdout
    assert words_of(said, tmp_path) == ["train", "--stage", "1", "--data", "my pack"]
