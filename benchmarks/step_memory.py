"""The memory part of benchmarks.step: does a stage fit a smaller GPU, DALI's buffers included, and what does a
micro-batch that was found under a cap cost?

A process of its own for each question: what other contenders hold would count. torch's allocator is held to the cap
less all that lives on the GPU outside of it (the context, DALI's buffers, libraries), as measured after the first
batch.
"""

import argparse
import json
import multiprocessing
import subprocess
from pathlib import Path

import torch

from benchmarks.loader import Stage
from shards.packed import PackedDataset

OF_UNCAPPED = 0.9
STEPS = 12
SHARE = 0.5  # of what the whole batch needs: the cap under which a micro-batch is searched
FITS, MICRO = "fits", "--micro-batch auto"


def rows(dataset: PackedDataset, stage: Stage, options: argparse.Namespace) -> list[dict]:
    """Whether the stage fits --cap-gb, and the rate of the micro-batch found under half of the memory it needs."""
    fits = {"promise": f"a whole step and its loader fit {options.cap_gb:g} GiB", "at_most": options.cap_gb}
    micro = {"promise": f"{MICRO}, capped / uncapped images/s", "at_least": OF_UNCAPPED}
    if options.device == "cpu":
        why = {"met": None, "not_measured": "needs a GPU"}
        print(f"  memory under {options.cap_gb:g} GiB, {MICRO}: not measured (needs a GPU)", flush=True)
        return [{**fits, "gib": None, **why}, {**micro, "ratio": None, **why}]
    found = []
    for question, about in ((_fits, fits), (_micro, micro)):
        answer = _in_a_process(question, dataset.root, stage, options)
        found.append({**about, **answer})
        print(f"  {about['promise']}: {json.dumps(answer)}", flush=True)
    return found


def _in_a_process(question, root: Path, stage: Stage, options: argparse.Namespace) -> dict:
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe()
    process = context.Process(target=_answer, args=(ours, question, root, stage, options))
    process.start()
    ours.close()
    try:
        return theirs.recv()
    except EOFError as error:
        raise RuntimeError(f"{question.__name__} at {stage.size} px ended without an answer") from error
    finally:
        process.join()


def _answer(connection, question, root: Path, stage: Stage, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    connection.send(question(PackedDataset.open(root), stage, options))


def _in_use(device: torch.device) -> int:
    """Bytes of the whole GPU that nobody can have, by nvidia-smi, which starts no CUDA here; 0 without it."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", f"--id={device.index or 0}"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True)
        return int(asked.stdout.split()[0]) * 2**20 if not asked.returncode else 0
    except (FileNotFoundError, ValueError, IndexError):
        return 0


def _used(device: torch.device) -> int:
    """The same, by CUDA itself."""
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def _fits(dataset: PackedDataset, stage: Stage, options: argparse.Namespace) -> dict:
    """gib: the process's whole memory on the GPU after STEPS steps, with whatever torch's allocator kept."""
    from benchmarks.step_run import Setting, TrainingStep, batches_of
    from cxrdali.hardware import Hardware

    device, cap = torch.device(options.device), options.cap_gb * 2**30
    before = _in_use(device)
    setting = Setting(Hardware.resolve(options.device, options.precision).precision, not options.nchw, options.compile)
    step, batches = TrainingStep(stage, setting, dataset, options), batches_of(dataset, stage, options)
    held = [next(batches)]
    torch.mm(*[torch.ones(64, 64, device=device)] * 2)  # the libraries' own memory
    torch.cuda.synchronize()
    outside = _used(device) - before - torch.cuda.memory_reserved(device)
    total = torch.cuda.mem_get_info(device)[1]
    torch.cuda.set_per_process_memory_fraction(min(1.0, (cap - outside) / total), device)
    try:
        for _ in range(STEPS):
            step(held.pop())
            held.append(next(batches))
        torch.cuda.synchronize()
    except torch.OutOfMemoryError as error:
        return {"gib": None, "met": False, "why": str(error).splitlines()[0], "outside_gib": outside / 2**30}
    whole = _used(device) - before
    return {
        "gib": whole / 2**30, "met": whole <= cap, "outside_gib": outside / 2**30,
        "torch_peak_gib": torch.cuda.max_memory_allocated(device) / 2**30, "seen_by": "nvidia-smi and CUDA",
        "precision": setting.precision, "channels_last": setting.channels_last,
    }  # fmt: skip


def _micro(dataset: PackedDataset, stage: Stage, options: argparse.Namespace) -> dict:
    """ratio: images/s of the micro-batch found under the cap to those of the whole batch, medians of their runs."""
    import numpy as np

    from benchmarks.demand import trained
    from benchmarks.results import Spread
    from benchmarks.step_run import FINDINGS, Setting, TrainingStep
    from cxrdali.hardware import Hardware
    from cxrdali.loader import Batch
    from cxrdali.microbatch import largest_micro_batch

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
    found = largest_micro_batch(step.model, step.loss, step.hardware, stage.batch, stage.size, FINDINGS)
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
