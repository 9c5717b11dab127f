"""Weights from files into a model: of a run, of another size, with other findings."""

import math
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from cxrdali.models import weights_file
from shards.errors import UserError
from shards.storage.sealed import CHECKSUM, note_unsealed

if TYPE_CHECKING:
    from cxrdali.models.classifier import Classifier


def load_initial(model: "Classifier", path: Path, findings: tuple[str, ...], new_head: bool = False) -> dict[str, str]:
    """Load a run's weights (or a .safetensors / .pt file of the same architecture) into the backbone.

    Findings are matched by name: the same ones in another order are put in order, others are refused. A file
    that names none (timm's own, say) keeps its head only if the shapes agree; else the head stays new, and
    metadata["head"] says so. With new_head it stays new in any case. A head from a model of another logit scale is
    scaled so that its logits stay. Returns the file's metadata. No code is unpickled.
    """
    state, metadata = read_weights(path)
    stored, norm = metadata.get("findings"), metadata.get("norm")
    if norm and norm != model.norm:
        raise UserError(f"{path}: was trained with --norm {norm}, this run has --norm {model.norm}; give the same")
    own, head = model.backbone.state_dict(), head_keys(model)
    if stored and not new_head:
        _match_findings(model, state, tuple(stored.split("\n")), findings, path)
    elif new_head or any(key in state and state[key].shape != own[key].shape for key in head):
        state |= {key: own[key] for key in head}
        metadata = {**metadata, "head": "new"}
    if "head" not in metadata:
        factor = float(metadata.get("logit_scale", 1)) / model.logit_scale
        state |= {key: state[key] * factor for key in head if factor != 1 and key in state}
    state = resampled(model.backbone, state, path)
    own = model.backbone.state_dict()
    missing = sorted(set(own) - set(state))
    unknown = sorted(set(state) - set(own))
    shapes = sorted(key for key in set(own) & set(state) if own[key].shape != state[key].shape)
    for kind, keys in (("lacks", missing), ("has unknown", unknown), ("has another shape of", shapes)):
        if keys:
            raise UserError(
                f"{path}: {kind} {keys[0]!r} (and {len(keys) - 1} more); "
                "initial weights must be of the same --arch and number of findings"
            )
    model.backbone.load_state_dict(state)
    return metadata


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata (text to text) of a weights file. Raises UserError if it is not one, or is not what was
    written."""
    if not path.is_file():
        raise UserError(f"{path}: no such weights file; give a run folder or a .safetensors or .pt file")
    try:
        if path.suffix == ".safetensors":
            about = weights_file.check(path)
            if CHECKSUM not in about and "findings" in about:  # not of ours: timm's, say
                note_unsealed(path)
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, about  # noqa: SIM118
        check_records(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise UserError(
            f"{path}: not a weights file ({first_line(error)}); give a run folder or a .safetensors or .pt file"
        ) from error
    except UserError:
        raise
    except Exception as error:  # torch raises pickle's own errors for refused code
        raise UserError(
            f"{path}: no weights file, or one that holds more than tensors ({first_line(error)}); "
            "give a run folder or a .safetensors or .pt file of tensors"
        ) from error
    metadata = {}
    if isinstance(state, dict) and "finding_names" in state:  # a run's last.pt
        metadata["findings"] = "\n".join(state["finding_names"])
        metadata["logit_scale"] = str(state.get("logit_scale", 1.0))
    for key in ("state_dict_ema", "model_ema", "state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path}: holds no table of weights; give a run folder or a .safetensors or .pt file")
    return {key.removeprefix("module."): value for key, value in state.items()}, metadata


def check_records(path: Path) -> None:
    """Raises ValueError if a file that torch.save wrote is damaged: its records have CRCs, at which torch.load does not
    look."""
    if not zipfile.is_zipfile(path):  # of torch before 1.6
        return
    with zipfile.ZipFile(path) as records:
        damaged = records.testzip()
    if damaged:
        raise ValueError(f"its record {damaged!r} is damaged, by its CRC-32")


def _match_findings(
    model: "Classifier", state: dict, stored: tuple[str, ...], wanted: tuple[str, ...], path: Path
) -> None:
    differing = sorted(set(stored) ^ set(wanted))
    if differing:
        where = "these weights" if differing[0] in stored else "the dataset's labels"
        raise UserError(
            f"{path}: finding {differing[0]!r} (and {len(differing) - 1} more) is only in {where}; "
            "train on the same --labels, or start from other weights"
        )
    places = torch.tensor([stored.index(name) for name in wanted])
    for key in head_keys(model):
        if key in state:
            state[key] = state[key][places]


def head_keys(model: "Classifier") -> list[str]:
    """Keys of the backbone's classifier; distilled models have two."""
    inside = {id(parameter) for head in model.heads for parameter in head.parameters()}
    return [key for key, parameter in model.backbone.named_parameters() if id(parameter) in inside]


def resampled(backbone: nn.Module, state: dict, path: Path) -> dict:
    """Models with position embeddings bring a filter that fits a checkpoint of another image size; EfficientFormer's
    attention biases are resampled here."""
    own = backbone.state_dict()
    if all(key not in state or state[key].shape == value.shape for key, value in own.items()):
        return state
    filter_fn: Callable | None = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if filter_fn is None:
        return {key: _resampled_bias(key, value, own.get(key)) for key, value in state.items()}
    try:
        return filter_fn(state, backbone)
    except Exception as error:
        raise UserError(f"{path}: does not fit {type(backbone).__name__} ({first_line(error)})") from error


def _resampled_bias(key: str, stored: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
    """Attention biases [heads, N] stand for a square grid of absolute offsets between patches, the first one zero."""
    if not key.endswith("attention_biases") or own is None or own.shape == stored.shape:
        return stored
    before, after = (math.isqrt(each.shape[1]) for each in (stored, own))
    grid = stored.float().view(1, -1, before, before)
    # corners aligned: offset 0 stays offset 0
    grid = nn.functional.interpolate(grid, size=(after, after), mode="bilinear", align_corners=True)
    return grid.view(own.shape).to(stored.dtype)


def first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
