"""Averages, clipping, groups, head epochs, kept epochs, one-cycle and drop-path in runs that are killed, stopped, cut
into micro-batches and shared out: the bits of the unbroken run, and the results of one batch and one process."""

import os
import random
import signal

import pytest
import torch
from safetensors.torch import load_file

from cxrdali.runs import layout
from cxrdali.runs.folder import load_last
from cxrdali.train import trainer as training
from cxrdali.train.stopping import Stopped
from shards.dataset.packed import PackedDataset
from tests.faults import ranks
from tests.faults.ranks import STOPPED, group
from tests.faults.trainers import at_moment, differences, in_child, settings

pytestmark = pytest.mark.slow

PARTS = {
    "average": {"ema": 0.8, "ema_warmup": True, "clip_norm": 0.5, "keep_epochs": 1},
    "groups": {"layer_decay": 0.7, "head_lr": 1e-2, "decay_norms": False, "weight_decay": 0.05, "lr_schedule": "epoch"},
    "head": {"head_epochs": 1, "head_epochs_lr": 1e-2, "ema": 0.8, "warmup_epochs": 0, "keep_epochs": 2},
    "cycle": {"lr_schedule": "one-cycle", "drop_path": 0.3, "dropout": 0.2, "clip_norm": 1.0},
    "cRT": {
        "frozen": True,
        "new_head": True,
        "flips": "none",
        "cutout": "off",
        "ema_half_life": 64.0,
        "clip_norm": 0.1,
    },
    "drw": {"loss": "drw", "drw_epoch": 1, "ema": 0.8, "micro_batch": 8, "sampler": "sqrt", "head_lr": 3e-3},
}


def run(pack, start, out, changes, number=None, moment=0):
    """For a child: a run from `start` that sends itself a signal at a moment."""
    torch.set_num_threads(1)
    if number is not None:
        at_moment(pytest.MonkeyPatch(), moment, lambda: os.kill(os.getpid(), number))
    given = settings(1, out.parent, init=str(start), **changes)
    try:
        training.train(given, PackedDataset.open(pack), out)
    except Stopped:
        os._exit(STOPPED)


@pytest.fixture(scope="module")
def start(pack_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("start") / "stage1"
    training.train(settings(1, out.parent, epochs=1), PackedDataset.open(pack_folder), out)
    return out


def kept(out):
    return {path.name: path.read_bytes() for path in (out / "epochs").glob("*")}


@pytest.mark.parametrize("part", PARTS)
def test_killed_and_stopped_anywhere_it_ends_with_the_bits_of_an_unbroken_run(pack_folder, start, tmp_path, part):
    whole, broken, chance = tmp_path / "1" / "stage1", tmp_path / "2" / "stage1", random.Random(part)
    assert in_child(run, pack_folder, start, whole, PARTS[part]) == 0
    # the first one after three steps and a validation: with an average, in that of the average
    ends = [in_child(run, pack_folder, start, broken, PARTS[part], signal.SIGTERM, 5)]
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
        ends.append(in_child(run, pack_folder, start, broken, PARTS[part], number, chance.randint(1, 5)))
    assert in_child(run, pack_folder, start, broken, PARTS[part]) == 0
    assert {STOPPED, -signal.SIGKILL} <= set(ends), ends
    assert differences(broken, whole) == [] and kept(broken) == kept(whole)
    state = load_last(whole)
    assert ("averaged" in state) == any("ema" in name for name in PARTS[part])
    assert len(kept(whole)) == min(2, 2 * PARTS[part].get("keep_epochs", 0))


@pytest.mark.parametrize("changes", [PARTS["average"], PARTS["groups"] | {"ema": 0.5, "clip_norm": 0.1}])
def test_micro_batches_are_one_batch(dataset, tmp_path, changes):
    """Of a network whose norms see one image at a time; within float noise, which AdamW divides by what is near 0."""
    found = []
    for micro_batch in (16, 4):
        out = tmp_path / str(micro_batch) / "stage1"
        given = settings(1, out.parent, arch="test_convnext", size=64, micro_batch=micro_batch, lr=1e-4, **changes)
        training.train(given, dataset, out)
        found.append(load_last(out))
    for one, two in zip(*(each["metrics"] for each in found), strict=True):
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    for name, value in found[0]["averaged"]["average"].items():
        torch.testing.assert_close(found[1]["averaged"]["average"][name], value, rtol=1e-3, atol=5e-5)


def test_two_processes_train_the_classifier_alone_as_one_does(pack_folder, start, tmp_path):
    """Batch normalisation is in evaluation mode, so that results are equal but for the order of sums."""
    runs = {}
    for world in (1, 2):
        runs[world] = tmp_path / str(world) / "stage1"
        options = {**PARTS["head"], "init": str(start), "clip_norm": 0.2}
        assert group(world, ranks.train_with, pack_folder, runs[world], options) == [0] * world
    one, two = (load_file(runs[world] / "epochs" / "1.safetensors") for world in (1, 2))
    before = load_file(start / layout.BEST)
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)
        assert torch.equal(value, before[name]) == (not name.startswith("classifier."))
    rows = [load_last(runs[world])["metrics"] for world in (1, 2)]
    for each in ("grad_norm", "mAP", "ema_mAP", "lr"):
        assert rows[1][0][each] == pytest.approx(rows[0][0][each], rel=1e-4), each


@pytest.mark.parametrize("part", ["average", "head"])
def test_two_processes_stop_and_go_on_as_if_they_had_not(pack_folder, start, tmp_path, part):
    options = {**PARTS[part], "init": str(start)}
    whole, broken = tmp_path / "1" / "stage1", tmp_path / "2" / "stage1"
    assert group(2, ranks.train_with, pack_folder, whole, options) == [0, 0]
    # within the first epoch; in the second epoch's validation of the average
    for stop in ((0, 2), (1, 8)):
        assert group(2, ranks.train_with, pack_folder, broken, {**options, "stop": stop}) == [STOPPED] * 2
    assert group(2, ranks.train_with, pack_folder, broken, options) == [0, 0]
    assert differences(broken, whole) == [] and kept(broken) == kept(whole)
