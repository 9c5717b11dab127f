"""How far a run is, as the loop counts it, and saving and restoring it with the parts."""

from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch

from cxrdali.fitted import BEST_EPOCH, Fitted, joined, sketch
from cxrdali.metrics.ranking import Scores
from cxrdali.predictions import Predictions, Provenance
from cxrdali.runs import folder
from cxrdali.runs.layout import AVERAGED, RAW
from cxrdali.runs.same_data import with_images
from cxrdali.runtime.distributed import Ranks
from cxrdali.train.build import Parts
from cxrdali.train.selection import TrainingData
from shards.storage.files import sha256_bytes


@dataclass
class State:
    """What a checkpoint holds beside weights, optimizer and generators.

    epoch: number of finished epochs; metrics, findings: the rows of metrics.csv and findings.csv; best_checksum: of the
    best weights' file, None before the first epoch and in a run that an older version began; best_weights: whether they
    are the moving average's. The fields from `position` on are of the epoch in progress, and 0 between epochs: position
    and images count samples over all ranks, loss_sum adds up this rank's share of each batch's mean loss, norm_sum the
    gradients' norms, times are in seconds.
    """

    finding_names: list[str]
    logit_scale: float
    epoch: int = 0
    best_epoch: int = 0
    best_score: float = float("-inf")
    best_checksum: str | None = None
    best_weights: str = RAW
    metrics: list[dict] = field(default_factory=list)
    findings: list[dict] = field(default_factory=list)
    position: int = 0
    loss_sum: float | torch.Tensor = 0.0
    norm_sum: float | torch.Tensor = 0.0
    steps: int = 0
    images: int = 0
    train_seconds: float = 0.0
    wait_seconds: float = 0.0

    @classmethod
    def of(cls, loaded: dict) -> "State":
        """From what last.pt holds."""
        return cls(**{each.name: loaded[each.name] for each in fields(cls) if each.name in loaded})

    def total_loss(self, parts: Parts) -> float:
        """Of the epoch's batches so far, over all ranks. Waits for the GPU."""
        mine = torch.as_tensor(self.loss_sum, dtype=torch.float64, device=parts.hardware.device)
        return float(parts.ranks.total(mine.clone()))

    def end_epoch(self, row: dict, scores: Scores, reached: float, is_best: bool, averaged: bool = False) -> None:
        """scores, reached, averaged: of the better of the epoch's candidates, and whether that is the average."""
        self.metrics.append(row)
        self.findings += finding_rows(row["epoch"], scores)
        self.epoch = row["epoch"]
        self.position = self.steps = self.images = 0
        self.loss_sum = self.norm_sum = self.train_seconds = self.wait_seconds = 0.0
        if is_best:
            self.best_epoch, self.best_score = self.epoch, reached
            self.best_weights = AVERAGED if averaged else RAW


def finding_rows(epoch: int, scores: Scores) -> list[dict]:
    """An epoch's rows of findings.csv."""
    return [
        {
            "epoch": epoch,
            "finding": name,
            "AP": float(scores.ap[place]),
            "AUROC": float(scores.auroc[place]),
            "positives": int(scores.positives[place]),
            "negatives": int(scores.negatives[place]),
        }
        for place, name in enumerate(scores.findings)
    ]


@dataclass(frozen=True)
class Chosen:
    """The better candidate of a finished epoch. reached: its score; averaged: whether it is the moving average; logits:
    of the validation images, on rank 0 if it is the best so far."""

    reached: float
    averaged: bool
    logits: np.ndarray | None


def save(out: Path, parts: Parts, state: State, chosen: Chosen | None = None) -> None:
    """Called by all ranks; rank 0 writes, and none goes on before it has. chosen: of an epoch that has just ended."""
    about, kept, ema = _about(parts, state.epoch), None, parts.step.ema
    if chosen and (chosen.logits is not None or parts.settings.optimizer.keep_epochs):
        score = {parts.settings.optimizer.select_by: repr(chosen.reached)}
        if chosen.averaged:
            score["weights"] = AVERAGED
        weights = ema.weights() if chosen.averaged else parts.model.backbone.state_dict()
        table = None if chosen.logits is None else _predictions(out.name, parts.data, chosen.logits)
        kept = (weights, about | score, table)
    ranks, device = parts.ranks, parts.hardware.device
    cuda = None if device == "cpu" else torch.cuda.get_rng_state(device)
    generators = ranks.gather((torch.get_rng_state(), cuda))
    loss_sum = state.total_loss(parts)
    if generators is not None:
        (rng, cuda), *others = generators
        full = {
            **vars(state),
            "about": about,
            "loss_sum": loss_sum,
            "norm_sum": float(state.norm_sum),
            "model": parts.model.backbone.state_dict(),
            "optimizer": parts.step.optimizer.state_dict(),
            "scaler": parts.step.scaler.state_dict(),
            **({"averaged": ema.state_dict()} if ema else {}),
            "rng": rng,
            "cuda_rng": cuda,
            "rank_rngs": others,
        }
        folder.commit(out, full, parts.settings, kept)
        state.best_checksum = full["best_checksum"]
    ranks.wait()


def _about(parts: Parts, epoch: int) -> dict[str, str]:
    """The metadata of weights after so many epochs: what they are of, and what they were trained on."""
    data = parts.data
    trained = {"findings": "\n".join(data.findings), "labels": data.labels.name, "dataset": data.dataset.id}
    return {**parts.model.identity, **trained, "epoch": str(epoch)}


def _predictions(run: str, data: TrainingData, values: np.ndarray) -> Predictions:
    """The table of the validation images' logits."""
    ids = data.dataset.of_rows(data.val_rows, "image_id", "study_id", "view")
    fitted = joined([Fitted((BEST_EPOCH,), sketch(ids), "val"), *data.chosen])
    provenance = Provenance(
        "logit", run, "val", data.labels.name, data.dataset.id, "none", seen=data.leak, fitted=fitted
    )
    return Predictions(ids, data.findings, values, with_images(provenance, data.dataset, data.val_rows))


def begin(parts: Parts) -> State:
    """The state of a run that has not trained yet."""
    _own_generators(parts.ranks, parts.settings.seed, 0, 0)
    return State(list(parts.data.findings), parts.model.logit_scale)


def restore(parts: Parts, loaded: dict) -> State:
    """The state of a run that continues; its optimizer and generators go on from there. The model has its weights."""
    state, ranks = State.of(loaded), parts.ranks
    load_optimizer(parts.step.optimizer, loaded.pop("optimizer"))
    parts.step.scaler.load_state_dict(loaded.pop("scaler"))
    if parts.step.ema:
        parts.step.ema.load_state_dict(loaded.pop("averaged"))
    if not ranks.is_first:
        state.loss_sum = 0.0  # rank 0 has all of it
    generators = [(loaded["rng"], loaded["cuda_rng"]), *loaded["rank_rngs"]]
    if len(generators) != ranks.world:
        _own_generators(ranks, parts.settings.seed, state.epoch, state.position)
        return state
    rng, cuda = generators[ranks.rank]
    torch.set_rng_state(rng)
    if cuda is not None and parts.hardware.device != "cpu":
        torch.cuda.set_rng_state(cuda, parts.hardware.device)
    return state


def load_optimizer(optimizer: torch.optim.Optimizer, stored: dict) -> None:
    """Load what `optimizer.state_dict` gave, with each moment laid out in memory as its parameter is now.

    Fused AdamW pairs numbers by their place in memory: under --channels-last they lie in another order than without.
    Moments of a parameter that has grown with the size of the images (embeddings of positions) begin anew.
    """
    optimizer.load_state_dict(stored)
    for parameter, kept in list(optimizer.state.items()):
        if any(value.ndim and value.shape != parameter.shape for value in kept.values() if torch.is_tensor(value)):
            del optimizer.state[parameter]
        for name, value in kept.items():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                kept[name] = torch.empty_like(parameter).copy_(value)


def _own_generators(ranks: Ranks, seed: int, epoch: int, position: int) -> None:
    """Dropout differs from rank to rank; with another number of ranks than before it begins anew, from here."""
    if (epoch, position, ranks.rank) != (0, 0, 0):
        words = f"{seed} {epoch} {position} {ranks.rank} of {ranks.world}"
        torch.manual_seed(int(sha256_bytes(words.encode())[:15], 16))
