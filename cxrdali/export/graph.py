"""A run as one file that needs neither cxrdali nor timm, from raw pixels to probabilities: ONNX, or TorchScript."""

import io
import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import nn

from cxrdali.export.check import Expected
from cxrdali.models.checkpoint_file import first_line
from cxrdali.models.classifier import Classifier
from cxrdali.postprocess.calibration_maps import Affine, Map
from shards.errors import UserError

T = TypeVar("T")
INPUT = "images"
ABOUT = "cxrdali.json"  # in a TorchScript file: its metadata


class Exported(nn.Module):
    """uint8 [N, 1, S, S], 0 to 255 -> float32 [N, F]: normalised, scaled and calibrated inside."""

    def __init__(self, model: Classifier, maps: Sequence[Map], probabilities: bool):
        super().__init__()
        self.model, self.probabilities = model, probabilities
        self.calibrated = Calibrated(maps) if maps else nn.Identity()
        self.eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.calibrated(self.model(images).float())
        return logits.sigmoid() if self.probabilities else logits


class Calibrated(nn.Module):
    """float32 logits [N, F] -> calibrated ones, by a map per finding (`cxrdali.postprocess.calibration_maps`).

    Both kinds of map in one formula: slope * logit + offset + log p - log q, where p and q = 1 - p are interpolated
    between knots, and are one half each for an affine map. q has knots of its own: 1 - p would lose digits near 1.
    """

    def __init__(self, maps: Sequence[Map]):
        super().__init__()
        rows = [
            (each.slope, each.offset, (0.0,), (0.5,))
            if isinstance(each, Affine)
            else (each.tilt, -each.tilt * each.centre, each.logits, each.probabilities)
            for each in maps
        ]
        slopes, offsets, knots, values = zip(*rows, strict=True)
        self.width = max(map(len, knots))

        def padded(lists: Sequence[Sequence[float]], fill: float) -> torch.Tensor:
            return torch.tensor([[*each, *[fill] * (self.width - len(each))] for each in lists], dtype=torch.float64)

        p = padded(values, 0.5).flatten()
        buffers = {"slope": torch.tensor(slopes), "offset": torch.tensor(offsets), "p": p, "q": 1 - p}
        for name, value in {**buffers, "knots": padded(knots, float("inf"))}.items():
            self.register_buffer(name, value.float())
        self.register_buffer("last", torch.tensor([len(each) - 1 for each in knots]))
        self.register_buffer("first", torch.arange(len(knots)) * self.width)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        result = logits * self.slope + self.offset
        if self.width == 1:
            return result
        below = (logits.unsqueeze(-1) >= self.knots).sum(dim=-1)  # knots at or below each logit
        low, high = (below - 1).clamp(min=0) + self.first, torch.minimum(below, self.last) + self.first
        start, end = self.knots.flatten()[low], self.knots.flatten()[high]
        inside = end > start
        share = torch.where(inside, (logits - start) / torch.where(inside, end - start, 1.0), 0.0)
        p, q = (values[low] + share * (values[high] - values[low]) for values in (self.p, self.q))
        return result + torch.log(p) - torch.log(q)


def onnx(model: Exported, expected: Expected, about: Mapping[str, str], opset: int, what: str) -> bytes:
    """An ONNX file, checked with onnxruntime on the CPU. about: its metadata; what: for messages.

    By torch's exporter on torch.export: the one on tracing is deprecated, and keeps a number of images that a graph
    depends on without a word, where this one ends.
    """
    from onnx.helper import set_model_props
    from onnxruntime import InferenceSession, SessionOptions

    example, names = torch.from_numpy(expected.images[:2]), {"input_names": [INPUT], "output_names": [about["outputs"]]}
    more = {"dynamo": True, "opset_version": opset, "dynamic_shapes": ({0: "N"},), "verbose": False}
    proto = _quietly(lambda: torch.onnx.export(model, (example,), **names, **more).model_proto, what, "torchscript")
    found = next(each.version for each in proto.opset_import if not each.domain)
    if found != opset:
        raise UserError(f"opset {opset}: torch {torch.__version__} makes {found} of it; give another --opset")
    # torch notes where in whose source each part was made: paths of this machine
    graph, graphs = proto.graph, (proto.graph, *proto.functions)
    values = (*graph.value_info, *graph.input, *graph.output, *graph.initializer)
    for part in (*graphs, *values, *(node for each in graphs for node in each.node)):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    set_model_props(proto, {**about, "opset": str(opset)})
    data = _quietly(lambda: proto.SerializeToString(deterministic=True), what, "torchscript")  # at most 2 GiB
    options = SessionOptions()
    options.log_severity_level = 3
    given = {"sess_options": options, "providers": ["CPUExecutionProvider"]}
    session = _quietly(lambda: InferenceSession(data, **given), what, "torchscript")
    expected.check(lambda images: session.run(None, {INPUT: images})[0], what)
    return data


def torchscript(model: Exported, expected: Expected, about: Mapping[str, str], what: str) -> bytes:
    """A TorchScript file of the traced network, frozen, and checked as it is loaded again."""
    example, buffer = torch.from_numpy(expected.images[:2]), io.BytesIO()  # of one, its number may become a constant

    def made():
        traced = torch.jit.freeze(torch.jit.trace(model, example, check_trace=False))
        torch.jit.save(traced, buffer, _extra_files={ABOUT: json.dumps(about, sort_keys=True)})

    _quietly(made, what, "onnx")
    data = _without_sources(buffer.getvalue())
    loaded = _quietly(lambda: torch.jit.load(io.BytesIO(data)), what, "onnx")
    expected.check(lambda images: loaded(torch.from_numpy(images)).numpy(), what)
    return data


def _without_sources(data: bytes) -> bytes:
    """A TorchScript file without where in whose source each line of it was made: paths of this machine."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as given, zipfile.ZipFile(buffer, "w") as made:
        for name in given.namelist():
            if not name.endswith(".debug_pkl"):
                made.writestr(zipfile.ZipInfo(name), given.read(name))
    return buffer.getvalue()


def _quietly(make: Callable[[], T], what: str, other: str) -> T:
    """What `make` returns, without what torch warns its own users of. Raises UserError, naming another target."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)  # onnxscript logs tracebacks
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return make()
    except ImportError:
        raise
    except Exception as error:  # of torch, onnxscript or any layer
        words = f"torch {torch.__version__} cannot write it ({first_line(error)})"
        raise UserError(f"{what}: {words}; use --to {other} or hub-folder") from error
    finally:
        logging.disable(disabled)
