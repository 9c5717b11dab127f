"""Which device a run gets, from facts of machines that are not here; and what it sets of torch."""

import pytest
import torch

from cxrdali.models.classifier import create
from cxrdali.models.options import ModelOptions
from cxrdali.runtime.device import Hardware, exact_products
from cxrdali.runtime.driver import GpuFacts, gpu_facts, unusable, without_gpu
from shards.errors import UserError
from tests.heard import heard

without = pytest.mark.skipif(torch.cuda.is_available(), reason="says what is said without a GPU")
NONE = GpuFacts("13.0")
CONTAINER, NEWER = "start a container with --gpus all", "install a newer NVIDIA driver"


@pytest.mark.parametrize(
    ("facts", "found", "fix"),
    [
        (
            GpuFacts("13.0", (12, 4), kernel=True),
            "its driver is for CUDA 12.4, torch is built for 13.0",
            "CXRDALI_CUDA=12",
        ),
        (GpuFacts("13.0", (12, 4)), "its driver is for CUDA 12.4, torch is built for 13.0", "docs/machines.md#cuda-12"),
        (GpuFacts("13.0", (11, 8), kernel=True), "its driver is for CUDA 11.8, torch is built for 13.0", NEWER),
        (GpuFacts("12.8", (11, 8), card=True), "its driver is for CUDA 11.8, torch is built for 12.8", NEWER),
        (
            GpuFacts(None, (13, 0), kernel=True),
            "torch is built for the CPU only, beside a driver for CUDA 13.0",
            "install torch for CUDA 13 ",
        ),
        (
            GpuFacts("13.0", None, kernel=True),
            "the library libcuda.so.1 of its NVIDIA driver cannot be loaded",
            CONTAINER,
        ),
        (
            GpuFacts("13.0", (13, 0), kernel=True, visible="7"),
            "CUDA_VISIBLE_DEVICES=7 names no GPU",
            "correct or unset it",
        ),
        (GpuFacts("13.0", (13, 0), kernel=True), "torch sees no GPU beside its NVIDIA driver", "nvidia-smi"),
        (
            GpuFacts("13.0", (13, 2), card=True, said="CUDA unknown error"),
            "driver (torch: CUDA unknown error)",
            "restart",
        ),
    ],
)
@without
def test_a_driver_that_torch_cannot_use_is_an_error_with_its_own_fix(facts, found, fix):
    problem = unusable(facts)
    assert found in problem[0] and fix in problem[1]
    assert ("CXRDALI_CUDA" in problem[1]) == (facts.driver == (12, 4))
    for device in ("auto", "cuda", "cuda:1"):
        with pytest.raises(UserError) as refused:
            Hardware.resolve(device, "auto", lambda: facts)
        assert str(refused.value) == f"device {device!r}: {problem[0]}; {problem[1]}, or give --device cpu"
    assert Hardware.resolve("cpu", "auto", lambda: facts) == Hardware("cpu", "fp32")


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (NONE, ""),
        (GpuFacts(None), ""),
        (GpuFacts("13.0", (13, 0)), "libcuda.so.1 is here, a GPU is not"),  # as containers bring it
        (GpuFacts("13.0", card=True), "its GPU has no NVIDIA driver"),
        (GpuFacts("13.0", (12, 4), kernel=True, visible=""), "CUDA_VISIBLE_DEVICES='' hides the GPUs"),
        (GpuFacts("13.0", None, kernel=True, visible="-1"), "CUDA_VISIBLE_DEVICES='-1' hides the GPUs"),
        (
            GpuFacts("13.0", (13, 0), card=True, visible="NoDevFiles"),
            "CUDA_VISIBLE_DEVICES='NoDevFiles' hides the GPUs",
        ),
        (GpuFacts("13.0", visible=""), ""),
    ],
)
@without
def test_no_gpu_and_a_hidden_one_are_a_run_on_the_cpu_with_a_line(facts, said):
    assert unusable(facts) is None and without_gpu(facts) == said
    lines = []
    with heard(lines):
        assert Hardware.resolve("auto", "auto", lambda: facts) == Hardware("cpu", "fp32")
        assert Hardware.resolve("auto", "bf16", lambda: facts) == Hardware("cpu", "bf16")
    assert lines == ([f"{said}: on the CPU"] if said else [])  # once, though asked twice
    words = rf"device 'cuda': torch sees no GPU here{f' .{said[:9]}.*' if said else ''}; use --device cpu"
    with pytest.raises(UserError, match=words):
        Hardware.resolve("cuda", "auto", lambda: facts)


def test_facts_are_those_of_files_environment_and_library(tmp_path):
    def here(**environment):
        return gpu_facts("13.0", "no", tmp_path, environment, str(tmp_path / "libcuda.so.1"))

    def file(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    assert here() == GpuFacts("13.0", said="no")
    assert here(CUDA_VISIBLE_DEVICES="1").visible == "1"
    for name, vendor, kind in (("0", "0x8086", "0x030000"), ("1", "0x10de", "0x040300")):  # another's; its sound
        (
            file(f"sys/bus/pci/devices/{name}/vendor", f"{vendor}\n"),
            file(f"sys/bus/pci/devices/{name}/class", f"{kind}\n"),
        )
    assert not here().card
    file("sys/bus/pci/devices/2/vendor", "0x10de\n"), file("sys/bus/pci/devices/2/class", "0x030200\n")
    assert here().card and not here().kernel
    file("proc/driver/nvidia/version", "NVRM version")
    assert here().kernel


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cuda:", "gpu", "cuda1"])
def test_another_device_is_named(device):
    with pytest.raises(UserError, match=f"device '{device}': choose auto, cpu or cuda"):
        Hardware.resolve(device, "auto", lambda: NONE)


# ---------------------------------------------------------------- what is set


@pytest.fixture
def products():
    """torch's setting for products of fp32, as it was afterwards."""
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


def test_a_run_on_the_cpu_leaves_fp32_as_it_is_whatever_ran_before(products):
    products("high")
    torch.backends.cudnn.benchmark = False
    Hardware("cpu", "fp32").begin()
    assert torch.get_float32_matmul_precision() == "highest" and torch.backends.cudnn.benchmark


def test_the_classifier_alone_computes_in_fp32_beside_tf32(products):
    model, seen = create(ModelOptions("test_efficientnet", 48, pretrained=False), 3).eval(), {}
    inside = {"head": model.heads[0].weight, "conv": model.backbone.conv_head.weight}

    class Watching(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), named=None):
            for name, weight in inside.items():
                if any(each is weight for each in arguments):
                    seen[name] = torch.get_float32_matmul_precision()
            return function(*arguments, **(named or {}))

    for before in ("high", "highest"):
        products(before)
        with Watching(), torch.no_grad():
            model(torch.zeros(2, 1, 48, 48, dtype=torch.uint8))
        assert seen == {"head": "highest", "conv": before} and torch.get_float32_matmul_precision() == before
    products("high")
    with pytest.raises(KeyError), exact_products():
        raise KeyError
    assert torch.get_float32_matmul_precision() == "high"
