"""Which errors are a full GPU's, by the messages of the libraries, and what every place says of one.

There is no GPU to fill here: messages are those of torch 1.13 to 2.14, CUDA, cuDNN 8 and 9, NCCL and DALI 0.3x to 2.4.
"""

import re

import pytest
import torch
from timm.models import register_model

from cxrdali.models.classifier import Classifier
from cxrdali.predict.explain import explain
from cxrdali.predict.options import ExplainOptions, PredictOptions
from cxrdali.predict.predict import predict
from cxrdali.runtime.full import is_full, told_if_full
from cxrdali.train.dry_run import dry_run
from cxrdali.train.hooks import Hooks
from cxrdali.train.retrain import retrain_settings
from cxrdali.train.trainer import train
from shards.errors import UserError
from tests.cxrdali.train.test_trainer import quietly, settings

DALI = """Critical error in pipeline:
Error in Mixed operator `nvidia.dali.fn.decoders.image`,
which was used in the pipeline definition with the following traceback:

  File "pipeline.py", line 77, in stage
    images = fn.decoders.image(stored, device=device, output_type=types.GRAY)

encountered:

{}
Current pipeline object is no longer valid."""
NO_ENGINE = RuntimeError("GET was unable to find an engine to execute this computation")
CUBLAS = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
TORCH = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.6 GiB")
OTHER = RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")
FULL = [
    TORCH,
    NO_ENGINE,
    CUBLAS,
    RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 23.69 GiB total capacity)"),
    RuntimeError(
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call"
    ),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("FIND was unable to find an engine to execute this computation"),
    RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
    RuntimeError("no valid convolution algorithms available in CuDNN"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("NCCL error: unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"),
    MemoryError("CUDA allocation failed"),
    RuntimeError(DALI.format("CUDA allocation failed")),
    RuntimeError(DALI.format("Can't allocate 129499136 bytes on device 0.")),
    RuntimeError(DALI.format("nvImageCodec failure: '#5'")),
    RuntimeError(DALI.format('NVJPEG error "5" : NVJPEG_STATUS_ALLOCATOR_FAILURE')),
    RuntimeError(DALI.format("CUDA runtime API error cudaErrorMemoryAllocation (2):\nout of memory")),
]
NOT_FULL = [
    OTHER,
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes. Error code 12"),
    RuntimeError("Triton Error [CUDA]: invalid argument\nran out of memory"),
    RuntimeError(DALI.format("Can't allocate 129499136 bytes on host.")),
    RuntimeError(DALI.format("nvImageCodec failure: '#3'")),
    RuntimeError(DALI.format("nvImageCodec failure: '#5'").replace("Mixed", "CPU")),
    MemoryError("std::bad_alloc"),
    ValueError("CUDA out of memory"),
    UserError("the GPU is full: CUDA out of memory"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_a_full_gpu_is_known_by_every_library_s_words(error):
    assert is_full(error)


@pytest.mark.parametrize("error", NOT_FULL, ids=str)
def test_nothing_else_is_called_a_full_gpu(error):
    assert not is_full(error)
    with pytest.raises(type(error)) as raised, told_if_full("full"):
        raise error
    assert raised.value is error


def test_torch_s_own_error_of_the_cpu_is_none():
    with pytest.raises(RuntimeError, match="memory") as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert not is_full(raised.value)


def test_the_library_s_own_words_are_told_where_they_say_more():
    with pytest.raises(UserError) as raised, told_if_full("FULL; FIX"):
        raise NO_ENGINE
    assert str(raised.value) == f"FULL; FIX (the error was: {NO_ENGINE})" and raised.value.__cause__ is NO_ENGINE
    with pytest.raises(UserError, match="^FULL; FIX$"), told_if_full("FULL; FIX"):
        raise TORCH


# ---------------------------------------------------------------- what every place says


class Filled(torch.nn.Module):
    """Raises FAULTS' error in the mode that it names, or with gradients alone ("heat")."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.stem, self.head = torch.nn.Conv2d(3, 5, 8, 8), torch.nn.Linear(5, num_classes)

    def get_classifier(self):
        return self.head

    def forward_features(self, images):
        error = FAULTS.get("training" if self.training else "heat" if torch.is_grad_enabled() else "looking")
        if error:
            raise error
        return self.stem(images)

    def forward_head(self, features, pre_logits=False):
        pooled = features.mean(dim=(2, 3))
        return pooled if pre_logits else self.head(pooled)

    def forward(self, images):
        return self.forward_head(self.forward_features(images))


FAULTS: dict[str, BaseException] = {}


@register_model
def cxrdali_test_filled(pretrained=False, num_classes=10, **_):
    return Filled(num_classes)


@pytest.fixture
def faults():
    FAULTS.clear()
    yield FAULTS
    FAULTS.clear()


def given(**changes):
    return settings(**{"arch": "cxrdali_test_filled", "epochs": 1, **changes})


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    FAULTS.clear()
    out = tmp_path_factory.mktemp("filled") / "run"
    quietly(given(), dataset, out)
    return out


def told(error, work):
    """What is said of a full GPU; another error comes through as it is."""
    with pytest.raises(UserError if is_full(error) else RuntimeError) as raised:
        work()
    assert is_full(error) or raised.value is error
    return str(raised.value).removesuffix(f" (the error was: {error})")


@pytest.mark.slow
@pytest.mark.parametrize("error", [TORCH, NO_ENGINE, OTHER], ids=["torch", "search", "other"])
def test_every_place_gives_its_own_advice(faults, run, dataset, tmp_path, error):
    """The network is on its device before it raises: one that is being made is looked at by a trial pass."""
    said = {}
    places = {
        "step": ("training", lambda: train(given(), dataset, tmp_path / "step")),
        "one": ("training", lambda: train(given(micro_batch=1), dataset, tmp_path / "one")),
        "dry run": ("training", lambda: dry_run(given(micro_batch=4), dataset, tmp_path / "dry")),
        "features": ("looking", lambda: train(retrain_settings(run, dataset, {}), dataset, tmp_path / "crt")),
        "predict": ("looking", lambda: predict(run, dataset, "val", PredictOptions(device="cpu"))),
        "heat": ("heat", lambda: explain(run, dataset, ExplainOptions(batch=3), PredictOptions(device="cpu"))),
    }
    for place, (mode, work) in places.items():
        made = Classifier.to

        def to(model, *arguments, made=made, mode=mode, **options):
            if "cpu" in arguments:  # else to a memory format, while it is made
                faults[mode] = error
            return made(model, *arguments, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Classifier, "to", to)
            said[place] = told(error, work)
        faults.clear()
    if error is not OTHER:
        others = "stop what else runs on the GPU (nvidia-smi lists it)"
        assert said == {
            "step": "the GPU is full at 48 px with 8 images at a time; use --micro-batch 4 (the batch stays)",
            "one": f"the GPU is full at 48 px with 1 image at a time; use --checkpointing, a smaller --size or --arch, "
            f"or {others}",
            "dry run": "the GPU is full at 48 px with 4 images at a time; use --micro-batch 2 (the batch stays)",
            "features": "the GPU is full with 8 images of 48 px at a time; use --micro-batch 4 (the batch stays)",
            "predict": "the GPU is full with 8 images of 48 px at a time; use a smaller --batch than 8",
            "heat": "the GPU is full with 3 images of 48 px at a time; use a smaller --batch than 3",
        }


@pytest.mark.slow
def test_validation_in_training_names_the_micro_batch(faults, dataset, tmp_path):
    hooks = Hooks(on_step=lambda step: faults.update(looking=CUBLAS))
    message = "the GPU is full with 8 images of 48 px at a time; use --micro-batch 4 (the batch stays) (the error was: "
    with pytest.raises(UserError, match=re.escape(message)):
        train(given(), dataset, tmp_path / "run", hooks=hooks)


@pytest.mark.slow
@pytest.mark.parametrize("error", [RuntimeError("CUDA error: out of memory"), OTHER], ids=["full", "other"])
def test_a_gpu_that_others_hold_is_said_before_the_first_batch(run, dataset, tmp_path, monkeypatch, error):
    made = Classifier.to

    def to(model, *arguments, **options):
        if "cpu" in arguments:
            raise error
        return made(model, *arguments, **options)

    monkeypatch.setattr(Classifier, "to", to)
    said = [
        told(error, lambda: train(given(), dataset, tmp_path / "run")),
        told(error, lambda: predict(run, dataset, "val", PredictOptions(device="cpu"))),
        told(error, lambda: explain(run, dataset, ExplainOptions(), PredictOptions(device="cpu"))),
    ]
    if error is not OTHER:
        room = "the GPU has no room for the model; stop what else runs on the GPU (nvidia-smi lists it)"
        before = (
            "the GPU is full before the first batch; stop what else runs on the GPU (nvidia-smi lists it), or use a"
        )
        assert said == [f"{before} smaller --arch", room, room]
    assert not (tmp_path / "run" / "config.json").exists()
