"""Which effects of the two papers does a small network show on synthetic data, beyond chance and beyond one network?

    python -m benchmarks.effects.effects --work DIR --save       # continues what lies in DIR and in the rows
    python -m benchmarks.effects.page                            # docs from the committed rows

Trains the arms of `benchmarks.effects.arms` with the product's own functions. A row per arm and replicate: AP per
finding on held-out images.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean

import torch
from sklearn.metrics import average_precision_score

from benchmarks import results
from benchmarks.effects.arms import ARMS, BATCH, EPOCHS, FLOOR, NETWORK, RATES, REPLICATES, ROUNDS, STEPS, SWEPT, Arm
from benchmarks.effects.replicate import SIZE, STUDIES, Replicate, replicate
from benchmarks.options import Options, listed, option, parse
from cxrdali.data.options import FoldOptions
from cxrdali.data.splits import train_and_validation
from cxrdali.postprocess import views
from cxrdali.postprocess.ensemble import ensemble
from cxrdali.predict.options import PredictOptions
from cxrdali.predict.predict import predict
from cxrdali.predictions import Predictions, read
from cxrdali.runs.layout import LAST
from cxrdali.runs.settings import TrainSettings, settings_of
from cxrdali.train.retrain import retrain_settings
from cxrdali.train.trainer import train

FOLDS = 30  # one of them is the run's own validation, on which nothing is chosen
THREADS = {"device": "cpu", "threads": 1}


@dataclass(frozen=True)
class EffectsRun(Options):
    """What is measured."""

    work: Path = option("effects", "folder of data and runs", lambda text: Path(text).absolute())
    replicates: tuple[int, ...] = option(",".join(map(str, REPLICATES)), "which", listed(int))
    studies: int = option(STUDIES, "synthetic studies of a release, which has two replicates")
    steps: int = option(STEPS, f"optimizer steps in each of the {EPOCHS} parts of a run")


@dataclass(frozen=True)
class Bench:
    """One replicate, with the runs and tables of its arms. rates: by arm, once they are known."""

    options: EffectsRun
    number: int
    rates: dict[str, float]

    @cached_property
    def data(self) -> Replicate:
        return replicate(self.options.work, self.number, self.options.studies)

    @cached_property
    def labels(self):
        return self.data.dataset.labels(self.data.labels)

    def folder(self, arm: str, rate: float | None = None) -> Path:
        """Of an arm's run and tables; no rate: the arm's own."""
        rate = rate or self.rates.get(arm)
        return self.options.work / f"replicate{self.number}" / (f"{arm} {rate:g}" if rate else arm)

    def settings(self, arm: Arm, rate: float) -> TrainSettings:
        own = {"lr": rate, "seed": self.number, "labels": self.data.labels, **THREADS}
        if arm.how == "retrain":  # of the last step's weights; its features are computed once, of all training images
            (run,) = map(self.folder, arm.of)
            init = {"init": str(run / LAST), "limit_batches": None, "batch": 256}
            return retrain_settings(run, self.data.dataset, {**own, **init})
        given = {"stage": 1, "size": SIZE, "batch": BATCH, "epochs": EPOCHS, "folds": FOLDS, **NETWORK, **own}
        given |= {"limit_batches": self.options.steps, **arm.settings}
        if arm.name.endswith("equal images"):
            given["limit_batches"] = self.options.steps * BATCH // given["batch"]
        if "cb_beta" in given:
            given["cb_beta"] = 1 - 1 / self.training_images
        return settings_of(given)

    @cached_property
    def train_rows(self):
        return train_and_validation(self.data.dataset, self.labels, FoldOptions(folds=FOLDS))[0]

    @property
    def training_images(self) -> int:
        return len(self.train_rows)

    def table(self, name: str, split: str = "test", rate: float | None = None) -> Path:
        """The file of an arm's predictions, made if it is not there."""
        file = self.folder(name, rate) / f"{split}.parquet"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            self._predicted(ARMS[name], split, file.parent).write(file)
        return file

    def _predicted(self, arm: Arm, split: str, folder: Path) -> Predictions:
        if arm.has_rate:
            how = PredictOptions(weights=str(folder / LAST), batch=256, **THREADS)
            return predict(folder, self.data.dataset, split, how)
        members = [self.table(name, split) for name in arm.of]
        if arm.how == "views":
            rules = views.fit(self.table(arm.of[0], "dev"), self.data.dataset, self.labels)
            return views.apply(members[0], rules, self.data.dataset)[0]
        if arm.how == "ensemble":
            return ensemble(members)
        maps = [fmean(self.ap(self.table(name, "dev")).values()) for name in arm.of]
        return read(members[maps.index(max(maps))])

    def ap(self, file: Path) -> dict[str, float]:
        """Average precision of every finding that the table's images have."""
        table = read(file)
        rows = self.data.dataset.catalog.set_index("image_id").index.get_indexer(table.ids["image_id"])
        truth = self.labels.values[rows] == 1
        scores = {name: table.values[:, place] for place, name in enumerate(table.findings)}
        columns = {name: truth[:, place] for place, name in enumerate(self.labels.findings) if truth[:, place].any()}
        return {name: round(float(average_precision_score(has, scores[name])), 6) for name, has in columns.items()}

    def measured(self, arm: Arm, rate: float | None) -> dict:
        """Train or derive an arm; its row. positives: of every finding, in training and held out."""
        started = time.process_time()
        if arm.has_rate:
            train(self.settings(arm, rate), self.data.dataset, self.folder(arm.name, rate))
        ap = self.ap(self.table(arm.name, rate=rate))
        held_out = (self.labels.split == "test") & self.data.dataset.packed
        counts = [(self.labels.values[rows] == 1).sum(axis=0).tolist() for rows in (self.train_rows, held_out)]
        return {
            "arm": arm.name, "replicate": self.number, "rate": rate, "ap": ap, "steps": EPOCHS * self.options.steps,
            "train_images": self.training_images, "held_out_images": int(held_out.sum()),
            "positives": dict(zip(self.labels.findings, zip(*counts, strict=True), strict=True)),
            "cpu_seconds": round(time.process_time() - started, 1),
        }  # fmt: skip


def mean_ap(row: dict) -> float:
    """Over the findings that have enough positives in this row's own held-out images."""
    return fmean(ap for name, ap in row["ap"].items() if row["positives"][name][1] >= FLOOR)


def next_rate(maps: dict[float, float]) -> float | None:
    """The rate to try next, by the mAP of those tried: the middle two, then the better one's other neighbour."""
    untried = [rate for rate in RATES[1:3] if rate not in maps]
    if untried:
        return untried[0]
    outer = RATES[3] if maps[RATES[2]] > maps[RATES[1]] else RATES[0]
    return None if outer in maps else outer


def todo(replicates: Sequence[int], rows: list[dict]) -> Iterator[tuple[Arm, int, float | None, dict[str, float]]]:
    """What has no row yet, in order: arm, replicate, rate, and the rates known so far. `rows` grows meanwhile."""
    rates: dict[str, float] = {}
    for arms in ROUNDS:
        for arm in (each for each in arms if each.has_rate):
            while True:
                maps = {
                    row["rate"]: mean_ap(row) for row in rows if (row["arm"], row["replicate"]) == (arm.name, SWEPT)
                }
                if (rate := next_rate(maps)) is None:
                    break
                yield arm, SWEPT, rate, rates
            rates[arm.name] = max(maps, key=maps.__getitem__)
        for number in replicates:
            done = {row["arm"] for row in rows if row["replicate"] == number}
            yield from ((arm, number, rates.get(arm.name), rates) for arm in arms if arm.name not in done)


def main() -> None:
    options = parse(EffectsRun, "benchmarks.effects.effects", __doc__.splitlines()[0])
    torch.set_num_threads(1)
    folder = options.save or options.work
    path = folder / "effects.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for arm, number, rate, rates in todo(options.replicates, rows):
        rows.append(Bench(options, number, dict(rates)).measured(arm, rate))
        results.save(rows[-1:], results.environment("benchmarks.effects.effects"), folder, "effects")
        print(f"{arm.name}, {number}, {rate}: {mean_ap(rows[-1]):.4f}, {rows[-1]['cpu_seconds']} CPU s", flush=True)


if __name__ == "__main__":
    main()
