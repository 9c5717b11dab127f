"""Which effects of the two papers does a small network show on synthetic data, beyond chance and beyond one network?

    python -m benchmarks.effects.effects --work DIR --save       # continues what lies in DIR and in the rows
    python -m benchmarks.effects.page                            # docs from the committed rows

Trains the arms of `benchmarks.effects.arms` with the product's own functions. A row per arm and replicate: AP per
finding on held-out images.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean

import torch
from sklearn.metrics import average_precision_score

from benchmarks import results
from benchmarks.effects.arms import ARMS, BATCH, FLOOR, NETWORK, RATES, REPLICATES, ROUNDS, SWEPT, Arm
from benchmarks.effects.replicate import replicate
from benchmarks.options import Options, option, parse
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
from shards.dataset.labels import Labels
from shards.dataset.packed import PackedDataset

CPU = {"device": "cpu", "threads": 1}


@dataclass(frozen=True)
class EffectsRun(Options):
    """What is measured."""

    work: Path = option("effects", "folder of data and runs", lambda text: Path(text).absolute())


@dataclass(frozen=True)
class Bench:
    """One replicate, with the runs and tables of its arms below `work`. rates: by arm, once they are known."""

    work: Path
    number: int
    rates: dict[str, float]

    @cached_property
    def data(self) -> tuple[PackedDataset, Labels]:
        return replicate(self.work, self.number)

    @cached_property
    def train_rows(self):
        folds = FoldOptions(folds=NETWORK["folds"])
        return train_and_validation(self.data[0], self.data[1], folds)[0]

    def folder(self, arm: str, rate: float | None = None) -> Path:
        """Of an arm's run and tables; no rate: the arm's own."""
        rate = rate or self.rates.get(arm)
        return self.work / f"replicate{self.number}" / (f"{arm} {rate:g}" if rate else arm)

    def settings(self, arm: Arm, rate: float) -> TrainSettings:
        own = {"lr": rate, "seed": self.number, "labels": self.data[1].name, **CPU}
        if arm.how == "retrain":  # of the last step's weights; features are computed once, of all training images
            run = self.folder(arm.of[0])
            init = {"init": str(run / LAST), "limit_batches": None, "batch": 256}
            return retrain_settings(run, self.data[0], {**own, **init})
        given = {**NETWORK, **own, **arm.settings}
        if arm.name.endswith("equal images"):
            given["limit_batches"] = NETWORK["limit_batches"] * BATCH // given["batch"]
        if "cb_beta" in given:
            given["cb_beta"] = 1 - 1 / len(self.train_rows)
        return settings_of(given)

    def table(self, name: str, split: str = "test", rate: float | None = None) -> Path:
        """The file of an arm's predictions, made if it is not there."""
        file = self.folder(name, rate) / f"{split}.parquet"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            self._predicted(ARMS[name], split, file.parent).write(file)
        return file

    def _predicted(self, arm: Arm, split: str, folder: Path) -> Predictions:
        dataset, labels = self.data
        if arm.has_rate:
            return predict(folder, dataset, split, PredictOptions(weights=str(folder / LAST), batch=256, **CPU))
        members = [self.table(name, split) for name in arm.of]
        if arm.how == "views":
            return views.apply(members[0], views.fit(self.table(arm.of[0], "dev"), dataset, labels), dataset)[0]
        if arm.how == "ensemble":
            return ensemble(members)
        maps = [fmean(self.ap(self.table(name, "dev")).values()) for name in arm.of]
        return read(members[maps.index(max(maps))])

    def ap(self, file: Path) -> dict[str, float]:
        """Average precision of every finding that the table's images have."""
        table, labels = read(file), self.data[1]
        rows = self.data[0].catalog.set_index("image_id").index.get_indexer(table.ids["image_id"])
        truth = dict(zip(labels.findings, (labels.values[rows] == 1).T, strict=True))
        scores = {name: table.values[:, place] for place, name in enumerate(table.findings) if truth[name].any()}
        return {name: round(float(average_precision_score(truth[name], each)), 6) for name, each in scores.items()}

    def measured(self, arm: Arm, rate: float | None) -> dict:
        """Train or derive an arm; its row. positives: of every finding, in training and held out."""
        started, labels = time.process_time(), self.data[1]
        if arm.has_rate:
            train(self.settings(arm, rate), self.data[0], self.folder(arm.name, rate))
        ap = self.ap(self.table(arm.name, rate=rate))
        held_out = (labels.split == "test") & self.data[0].packed
        counts = [(labels.values[rows] == 1).sum(axis=0).tolist() for rows in (self.train_rows, held_out)]
        return {
            "arm": arm.name, "replicate": self.number, "rate": rate, "ap": ap,
            "train_images": len(self.train_rows), "held_out_images": int(held_out.sum()),
            "positives": dict(zip(labels.findings, zip(*counts, strict=True), strict=True)),
            "cpu_seconds": round(time.process_time() - started, 1),
        }  # fmt: skip


def mean_ap(row: dict) -> float:
    """Over the findings that have enough positives in this row's own held-out images."""
    return fmean(ap for name, ap in row["ap"].items() if row["positives"][name][1] >= FLOOR)


def next_rate(maps: dict[float, float]) -> float | None:
    """The rate to try next, by the mAP of those tried: the middle two, then the better one's other neighbour."""
    if untried := [rate for rate in RATES[1:3] if rate not in maps]:
        return untried[0]
    outer = RATES[3] if maps[RATES[2]] > maps[RATES[1]] else RATES[0]
    return None if outer in maps else outer


def todo(rows: list[dict]) -> Iterator[tuple[Arm, int, float | None, dict[str, float]]]:
    """What has no row yet, in order: arm, replicate, rate, and the rates known so far. `rows` grows meanwhile."""
    rates: dict[str, float] = {}
    for arms in ROUNDS:
        for arm in (each for each in arms if each.has_rate):
            maps: dict[float, float] = {}
            while (rate := next_rate(maps)) is not None:
                if not (found := [row for row in rows if _key(row) == (arm.name, SWEPT, rate)]):
                    yield arm, SWEPT, rate, rates
                    found = rows[-1:]
                maps[rate] = mean_ap(found[0])
            rates[arm.name] = max(maps, key=maps.__getitem__)
        for number in REPLICATES:
            done = {row["arm"] for row in rows if row["replicate"] == number}
            yield from ((arm, number, rates.get(arm.name), rates) for arm in arms if arm.name not in done)


def _key(row: dict) -> tuple:
    return row["arm"], row["replicate"], row["rate"]


def main() -> None:
    options = parse(EffectsRun, "benchmarks.effects.effects", __doc__.splitlines()[0])
    torch.set_num_threads(1)
    folder = options.save or options.work
    path = folder / "effects.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for arm, number, rate, rates in todo(rows):
        rows.append(Bench(options.work, number, dict(rates)).measured(arm, rate))
        results.save(rows[-1:], results.environment("benchmarks.effects.effects"), folder, "effects")


if __name__ == "__main__":
    main()
