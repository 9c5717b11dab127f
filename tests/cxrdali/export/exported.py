"""Run folders with a network's weights that no training made: as lively as trained ones, in no time."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.splits import train_and_validation
from cxrdali.models import weights_file
from cxrdali.models.classifier import create
from cxrdali.runs.layout import BEST
from cxrdali.runs.reader import Run
from shards.dataset.packed import PackedDataset
from tests.cxrdali.comparable_runs import change_config, write_run


def run_with_weights(folder: Path, dataset: PackedDataset, **settings) -> Path:
    """A run of two epochs, the second the best, whose weights and statistics are all random."""
    write_run(folder, dataset, skill=2, seed=0, **{"pretrained": False, "micro_batch": 8, **settings})
    run = Run.open(folder)
    torch.manual_seed(0)
    model = create(run.settings.model_options(), len(run.findings)).eval()
    with torch.no_grad():
        for value in model.backbone.parameters():
            value.add_(0.05 * torch.randn(value.shape))
        for key in model.finding_keys:
            value = model.backbone.state_dict()[key]
            value.add_(0.3 * torch.randn(value.shape) if value.is_floating_point() else 0)
        for name, value in model.backbone.named_buffers():
            if "running" in name:
                value.mul_(1 + torch.rand(value.shape))
    about = {**model.identity, "findings": "\n".join(run.findings), "epoch": str(run.progress.best_epoch)}
    state = {key: value.detach().clone().contiguous() for key, value in model.backbone.state_dict().items()}
    (folder / BEST).write_bytes(weights_file.sealed(save(state, about))[0])
    change_config(folder, dataset__packed={"encoding": "jpeg", "fit": "squash", "window": "percentile", "quality": 95})
    return folder


def validation_images(run: Path, dataset: PackedDataset, count: int = 7) -> np.ndarray:
    """uint8 [n, 1, S, S]: the first of its fold, as its loader gives them."""
    opened = Run.open(run)
    _, rows = train_and_validation(dataset, dataset.labels(opened.labels), opened.fold)
    options = LoaderOptions(opened.settings.data.size, count, threads=1)
    return next(iter(Loader(dataset, rows[:count], options))).images.numpy()


def logits_by_hand(run: Path, images: np.ndarray, make) -> np.ndarray:
    """float32 [n, F] by timm alone: the weights as they are in the run, pixels by ImageNet's mean and std, the scale of
    the loss. make: the timm model, from what config.json says."""
    from safetensors.torch import load_file

    settings = json.loads((run / "config.json").read_text())["settings"]
    model = make(settings).eval()
    model.load_state_dict(load_file(run / BEST))
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        values = model((torch.from_numpy(images).float().repeat(1, 3, 1, 1) / 255 - mean) / std)
    return (values * settings["loss"].get("ldam_scale", 1.0)).numpy()
