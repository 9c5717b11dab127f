"""Training by 2 and 3 real processes over gloo: the samples, pixels and results of one; kills, and other numbers of
processes before and after; processes that were not given the same."""

import subprocess
import sys

import pytest
import torch

from cxrdali import predictions
from cxrdali.runs import layout as runs
from cxrdali.runs.reader import Run
from tests.cli.cli import ROOT, call, environment, run
from tests.faults import ranks
from tests.faults.ranks import STOPPED, group, line, samples
from tests.faults.trainers import differences

pytestmark = pytest.mark.slow


def train(world, pack, out, **options):
    return group(world, ranks.train_with, pack, out, options)


@pytest.fixture(scope="module")
def together(pack_folder, tmp_path_factory):
    """{number of processes: its finished run}, beside each a log of samples."""
    folder = tmp_path_factory.mktemp("together")
    for world in (1, 2, 3):
        out = folder / str(world) / "stage1"
        out.parent.mkdir()
        assert train(world, pack_folder, out, log=folder / f"log{world}") == [0] * world
    return folder


@pytest.mark.parametrize("world", [2, 3])
def test_every_global_batch_has_the_rows_and_pixels_of_one_process(together, world):
    alone = samples(together / "log1", 1)
    assert len(alone) == 2 * 4 and all(len(batch) == 12 for batch in alone.values())
    assert samples(together / f"log{world}", world) == alone


@pytest.mark.parametrize("world", [2, 3])
def test_a_run_of_several_processes_is_one_run_folder_with_the_whole_epoch_s_counts(together, world):
    mine, alone = together / str(world) / "stage1", together / "1" / "stage1"
    assert sorted(path.name for path in mine.iterdir()) == sorted(path.name for path in alone.iterdir())
    states = [torch.load(run / runs.LAST, weights_only=True) for run in (mine, alone)]
    for row, other in zip(states[0]["metrics"], states[1]["metrics"], strict=True):
        assert row["images"] == other["images"] == 48 and row["lr"] == other["lr"]
        # batch normalisation sees other groups of images: near, not equal
        assert row["train_loss"] == pytest.approx(other["train_loss"], rel=0.15)
    assert len(states[0]["rank_rngs"]) == world - 1
    assert [Run.open(run).config["processes"] for run in (mine, alone)] == [world, 1]
    tables = [predictions.read(run / runs.VAL_PREDICTIONS) for run in (mine, alone)]
    assert tables[0].ids.equals(tables[1].ids)


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_predict_what_one_does_bit_for_bit(together, pack_folder, tmp_path, world):
    found = []
    for number in (1, world):
        out = tmp_path / f"{number}.parquet"
        assert group(number, ranks.predicted, together / "1" / "stage1", pack_folder, out) == [0] * number
        found.append(predictions.read(out))
    assert found[0].ids.equals(found[1].ids) and len(found[0].values) > 60  # seven batches, the last one short
    assert (found[0].values == found[1].values).all()


@pytest.mark.parametrize("sizes", [(12, 6), (6, 3), (2, 2)])
def test_loss_and_gradients_of_two_processes_are_those_of_one(tmp_path, sizes):
    """float64, batch normalisation in evaluation mode, targets that do not count on one rank more than on the other."""
    seen = []
    for world, micro_batch in zip((1, 2), sizes, strict=True):
        out = tmp_path / f"{world}.pt"
        assert group(world, ranks.gradients, out, micro_batch) == [0] * world
        seen.append(torch.load(out))
    torch.testing.assert_close(seen[1]["loss"], seen[0]["loss"], rtol=1e-12, atol=0)
    assert len(seen[0]["gradients"]) == 6 and any(each.abs().max() > 1e-3 for each in seen[0]["gradients"])
    for one, two in zip(*(each["gradients"] for each in seen), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("world", [2, 3])  # three gradients, and not two, have more than one sum
def test_a_stopped_and_continued_run_of_several_processes_is_the_unbroken_one(together, pack_folder, tmp_path, world):
    out = tmp_path / "stage1"
    assert train(world, pack_folder, out, stop=(1, 6)) == [STOPPED] * world  # asked one, all stop
    state = torch.load(out / runs.LAST, weights_only=True)
    assert (state["epoch"], state["position"]) == (1, 24)  # a step later: 4 steps, the validation batches, 2 steps
    assert train(world, pack_folder, out) == [0] * world
    assert differences(out, together / str(world) / "stage1") == []


@pytest.mark.parametrize("after", [1, 3])
def test_another_number_of_processes_continues_the_epoch(together, pack_folder, tmp_path, after):
    out, log = tmp_path / "stage1", tmp_path / "log"
    assert train(2, pack_folder, out, log=log, stop=(0, 1)) == [STOPPED] * 2
    before = samples(log, 2)
    assert sorted(before) == [(0, 0), (0, 12)]
    assert train(after, pack_folder, out, log=tmp_path / "rest") == [0] * after
    rest = samples(tmp_path / "rest", after)
    assert not before.keys() & rest.keys()
    assert before | rest == samples(together / "log1", 1)
    assert [row["images"] for row in torch.load(out / runs.LAST, weights_only=True)["metrics"]] == [48, 48]


@pytest.mark.parametrize("how", [{"sampler": "sqrt"}, {"oversample": ("Edema",)}])
def test_repeats_and_weighted_draws_are_shared_out_alike(pack_folder, tmp_path, how):
    seen = []
    for world in (1, 2):
        out = tmp_path / str(world) / "stage1"
        out.parent.mkdir()
        assert train(world, pack_folder, out, log=tmp_path / f"log{world}", epochs=1, **how) == [0] * world
        seen.append(samples(tmp_path / f"log{world}", world))
    assert seen[0] == seen[1]
    rows = [row for batch in seen[0].values() for row, _ in batch]
    assert len(set(rows)) < len(rows)  # there were repeats


def test_neighbours_are_mixed_alike(pack_folder, tmp_path):
    seen = []
    how = {"augment_preset": "mild", "mixup": 0.4, "cutmix": 1.0, "epochs": 1}
    for world in (1, 2):
        out = tmp_path / str(world) / "stage1"
        out.parent.mkdir()
        assert train(world, pack_folder, out, log=tmp_path / f"log{world}", **how) == [0] * world
        seen.append(samples(tmp_path / f"log{world}", world))
    assert seen[0] == seen[1]


# ---------------------------------------------------------------- what goes wrong


def test_processes_that_were_not_given_the_same_are_refused(pack_folder, tmp_path):
    out = tmp_path / "run"
    lines = [line(pack=pack_folder, out=out), line("--lr", 0.5, pack=pack_folder, out=out)]
    assert group(2, ranks.commanded, tmp_path / "said", lines) == [1, 1]
    words = "the processes differ in settings.optimizer.lr: 0.001 in rank 0, 0.5 in rank 1; give every one the same"
    said = [(tmp_path / f"said.{rank}").read_text() for rank in (0, 1)]
    assert f"error: {words}" in said[0] and "Traceback" not in said[0]
    assert said[1].strip().startswith(f"error: rank 1: {words}")
    assert not (out / runs.CONFIG).exists()


def test_predictions_in_two_precisions_are_refused(together, pack_folder, tmp_path):
    """As GPUs of two kinds would make them."""
    given = together / "1" / "stage1", pack_folder, tmp_path / "out.parquet"
    assert group(2, ranks.predicted, *given, ("fp32", "bf16")) == [1, 1]
    assert not (tmp_path / "out.parquet").exists()


def test_a_mistake_in_one_rank_alone_is_said_there_and_the_others_do_not_wait_for_long(pack_folder, tmp_path):
    """Its own machine's folders may be at fault, and no launcher of this machine knows."""
    lines = [line(pack=pack_folder, out=tmp_path / "run"), line(pack=tmp_path / "absent", out=tmp_path / "run")]
    (tmp_path / "absent").write_text("a file")
    assert group(2, ranks.commanded_in_haste, tmp_path / "said", lines) == [1, 2]
    said = [(tmp_path / f"said.{rank}").read_text() for rank in (0, 1)]
    assert said[1].startswith("error: rank 1: Invalid value for '--data'") and "Traceback" not in said[1]
    last = said[0].splitlines()[-1]
    assert last.startswith("error: rank 0 on ") and "or one has failed before" in last and "Traceback" not in said[0]


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (("--micro-batch", 4), 1, "micro-batch 4: must divide each process's share of the batch, 6"),
        (("--device", "cuda:1"), 1, "2 GPUs asked, 0 are here; share the work out over processes on the CPU with"),
        (("--gpus", 3), 1, "--gpus 3: torchrun started 2 here; leave --gpus out"),
        (("--sync-bn",), 1, "sync-bn: torch synchronises batch normalisation between GPUs only"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is said without a GPU")
def test_mistakes_with_several_processes(pack_folder, tmp_path, more, code, message):
    lines = [line(*more, pack=pack_folder, out=tmp_path / "run")] * 2
    assert group(2, ranks.commanded, tmp_path / "said", lines) == [code] * 2
    said = [(tmp_path / f"said.{rank}").read_text() for rank in (0, 1)]
    assert f"error: {message}" in said[0] and f"error: rank 1: {message}" in said[1]
    assert "Traceback" not in said[0] + said[1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is said without a GPU")
def test_more_gpus_than_there_are(pack_folder, tmp_path):
    words = line("--device", "cuda", "--gpus", 2, pack=pack_folder, out=tmp_path / "run")
    ended = call(*words, cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: 2 GPUs asked, 0 are here; share the work out over processes on the CPU")


def test_variables_that_are_not_torchrun_s_are_named(pack_folder, tmp_path):
    names = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    ended = run(*line(pack=pack_folder, out=tmp_path / "run"), cwd=tmp_path, **names)
    assert ended.returncode == 1
    assert "error: RANK and WORLD_SIZE are set, LOCAL_WORLD_SIZE is not: start the processes with" in ended.stderr


def torchrun(*arguments, seconds=60):
    """Two processes by torchrun's own command."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cli"]
    return subprocess.run(
        [*words, *map(str, arguments)], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=seconds
    )


def test_a_batch_that_cannot_be_shared_is_said_once(pack_folder, tmp_path):
    ended = torchrun(*line("--batch", 9, pack=pack_folder, out=tmp_path / "run"))
    assert ended.returncode == 1
    assert ended.stderr.count("error: batch 9: cannot be shared out to 2 processes; take 1 or 3 of them") == 1
    assert "error: rank 1" not in ended.stderr and not (tmp_path / "run" / runs.CONFIG).exists()
