"""What only a GPU can show; skipped, saying so, where there is none."""

import gc
import json

import numpy as np
import pytest
import torch

from cxrdali.data.augment import AugmentOptions, decide
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.runs.settings import settings_of
from cxrdali.train.trainer import train
from tests.cxrdali.data.test_loader import JPEG, RAW, stored_image
from tests.cxrdali.reference import augmented
from tests.heard import heard

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def loader(dataset, size, decode, **options):
    return Loader(
        dataset, np.arange(120), LoaderOptions(size, 16, decode=decode, device="cuda:0", **options),
        seed=5, shuffle=True, augment=AugmentOptions(side=0.15), drop_last=True,
    )  # fmt: skip


@pytest.mark.parametrize("decode", ["cpu", "hybrid", "mixed"])
@pytest.mark.parametrize("size", [JPEG, RAW])
def test_every_decode_mode_hands_over_the_reference_s_pixels_on_the_gpu(dataset, decode, size):
    made = decide(AugmentOptions(side=0.15), 5, 0, 0, 112, size)
    place = 0
    for images, rows in loader(dataset, size, decode):
        assert images.device.type == "cuda" and images.dtype == torch.uint8
        for image, row in zip(images.cpu().numpy(), rows.tolist(), strict=True):
            difference = image[0].astype(int) - augmented(stored_image(dataset, size, row), made, place)
            # nvJPEG's inverse DCT may round otherwise than libjpeg's; geometry and raw pixels are exact
            assert np.abs(difference).max() <= (2 if decode == "mixed" and size == JPEG else 0)
            place += 1
    assert place == 112


@pytest.mark.parametrize("decode", ["cpu", "hybrid", "mixed"])
def test_held_batches_keep_their_pixels_on_the_gpu(dataset, decode):
    source, held, copies = loader(dataset, JPEG, decode), [], []
    for _ in range(3):
        for images, _ in source:
            held.append(images)
            copies.append(images.cpu())
    assert all(torch.equal(one.cpu(), two) for one, two in zip(held, copies, strict=True))


@pytest.mark.parametrize("current", ["default", "another"])
@pytest.mark.parametrize(("decode", "size"), [("cpu", JPEG), ("hybrid", JPEG), ("mixed", JPEG), ("cpu", RAW)])
def test_a_batch_that_is_dropped_at_once_is_read_as_it_was(dataset, decode, size, current):
    """Every read is queued behind matrix products and the batch dropped before they are done: what takes its memory
    meanwhile, as the loader's next batches would, changes the sum."""
    weights = torch.arange(1.0, size * size + 1, dtype=torch.float64, device="cuda").view(1, 1, size, size)
    wanted = []
    for source in [loader(dataset, size, decode)] * 3:  # three epochs
        for images, _ in source:
            wanted.append((images.double() * weights).sum((1, 2, 3)).cpu())  # waits
    busy, found, ahead = torch.randn(4096, 4096, device="cuda"), [], 0
    stream = torch.cuda.default_stream() if current == "default" else torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for source in [loader(dataset, size, decode)] * 3:
            for images, _ in source:
                for _ in range(8):  # 20 to 40 ms
                    busy @ busy
                found.append((images.double() * weights).sum((1, 2, 3)))
                del images
                ahead += not stream.query()
    torch.cuda.synchronize()
    assert ahead == len(found) == 21, "a batch was read before it was dropped: the test shows nothing"
    assert torch.equal(torch.cat(found).cpu(), torch.cat(wanted))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_stage_trains_and_continues_on_the_gpu(dataset, tmp_path, precision):
    settings = settings_of(
        stage=1,
        size=48,
        batch=8,
        epochs=2,
        arch="test_efficientnet",
        pretrained=False,
        device="cuda",
        precision=precision,
    )
    summary = train(settings, dataset, tmp_path / "run")
    assert summary.epochs == 2 and np.isfinite(summary.best_score)
    assert train(settings, dataset, tmp_path / "run").already_finished


def test_a_full_gpu_names_the_way_out(dataset, tmp_path):
    from shards.errors import UserError

    gc.collect()
    torch.cuda.empty_cache()
    # room for resnet50's weights (90 MiB), not for gradients beside them; on a card of any size
    cap = torch.cuda.memory_reserved() + 150 * 2**20
    torch.cuda.set_per_process_memory_fraction(cap / torch.cuda.mem_get_info()[1])
    try:
        whole = {"size": 64, "batch": 56, "micro_batch": 56}
        settings = settings_of(stage=1, **whole, epochs=1, arch="resnet50", pretrained=False, device="cuda")
        with pytest.raises(UserError, match="the GPU is full at 64 px with 56 images at a time; use --micro-batch 28"):
            train(settings, dataset, tmp_path / "run")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_the_largest_micro_batch_under_a_cap_trains(dataset, tmp_path):
    """Half of what the whole batch needs: a part of it is found, trained with, and remembered."""
    gc.collect()
    torch.cuda.empty_cache()  # what is kept of other tests would count
    # weights, gradients and moments take 120 MiB, the activations of an image 5, of 56 images 290
    common = {"epochs": 1, "arch": "densenet121", "pretrained": False, "device": "cuda"}
    torch.cuda.reset_peak_memory_stats()
    train(settings_of(stage=1, size=64, batch=56, micro_batch=56, **common), dataset, tmp_path / "whole")
    share = 0.5 * torch.cuda.max_memory_reserved() / torch.cuda.mem_get_info()[1]
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        settings = settings_of(stage=1, size=64, batch=56, **common)
        said = []
        with heard(said):
            train(settings, dataset, tmp_path / "run")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    found = config["settings"]["runtime"]["micro_batch"]
    assert 1 <= found < 56 and 56 % found == 0 and config["micro_batch"]["found"] == found
    assert any(line.startswith(f"micro-batch {found} of 56: the largest part of the batch that fits") for line in said)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_no_step_waits_for_the_gpu(dataset, tmp_path, precision):
    """torch raises at whatever waits, from the second step on; the first makes the optimizer's state."""
    guarded = []

    class Guarding(Loader):
        """From one batch to the asking for the next, nothing may wait."""

        def __iter__(self):
            for number, batch in enumerate(super().__iter__()):
                if self.shuffle and number:
                    guarded.append(number)
                    torch.cuda.set_sync_debug_mode("error")
                yield batch
                torch.cuda.set_sync_debug_mode("default")

    settings = settings_of(
        stage=1, size=48, batch=8, epochs=1, arch="test_efficientnet", pretrained=False, device="cuda",
        precision=precision, micro_batch=4,
    )  # fmt: skip
    try:
        assert train(settings, dataset, tmp_path / "run", loader=Guarding).epochs == 1
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert guarded == [1, 2, 3, 4, 5, 6]
