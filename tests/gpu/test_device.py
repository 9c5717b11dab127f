"""What a run sets on a GPU, and what it counts there; skipped where there is none."""

import time

import pytest
import torch

from cxrdali.runs.layout import CONFIG
from cxrdali.runs.settings import settings_of
from cxrdali.runtime.device import Hardware, exact_products
from cxrdali.train.hooks import Hooks
from cxrdali.train.stopping import Stopped
from cxrdali.train.trainer import train
from cxrdali.train.waiting import waiting_of
from shards.storage.sealed import read_json
from tests.heard import heard

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_what_the_gpu_idles_is_counted_and_not_what_the_loop_waits():
    device, matrix = "cuda:0", torch.randn(8192, 8192, device="cuda:0")

    def work():
        for _ in range(20):
            matrix @ matrix

    work(), torch.cuda.synchronize()
    waiting = waiting_of(device)
    work()
    waiting.ask()
    time.sleep(0.001)  # the loop waits, and the GPU has work
    waiting.got()
    work()
    torch.cuda.synchronize()
    assert waiting.take() < 0.001
    waiting.ask()
    time.sleep(0.2)
    waiting.got()
    work()
    torch.cuda.synchronize()
    assert waiting.take() == pytest.approx(0.2, abs=0.02)


def test_products_of_fp32_are_tf32_but_the_classifier_s():
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("no TF32")
    one, two = torch.randn(2, 512, 512, device="cuda:0")
    exact = one.double() @ two.double()
    try:
        Hardware("cuda:0", "fp32").begin()
        rounded = (one @ two - exact).abs().max()
        with exact_products():
            precise = (one @ two - exact).abs().max()
        Hardware("cuda:0", "bf16").begin()
        assert (one @ two - exact).abs().max() < 1e-3 and precise < 1e-3 < rounded
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_second_gpu_is_the_current_one(dataset, tmp_path):
    given = {"stage": 1, "size": 48, "batch": 8, "epochs": 1, "arch": "test_efficientnet", "pretrained": False}
    try:
        before = torch.cuda.memory_reserved(0)
        train(settings_of(**given, device="cuda:1"), dataset, tmp_path / "run")
        assert torch.cuda.current_device() == 1 and torch.cuda.memory_reserved(0) == before
    finally:
        torch.cuda.set_device(0)


def test_auto_measures_whether_to_compile_and_keeps_to_it(dataset, tmp_path):
    given = {"stage": 1, "size": 48, "batch": 8, "epochs": 1, "arch": "test_efficientnet", "pretrained": False}
    settings, asked, said = settings_of(**given, device="cuda", compile="auto"), iter([None, None, 15]), []
    with heard(said), pytest.raises(Stopped):
        train(settings, dataset, tmp_path / "run", hooks=Hooks(should_stop=lambda: next(asked)))
    assert sum(line.startswith("compile auto: off: a step takes ") for line in said) == 1
    config = read_json(tmp_path / "run" / CONFIG)
    assert config["settings"]["runtime"]["compile"] is config["compile"]["on"] is False, "seven steps never pay"
    assert config["compile"]["plain_seconds"] > 0 and config["compile"]["compile_seconds"] > 0
    with heard(said):
        summary = train(settings, dataset, tmp_path / "run")
    assert sum(line.startswith("compile auto") for line in said) == 1, "not measured again"
    assert summary.epochs == 1 and read_json(tmp_path / "run" / CONFIG)["compile"] == config["compile"]
