"""Two GPUs that train together over NCCL; skipped, saying so, where there are not two."""

import pytest
import torch

from tests.cli.cli import run
from tests.faults import ranks
from tests.faults.ranks import group
from tests.faults.trainers import ARCH

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.mark.parametrize("synchronised", [False, True])
def test_loss_and_gradients_of_two_gpus_are_those_of_one(tmp_path, synchronised):
    """float64; batch normalisation by its running statistics, or synchronised by the whole batch's."""
    seen = []
    for world, micro_batch in ((1, 12), (2, 6)):
        out = tmp_path / f"{world}.pt"
        assert group(world, ranks.gradients, out, micro_batch, "cuda", synchronised) == [0] * world
        seen.append(torch.load(out))
    torch.testing.assert_close(seen[1]["loss"], seen[0]["loss"], rtol=1e-10, atol=0)
    for one, two in zip(*(each["gradients"] for each in seen), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-8, atol=1e-12)


def test_a_stage_trains_on_two_gpus_and_predicts(pack_folder, tmp_path):
    given = ("--data", pack_folder, "--size", 48, "--batch", 12, "--epochs", 2, "--arch", ARCH, "--no-pretrained")
    trained = run("train", "--stage", 1, *given, "--out", "run", "--sync-bn", "--micro-batch", "auto", "--gpus", 2,
                  cwd=tmp_path)  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert "2 processes, 2 on this machine: 6 images of every batch each" in trained.stdout
    asked = ("--run", "run", "--data", pack_folder, "--split", "val", "--out", "val.parquet", "--gpus", 2)
    predicted = run("predict", *asked, cwd=tmp_path)
    assert predicted.returncode == 0, predicted.stderr
