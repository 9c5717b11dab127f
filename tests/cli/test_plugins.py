"""A loss, a sampler and an augmentation from a file outside the package: trained with --plugins, predicted without."""

import csv
import hashlib
import json

import pytest

from tests.cli.cli import call, run

pytestmark = pytest.mark.slow

PLUGIN = '''
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cxrdali.data.augment import Augmentation
from cxrdali.data.sampler import Sampler
from cxrdali.models.loss import Loss
from cxrdali.setting import above, check, setting


@dataclass(frozen=True)
class Flat(Loss):
    """Pulls every logit towards 0, and costs `flat_cost` whatever the logits are."""

    name: ClassVar[str] = "flat"

    flat_cost: float = setting(3.0, "loss of every finding.", above(0, at_most=100))

    def __post_init__(self):
        check(self)

    def terms(self, logits, targets, weights, epoch):
        return self.flat_cost + 0 * logits


@dataclass(frozen=True)
class First(Sampler):
    """Nearly always the first of the training images."""

    name: ClassVar[str] = "first"

    first_weight: float = setting(1e12, "weight of the first image, to 1 of the others.", above(0))

    def weights(self, targets):
        return np.where(np.arange(len(targets)) == 0, self.first_weight, 1.0)


@dataclass(frozen=True)
class Seen(Augmentation):
    """Leaves every image as it is, and notes that it was asked."""

    name: ClassVar[str] = "seen"
    order: ClassVar[int] = 30
    decides: ClassVar[dict] = {"seen": np.int32}

    def decide(self, seed, epoch, start, count, size):
        with open("seen.txt", "a") as file:
            file.write(f"{epoch} {start} {count}\\n")
        return {"seen": np.zeros(count, np.int32)}

    def steps(self, decided, size):
        return [None] * len(decided["seen"])
'''
GIVEN = ("--stage", 1, "--size", 48, "--batch", 8, "--epochs", 1, "--arch", "test_byobnet", "--no-pretrained",
         "--device", "cpu", "--threads", 1)  # fmt: skip


@pytest.fixture(scope="module")
def folder(pack_folder, tmp_path_factory):
    """A run of the plugin's loss and sampler, trained in a process of its own."""
    made = tmp_path_factory.mktemp("plugins")
    (made / "mine.py").write_text(PLUGIN)
    done = run("train", *GIVEN, "--plugins", "mine.py", "--loss", "flat", "--sampler", "first", "--augment", "seen",
               "--set", "flat_cost=7",
               "--data", pack_folder, "--out", "run", cwd=made)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "loss flat (flat_cost 7)" in done.stdout and "sampler first" in done.stdout
    return made


def test_the_loss_and_the_sampler_were_used_and_are_recorded(folder):
    with (folder / "run" / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["train_loss"]) == 7.0 and float(row["val_loss"]) < 1.0
    config = json.loads((folder / "run" / "config.json").read_bytes())
    assert config["settings"]["loss"] == {"name": "flat", "flat_cost": 7}
    assert config["settings"]["data"]["sampler"] == {"name": "first", "first_weight": 1e12}
    assert config["settings"]["data"]["augment"] == ["seen"]
    assert {line.split()[0] for line in (folder / "seen.txt").read_text().splitlines()} == {"0"}  # of the one epoch
    (plugin,) = config["plugins"]
    assert plugin["path"] == str(folder / "mine.py")
    assert plugin["sha256"] == hashlib.sha256(PLUGIN.encode()).hexdigest()


def test_without_the_plugin_the_run_predicts_is_evaluated_and_reported(folder, pack_folder):
    for arguments in (
        ("predict", "--run", "run", "--split", "val", "--device", "cpu", "--out", "val.parquet"),
        ("evaluate", "val.parquet", "--draws", 0),
        ("report", "run", "--images", "--out", "report.html"),
    ):
        done = call(*arguments, "--data", pack_folder, cwd=folder)
        assert done.returncode == 0, done.stderr
    assert "flat_cost" in (folder / "report.html").read_text()
    done = call("train", *GIVEN, "--loss", "flat", "--data", pack_folder, "--out", "other", cwd=folder)
    assert done.returncode == 1 and "loss 'flat': choose one of apl, asl, bce" in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such plugin; give a Python file"),
        ("x = 1\n", "defines no loss, sampler, head or augmentation with a name"),
        ("1 / 0\n", "cannot be run (ZeroDivisionError('division by zero')); correct the plugin"),
        (PLUGIN.replace('"flat"', '"bce"'), "loss 'bce': there is one already; give the plugin's another name"),
        (PLUGIN.replace("flat_cost:", "lr:"), "flat has a parameter lr, which is another setting's name; rename it"),
    ],
)
def test_what_is_wrong_with_a_plugin_is_one_line(tmp_path, text, message):
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    done = call("train", *GIVEN, "--plugins", "mine.py", cwd=tmp_path)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
