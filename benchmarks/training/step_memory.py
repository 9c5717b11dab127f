"""The memory part of benchmarks.step: does a stage fit a smaller GPU, DALI's buffers included, and what does a
micro-batch that was found under a cap cost?

A process of its own for each question: what other contenders hold would count. Its whole memory is what CUDA calls
used on the device while it lives, less what was used before it started, as the process that starts it reads it, in
which nothing changes meanwhile. Both ask `torch.cuda.mem_get_info` about the same device, whatever
CUDA_VISIBLE_DEVICES or MIG make of its number. What is used once it has ended tells whether anything else on the GPU
came or went: with more than DRIFT, nothing is reported. torch's allocator is held to the cap less all that lives
outside of it (the context, DALI's buffers, libraries), as measured after the first batch.
"""

import argparse
import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.loading.loader import Stage
from shards.dataset.packed import PackedDataset

OF_UNCAPPED = 0.9
STEPS = 12
SHARE = 0.5  # of what the whole batch needs: the cap under which a micro-batch is searched
DRIFT = 128 * 2**20  # bytes
MICRO = "--micro-batch auto"
DOES_NOT_FIT = "does not fit"
ALLOCATIONS = ("out of memory", "ALLOC_FAILED", "cudaErrorMemoryAllocation")  # CUDA's, its libraries' and DALI's words


def rows(dataset: PackedDataset, stage: Stage, options: argparse.Namespace) -> Iterator[dict]:
    """As they come: whether the stage fits --cap-gb; the rate of the micro-batch found under half of what it needs."""
    fits = {"promise": f"a whole step and its loader fit {options.cap_gb:g} GiB", "at_most": options.cap_gb}
    micro = {"promise": f"{MICRO}, capped / uncapped images/s", "at_least": OF_UNCAPPED}
    if options.device == "cpu":
        why = {"met": None, "not_measured": "needs a GPU"}
        print(f"  memory under {options.cap_gb:g} GiB, {MICRO}: not measured (needs a GPU)", flush=True)
        yield from ({**fits, "gib": None, **why}, {**micro, "ratio": None, **why})
        return
    for question, about in ((_fits, fits), (_micro, micro)):
        answer = _in_a_process(question, dataset.root, stage, options)
        print(f"  {about['promise']}: {json.dumps(answer)}", flush=True)
        yield {**about, **answer}


def does_not_fit(error: BaseException) -> str | None:
    """A row's words for an error that is the GPU's memory at its end, None for another one.

    Only torch's own allocations raise OutOfMemoryError; libraries, DALI and the compiler wrap theirs."""
    causes, cause = [], error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    for cause in causes:
        if isinstance(cause, torch.OutOfMemoryError) or any(words in str(cause) for words in ALLOCATIONS):
            return f"{DOES_NOT_FIT}: {(str(cause).strip() or type(cause).__name__).splitlines()[0]}"
    return None


def _in_a_process(question, root: Path, stage: Stage, options: argparse.Namespace) -> dict:
    """What the question answers, or why there is no answer: another process's end takes no rows along."""
    before = _used(torch.device(options.device))
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe()
    process = context.Process(target=_answer, args=(ours, question, root, stage, options, before))
    process.start()
    ours.close()
    try:
        answer = theirs.recv()
    except EOFError:
        answer = None
    process.join()
    if answer is None:
        return {"met": None, "not_measured": f"its process ended without an answer (exit code {process.exitcode})"}
    drift = _used(torch.device(options.device)) - before
    if answer.get("gib") is not None and abs(drift) > DRIFT:
        why = f"something else on the GPU took or gave back {abs(drift) / 2**20:,.0f} MiB meanwhile"
        return {"gib": None, "met": None, "not_measured": why}
    return answer


def _answer(connection, question, root: Path, stage: Stage, options: argparse.Namespace, before: int) -> None:
    torch.set_num_threads(1)
    try:
        answer = question(PackedDataset.open(root), stage, options, before)
    except Exception as error:  # the process ends here: its error is the row's
        why = does_not_fit(error)
        answer = (
            {"met": False, "why": why} if why else {"met": None, "not_measured": f"{type(error).__name__}: {error}"}
        )
    connection.send(answer)


def _used(device: torch.device) -> int:
    """Bytes of the whole GPU that nobody can have now, everybody's."""
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def _fits(dataset: PackedDataset, stage: Stage, options: argparse.Namespace, before: int) -> dict:
    """gib: the process's whole memory on the GPU after STEPS steps, with whatever torch's allocator kept; before: bytes
    that were used there before this process."""
    from benchmarks.training.step_run import Setting, TrainingStep, batches_of
    from cxrdali.runtime.device import Hardware

    device, cap = torch.device(options.device), options.cap_gb * 2**30
    setting = Setting(Hardware.resolve(options.device, options.precision).precision, not options.nchw, options.compile)
    step, batches = TrainingStep(stage, setting, dataset, options), batches_of(dataset, stage, options)
    held = [next(batches)]
    torch.mm(*[torch.ones(64, 64, device=device)] * 2)  # the libraries' own memory
    torch.cuda.synchronize()
    outside = _used(device) - before - torch.cuda.memory_reserved(device)
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
    whole = _used(device) - before
    return {
        "gib": whole / 2**30, "met": whole <= cap, "outside_gib": outside / 2**30,
        "torch_peak_gib": torch.cuda.max_memory_allocated(device) / 2**30, "seen_by": "mem_get_info",
        "precision": setting.precision, "channels_last": setting.channels_last,
    }  # fmt: skip


def _micro(dataset: PackedDataset, stage: Stage, options: argparse.Namespace, before: int) -> dict:
    """ratio: images/s of the micro-batch found under the cap to those of the whole batch, medians of their runs."""
    import numpy as np

    from benchmarks.loading.demand import trained
    from benchmarks.results import Spread
    from benchmarks.training.step_run import FINDINGS, Setting, TrainingStep
    from cxrdali.data.loader import Batch
    from cxrdali.runtime.device import Hardware
    from cxrdali.train.microbatch import BatchShape, largest_micro_batch

    device = torch.device(options.device)
    setting = Setting(Hardware.resolve(options.device, options.precision).precision, not options.nchw, False)
    step = TrainingStep(stage, setting, dataset, options)
    images = torch.zeros(stage.batch, 1, stage.size, stage.size, dtype=torch.uint8, device=device)
    batches = iter(lambda: Batch(images, torch.from_numpy(np.arange(stage.batch) % len(dataset.catalog))), None)
    rate = trained(step, batches, stage.batch, STEPS, options.device).rate
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
            rates[name].append(trained(step, batches, stage.batch, count, options.device).rate)
    uncapped, capped = (Spread.of(rates[name]).median for name in rates)
    return {
        "ratio": capped / uncapped, "met": capped >= OF_UNCAPPED * uncapped, "micro_batch": found,
        "cap_gib": SHARE * peak / 2**30, "uncapped": uncapped, "capped": capped,
    }  # fmt: skip
