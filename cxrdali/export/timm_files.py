"""A run's weights for timm: a file for `timm.create_model(..., checkpoint_path=FILE)`, and config.json of a folder."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from safetensors import torch as safetensors
from torch import nn

from cxrdali.export.check import Expected
from cxrdali.models import weights_file
from cxrdali.models.architectures import in_timm
from cxrdali.models.checkpoint_file import first_line
from cxrdali.models.classifier import Classifier
from cxrdali.models.weights import output_keys
from shards.errors import UserError

CROPS = {"squash": "squash", "pad": "border", "crop": "center"}  # timm's name of each of FITS
INTERPOLATION = "bilinear"  # of timm's, the one whose pixels came nearest to packed ones
KEPT = ("first_conv", "classifier", "fixed_input_size")  # of timm's own description of a network


def weights(model: Classifier, about: Mapping[str, str]) -> bytes:
    """A safetensors file with timm's own keys. The logit scale is in the classifier: timm has no other place for it.

    It names the findings as runs do, so that `train --init` takes it too.
    """
    layout = torch.contiguous_format
    state = {key: value.detach().clone(memory_format=layout) for key, value in model.backbone.state_dict().items()}
    for key in output_keys(model):
        state[key] *= model.logit_scale
    own = {"findings": "\n".join(json.loads(about["findings"])), "logit_scale": "1.0", "input": feeding(model)}
    return weights_file.sealed(safetensors.save(state, {**about, **own, "format": "pt"}))[0]


def arguments(model: Classifier, num_findings: int) -> dict[str, Any]:
    """Of `timm.create_model`, beside the network's name and where the weights are."""
    fixed = model.backbone.pretrained_cfg.get("fixed_input_size")
    own = in_timm(model.options.arch)[1]
    return {"num_classes": num_findings, **({"img_size": model.options.size} if fixed else {}), **own}


def feeding(model: Classifier) -> str:
    """What the network is to be given, in words."""
    size, mean, std = (model.identity[name] for name in ("size", "mean", "std"))
    return f"float32 [N, 3, {size}, {size}]: the gray image / 255, three times, less mean {mean}, by std {std}"


def check(make: Callable[[], nn.Module], model: Classifier, expected: Expected, what: str) -> None:
    """Compare the logits of what timm makes of a file or folder. Raises UserError if it cannot load it."""
    try:
        made = make().eval()
    except Exception as error:  # of any network
        head = model.options.head.name
        why = first_line(error) if head == "linear" else f"the head {head!r} is none of timm's"
        words = f"timm's {model.options.arch} has no place for this network ({why})"
        raise UserError(f"{what}: {words}; use --to onnx or torchscript, which hold any") from error
    mean, std = (torch.tensor(json.loads(model.identity[name])).view(3, 1, 1) for name in ("mean", "std"))

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return made((torch.from_numpy(images).expand(-1, 3, -1, -1) / 255 - mean) / std).numpy()

    expected.check(run, what)


def config(model: Classifier, about: Mapping[str, str]) -> dict[str, Any]:
    """config.json as timm and the Hugging Face Hub read it."""
    findings, packed, size = json.loads(about["findings"]), json.loads(about["packed"]) or {}, model.options.size
    given = arguments(model, len(findings))
    count = given.pop("num_classes")
    return {
        "architecture": in_timm(model.options.arch)[0].partition(".")[0],
        "num_classes": count,
        "num_features": model.backbone.num_features,
        "label_names": findings,
        "model_args": given,
        "pretrained_cfg": {
            **{name: model.backbone.pretrained_cfg.get(name) for name in KEPT},
            **{name: json.loads(model.identity[name]) for name in ("mean", "std")},
            "input_size": [3, size, size], "num_classes": count, "custom_load": False,
            "interpolation": INTERPOLATION, "crop_pct": 1.0, "crop_mode": CROPS.get(packed.get("fit"), "squash"),
        },
        "cxrdali": {**about, "logit_scale": "1.0"},  # it is in the weights
    }  # fmt: skip
