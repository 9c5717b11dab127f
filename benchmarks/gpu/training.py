"""Training on a GPU: the three stages, their memory, a full GPU, precisions, several processes."""

import os
import time
import warnings
from dataclasses import asdict, replace
from itertools import product
from statistics import median

import numpy as np
import torch
from timm.layers import convert_sync_batchnorm
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from benchmarks.gpu.facts import in_a_line, say, told
from benchmarks.gpu.work import DEVICE, STAGES, STEPS, TINY, Work, black, kept_of, options
from benchmarks.options import Stage
from benchmarks.pages.published import hours
from benchmarks.training import step_memory
from benchmarks.training.fed import EFFICIENTNET, FINDINGS, Setting, batches_of, trained
from benchmarks.training.parts import PartsRun, measured
from benchmarks.training.step_options import StepRun
from cxrdali.runtime.distributed import joined
from cxrdali.runtime.full import is_full
from cxrdali.runtime.torchrun import NAMES
from cxrdali.train.compiling import Static
from cxrdali.train.microbatch import BatchShape, largest_micro_batch
from cxrdali.train.step import Step, adamw, grad_scaler

CARD_GB = 24.0
PRECISE, NETWORKS = Stage(224, 64), (EFFICIENTNET, "convnext_tiny")  # what is trained in every precision


def stages(work: Work) -> None:
    """Is the GPU busy at the stage-training paper's sizes, and what do three stages save of the largest size alone?"""
    rates = {}
    for stage in STAGES:
        label = f"{stage.size} px"
        with told(f"a stage: {label}"):
            step, batches = work.step(stage), batches_of(work.dataset(), options(stage.size, stage.batch))
            kept = kept_of(batches)
            runs = [[trained(step, each, STEPS, DEVICE) for each in (kept, batches)] for _ in range(3)]  # in turn
            cached, real = (median(run.rate for run in each) for each in zip(*runs, strict=True))
            rates[stage] = real
            say(f"GPU idle: {label}", value=median(run.waited_share for _, run in runs), at_most=0.01)
            about = {"real": real, "cached": cached, "runs": [asdict(run) for _, run in runs]}
            say(f"images/s of the loader / cached: {label}", value=real / cached, at_least=0.98, **about)
            say(f"a stage of MIMIC-CXR-JPG, hours: {label}", value=hours(real))
    if len(rates) == len(STAGES):  # as many images in each
        seconds = [1 / rate for rate in rates.values()]
        say("saved by three equal stages", value=1 - sum(seconds) / (3 * seconds[-1]), at_least=0.42)


def memory(work: Work) -> None:
    """Do the stages fit in 24 GiB, DALI included, and which micro-batch is found there and in half of it, how fast?"""
    ask, total = StepRun(device=DEVICE, cap_gb=CARD_GB).resolved(), torch.cuda.mem_get_info(DEVICE)[1]
    for stage in STAGES:
        with told(f"a stage fits 24 GiB: {stage.size} px"):
            row = next(step_memory.rows(work.dataset(), stage, ask))  # in a process of its own
            say(f"a stage fits 24 GiB: {stage.size} px", row.pop("met"), value=row.pop("gib", None), **row)
    for stage, cap in product(STAGES, (CARD_GB, CARD_GB / 2)):
        label = f"micro-batch that is found: {stage.size} px, {cap:g} GiB"
        with told(label):
            step, shape = work.step(stage), BatchShape(stage.batch, stage.size, FINDINGS)
            torch.cuda.set_per_process_memory_fraction(min(1.0, cap * 2**30 / total), DEVICE)
            started = time.perf_counter()
            found = largest_micro_batch(step.model, step.loss, step.hardware, shape)
            say(label, value=found, of=stage.batch, seconds=round(time.perf_counter() - started, 1))
        torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)


def full(work: Work) -> None:
    """What do torch, cuDNN and DALI raise where memory ends, and is it known as that (`is_full`)?"""

    def attempt(label: str, take) -> None:
        raised, ok = "nothing", None
        try:
            take()
            torch.cuda.synchronize()
        except Exception as error:  # the loader's own says so in words
            raised, ok = in_a_line(error), is_full(error) or "GPU is full" in str(error)
        say(f"a full GPU is known: {label}", ok, raised=raised)

    stage = Stage(224, 128)
    step, total = work.step(stage, "resnet50"), torch.cuda.mem_get_info(DEVICE)[1]
    step(black(stage))
    step(black(stage))
    need = torch.cuda.max_memory_allocated(DEVICE)
    for percent in (30, 45, 60, 75, 85, 92, 96, 99):
        step.model.zero_grad(set_to_none=True)
        with told(f"a full GPU is known: {percent} %"):  # and empties the cache
            torch.cuda.set_per_process_memory_fraction(percent / 100 * need / total, DEVICE)
            smaller = replace(stage, batch=stage.batch - percent // 8)  # a shape for which cuDNN looks for plans anew
            attempt(f"{percent} %", lambda: step(black(smaller)))  # noqa: B023
    torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)
    for decode in ("cpu", "mixed"):
        with told(f"a full GPU is known: DALI, {decode}"):
            ballast = torch.empty(torch.cuda.mem_get_info(DEVICE)[0] - 40 * 2**20, dtype=torch.uint8, device=DEVICE)
            attempt(f"DALI, {decode}", lambda: next(iter(work.loader(options(512, 48, decode)))))  # noqa: B023
            del ballast


def precision(work: Work) -> None:
    """What do bf16, fp16 and TF32 gain over fp32, and how far are their logits off?"""
    images = next(iter(work.loader(options(PRECISE.size, 16)))).images
    for arch in NETWORKS:
        exact = None
        for name in ("fp32", "fp32 with TF32", "bf16", "fp16"):
            label = f"images/s by precision: {arch.partition('.')[0]}, {name}"
            with told(label):
                step = work.step(PRECISE, arch, Setting(name[:4]))
                torch.backends.cudnn.allow_tf32 = "TF32" in name
                torch.set_float32_matmul_precision("high" if "TF32" in name else "highest")
                step.model.eval()
                with torch.inference_mode(), step.hardware.autocast():
                    logits = step.model(images).double()
                step.model.train()
                exact = logits if exact is None else exact
                off, spread = (logits - exact).abs().max(), exact.std()
                rate = trained(step, iter(lambda: black(PRECISE), None), 10, DEVICE).rate
                say(label, value=rate, logits_off=float(off), logits_sd=float(spread))


def parts(work: Work) -> None:
    """What does each part of docs/recipes.md cost a step, in time and memory?"""
    ask = PartsRun(device=DEVICE, arch=EFFICIENTNET, size=PRECISE.size, batch=PRECISE.batch)
    for name, seconds, held in measured(ask, work.folder / "pack"):
        say(f"a step with {name}, seconds", value=seconds, mib=round(held / 2**20))


def compiling(work: Work) -> None:
    """What does a compiled step gain, and how long does it compile?"""
    stage, rates = STAGES[0], []
    for compiled in (False, True):
        with told("gain of --compile"):
            step, started = work.step(stage, setting=Setting("bf16", compile=compiled)), time.perf_counter()
            step(black(stage))
            torch.cuda.synchronize()
            first = round(time.perf_counter() - started, 1)
            rates.append(trained(step, iter(lambda: black(stage), None), STEPS, DEVICE).rate)
    say("gain of --compile", value=rates[1] / rates[0], size=stage.size, first_step_seconds=first)


def ranks(work: Work) -> None:
    """What does training of several processes do over NCCL: gradients, micro-batches, statistics, compiling?"""
    os.environ |= dict(zip(NAMES, "0101", strict=True)) | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    stage, gpus = Stage(224, 32), torch.cuda.device_count()
    with told("NCCL"), joined("cuda") as group:
        say("NCCL", distributed.get_backend() == "nccl", world=group.world, gpus=gpus)
        for name in ("plain", "synchronised", "compiled"):
            with told(f"a shared step: {name}"), warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                own = work.step(stage, TINY if name == "compiled" else "resnet50")
                if name == "synchronised":
                    own.model.backbone = convert_sync_batchnorm(own.model.backbone)
                forward: torch.nn.Module = DistributedDataParallel(
                    own.model, [0], broadcast_buffers=False, gradient_as_bucket_view=True
                )
                forward = Static(forward, stage.batch // 2, stage.batch) if name == "compiled" else forward
                optimizer, scaler = adamw(own.model, 1e-4, 0.0), grad_scaler(own.hardware)
                step = Step(forward, own.loss, optimizer, scaler, own.hardware, group)
                wanted = torch.zeros(stage.batch, FINDINGS, device=DEVICE)
                losses = [float(step(black(stage).images, wanted, 0, stage.batch // 2)) for _ in range(3)]
                group.copy_buffers(own.model)
                went = bool(np.isfinite(losses).all()) and losses[2] < losses[0]
                say(f"a shared step: {name}", went, losses=losses, warned=[str(each.message)[:120] for each in heard])
    if gpus < 2:
        say("two GPUs", not_measured="needs two: pytest tests/gpu/test_ranks.py, and --gpus 2 of train and predict")
