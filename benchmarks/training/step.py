"""How fast is a whole training step, on batches that are there already and on those of the loader?

    python -m benchmarks.training.step [--save]                              # on the CPU, a small network: 3 minutes
    python -m benchmarks.training.step --device cuda [--cap-gb 24] [--save]  # EfficientNetV2-S

A step is the trainer's: forward, loss, backward, AdamW, schedule, the targets fetched by row (`cxrdali.train.step`).
Per stage

    ours, cached       on batches that lie on the device: the ceiling
    ours, loader       fed by the loader, augmented, from packed JPEG; to reach: 0.98 of the ceiling,
                       and on a GPU 1 % of the time in which it waits for data
    timm, cached       timm's loop at the same settings on batches that lie on the device: uint8 as ours, normalised in
                       the step as timm's prefetcher does; ours is to reach 0.98 of it (`benchmarks.training.step_timm`
                       says what is equal and what not)
    timm, loader       the same from the same JPEG files, through timm's create_loader, without augmentation
    ours, NCHW; ...    the ceiling with one setting changed: memory format, precision, torch.compile

and, on a GPU, what the process needs in all, DALI's buffers included, held to --cap-gb
(`benchmarks/training/step_memory.py`), and the rate of a micro-batch that was found under a cap.

The run of each baseline that is thrown away takes compiling with it. The batches that are ready when a run begins are
taken before its clock starts. On a CPU one thread trains and one decodes, network and sizes are small, and malloc keeps
what is freed (`freed.keep_freed_memory` says why). A stage's rows are saved when they are there.
"""

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch

from benchmarks import results
from benchmarks.freed import keep_freed_memory
from benchmarks.options import Stage, parse
from benchmarks.results import Spread, Target
from benchmarks.training import step_memory, step_run
from benchmarks.training.fed import CACHED, EFFICIENTNET, Setting, Trained
from benchmarks.training.step_options import StepRun
from benchmarks.training.step_run import LOADER, TIMM_CACHED, TIMM_LOADER, Baseline
from shards.dataset.packed import PackedDataset
from shards.errors import UserError

OF_CEILING = OF_TIMM = 0.98
MOST_WAITING = 0.01  # of a step's time, on a GPU
TARGETS = (
    Target(LOADER, (CACHED,), OF_CEILING),
    Target(CACHED, (TIMM_CACHED,), OF_TIMM),
    Target(LOADER, (TIMM_LOADER,), None),
)


def variants(options: StepRun, place: int) -> tuple[list[Setting], dict[str, str]]:
    """Settings beside the base one, and by their words why one is not measured. place: the stage's, from 0."""
    base, found, missing = options.setting, [], {}
    for name in options.variants:
        if name == "nchw":
            changed = replace(base, channels_last=not base.channels_last)
        elif name == "compile":
            changed = replace(base, compile=not base.compile)
        else:
            changed = replace(base, precision=name)
        words = step_run.words_of(changed, base)
        if name == "compile" and place >= options.compiled:
            missing[words] = f"compiled in the first {options.compiled} stages; --compiled N"
        elif name == "fp16" and not options.on_gpu:
            missing[words] = "fp16 needs a GPU"
        elif changed != base:
            found.append(changed)
    return found, missing


def measure_stage(dataset: PackedDataset, files: Path, stage: Stage, place: int, options: StepRun) -> list[dict]:
    """The rows of a stage: baselines and targets."""
    changed, missing = variants(options, place)
    print(f"{stage.size} pixels, batches of {stage.batch}, {options.arch}, {options.setting.precision}", flush=True)
    found = step_run.baselines(dataset, files, stage, changed, options)
    runs = step_run.interleaved(found, stage, options)
    rows = []
    for one in found:
        if one.missing:
            missing[one.words] = one.missing
            print(f"  {one.words:24} {one.missing}", flush=True)
        else:
            rows.append(_rate_row(one, runs[one.words], options.on_gpu))
    rows += [{"baseline": words, "images_per_second": None, "not_measured": why} for words, why in missing.items()]
    rates = {row["baseline"]: row["images_per_second"]["median"] for row in rows if row["images_per_second"]}
    for target in TARGETS:
        rows.append(target.check(rates, missing))
        results.print_target(rows[-1])
    return rows


def _rate_row(one: Baseline, runs: list[Trained], on_gpu: bool) -> dict:
    rate, waiting = Spread.of([run.rate for run in runs]), Spread.of([run.waited_share for run in runs])
    memory = "".join(f", {name[:-4]} {value:,.0f} MiB" for name, value in one.memory.items() if value is not None)
    print(
        f"  {one.words:24} {rate.median:9,.1f} images/s ({rate.low:,.1f} to {rate.high:,.1f}), "
        f"waiting {waiting.median:6.2%}{memory}", flush=True,
    )  # fmt: skip
    row = {"baseline": one.words, "images_per_second": asdict(rate), "waiting_share": asdict(waiting)}
    row |= {"runs": [round(run.rate, 1) for run in runs], "loop": one.loop}
    if one.words == LOADER and on_gpu:
        row |= {"at_most": MOST_WAITING, "met": waiting.median <= MOST_WAITING}
    return row | one.memory | asdict(one.setting)


def stage_rows(dataset: PackedDataset, files: Path, stage: Stage, place: int, options: StepRun) -> Iterator[dict]:
    """The rows of a stage as they come: baselines and targets, then on a GPU memory and micro-batches."""
    try:
        yield from measure_stage(dataset, files, stage, place, options)
    except RuntimeError as error:
        if (why := step_memory.does_not_fit(error)) is None:
            raise
        print(f"  {CACHED}: {why}", flush=True)
        yield {"baseline": CACHED, "images_per_second": None, "not_measured": why}
    step_run.release()
    yield from step_memory.rows(dataset, stage, options)


def _scale(options: StepRun) -> str:
    if not options.on_gpu:
        return "small network, small sizes, one thread that trains"
    return "the stage-training paper's network and sizes" if options.arch == EFFICIENTNET else "another network"


def main() -> None:
    options = parse(StepRun, "benchmarks.training.step", __doc__.splitlines()[0])
    torch.set_num_threads(1)  # of the CPU: one trains, or feeds the GPU; the others decode
    keeps = keep_freed_memory() if not options.on_gpu else None
    try:
        options = options.resolved()
        environment = results.environment("benchmarks.training.step", options.device)
        common = {"data": "synthetic", "arch": options.arch, "device": options.device, "scale": _scale(options)}
        common |= {"torch_threads": torch.get_num_threads(), "loader_threads": options.threads, "malloc_keeps": keeps}
        with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as folder:
            dataset, files = step_run.prepare(options, Path(folder))
            print(f"{environment['cpu']}, {environment['cores']} cores, {environment['gpu'] or 'no GPU'}, warm cache")
            for place, stage in enumerate(options.stages):
                rows = stage_rows(dataset, files[stage.size], stage, place, options)
                found = [{**common, **asdict(stage), **row} for row in rows]
                results.save(found, environment, options.save, "step")
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
