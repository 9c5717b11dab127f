"""Training on two packs, killed and shared by two processes: the bits, samples and scores of an unbroken run of one."""

import os
import signal
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from cxrdali.runs import layout
from cxrdali.runs.reader import Run
from cxrdali.train import trainer as training
from shards.dataset.packed import PackedDataset
from shards.dataset.union import Union
from tests.faults.ranks import group
from tests.faults.trainers import at_moment, in_child, settings

pytestmark = pytest.mark.slow
GIVEN = {"size": 48, "batch": 12, "folds": 3, "flips": "both", "cutout": "fixed"}


def both(packs: list[Path], out: Path) -> None:
    union = Union.of({path.name: PackedDataset.open(path) for path in packs})
    training.train(settings(1, out.parent, **GIVEN), union, out)


def killed(packs: list[Path], out: Path, moment: int) -> None:
    """For a child: it kills itself at a moment of the run."""
    at_moment(pytest.MonkeyPatch(), moment, lambda: os.kill(os.getpid(), signal.SIGKILL))
    both(packs, out)


def ranked(rank: int, packs: list[Path], out: Path) -> None:
    both(packs, out)


@pytest.fixture(scope="module")
def packs(dataset, nih):
    return [dataset.root, nih.root]


@pytest.fixture(scope="module")
def unbroken(packs, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken") / "run"
    assert in_child(both, packs, out) == 0
    return out


def same(one: Path, other: Path) -> bool:
    first, second = (load_file(run / layout.BEST) for run in (one, other))
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("moment", [3, 11])  # within the first epoch, and within the second
def test_a_killed_run_ends_with_the_bits_of_an_unbroken_one(packs, unbroken, tmp_path, moment):
    assert in_child(killed, packs, tmp_path / "run", moment) == -signal.SIGKILL
    assert in_child(both, packs, tmp_path / "run") == 0
    assert same(unbroken, tmp_path / "run")
    columns = ["train_loss", "mAP_nih", "mean_mAP"]
    pd.testing.assert_frame_equal(Run.open(unbroken).metrics[columns], Run.open(tmp_path / "run").metrics[columns])


def test_two_processes_train_on_what_one_does(packs, unbroken, tmp_path):
    assert group(2, ranked, packs, tmp_path / "run") == [0, 0]
    one, two = Run.open(unbroken), Run.open(tmp_path / "run")
    assert one.config["selection"] == two.config["selection"] and one.packs == two.packs
    for name in ("images", "train_loss", "mAP", "mAP_nih", "mean_mAP"):
        assert one.metrics[name].tolist() == pytest.approx(two.metrics[name].tolist(), rel=0.05), name
