"""A run as one file that needs neither cxrdali nor timm: ONNX, or TorchScript."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cxrdali.export.check import Expected
from cxrdali.models.checkpoint_file import first_line
from shards.errors import UserError

INPUT = "images"
LARGEST = 2**31 - 2**24  # bytes of weights that fit an ONNX file, beside the network's description
ABOUT = "cxrdali.json"  # in a TorchScript file, what `about` says


def onnx(model: nn.Module, expected: Expected, about: Mapping[str, str], opset: int, what: str) -> bytes:
    """An ONNX file, checked with onnxruntime on the CPU. what: for messages.

    By torch.onnx's exporter on torch.export: the one on TorchScript's tracing is deprecated. Where a network's graph
    depends on the number of images, this one says so, and tracing would keep the number in it without a word.
    """
    from onnx.helper import set_model_props
    from onnxruntime import InferenceSession, SessionOptions

    num_bytes = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    if num_bytes > LARGEST:
        raise UserError(f"{what}: the weights take {num_bytes:,} bytes, an ONNX file 2 GiB; use --to torchscript")
    output = "probabilities" if expected.probabilities else "logits"
    try:
        with _quietly():
            program = torch.onnx.export(
                model, (_example(expected),), dynamo=True, opset_version=opset, verbose=False,
                input_names=[INPUT], output_names=[output], dynamic_shapes=({0: "N"},),
            )  # fmt: skip
            proto = program.model_proto
    except Exception as error:  # of torch.export, onnxscript or a layer
        raise UserError(
            f"{what}: torch {torch.__version__} cannot export it to ONNX ({first_line(error)}); use --to torchscript or "
            "hub-folder"
        ) from error
    versions = {each.domain: each.version for each in proto.opset_import}
    if versions.get("") != opset:
        raise UserError(f"opset {opset}: torch {torch.__version__} makes {versions.get('')} of it; use another --opset")
    _without_places(proto)
    set_model_props(proto, {**about, "opset": str(opset), "input": _input(expected), "output": f"{output} float32 [N, F]"})
    data = proto.SerializeToString(deterministic=True)
    options = SessionOptions()
    options.log_severity_level = 3
    session = InferenceSession(data, options, providers=["CPUExecutionProvider"])
    expected.check(lambda images: session.run(None, {INPUT: images})[0], what)
    return data


def _without_places(proto) -> None:
    """Take out what torch notes of where in whose source each node was made: paths of this machine."""
    parts = [proto.graph, *proto.functions]
    for part in [*parts, *(node for each in parts for node in each.node)]:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for each in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        each.ClearField("metadata_props")
        each.ClearField("doc_string")


def torchscript(model: nn.Module, expected: Expected, about: Mapping[str, str], what: str) -> bytes:
    """A TorchScript file of the traced network, frozen, and checked as it is loaded again."""
    try:
        with _quietly(), torch.inference_mode():
            traced = torch.jit.trace(model, _example(expected), check_trace=False)
            frozen = torch.jit.freeze(traced)
    except Exception as error:  # of any layer
        raise UserError(
            f"{what}: torch {torch.__version__} cannot trace it ({first_line(error)}); use --to onnx or hub-folder"
        ) from error
    buffer, described = io.BytesIO(), json.dumps({**about, "input": _input(expected)}, sort_keys=True)
    with _quietly():
        torch.jit.save(frozen, buffer, _extra_files={ABOUT: described.encode()})
        loaded = torch.jit.load(io.BytesIO(buffer.getvalue()))

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return loaded(torch.from_numpy(images)).numpy()

    expected.check(run, what)
    return buffer.getvalue()


def _example(expected: Expected) -> torch.Tensor:
    """Two images: of one, an exporter may take the number for a constant."""
    return torch.from_numpy(expected.images[:2])


def _input(expected: Expected) -> str:
    return f"{INPUT} uint8 [N, 1, {expected.images.shape[2]}, {expected.images.shape[3]}], gray values of 0 to 255"


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch warns its own users of."""
    logger = logging.getLogger("torch")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
