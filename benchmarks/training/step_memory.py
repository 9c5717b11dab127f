"""The memory part of `benchmarks.training.step`: does a stage fit a smaller GPU, DALI's buffers included?

And what does a micro-batch that was found under a cap cost?

A process of its own for each question: what other baselines hold would count. Its whole memory is what CUDA calls
used on the device while it lives, less what was used before it started, as the process that starts it reads it, in
which nothing changes meanwhile. Both ask `torch.cuda.mem_get_info` about the same device, whatever
CUDA_VISIBLE_DEVICES or MIG make of its number. What is used once it has ended tells whether anything else on the GPU
came or went: with more than DRIFT, nothing is reported. torch's allocator is held to the cap less all that lives
outside of it (the context, DALI's buffers, libraries), as measured after the first batch.
"""

import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.options import Stage
from benchmarks.results import Spread
from benchmarks.training.fed import FINDINGS, TrainingStep, batches_of, trained
from benchmarks.training.step_options import StepRun
from cxrdali.data.loader import Batch
from cxrdali.runtime.full import is_full
from cxrdali.train.microbatch import BatchShape, largest_micro_batch
from shards.dataset.packed import PackedDataset

OF_UNCAPPED = 0.9
STEPS = 12
SHARE = 0.5  # of what the whole batch needs: the cap under which a micro-batch is searched
DRIFT = 128 * 2**20  # bytes
MICRO = "--micro-batch auto"
DOES_NOT_FIT = "does not fit"


def rows(dataset: PackedDataset, stage: Stage, options: StepRun) -> Iterator[dict]:
    """As they come: whether the stage fits --cap-gb; the rate of the micro-batch found under half of what it needs."""
    fits = {"target": f"a whole step and its loader fit {options.cap_gb:g} GiB", "at_most": options.cap_gb}
    micro = {"target": f"{MICRO}, capped / uncapped images/s", "at_least": OF_UNCAPPED}
    if options.device == "cpu":
        why = {"met": None, "not_measured": "needs a GPU"}
        print(f"  memory under {options.cap_gb:g} GiB, {MICRO}: not measured (needs a GPU)", flush=True)
        yield from ({**fits, "gib": None, **why}, {**micro, "ratio": None, **why})
        return
    for question, about in ((_fits, fits), (_micro, micro)):
        answer = in_a_process(question, dataset.root, stage, options)
        print(f"  {about['target']}: {json.dumps(answer)}", flush=True)
        yield {**about, **answer}


def does_not_fit(error: BaseException) -> str | None:
    """A row's words for an error that is the GPU's memory at its end, None for another one.

    The compiler and the loader wrap theirs."""
    causes, cause = [], error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    for cause in causes:
        if is_full(cause):
            return f"{DOES_NOT_FIT}: {(str(cause).strip() or type(cause).__name__).splitlines()[0]}"
    return None


def in_a_process(question: Callable, root: Path, stage: Stage, options: StepRun) -> dict:
    """What the question answers, or why there is no answer: another process's end takes no rows along."""
    device = torch.device(options.device)
    before = used(device)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        try:
            answer = executor.submit(_answer, question, root, stage, options, before).result()
        except BrokenProcessPool:
            answer = {"met": None, "not_measured": "its process ended without an answer"}
    drift = used(device) - before
    if answer.get("gib") is not None and abs(drift) > DRIFT:
        why = f"something else on the GPU took or gave back {abs(drift) / 2**20:,.0f} MiB meanwhile"
        return {"gib": None, "met": None, "not_measured": why}
    return answer


def _answer(question: Callable, root: Path, stage: Stage, options: StepRun, before: int) -> dict:
    torch.set_num_threads(1)
    try:
        return question(PackedDataset.open(root), stage, options, before)
    except Exception as error:  # the process ends here: its error is the row's
        why = does_not_fit(error)
        return {"met": False, "why": why} if why else {"met": None, "not_measured": f"{type(error).__name__}: {error}"}


def used(device: torch.device) -> int:
    """Bytes of the whole GPU that nobody can have now, everybody's."""
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def _fits(dataset: PackedDataset, stage: Stage, options: StepRun, before: int) -> dict:
    """gib: the process's whole memory on the GPU after STEPS steps, with whatever torch's allocator kept; before: bytes
    that were used there before this process."""
    device, cap = torch.device(options.device), options.cap_gb * 2**30
    setting, num_rows = options.setting, len(dataset.catalog)
    step = TrainingStep(options.arch, stage, setting, options.device, num_rows)
    batches = batches_of(dataset, options.loader_options(stage))
    held = [next(batches)]
    torch.mm(*[torch.ones(64, 64, device=device)] * 2)  # the libraries' own memory
    torch.cuda.synchronize()
    outside = used(device) - before - torch.cuda.memory_reserved(device)
    total = torch.cuda.mem_get_info(device)[1]
    torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.0, cap - outside) / total), device)
    try:
        for _ in range(STEPS):
            step(held.pop())
            held.append(next(batches))
        torch.cuda.synchronize()
    except RuntimeError as error:  # OutOfMemoryError is one
        if (why := does_not_fit(error)) is None:
            raise
        return {"gib": None, "met": False, "why": why, "outside_gib": outside / 2**30}
    whole = used(device) - before
    return {
        "gib": whole / 2**30, "met": whole <= cap, "outside_gib": outside / 2**30,
        "torch_peak_gib": torch.cuda.max_memory_allocated(device) / 2**30, "seen_by": "mem_get_info",
        "precision": setting.precision, "channels_last": setting.channels_last,
    }  # fmt: skip


def _micro(dataset: PackedDataset, stage: Stage, options: StepRun, before: int) -> dict:
    """ratio: images/s of the micro-batch found under the cap to those of the whole batch, medians of their runs."""
    device = torch.device(options.device)
    num_rows = len(dataset.catalog)
    step = TrainingStep(options.arch, stage, replace(options.setting, compile=False), options.device, num_rows)
    images = torch.zeros(stage.batch, 1, stage.size, stage.size, dtype=torch.uint8, device=device)
    batches = iter(lambda: Batch(images, torch.from_numpy(np.arange(stage.batch) % num_rows)), None)
    rate = trained(step, batches, STEPS, options.device).rate
    peak, total = torch.cuda.max_memory_reserved(device), torch.cuda.mem_get_info(device)[1]
    cap = SHARE * peak / total
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(cap, device)
    found = largest_micro_batch(step.model, step.loss, step.hardware, BatchShape(stage.batch, stage.size, FINDINGS))
    count = max(2, round(rate * options.seconds / stage.batch))
    rates = {"uncapped": [], "capped": []}
    for _ in range(options.rounds):
        for name, size, share in (("uncapped", stage.batch, 1.0), ("capped", found, cap)):
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(share, device)
            step.micro_batch = size
            rates[name].append(trained(step, batches, count, options.device).rate)
    uncapped, capped = (Spread.of(rates[name]).median for name in rates)
    return {
        "ratio": capped / uncapped, "met": capped >= OF_UNCAPPED * uncapped, "micro_batch": found,
        "cap_gib": SHARE * peak / 2**30, "uncapped": uncapped, "capped": capped,
    }  # fmt: skip
