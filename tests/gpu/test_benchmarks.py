"""The benchmarks that ask something of a GPU, tiny, on one; skipped, saying so, where there is none."""

import pytest
import torch

from tests.benchmarks.test_benchmarks import run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_a_step_on_a_gpu_waits_for_its_loader_little_enough_or_says_so(tmp_path):
    tiny = ("--stages", "64:8", "--rounds", "1", "--seconds", "0.05", "--studies", "12", "--variants", "nchw")
    rows, _ = run("training.step", tmp_path, "--device", "cuda", "--arch", "test_byobnet", *tiny)
    (loader,) = [row for row in rows if row.get("baseline") == "ours, loader"]
    assert loader["met"] == (loader["waiting_share"]["median"] <= loader["at_most"] == 0.01)
    assert loader["step_mib"] > 0
    assert [row for row in rows if row.get("target", "").startswith("a whole step")][0]["gib"] > 0


def test_the_real_sizes_preset_on_a_gpu(tmp_path):
    pytest.importorskip("albumentations")
    rows, printed = run("training.stages", tmp_path, "--real", "--quick", "--device", "cuda")
    assert {row["environment"]["gpu"] for row in rows} == {torch.cuda.get_device_name("cuda")}
    assert [row["comparison"] for row in rows if "pairs" in row][:2] == ["figure 2", "three stages"]
    assert "GPU, synthetic images (test_byobnet" in printed
    assert all(stage["seconds"]["training"] > 0 for row in rows if "stages" in row for stage in row["stages"])
