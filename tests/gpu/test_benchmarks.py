"""The benchmarks that ask something of a GPU, tiny, on one; skipped, saying so, where there is none."""

import pytest
import torch

from tests.benchmarks.test_benchmarks import run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_every_decode_mode_against_the_gpus_demand(tmp_path):
    tiny = ("--stages", "64:8", "--threads", "1,2", "--rounds", "1", "--seconds", "0.05", "--step-seconds", "0.05")
    rows, _ = run("demand", tmp_path, "--device", "cuda", *tiny, "--studies", "12", "--arch", "test_byobnet")
    combinations = [(feed, threads) for feed in ("cpu", "mixed", "hybrid", "raw") for threads in (1, 2)]
    for kind in ("contender", "beside"):
        assert [(row["feed"], row["threads"]) for row in rows if kind in row] == combinations
    name = torch.cuda.get_device_name("cuda")
    assert {row["environment"]["gpu"] for row in rows} == {name}
    (demand,) = [row for row in rows if row.get("demand") == name]
    assert demand["images_per_second"]["median"] > 0
    assert all(0 < row["waiting_share"]["median"] < 1 for row in rows if "beside" in row)


def test_the_real_sizes_preset_on_a_gpu(tmp_path):
    pytest.importorskip("albumentations")
    tiny = ("--real", "--quick", "--device", "cuda", "--studies", "24", "--native-studies", "1", "--minutes", "0.01")
    rows, printed = run("stages", tmp_path, *tiny)
    assert {row["environment"]["gpu"] for row in rows} == {torch.cuda.get_device_name("cuda")}
    assert [row["comparison"] for row in rows if "pairs" in row][:2] == ["figure 2", "three stages"]
    assert "GPU, synthetic images (test_byobnet" in printed
    assert all(stage["seconds"]["training"] > 0 for row in rows if "stages" in row for stage in row["stages"])
