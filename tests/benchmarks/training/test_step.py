"""The benchmark of the training step at a tiny size: what its rows say."""

import os
import sys
from itertools import islice

import pytest
import torch
from timm.data.loader import PrefetchLoader

from benchmarks.options import Stage
from benchmarks.training import step_memory, step_timm
from benchmarks.training.fed import Setting
from benchmarks.training.step import variants
from benchmarks.training.step_options import StepRun
from benchmarks.training.step_run import Baseline, interleaved
from shards.errors import UserError
from tests.benchmarks.test_benchmarks import check_environment, run

pytestmark = pytest.mark.slow

STAGE, BASE = Stage(32, 4), Setting("fp32", True, False)


def test_step_benchmark(tmp_path):
    tiny = ("--stages", "32:4", "--arch", "test_efficientnet", "--studies", "12", "--rounds", "2", "--seconds", "0.1")
    rows, printed = run("training.step", tmp_path, *tiny, "--variants", "nchw,fp16")
    check_environment(rows, "training.step")
    rates = {row["baseline"]: row["images_per_second"] for row in rows if "baseline" in row}
    measured = {name: rate["median"] for name, rate in rates.items() if rate}
    assert {"ours, cached", "ours, loader", "ours, NCHW", "timm, cached", "timm, loader"} <= set(measured)
    assert all(rate > 0 for rate in measured.values())
    waiting = {row["baseline"]: row["waiting_share"] for row in rows if row.get("waiting_share")}
    assert all(0 <= share["low"] <= share["high"] < 1 for share in waiting.values())
    assert waiting["ours, cached"]["median"] < 0.2  # they are there already
    reasons = [row["not_measured"] for row in rows if "baseline" in row and "not_measured" in row]
    assert "fp16 needs a GPU" in reasons
    ratios = {(row["ours"], row["theirs"]): row for row in rows if row.get("ratio")}
    real = ratios["ours, loader", "ours, cached"]
    assert real["ratio"] == pytest.approx(measured["ours, loader"] / measured["ours, cached"])
    assert real["at_least"] == ratios["ours, cached", "timm, cached"]["at_least"] == 0.98
    assert all(row["size"] == 32 and row["batch"] == 4 and row["device"] == "cpu" for row in rows)
    assert all(row["malloc_keeps"] is (sys.platform == "linux") for row in rows)
    assert "small network" in rows[0]["scale"] and ("PASS" in printed or "MISS" in printed)


def baseline(words: str, fails_at: int | None = None, error: Exception | None = None) -> Baseline:
    """One whose step fails at that call, from 1."""
    calls = iter(range(1, 10_000))

    def step(batch):
        if next(calls) == fails_at:
            raise error

    batches = iter(lambda: (range(STAGE.batch), None), None)
    return Baseline(words, step, batches, BASE, "a test's")


@pytest.mark.parametrize("fails_at", [1, 20])  # while it compiles, and in a timed round
def test_what_does_not_fit_costs_the_others_nothing(fails_at):
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more lines")
    found = [baseline("one"), baseline("full", fails_at, full), baseline("other")]
    runs = interleaved(found, STAGE, StepRun(rounds=3, seconds=1e-6))
    assert {words: len(own) for words, own in runs.items()} == {"one": 3, "other": 3}
    assert found[1].missing == "does not fit: CUDA out of memory. Tried to allocate 2 GiB"
    assert found[1].step is None  # its weights can go
    with pytest.raises(RuntimeError, match="shapes"):  # any other error is one
        interleaved([baseline("bad", 1, RuntimeError("shapes"))], STAGE, StepRun(rounds=1, seconds=1e-6))


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
        (_gib, [2**30, 2**31], {"gib": None, "met": None, "not_measured": "something else on the GPU took or gave back "
                                "1,024 MiB meanwhile"}),
        (_full, [0, 0], {"met": False, "why": "does not fit: CUDA out of memory."}),
        (_killed, [0, 0], {"met": None, "not_measured": "its process ended without an answer"}),
    ],
)  # fmt: skip
def test_every_end_of_a_question_about_memory_is_a_row(dataset, monkeypatch, question, used, expected):
    """used: what the GPU's memory in use is said to be before and after; there is no GPU."""
    readings = iter(used)
    monkeypatch.setattr(step_memory, "used", lambda device: next(readings))
    assert step_memory.in_a_process(question, dataset.root, STAGE, StepRun(device="cuda:0")) == expected


def test_timms_cached_batches_are_its_prefetchers():
    images = [torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8) for _ in range(3)]
    batches = step_timm.cached(images, "cpu")
    assert all(each.dtype == torch.uint8 and each.shape == (4, 3, 8, 8) for each, _ in batches)
    theirs = list(PrefetchLoader(batches, device=torch.device("cpu")))
    for (ours, _), (expected, _) in zip(islice(step_timm.normalised(batches), 6), theirs * 2, strict=True):
        assert torch.equal(ours, expected)


def test_what_is_compiled_and_what_needs_a_gpu():
    options = StepRun(device="cpu", precision="fp32", variants=("nchw", "fp16", "fp32", "compile"), compiled=1)
    found, missing = variants(options, place=0)
    assert found == [Setting("fp32", False), Setting("fp32", True, True)]
    assert missing == {"ours, fp16": "fp16 needs a GPU"}
    found, missing = variants(options, place=1)
    assert found == [Setting("fp32", False)]
    assert missing["ours, compiled"] == "compiled in the first 1 stages; --compiled N"
    with pytest.raises(UserError, match="--variants 'fp8': choose from nchw, bf16, fp16, fp32, compile"):
        StepRun(variants=("fp8",)).resolved()
