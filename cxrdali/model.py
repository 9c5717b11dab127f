"""A timm classifier that takes what the loader hands over: uint8 [B, 1, S, S].

Normalisation is the model's first step, on its device and in its precision: the loader stays a quarter of the
size, and a checkpoint's numbers cannot be fed with pixels scaled for another one.
"""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MethodType

import timm
import torch
from safetensors import SafetensorError, safe_open
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from shards.errors import DataError

NORMS = ("imagenet", "weights")


@dataclass(frozen=True)
class ModelOptions:
    """arch: a timm name; pretrained: start from timm's weights; norm: mean and std of ImageNet (the paper's) or
    those that the weights were trained with; logit_scale: factor of the classifier's output (a margin loss's scale);
    channels_last: memory format of activations and weights; checkpointing: compute activations again in the backward
    pass instead of keeping them."""

    arch: str
    size: int
    pretrained: bool = True
    norm: str = "imagenet"
    logit_scale: float = 1.0
    channels_last: bool = True
    checkpointing: bool = False

    def __post_init__(self):
        if self.norm not in NORMS:
            raise DataError(f"norm {self.norm!r}: choose one of {', '.join(NORMS)}")
        if not timm.is_model(self.arch.split(".")[0]):
            near = ", ".join(timm.list_models(f"*{self.arch.split('.')[0].split('_')[0]}*")[:5]) or "none alike"
            raise DataError(f"arch {self.arch!r} is no timm model (alike: {near}); see timm.list_models()")

    @classmethod
    def of_run(cls, settings: Mapping[str, object], pretrained: bool = False) -> "ModelOptions":
        """From a run's settings, `TrainSettings.as_json` or the settings of its config.json."""
        return cls(
            settings["arch"],
            settings["size"],
            pretrained,
            settings["norm"],
            logit_scale=settings.get("ldam_scale") or 1.0,
            channels_last=settings.get("channels_last", True),
            checkpointing=settings.get("checkpointing", False),
        )


class Classifier(nn.Module):
    """uint8 [B, 1, S, S], 0..255 -> float32 logits [B, F]. `backbone` is the timm model with its own keys.

    The classifier at its end computes in float32 also under autocast: in bf16, thousands of images would share a logit.
    """

    def __init__(
        self,
        backbone: nn.Module,
        norm: str,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        logit_scale: float = 1.0,
        channels_last: bool = True,
    ):
        super().__init__()
        self.backbone, self.norm, self.logit_scale = backbone, norm, logit_scale
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        for head in self.heads:
            head.forward = MethodType(_wide, head)  # bound: a copy of the model computes with its own classifier
        scale = 1 / (255 * torch.tensor(std)).view(1, 3, 1, 1)
        shift = -(torch.tensor(mean) / torch.tensor(std)).view(1, 3, 1, 1)
        # not persistent: a checkpoint holds timm's keys alone
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        normalised = images.to(self.scale.dtype) * self.scale + self.shift  # one channel broadcasts to three
        return self._scaled(self.backbone(normalised.contiguous(memory_format=self.memory_format)))

    @property
    def heads(self) -> tuple[nn.Module, ...]:
        """The backbone's classifiers; distilled models have two, whose mean is the output."""
        found = self.backbone.get_classifier()
        return tuple(found) if isinstance(found, (tuple, list)) else (found,)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What the classifier sees of uint8 [B, 1, S, S]: float [B, D]. In evaluation mode,
        `classify(features(images))` is `forward(images)`."""
        seen = []
        handle = self.heads[0].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
        try:
            self(images)
        finally:
            handle.remove()
        return seen[0]

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """float [B, D] -> float32 logits [B, F]."""
        return self._scaled(torch.stack([head(features) for head in self.heads]).mean(dim=0))

    def _scaled(self, logits: torch.Tensor) -> torch.Tensor:
        return logits if self.logit_scale == 1 else logits * self.logit_scale


def _wide(head: nn.Module, features: torch.Tensor, *arguments, **options) -> torch.Tensor:
    """A classifier's forward, outside of autocast and from float32."""
    with torch.autocast(features.device.type, enabled=False):
        return type(head).forward(head, features.float(), *arguments, **options)


def create(options: ModelOptions, findings: int) -> Classifier:
    """Raises DataError if the weights cannot be had or the model cannot be built for this image size."""
    arguments = {"pretrained": options.pretrained, "num_classes": findings, "in_chans": 3}
    try:
        config = timm.get_pretrained_cfg(options.arch, allow_unregistered=True)
        if config is not None and config.fixed_input_size:
            arguments["img_size"] = options.size  # timm resamples most position embeddings to it
        if "img_size" in arguments and options.pretrained and not _has_filter(options.arch):
            # it would load attention biases of another size as they are, and fail
            own = timm.create_model(options.arch, **{**arguments, "img_size": config.input_size[-1]})
            backbone = timm.create_model(options.arch, **{**arguments, "pretrained": False})
            backbone.load_state_dict(_resampled(backbone, own.state_dict(), Path(options.arch)))
        else:
            backbone = timm.create_model(options.arch, **arguments)
        if options.checkpointing:
            _checkpoint(backbone, options.arch)
    except DataError:
        raise
    except Exception as error:  # timm and its hub raise their own kinds for a missing network, file or tag
        if options.pretrained:
            raise DataError(
                f"weights of {options.arch!r} cannot be had ({_first_line(error)}); download them where there is a "
                "network (they are cached), give a file with --init, or train from scratch with --no-pretrained"
            ) from error
        raise DataError(f"{options.arch!r} cannot be built for {options.size} px ({_first_line(error)})") from error
    mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    if options.norm == "weights":
        mean, std = tuple(backbone.pretrained_cfg["mean"]), tuple(backbone.pretrained_cfg["std"])
    made = Classifier(backbone, options.norm, mean, std, options.logit_scale, options.channels_last)
    return made.to(memory_format=made.memory_format)


def _has_filter(arch: str) -> bool:
    """Whether timm's file of this model has what fits weights to another image size."""
    entrypoint = timm.models.model_entrypoint(arch.split(".")[0])
    return hasattr(sys.modules[entrypoint.__module__], "checkpoint_filter_fn")


def _checkpoint(backbone: nn.Module, arch: str) -> None:
    try:
        backbone.set_grad_checkpointing(True)
    except (AttributeError, AssertionError) as error:
        raise DataError(f"{arch!r} has no gradient checkpointing; use --micro-batch instead") from error


# ---------------------------------------------------------------- initial weights


def load_initial(model: Classifier, path: Path, findings: tuple[str, ...], new_head: bool = False) -> dict[str, str]:
    """Load a run's weights (or a .safetensors / .pt file of the same architecture) into the backbone.

    Findings are matched by name: the same ones in another order are put in order, others are refused. A file
    that names none (timm's own, say) keeps its head only if the shapes agree; else the head stays new, and
    metadata["head"] says so. With new_head it stays new in any case. A head from a model of another logit scale is
    scaled so that its logits stay. Returns the file's metadata. No code is unpickled.
    """
    state, metadata = read_weights(path)
    stored, norm = metadata.get("findings"), metadata.get("norm")
    if norm and norm != model.norm:
        raise DataError(f"{path}: was trained with --norm {norm}, this run has --norm {model.norm}; give the same")
    own, head = model.backbone.state_dict(), head_keys(model)
    if stored and not new_head:
        _match_findings(model, state, tuple(stored.split("\n")), findings, path)
    elif new_head or any(key in state and state[key].shape != own[key].shape for key in head):
        state |= {key: own[key] for key in head}
        metadata = {**metadata, "head": "new"}
    if "head" not in metadata:
        factor = float(metadata.get("logit_scale", 1)) / model.logit_scale
        state |= {key: state[key] * factor for key in head if factor != 1 and key in state}
    state = _resampled(model.backbone, state, path)
    own = model.backbone.state_dict()
    missing = sorted(set(own) - set(state))
    unknown = sorted(set(state) - set(own))
    shapes = sorted(key for key in set(own) & set(state) if own[key].shape != state[key].shape)
    for kind, keys in (("lacks", missing), ("has unknown", unknown), ("has another shape of", shapes)):
        if keys:
            raise DataError(
                f"{path}: {kind} {keys[0]!r} (and {len(keys) - 1} more); "
                "initial weights must be of the same --arch and number of findings"
            )
    model.backbone.load_state_dict(state)
    return metadata


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata (text to text) of a weights file. Raises DataError if it is not one."""
    if not path.is_file():
        raise DataError(f"{path}: no such weights file; give a run folder or a .safetensors or .pt file")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise DataError(
            f"{path}: not a weights file ({_first_line(error)}); give a run folder or a .safetensors or .pt file"
        ) from error
    except Exception as error:  # torch raises pickle's own errors for refused code
        raise DataError(
            f"{path}: no weights file, or one that holds more than tensors ({_first_line(error)}); "
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
        raise DataError(f"{path}: holds no table of weights; give a run folder or a .safetensors or .pt file")
    return {key.removeprefix("module."): value for key, value in state.items()}, metadata


def _match_findings(model, state: dict, stored: tuple[str, ...], wanted: tuple[str, ...], path: Path) -> None:
    differing = sorted(set(stored) ^ set(wanted))
    if differing:
        where = "these weights" if differing[0] in stored else "the dataset's labels"
        raise DataError(
            f"{path}: finding {differing[0]!r} (and {len(differing) - 1} more) is only in {where}; "
            "train on the same --labels, or start from other weights"
        )
    places = torch.tensor([stored.index(name) for name in wanted])
    for key in head_keys(model):
        if key in state:
            state[key] = state[key][places]


def head_keys(model: Classifier) -> list[str]:
    """Keys of the backbone's classifier; distilled models have two."""
    inside = {id(parameter) for head in model.heads for parameter in head.parameters()}
    return [key for key, parameter in model.backbone.named_parameters() if id(parameter) in inside]


def _resampled(backbone: nn.Module, state: dict, path: Path) -> dict:
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
        raise DataError(f"{path}: does not fit {type(backbone).__name__} ({_first_line(error)})") from error


def _resampled_bias(key: str, stored: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
    """Attention biases [heads, N] stand for a square grid of absolute offsets between patches, the first one zero."""
    if not key.endswith("attention_biases") or own is None or own.shape == stored.shape:
        return stored
    before, after = (math.isqrt(each.shape[1]) for each in (stored, own))
    grid = stored.float().view(1, -1, before, before)
    # corners aligned: offset 0 stays offset 0
    grid = nn.functional.interpolate(grid, size=(after, after), mode="bilinear", align_corners=True)
    return grid.view(own.shape).to(stored.dtype)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
