"""Weights from files into a model: of a run, of another size, with other findings."""

import math
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
        state |= {key: state[key] * factor for key in output_keys(model) if factor != 1 and key in state}
    state = resampled(model.backbone, state, path)
    check_size(model, state, metadata, path)
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
    for key in model.finding_keys:
        if key in state and len(state[key]) == len(places):
            state[key] = state[key][places]


def output_keys(model: "Classifier") -> list[str]:
    """Keys of the parameters by which logits grow with a factor: rows per finding, of which those of a norm (one number
    each) come last, and alone."""
    found, parameters = [], dict(model.backbone.named_parameters())
    for head in model.heads:
        inside = {id(parameter) for parameter in head.parameters()}
        rows = [key for key in model.finding_keys if key in parameters and id(parameters[key]) in inside]
        norms = {key.rpartition(".")[0] for key in rows if key.endswith("weight") and parameters[key].ndim == 1}
        found += [key for key in rows if not norms or key.rpartition(".")[0] in norms]
    return found


def head_keys(model: "Classifier") -> list[str]:
    """Keys of the parameters of the backbone's classifiers, all their layers."""
    inside = {id(parameter) for head in model.heads for parameter in head.parameters()}
    return [key for key, parameter in model.backbone.named_parameters() if id(parameter) in inside]


def check_size(model: "Classifier", state: dict, metadata: dict[str, str], path: Path) -> None:
    """Raises UserError if weights of the same network at another image size have other shapes than it has here."""
    own, arch, size, stored = model.backbone.state_dict(), model.options.arch, model.options.size, metadata.get("size")
    other = next((key for key in own if key in state and state[key].shape != own[key].shape), None)
    if other and metadata.get("arch") == arch and stored not in (None, str(size)):
        raise UserError(
            f"{path}: was trained at {stored} px, this run is at {size} px, and {arch!r} cannot change its size "
            f"({other!r}); give --size {stored}"
        )


def resampled(backbone: nn.Module, state: dict, path: Path) -> dict:
    """A checkpoint of another image size fitted to this one: by timm's filter for the model, where it brings one, and
    what that leaves as it was by `_resampled`."""
    own = backbone.state_dict()

    def fits() -> bool:
        return all(key not in state or state[key].shape == value.shape for key, value in own.items())

    filter_fn: Callable | None = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if filter_fn and not fits():
        try:
            state = filter_fn(dict(state), backbone)
        except Exception as error:
            raise UserError(f"{path}: does not fit {type(backbone).__name__} ({first_line(error)})") from error
    return state if fits() else {key: _resampled(key, value, own.get(key)) for key, value in state.items()}


def _resampled(key: str, stored: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
    """Embeddings and biases by position, on a square grid along one axis (behind tokens without a place) or along two.

    Anything else stays as it is.
    """
    named = re.search("pos|attention_biases", key)
    if own is None or not named or stored.ndim != own.ndim or not stored.is_floating_point():
        return stored
    axes = [axis for axis in range(own.ndim) if stored.shape[axis] != own.shape[axis]]
    if not axes or axes != list(range(axes[0], axes[0] + len(axes))) or len(axes) > 2:
        return stored
    moved = stored.float().movedim(axes, list(range(-len(axes), 0))).flatten(-len(axes))  # [..., places]
    before, after = moved.shape[-1], math.prod(own.shape[axis] for axis in axes)
    if re.search("rel_pos_[hw]$", key):  # offsets along one axis
        line = nn.functional.interpolate(moved[None], size=after, mode="linear", align_corners=True)[0]
        return line.movedim(-1, axes[0]).to(stored.dtype)
    # prefix: the fewest tokens without a place
    prefix = next((n for n in range(4) if all(math.isqrt(each - n) ** 2 == each - n for each in (before, after))), None)
    if prefix is None:
        return stored
    old, new = math.isqrt(before - prefix), math.isqrt(after - prefix)
    grid = moved[..., prefix:].reshape(1, -1, old, old)
    # between biases of offsets, corners are aligned: offset 0 stays offset 0
    offsets = key.endswith("attention_biases") or "rel" in key
    how: dict[str, Any] = (
        {"mode": "bilinear", "align_corners": True} if offsets else {"mode": "bicubic", "antialias": True}
    )
    grid = nn.functional.interpolate(grid, size=(new, new), **how).view(*moved.shape[:-1], new * new)
    placed = torch.cat([moved[..., :prefix], grid], dim=-1)
    sizes = [own.shape[axis] for axis in axes]
    return placed.unflatten(-1, sizes).movedim(list(range(-len(axes), 0)), axes).to(stored.dtype)


def first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
