"""One network of timm through all that a training and what follows it do with it (`benchmarks.training.families`)."""

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import timm
import torch

from cxrdali import predictions
from cxrdali.predict.explain import explain
from cxrdali.predict.options import ExplainOptions, PredictOptions
from cxrdali.predict.predict import predict
from cxrdali.runs.layout import CONFIG, VAL_PREDICTIONS
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import settings_of
from cxrdali.train.retrain import retrain_settings
from cxrdali.train.trainer import train
from shards.dataset.packed import PackedDataset
from shards.errors import UserError

SIZES, LARGEST, BATCH = (64, 96, 128), 560, 4
STEPS = ("trains", "saves", "predicts", "explains", "caches", "other_size")  # methods of `Walk`


def smallest(family: str) -> tuple[int, str, int]:
    """The number of parameters, the name and the own size in pixels of a family's network with the fewest of them."""
    found = []
    for arch in timm.list_models(module=family):
        try:
            with torch.device("meta"):
                model = timm.create_model(arch, num_classes=2)
        except TypeError:  # an encoder, which has no classifier
            continue
        found.append((sum(map(torch.numel, model.parameters())), arch, model.pretrained_cfg["input_size"][-1]))
    return min(found)


class Walk:
    """The steps of one network, each of which raises UserError where it is refused."""

    def __init__(self, arch: str, own_size: int, data: Path, folder: Path):
        self.arch, self.dataset, self.folder, self.run = arch, PackedDataset.open(data), folder, folder / "stage1"
        self.sizes = tuple(dict.fromkeys((*SIZES, own_size)))
        self.size, self.other, self.smaller = 0, 0, ""

    def trains(self) -> None:
        self.size, self.smaller = self._first(self.sizes, 1, self.run, pretrained=False)

    def saves(self) -> None:
        Run.open(self.run).best_weights()

    def predicts(self) -> None:
        self._agree(self.run, BATCH + 1)  # with one image in the last batch

    def explains(self) -> None:
        explain(self.run, self.dataset, ExplainOptions(images=1), PredictOptions(device="cpu"))

    def caches(self) -> None:
        """The classifier is retrained in any case; its scores are those of the whole model."""
        said, log = [], logging.getLogger("cxrdali.train.build")
        log.setLevel(logging.INFO)
        log.addFilter(lambda record: said.append(record.getMessage()))
        changes = {"epochs": 1, "warmup_epochs": 0, "limit_batches": None}
        train(retrain_settings(self.run, self.dataset, changes), self.dataset, self.folder / "crt")
        self._agree(self.folder / "crt", BATCH)
        if not any("computed once" in line for line in said):
            raise UserError(" ".join(said))

    def other_size(self) -> None:
        sizes = [size for size in (*self.sizes, 2 * self.size) if self.size < size <= LARGEST] or (224, *SIZES)
        self.other, _ = self._first(sizes, 2, self.folder / "stage2", init=str(self.run))

    def _first(self, sizes: Iterable[int], stage: int, out: Path, **start: object) -> tuple[int, str]:
        """The first size that is taken, and why the first of all is not."""
        errors = []
        for size in sizes:
            about = {"stage": stage, "size": size, "arch": self.arch, "device": "cpu", **start}
            try:
                train(settings_of(about, batch=BATCH, epochs=1, limit_batches=1), self.dataset, out)
                return size, " ".join(map(str, errors[:1]))
            except UserError as error:
                if (out / CONFIG).exists():
                    raise RuntimeError("refused after the run's folder was written") from error
                errors.append(error)
        raise errors[0]

    def _agree(self, run: Path, batch: int) -> None:
        """What is predicted is what the trainer validated with."""
        stored = predictions.read(run / VAL_PREDICTIONS)
        found = predict(run, self.dataset, "val", PredictOptions(batch=batch, device="cpu"))
        same = found.ids["image_id"].isin(stored.ids["image_id"])
        np.testing.assert_allclose(found.values[same], stored.values, rtol=1e-3, atol=1e-3)
