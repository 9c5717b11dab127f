"""Which share of an epoch goes to metrics, checkpoints and logging?

    python -m benchmarks.overhead [--save]    # half a minute

At the size of a real run: the network's weights and AdamW's moments, 50,000 validation images with 40 findings, an
epoch of 200,000 training images. To reach: 2 % of the epoch, at every stage, in the worst case that every epoch is the
best.

    metrics       AP, AUROC and LRAP of the validation images and their loss
    checkpoint    last.pt, best.safetensors, val_predictions.parquet, metrics.csv and findings.csv, synced to the disk
    logging       an epoch's TensorBoard events
    every step    the schedule and the progress bar, times the steps of an epoch

The epoch's own seconds are derived, where no GPU is at hand, from what timm publishes for EfficientNetV2-S on an RTX
3090 (`benchmarks/pages/published.py`), training alone: a faster GPU makes the share larger, validation and smaller
batches
less. --epoch-rate puts in a rate that was measured. Held fixed: machine, folder, tables. The first run of each is
thrown away.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks import results
from benchmarks.loading.loader import Stage
from benchmarks.pages import published
from benchmarks.results import Spread
from cxrdali.metrics.ranking import score
from cxrdali.models.classifier import ModelOptions, create
from cxrdali.models.loss import LOSSES
from cxrdali.models.loss_module import LossModule, bce_sum, known_targets
from cxrdali.predictions import Predictions, Provenance
from cxrdali.runs import folder as runs
from cxrdali.runs.settings import settings_of
from cxrdali.runtime.device import Hardware
from cxrdali.train.build import schedule
from cxrdali.train.step import Step, adamw, grad_scaler
from shards.errors import UserError

STAGES = "224:256,320:128,384:80,512:48"
MOST = 0.02  # of an epoch
STEPS = 2000  # timed of the schedule and the bar
LARGEST, RAREST = 0.3, 0.001  # shares of images with the commonest and the rarest finding


def tables(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, Predictions]:
    """Targets and logits float32 [n, F], a long tail of findings, and the table of predictions."""
    draws, shape = np.random.default_rng(0), (options.validated, options.findings)
    truth = (draws.random(shape) < np.geomspace(LARGEST, RAREST, options.findings)).astype(np.float32)
    logits = (draws.normal(size=shape) + truth).astype(np.float32)
    names = tuple(f"finding {number}" for number in range(options.findings))
    ids = pd.DataFrame(
        {
            "image_id": [f"{number:08x}-0123-4567-89ab-cdef01234567" for number in range(options.validated)],
            "study_id": [str(50_000_000 + number // 2) for number in range(options.validated)],
            "view": np.resize(["frontal", "lateral"], options.validated),
        }
    )
    return truth, logits, Predictions(ids, names, logits, Provenance("logit", "run", "val", "labels", "id", "none"))


def state_of(options: argparse.Namespace) -> dict:
    """What last.pt holds: weights and, after a step, the optimizer's moments."""
    model = create(ModelOptions(options.arch, 64, pretrained=False), options.findings).train()
    hardware, optimizer = Hardware("cpu", "fp32"), adamw(model, 1e-4, 1e-6)
    loss = LossModule(LOSSES["bce"](), *[np.ones(options.findings)] * 2)
    step = Step(model, loss, optimizer, grad_scaler(hardware), hardware)
    step(torch.zeros(2, 1, 64, 64, dtype=torch.uint8), torch.zeros(2, options.findings), 0, 2)
    numbers = dict.fromkeys(runs.METRIC_COLUMNS, 0.5)
    per_finding = dict.fromkeys(runs.FINDING_COLUMNS, 0.5)
    return {
        "epoch": 1, "best_epoch": 1, "best_score": 0.5, "metrics": [numbers] * 30,
        "findings": [per_finding] * 30 * options.findings, "model": model.backbone.state_dict(),
        "optimizer": optimizer.state_dict(), "scaler": step.scaler.state_dict(), "rng": torch.get_rng_state(),
    }  # fmt: skip


def parts(options: argparse.Namespace, folder: Path) -> dict[str, Callable[[], object]]:
    """What an epoch does beside training and validation; of every step, STEPS times."""
    from torch.utils.tensorboard import SummaryWriter
    from tqdm import tqdm

    truth, values, predictions = tables(options)
    state, names = state_of(options), predictions.findings
    events = SummaryWriter(str(folder / "events"))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    plan = schedule(optimizer, settings_of(stage=1), STEPS)

    def metrics() -> None:
        wanted = torch.from_numpy(truth)
        float(bce_sum(torch.from_numpy(values).double(), wanted) / known_targets(wanted))
        score(names, truth, values)

    def checkpoint() -> None:
        best = (state["model"], {"arch": options.arch, "epoch": "1"}, predictions)
        runs.commit(folder, state, best)

    def logging() -> None:
        for name in (*runs.METRIC_COLUMNS, *names):
            events.add_scalar(name, 0.5, 1)
        events.flush()

    def every_step() -> None:
        with (folder / "bar").open("w") as file, tqdm(total=STEPS * 256, file=file, unit=" images") as bar:
            for step in range(STEPS):
                plan.step_update(step)
                bar.update(256)

    return {"metrics": metrics, "checkpoint": checkpoint, "logging": logging, "every step": every_step}


def measure(options: argparse.Namespace, folder: Path) -> list[dict]:
    found = parts(options, folder)
    seconds = {name: [] for name in found}
    for number in range(options.rounds + 1):
        for name, part in found.items():
            start = time.perf_counter()
            part()
            if number:
                seconds[name].append(time.perf_counter() - start)
    spreads = {name: Spread.of(each) for name, each in seconds.items()}
    rows = []
    for name, spread in spreads.items():
        times = {"times": STEPS} if name == "every step" else {}
        rows.append({"part": name, "seconds": asdict(spread), **times})
        print(f"  {name + (f', {STEPS:,} of them' if times else ''):28} {spread.median:8.3f} s "
              f"({spread.low:.3f} to {spread.high:.3f})", flush=True)  # fmt: skip
    for stage in options.stages:
        steps = options.trained // stage.batch
        spent = sum(spread.median for name, spread in spreads.items() if name != "every step")
        spent += spreads["every step"].median * steps / STEPS
        rate = options.epoch_rate or published.images_per_second(stage.size)
        epoch = options.trained / rate
        about = "measured, given by hand" if options.epoch_rate else f"derived: {published.GPU}, training alone"
        rows.append(
            {
                **asdict(stage),
                "what": "metrics, checkpoints and logging, share of an epoch",
                "share": spent / epoch,
                "spent_seconds": spent,
                "epoch_seconds": epoch,
                "epoch": about,
                "at_most": MOST,
                "met": spent / epoch <= MOST,
            }  # fmt: skip
        )
        verdict = "PASS" if rows[-1]["met"] else "MISS"
        print(
            f"  {stage.size} px: {spent:.2f} s of an epoch of {epoch:,.0f} s ({about}): {spent / epoch:.2%}   {verdict}"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="tf_efficientnetv2_s.in21k_ft_in1k", help="timm network [%(default)s]")
    parser.add_argument("--stages", default=STAGES, help="SIZE:BATCH,... [%(default)s]")
    parser.add_argument("--findings", type=int, default=40, help="[%(default)s]")
    parser.add_argument("--validated", type=int, default=50_000, help="images that validate [%(default)s]")
    parser.add_argument("--trained", type=int, default=200_000, help="images of an epoch [%(default)s]")
    parser.add_argument("--epoch-rate", type=float, help="images/s of training, one stage [derived, of an RTX 3090]")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each [%(default)s]")
    parser.add_argument("--work", type=Path, metavar="DIR", help="on whose disk checkpoints are [the temporary folder]")
    results.add_save_option(parser, "overhead")
    options = parser.parse_args()
    options.stages = [Stage.parse(text) for text in options.stages.split(",")]
    if options.epoch_rate and len(options.stages) != 1:
        parser.error("--epoch-rate is that of one stage: give it alone with --stages SIZE:BATCH")
    environment = results.environment("benchmarks.overhead")
    try:
        with tempfile.TemporaryDirectory(prefix="cxrdali-bench-", dir=options.work) as folder:
            rows = measure(options, Path(folder))
    except UserError as error:
        sys.exit(str(error))
    if options.save:
        common = {
            "data": "synthetic", "arch": options.arch, "findings": options.findings, "validated": options.validated,
            "trained": options.trained,
        }  # fmt: skip
        path = results.save([{**common, **row} for row in rows], environment, options.save, "overhead")
        print(f"{len(rows)} rows -> {path}")


if __name__ == "__main__":
    main()
