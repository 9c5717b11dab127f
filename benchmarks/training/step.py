"""How fast is a whole training step, on batches that are there already and on those of the loader?

    python -m benchmarks.training.step [--save]                                # on the CPU, a small network: 3 minutes
    python -m benchmarks.training.step --device cuda [--cap-gb 24] [--save]  # the paper's network
    python -m benchmarks.training.step --device cuda --timm-train PATH         # timm's own script beside it

A step is the trainer's: forward, loss, backward, AdamW, schedule, the targets fetched by row (`cxrdali.train.step`).
Per stage

    ours, cached       on batches that lie on the device: the ceiling
    ours, loader       fed by the loader, augmented, from packed JPEG; to reach: 0.98 of the ceiling
    timm, cached       timm's loop at the same settings on batches that lie on the device: uint8 as ours, normalised in
                       the step as timm's prefetcher does; ours is to reach 0.98 of it. timm's train.py is no part of
                       its package: the loop is written from its description, with timm's own model, loss, optimizer,
                       scaler and loaders (`benchmarks/training/step_timm.py`, which says what is equal and what not)
    timm, cached       on batches normalised before, for information: less work than ours
      normalised
    timm, loader       the same from the same JPEG files, through timm's create_loader, without augmentation
    ours, NCHW; ...    the ceiling with one setting changed: memory format, precision, torch.compile

and, on a GPU, what the process needs in all, DALI's buffers included, held to --cap-gb
(`benchmarks/training/step_memory.py`), and the rate of a micro-batch that was found under a cap.

Held fixed: machine, images, batch, network, a warm page cache. Contenders of a stage take turns after a run each that
is thrown away and takes compiling with it. The batches that are ready when a run begins are drawn before its clock
starts. On a CPU one thread trains and one decodes, network and sizes are small, and malloc keeps what is freed, which
`cxrdali train` does not ask for (`freed.keep_freed_memory` says why); rows say so. What does not fit the GPU's
memory is a row that says so. A stage's rows are saved when they are there.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch

from benchmarks import results
from benchmarks.freed import keep_freed_memory
from benchmarks.loading.loader import Stage
from benchmarks.results import Spread, Target
from benchmarks.training import step_memory, step_timm
from benchmarks.training.step_run import (  # fmt: skip
    CACHED,
    LOADER,
    TIMM_CACHED,
    TIMM_LOADER,
    TIMM_READY,
    Setting,
    contenders,
    interleaved,
    prepare,
    release,
    words_of,
)
from cxrdali.runtime.device import Hardware
from shards.dataset.packed import PackedDataset
from shards.errors import UserError

STAGES = {"cuda": "224:256,320:128,384:80,512:48", "cpu": "64:32,96:16"}
ARCH = {"cuda": "tf_efficientnetv2_s.in21k_ft_in1k", "cpu": "resnet10t"}
OF_CEILING = OF_TIMM = 0.98
VARIANTS = ("nchw", "bf16", "fp16", "fp32", "compile")


def variants(base: Setting, options: argparse.Namespace, place: int) -> tuple[list[Setting], dict[str, str]]:
    """Settings beside the base one, and by their words why one is not measured. place: the stage's, from 0."""
    found, missing = [], {}
    for name in options.variants:
        if name == "nchw":
            changed = replace(base, channels_last=not base.channels_last)
        elif name == "compile":
            changed = replace(base, compile=not base.compile)
            if place >= options.compiled:
                missing[words_of(changed, base)] = f"compiled in the first {options.compiled} stages; --compiled N"
                continue
        else:
            changed = replace(base, precision=name)
            if name == "fp16" and options.device == "cpu":
                missing[words_of(changed, base)] = "fp16 needs a GPU"
                continue
        if changed != base:
            found.append(changed)
    return found, missing


def measure_stage(dataset, files: Path, stage: Stage, place: int, options: argparse.Namespace) -> list[dict]:
    """The rows of a stage: contenders and targets."""
    hardware = Hardware.resolve(options.device, options.precision)
    base = Setting(hardware.precision, not options.nchw, options.compile)
    changed, missing = variants(base, options, place)
    print(f"{stage.size} pixels, batches of {stage.batch}, {options.arch}, {base.precision}", flush=True)
    found = contenders(dataset, files, stage, base, changed, options)
    runs = interleaved(found, stage, options, hardware)
    rows = []
    for one in found:
        if one.missing:
            missing[one.words] = one.missing
            print(f"  {one.words:24} {one.missing}", flush=True)
            continue
        own = runs[one.words]
        rate = Spread.of([run.rate for run in own])
        waiting = Spread.of([run.waited_share for run in own])
        rows.append(
            {
                "contender": one.words,
                "images_per_second": asdict(rate),
                "waiting_share": asdict(waiting),
                "runs": [round(run.rate, 1) for run in own],
                **one.memory,
                **asdict(one.setting),
                "loop": one.loop,
            }  # fmt: skip
        )
        memory = "".join(f", {name[:-4]} {value:,.0f} MiB" for name, value in one.memory.items() if value is not None)
        print(
            f"  {one.words:24} {rate.median:9,.1f} images/s ({rate.low:,.1f} to {rate.high:,.1f}), "
            f"waiting {waiting.median:6.2%}{memory}", flush=True,
        )  # fmt: skip
    if options.timm_train:
        rows += step_timm.script_rows(options.timm_train, files, stage, base, options)
    rows += [{"contender": words, "images_per_second": None, "not_measured": why} for words, why in missing.items()]
    rates = {row["contender"]: row["images_per_second"]["median"] for row in rows if row["images_per_second"]}
    for target in (Target(LOADER, (CACHED,), OF_CEILING), Target(CACHED, (TIMM_CACHED,), OF_TIMM),
                   Target(CACHED, (TIMM_READY,), None), Target(LOADER, (TIMM_LOADER,), None)):  # fmt: skip
        rows.append(target.check(rates, missing))
        results.print_target(rows[-1])
    return rows


def stage_rows(
    dataset: PackedDataset, files: Path, stage: Stage, place: int, options: argparse.Namespace
) -> Iterator[dict]:
    """The rows of a stage as they come: contenders and targets, then on a GPU memory and micro-batches."""
    try:
        yield from measure_stage(dataset, files, stage, place, options)
    except RuntimeError as error:
        if (why := step_memory.does_not_fit(error)) is None:
            raise
        print(f"  {CACHED}: {why}", flush=True)
        yield {"contender": CACHED, "images_per_second": None, "not_measured": why}
    release()
    yield from step_memory.rows(dataset, stage, options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training.step", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda[:N] [%(default)s]")
    parser.add_argument("--arch", help=f"timm network [{ARCH['cuda']}; cpu: {ARCH['cpu']}]")
    parser.add_argument("--stages", help=f"SIZE:BATCH,... [{STAGES['cuda']}; cpu: {STAGES['cpu']}]")
    parser.add_argument("--precision", default="auto", help="auto, bf16, fp16 or fp32 [%(default)s]")
    parser.add_argument("--nchw", action="store_true", help="without channels-last, in all but its variant")
    parser.add_argument("--compile", action="store_true", help="with torch.compile, in all but its variant")
    parser.add_argument("--variants", help=f"of {','.join(VARIANTS)} [all; cpu: nchw,bf16]")
    parser.add_argument("--compiled", type=int, default=1, help="stages that compile: minutes each [%(default)s]")
    parser.add_argument("--decode", default="auto", help="auto, cpu, mixed or hybrid [%(default)s]")
    parser.add_argument("--workers", type=int, help="of timm's loader [a GPU: as many as cores, at most 16; cpu: 1]")
    parser.add_argument("--timm-train", type=Path, metavar="PATH", help="timm's train.py, to be run beside")
    parser.add_argument(
        "--cap-gb", type=float, default=24.0, help="memory in GiB that a stage has to fit [%(default)s]"
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each [%(default)s]")
    parser.add_argument("--seconds", type=float, help="length of a run, about [0.6; cpu: 1]")
    parser.add_argument("--studies", type=int, default=400, help="of the synthetic release [%(default)s]")
    results.add_save_option(parser, "step")
    options = parser.parse_args()
    kind = "cuda" if options.device.startswith("cuda") else "cpu"
    options.arch = options.arch or ARCH[kind]
    options.stages = [Stage.parse(text) for text in (options.stages or STAGES[kind]).split(",")]
    given = options.variants if options.variants is not None else "nchw,bf16" if kind == "cpu" else ",".join(VARIANTS)
    options.variants = [name for name in given.split(",") if name]
    if unknown := set(options.variants) - set(VARIANTS):
        parser.error(f"--variants {min(unknown)!r}: choose from {', '.join(VARIANTS)}")
    if options.timm_train and not options.timm_train.is_file():
        parser.error(f"--timm-train {options.timm_train}: no such file; give train.py of a checkout of timm")
    options.workers = options.workers or (1 if kind == "cpu" else min(16, len(os.sched_getaffinity(0))))
    options.threads = 1 if kind == "cpu" else None
    options.seconds = options.seconds or (1.0 if kind == "cpu" else 0.6)
    return options


def main() -> None:
    options = arguments()
    on_gpu = options.device.startswith("cuda")
    torch.set_num_threads(1)  # of the CPU: one trains, or feeds the GPU; the others decode
    keeps = keep_freed_memory() if not on_gpu else None
    try:
        hardware = Hardware.resolve(options.device, options.precision)
        options.device = hardware.device
        environment = results.environment("benchmarks.training.step", options.device)
        common = {
            "data": "synthetic", "arch": options.arch, "device": options.device,
            "scale": "the paper's network and sizes" if on_gpu and options.arch == ARCH["cuda"] else
            "small network, small sizes, one thread that trains" if not on_gpu else "another network",
            "torch_threads": torch.get_num_threads(), "loader_threads": options.threads, "malloc_keeps": keeps,
        }  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as folder:
            dataset, files = prepare(options, Path(folder))
            print(f"{environment['cpu']}, {environment['cores']} cores, {environment['gpu'] or 'no GPU'}, warm cache")
            count = 0
            for place, stage in enumerate(options.stages):
                for row in stage_rows(dataset, files[stage.size], stage, place, options):
                    count += 1
                    if options.save:
                        path = results.save([{**common, **asdict(stage), **row}], environment, options.save, "step")
    except UserError as error:
        sys.exit(str(error))
    if options.save:
        print(f"{count} rows -> {path}")


if __name__ == "__main__":
    main()
