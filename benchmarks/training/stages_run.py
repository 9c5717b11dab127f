"""The measuring part of `benchmarks.training.stages`: arms in turn, and the rows that they give."""

import gc
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import cv2
import pandas as pd
import timm
import torch

from benchmarks.options import Stage
from benchmarks.training.stages_data import (
    PAPERS,
    Comparison,
    Feed,
    WholeBatches,
    loading_cores,
    prepare,
    training_cores,
)
from benchmarks.training.stages_options import CPU, StagesRun
from benchmarks.training.stages_report import NATIVE, SIDES, TARGETS, check_sum, saving
from cxrdali.data.options import LoaderOptions
from cxrdali.runs.config_file import read_config
from cxrdali.runs.settings import TrainSettings, settings_of
from cxrdali.train.trainer import RunSummary, train
from shards.synthetic.facts import FREQUENCIES


def run_arm(
    comparison: Comparison, arm: str, seed: int, options: StagesRun, folder: Path, limit: int | None = None
) -> dict:
    """Train the arm's stages one after the other into `folder`, which is deleted.

    Args:
        limit: batches an epoch, at most; then a stage has two epochs.
    """
    feed, stages = comparison.feed, comparison.arms[arm]
    folders = [str(folder / f"stage{place}") for place in range(1, len(stages) + 1)]
    settings = [
        settings_of(
            stage=place, size=stage.size, batch=stage.batch, epochs=comparison.epochs if limit is None else 2,
            lr=options.lr, arch=feed.arch, pretrained=options.pretrained, init=before, norm=feed.norm,
            precision=options.precision, device=options.device, decode=options.decode,
            threads=_loader_threads(options.device), seed=seed, limit_batches=limit,
            flips="both", cutout="fixed",  # as the stage-training paper, whose loader is the other arm's
        )
        for place, (stage, before) in enumerate(zip(stages, [None, *folders[:-1]], strict=True), 1)
    ]  # fmt: skip
    runs, totals, started = [], [], time.perf_counter()
    for each, out in zip(settings, folders, strict=True):
        since = time.perf_counter()
        runs.append(_run_stage(each, feed, comparison.multiple, Path(out)))
        totals.append(time.perf_counter() - since)
    seconds = time.perf_counter() - started
    words = f"{comparison.name}, {arm}, seed {seed}"
    check_sum(words, totals, seconds)
    rows = [_stage_row(words, *each) for each in zip(stages, runs, totals, strict=True)]
    shutil.rmtree(folder)
    gc.collect()  # what is left of this arm ends outside of the next one's time
    final = {"final_map": rows[-1]["best_map"], "final_epoch": rows[-1]["best_epoch"]}
    return {"comparison": comparison.name, "arm": arm, "seed": seed, "seconds": seconds, **final, "stages": rows}


def _run_stage(settings: TrainSettings, feed: Feed, multiple: int, out: Path) -> tuple[RunSummary, float]:
    """The trainer's summary, and the seconds in which its loaders were closed."""
    loader = WholeBatches(feed.loader, multiple, [])
    summary = train(settings, feed.dataset, out, loader=loader)
    trained = time.perf_counter()
    loader.made.clear()
    return summary, time.perf_counter() - trained


def _stage_row(words: str, stage: Stage, run: tuple[RunSummary, float], total: float) -> dict:
    summary, closing = run
    seconds = {kind: value for kind, value in summary.seconds.items() if kind != "total"} | {"closing": closing}
    check_sum(f"{words}, {stage.size} px", list(seconds.values()), total)
    epochs = pd.read_csv(summary.out / "metrics.csv")
    images = int(epochs["images"].sum())
    return {
        **asdict(stage),
        "init_sha256": read_config(summary.out)["init_sha256"],
        "images": images,
        "images_per_second": images / (seconds["training"] + seconds["waiting"]),
        "total": total,
        "seconds": seconds,
        "best_map": summary.best_score,
        "best_epoch": summary.best_epoch,
        "val_loss": float(epochs["val_loss"][summary.best_epoch - 1]),
        "epoch_map": epochs["mAP"].tolist(),
        "epoch_seconds": epochs[["train_seconds", "val_seconds"]].to_numpy().tolist(),
    }


def compare(comparison: Comparison, options: StagesRun, folder: Path) -> list[dict]:
    """A row per arm and seed, then the comparison's."""
    rows, (cheap, dear) = [], comparison.arms
    training, validation = comparison.num_rows()
    common = {
        "loader": comparison.feed.words, "train_images": training, "val_images": validation,
        "epochs": comparison.epochs, "lr": options.lr, "arch": comparison.feed.arch, "device": options.device,
        "torch_threads": torch.get_num_threads(), "loader_threads": _threads_of(comparison.feed, options),
        "precision": options.precision,
    }  # fmt: skip
    if not (options.real and comparison.name.startswith(NATIVE)):  # of hundreds of native files a batch takes minutes
        run_arm(comparison, cheap, 0, options, folder / "warm", limit=options.warm_batches)  # what is made once
    for seed in range(comparison.seeds):
        for place, arm in enumerate((cheap, dear) if seed % 2 == 0 else (dear, cheap), 1):
            row = run_arm(comparison, arm, seed, options, folder / "run")
            rows.append({**row, "place": place, **common})
            stages = ", ".join(f"{stage['size']} px {stage['total']:.1f} s" for stage in row["stages"])
            print(
                f"{comparison.name}, seed {seed}, {arm}: {row['seconds']:.1f} s ({stages}), mAP {row['final_map']:.4f}",
                flush=True,
            )
    has_target = options.device.startswith("cuda") and SIDES.get(comparison.name) == comparison.sides
    bound = TARGETS[comparison.name] if has_target else None
    return [*rows, saving(rows, cheap, dear, comparison.scored, bound)]


def _loader_threads(device: str) -> int | None:
    """Threads of our loader: beside a GPU its own choice."""
    return None if device.startswith("cuda") else loading_cores(device)


def _threads_of(feed: Feed, options: StagesRun) -> int:
    if feed.words == PAPERS:
        return loading_cores(options.device)
    return LoaderOptions(1, 1, _loader_threads(options.device)).resolved_threads


def scale(options: StagesRun) -> str:
    """What the figures are of, in words: every row has them."""
    network = timm.create_model(options.arch, num_classes=len(FREQUENCIES))
    million = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    sizes = [stage.size for stage in (*options.figure2, *options.three)]
    small = "small model, " if options.arch == CPU["arch"] else ""
    small += "small sizes, " if max(sizes) < 224 else ""
    where = "GPU" if options.device.startswith("cuda") else "CPU"
    data = str(options.data or "synthetic images")
    return f"{small}{where}, {data} ({options.arch}, {million:.1f} M parameters, {min(sizes)} to {max(sizes)} px)"


def measure(options: StagesRun, folder: Path) -> list[dict]:
    """All rows, with `scale` and `data` in each."""
    torch.set_num_threads(training_cores())
    cv2.setNumThreads(0)
    common = {"scale": scale(options), "data": str(options.data or "synthetic")}
    print(common["scale"], flush=True)
    found = prepare(options, folder)
    return [common | row for comparison in found for row in compare(comparison, options, folder)]
