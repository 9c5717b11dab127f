"""A run's weights for timm: a file for `timm.create_model(..., checkpoint_path=FILE)`, and a folder for `local-dir:`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors import torch as safetensors
from torch import nn

from cxrdali.export.check import Expected
from cxrdali.export.network import timm_state
from cxrdali.models import weights_file
from cxrdali.models.checkpoint_file import first_line
from cxrdali.models.classifier import Classifier
from cxrdali.runs.reader import Run
from shards.errors import UserError

CROPS = {"squash": "squash", "pad": "border", "crop": "center"}  # timm's name of each of FITS
KEPT = ("first_conv", "classifier", "fixed_input_size")  # of timm's own description of a network


def weights(model: Classifier, run: Run, about: Mapping[str, str]) -> bytes:
    """A safetensors file with timm's own keys. It names the findings as runs do, so `train --init` takes it too."""
    own = {"findings": "\n".join(run.findings), "logit_scale": "1.0", "format": "pt", "feed": feeding(model, run)}
    return weights_file.sealed(safetensors.save(timm_state(model), {**about, **own}))[0]


def arguments(model: Classifier, run: Run) -> dict[str, Any]:
    """Of `timm.create_model`, beside the network's name and where the weights are."""
    fixed = model.backbone.pretrained_cfg.get("fixed_input_size")
    return {"num_classes": len(run.findings), **({"img_size": run.settings.data.size} if fixed else {})}


def feeding(model: Classifier, run: Run) -> str:
    """What the network is to be given, in words."""
    mean, std = _pixels(model)
    size = run.settings.data.size
    return f"float32 [N, 3, {size}, {size}]: the gray image / 255, three times, less mean {mean}, by std {std}"


def check_weights(model: Classifier, run: Run, data: bytes, expected: Expected, what: str) -> None:
    """Load the tensors into timm's model and compare its logits. Raises UserError where that has no place for them."""
    arch, head = run.settings.model.arch, run.settings.model.head.name
    try:
        made = timm.create_model(arch, **arguments(model, run))
        made.load_state_dict(safetensors.load(data), strict=True)
    except Exception as error:  # of any network
        why = first_line(error) if head == "linear" else f"the head {head!r} is none of timm's"
        raise UserError(
            f"{what}: timm's {arch} has no place for this network ({why}); use --to onnx or torchscript, which hold any"
        ) from error
    _compare(made, model, expected, what)


def check_folder(folder: Path, model: Classifier, expected: Expected, what: str) -> None:
    """Load a folder as timm does from the Hub, and compare its logits."""
    try:
        made = timm.create_model(f"local-dir:{folder}", pretrained=True)
    except Exception as error:  # of any network
        raise UserError(f"{what}: timm cannot load it ({first_line(error)}); use another target") from error
    _compare(made, model, expected, what)


def _compare(made: nn.Module, model: Classifier, expected: Expected, what: str) -> None:
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in _pixels(model))
    made.eval()

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return made((torch.from_numpy(images).expand(-1, 3, -1, -1) / 255 - mean) / std).numpy()

    expected.check(run, what)


def _pixels(model: Classifier) -> tuple[list[float], list[float]]:
    """Mean and standard deviation that pixels of 0 to 1 are normalised with."""
    return json.loads(model.identity["mean"]), json.loads(model.identity["std"])


def config(model: Classifier, run: Run, about: Mapping[str, str]) -> dict[str, Any]:
    """config.json as timm and the Hugging Face Hub read it."""
    size, (mean, std), known = run.settings.data.size, _pixels(model), model.backbone.pretrained_cfg
    made, packed = arguments(model, run), run.config["dataset"].get("packed") or {}
    return {
        "architecture": run.settings.model.arch.partition(".")[0],
        "num_classes": made.pop("num_classes"),
        "num_features": model.backbone.num_features,
        "label_names": list(run.findings),
        "model_args": made,
        "pretrained_cfg": {
            **{name: known.get(name) for name in KEPT},
            "input_size": [3, size, size], "mean": mean, "std": std, "num_classes": len(run.findings),
            "interpolation": "box", "crop_pct": 1.0, "crop_mode": CROPS.get(packed.get("fit"), "squash"),
            "pool_size": None, "custom_load": False,
        },
        "cxrdali": {**about, "logit_scale": "1.0"},  # it is in the weights
    }  # fmt: skip
