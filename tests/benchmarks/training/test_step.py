"""The benchmarks of the training step and of what surrounds it at a tiny size: what their rows say."""

import os
import sys
from argparse import Namespace
from itertools import islice

import pytest
import torch
from timm.data.loader import PrefetchLoader
from timm.loss import BinaryCrossEntropy

from benchmarks.loading.loader import Stage
from benchmarks.training import step_memory, step_timm
from benchmarks.training.step_run import Contender, Setting, interleaved
from cxrdali.runtime.device import Hardware
from tests.benchmarks.test_benchmarks import check_environment, run

STAGE, BASE = Stage(32, 4), Setting("fp32", True, False)


def test_step_benchmark(tmp_path):
    tiny = ("--stages", "32:4", "--arch", "test_efficientnet", "--studies", "12", "--rounds", "2", "--seconds", "0.1")
    rows, printed = run("step", tmp_path, *tiny, "--variants", "nchw,fp16")
    check_environment(rows, "step")
    rates = {row["contender"]: row["images_per_second"] for row in rows if "contender" in row}
    measured = {name: rate["median"] for name, rate in rates.items() if rate}
    timms = {"timm, cached", "timm, cached normalised", "timm, loader"}
    assert {"ours, cached", "ours, loader", "ours, NCHW", *timms} <= set(measured)
    assert all(rate > 0 for rate in measured.values())
    waiting = {row["contender"]: row["waiting_share"] for row in rows if row.get("waiting_share")}
    assert all(0 <= share["low"] <= share["high"] < 1 for share in waiting.values())
    assert waiting["ours, cached"]["median"] < 0.2  # they are there already
    reasons = [row["not_measured"] for row in rows if "contender" in row and "not_measured" in row]
    assert "fp16 needs a GPU" in reasons
    ratios = {(row["ours"], row["theirs"]): row for row in rows if row.get("ratio")}
    real = ratios["ours, loader", "ours, cached"]
    assert real["ratio"] == pytest.approx(measured["ours, loader"] / measured["ours, cached"])
    assert real["at_least"] == ratios["ours, cached", "timm, cached"]["at_least"] == 0.98
    assert ratios["ours, cached", "timm, cached normalised"]["at_least"] is None  # other work: nothing is promised
    assert all(row["size"] == 32 and row["batch"] == 4 and row["device"] == "cpu" for row in rows)
    assert all(row["malloc_keeps"] is (sys.platform == "linux") for row in rows)
    assert "small network" in rows[0]["scale"] and ("PASS" in printed or "MISS" in printed)


def contender(words: str, fails_at: int | None = None, error: Exception | None = None) -> Contender:
    """One whose step fails at that call, from 1."""
    calls = iter(range(1, 10_000))

    def step(batch):
        if next(calls) == fails_at:
            raise error

    return Contender(words, step, iter(int, None), BASE, "a test's")


@pytest.mark.parametrize("fails_at", [1, 20])  # while it compiles, and in a timed round
def test_what_does_not_fit_costs_the_other_contenders_nothing(fails_at):
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more lines")
    found = [contender("one"), contender("full", fails_at, full), contender("other")]
    runs = interleaved(found, STAGE, Namespace(rounds=3, seconds=1e-6), Hardware("cpu", "fp32"))
    assert {words: len(own) for words, own in runs.items()} == {"one": 3, "other": 3}
    assert found[1].missing == "does not fit: CUDA out of memory. Tried to allocate 2 GiB"
    assert found[1].step is None  # its weights can go
    with pytest.raises(RuntimeError, match="shapes"):  # any other error is one
        interleaved([contender("bad", 1, RuntimeError("shapes"))], STAGE, Namespace(rounds=1, seconds=1e-6),
                    Hardware("cpu", "fp32"))  # fmt: skip


def test_memory_at_its_end_is_known_by_whoever_says_so():
    for error in (torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("CUDA error: out of memory"),
                  RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
                  RuntimeError("CUDA runtime API error cudaErrorMemoryAllocation (2)")):  # fmt: skip
        assert step_memory.does_not_fit(error) == f"does not fit: {error}"
    wrapped = ValueError("the compiler gave up")
    wrapped.__cause__ = torch.OutOfMemoryError("CUDA out of memory.")
    assert step_memory.does_not_fit(wrapped) == "does not fit: CUDA out of memory."
    assert step_memory.does_not_fit(RuntimeError("illegal memory access")) is None


def _gib(dataset, stage, options, before):
    return {"gib": (stage.size + before) / 2**30}


def _full(dataset, stage, options, before):
    raise torch.OutOfMemoryError("CUDA out of memory.")


def _killed(dataset, stage, options, before):
    os._exit(9)


@pytest.mark.parametrize(
    "question, used, expected",
    [
        (_gib, [2**30, 2**30], {"gib": 1 + 32 / 2**30}),
        (_gib, [2**30, 2**31], {"gib": None, "met": None, "not_measured": "something else on the GPU took or gave back "
                                "1,024 MiB meanwhile"}),
        (_full, [0, 0], {"met": False, "why": "does not fit: CUDA out of memory."}),
        (_killed, [0, 0], {"met": None, "not_measured": "its process ended without an answer (exit code 9)"}),
    ],
)  # fmt: skip
def test_every_end_of_a_question_about_memory_is_a_row(dataset, monkeypatch, question, used, expected):
    """used: what the GPU's memory in use is said to be before and after; there is no GPU."""
    readings = iter(used)
    monkeypatch.setattr(step_memory, "_used", lambda device: next(readings))
    assert step_memory._in_a_process(question, dataset.root, STAGE, Namespace(device="cuda:0")) == expected


def test_timms_cached_batches_are_its_prefetchers():
    images = [torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8) for _ in range(3)]
    batches = step_timm.cached(images, Namespace(device="cpu"))
    assert all(each.dtype == torch.uint8 and each.shape == (4, 3, 8, 8) for each, _ in batches)
    theirs = list(PrefetchLoader(batches, device=torch.device("cpu")))
    for (ours, _), (expected, _) in zip(islice(step_timm.normalised(batches), 6), theirs * 2, strict=True):
        assert torch.equal(ours, expected)


SCRIPT = """
import argparse, pathlib, sys
parser = argparse.ArgumentParser()
for name in "data-dir model output opt opt-kwargs amp-dtype device".split():
    parser.add_argument("--" + name)
for name in "img-size batch-size workers epochs warmup-epochs num-classes log-interval".split():
    parser.add_argument("--" + name, type=int)
for name in "lr weight-decay smoothing".split():
    parser.add_argument("--" + name, type=float)
for name in "bce-loss no-aug channels-last amp torchcompile pin-mem".split():
    parser.add_argument("--" + name, action="store_true")
found = parser.parse_args()
if not (found.smoothing and found.bce_loss and found.channels_last and found.amp and found.amp_dtype == "bfloat16"):
    sys.exit("other settings")
images = [each for each in pathlib.Path(found.data_dir, "train", "image").iterdir() if each.read_bytes()]
for step in range(len(images) // found.batch_size):
    print(f"Train: 0 [{step}/9]  Loss: 1 (1)  Time: 0.100s, {1 if step < 10 else 100 + step:>7.2f}/s  (0.1s, 5.00/s)")
"""


def test_timms_script_gets_our_settings_and_an_epoch_long_enough_to_warm_up(tmp_path):
    """A stand-in for the script, which chooses its loss as timm's does: --smoothing 0 would be cross-entropy."""
    for split, count in (("train", 3), ("validation", 1)):
        (tmp_path / "files" / split / "image").mkdir(parents=True)
        for place in range(count):
            (tmp_path / "files" / split / "image" / f"{place}.jpg").write_bytes(b"jpeg")
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    options = Namespace(arch="resnet10t", workers=1, device="cpu")
    (row,) = step_timm.script_rows(script, tmp_path / "files", STAGE, Setting("bf16", True, False), options)
    assert row["runs"] == [100.0 + step for step in range(10, 40)]
    assert row["images_per_second"]["median"] == 124.5
    (row,) = step_timm.script_rows(script, tmp_path / "files", STAGE, BASE, options)
    assert row["images_per_second"] is None and row["not_measured"] == "other settings"
    logits, target = torch.randn(4, 26), torch.arange(4)
    losses = [BinaryCrossEntropy(smoothing=float(each))(logits, target) for each in ("0", step_timm.NO_SMOOTHING)]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-7)


def test_overhead_benchmark(tmp_path):
    tiny = ("--arch", "test_efficientnet", "--stages", "64:8", "--findings", "3", "--validated", "40")
    rows, printed = run("overhead", tmp_path, *tiny, "--trained", "400", "--rounds", "1")
    check_environment(rows, "overhead")
    seconds = {row["part"]: row["seconds"]["median"] for row in rows if "part" in row}
    assert set(seconds) == {"metrics", "checkpoint", "logging", "every step"} and min(seconds.values()) > 0
    (share,) = [row for row in rows if "share" in row]
    steps = next(row["times"] for row in rows if row.get("part") == "every step")
    once = sum(value for name, value in seconds.items() if name != "every step")
    assert share["spent_seconds"] == pytest.approx(once + seconds["every step"] * 50 / steps)
    assert share["share"] == pytest.approx(share["spent_seconds"] / share["epoch_seconds"])
    assert share["met"] == (share["share"] <= 0.02) and "derived" in share["epoch"]
    assert "derived: " in printed
