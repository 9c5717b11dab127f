"""The search for what fits, with a memory of so many images in place of a GPU's, and that no step waits for the GPU.

torch's own error is raised by a forward pass of too many images: there is no GPU to fill here (tests/gpu has one).
"""

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cxrdali.models.classifier import ModelOptions, create
from cxrdali.models.loss import LOSSES
from cxrdali.models.loss_module import LossModule
from cxrdali.predict.predict import PredictOptions, predict
from cxrdali.runs.config_file import read_config
from cxrdali.runs.folder import load_last, write_config
from cxrdali.runs.reader import Run
from cxrdali.runtime.device import Hardware
from cxrdali.runtime.distributed import Ranks
from cxrdali.train import microbatch
from cxrdali.train.hooks import Hooks
from cxrdali.train.microbatch import BatchShape, Trial, divisors, largest_micro_batch
from cxrdali.train.step import Step, adamw, grad_scaler
from cxrdali.train.stopping import Stopped
from cxrdali.train.trainer import train
from shards.errors import UserError
from tests.cxrdali.train.test_trainer import quietly, settings
from tests.heard import heard

pytestmark = pytest.mark.slow

FINDINGS, PIXELS = 5, 48
CPU = Hardware("cpu", "fp32")


class Full(torch.nn.Module):
    """A classifier on a device with room for `room` images in training and `looked_at` in evaluation."""

    def __init__(self, arch: str, room: int, looked_at: int = 100, error: str | None = None):
        super().__init__()
        self.error = torch.OutOfMemoryError("CUDA out of memory") if error is None else RuntimeError(error)
        torch.manual_seed(3)
        self.inner = create(ModelOptions(arch, PIXELS, pretrained=False), FINDINGS)
        self.rooms, self.seen = {True: room, False: looked_at}, []

    def forward(self, images):
        self.seen.append((len(images), self.training))
        output = self.inner(images)  # first: what a failed try has touched by then is put back too
        if len(images) > self.rooms[self.training]:
            raise self.error
        return output


def loss_of(name: str = "bce") -> LossModule:
    given = {"drw_epoch": 1} if "drw" in name else {}
    counts = torch.arange(1, FINDINGS + 1).numpy()
    return LossModule(LOSSES[name](**given), counts, 10 - counts)


def search(model, batch=24, copies=0):
    return largest_micro_batch(model, loss_of(), CPU, BatchShape(batch, PIXELS, FINDINGS, copies))


def test_divisors_come_from_the_largest():
    assert divisors(48) == [48, 24, 16, 12, 8, 6, 4, 3, 2, 1]
    assert divisors(7) == [7, 1]


@pytest.mark.parametrize("room, found", [(100, 24), (24, 24), (23, 12), (7, 6), (1, 1)])
def test_the_largest_part_that_fits_is_found(room, found):
    model = Full("test_efficientnet", room)
    assert search(model) == found
    tried = [count for count, training in model.seen if training]
    assert list(dict.fromkeys(tried)) == [part for part in divisors(24) if part >= found]
    assert tried.count(found) == 2 * 24 // found  # two whole steps


def test_validation_s_pass_has_to_fit_too():
    assert search(Full("test_efficientnet", room=12, looked_at=5)) == 4


def test_what_training_holds_from_step_to_step_takes_room_while_it_searches(monkeypatch):
    model, made, real = Full("test_efficientnet", room=6), [], torch.empty_like

    def counted(each):
        made.append(each.numel())
        return real(each)

    monkeypatch.setattr(torch, "empty_like", counted)
    assert search(model) == 6 and made == []
    assert search(model, copies=2) == 6  # gradients of several ranks, a moving average
    assert sum(made) == 2 * sum(each.numel() for each in model.parameters())


def test_where_one_image_does_not_fit_the_way_out_is_named():
    message = "the GPU is full at 48 px with 1 image at a time; use --checkpointing, a smaller --size or --arch"
    with pytest.raises(UserError, match=message):
        search(Full("test_efficientnet", room=0), batch=4)


@pytest.mark.parametrize(
    "error", ["FIND was unable to find an engine to execute this computation", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"]
)
def test_what_the_libraries_say_of_a_full_gpu_is_searched_around(error):
    assert search(Full("test_efficientnet", room=4, error=error), batch=8) == 4


@pytest.mark.parametrize(
    ("error", "room", "tried"),
    [
        # cuDNN's words for a layer that it cannot compute
        ("GET was unable to find an engine to execute this computation", 0, [4, 2, 1]),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", 2, [4]),
    ],
)
def test_what_no_smaller_part_mends_comes_through_as_it_is(error, room, tried):
    model = Full("test_efficientnet", room, error=error)
    with pytest.raises(RuntimeError) as raised:
        search(model, batch=4)
    assert raised.value is model.error and [count for count, _ in model.seen] == tried


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_left_of_the_search(training):
    """Weights, batch-norm statistics, modes, gradients and random numbers, bit for bit; the model has dropout."""
    model = Full("test_efficientnet", room=6, looked_at=100 if training else 6).train(training)
    if not training:
        for each in model.inner.parameters():  # the classifier alone is trained, as with a frozen backbone
            each.requires_grad_(False)
        model.inner.heads[0].weight.requires_grad_(True)
    torch.manual_seed(11)
    before, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert any("running_var" in name for name in before)
    assert search(model) == 6
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert {each.training for each in model.modules()} == {training}
    assert all(each.grad is None for each in model.parameters())
    assert {mode for count, mode in model.seen if count == 24} == {training}


def test_a_run_trains_the_same_after_a_search(dataset, tmp_path, monkeypatch):
    """Dropout, order and weights go on as if nobody had searched."""

    def searched(trial, stored):
        assert trial.shape == BatchShape(8, 48, FINDINGS)
        return largest_micro_batch(trial.model, trial.loss, trial.hardware, trial.shape), None

    quietly(settings(epochs=1), dataset, tmp_path / "without")
    monkeypatch.setattr(microbatch, "resolve", searched)
    quietly(settings(epochs=1, micro_batch="auto"), dataset, tmp_path / "with")
    one, two = (load_last(tmp_path / name) for name in ("without", "with"))
    assert all(torch.equal(one["model"][name], two["model"][name]) for name in one["model"])
    assert torch.equal(one["rng"], two["rng"])
    assert one["metrics"][0]["train_loss"] == two["metrics"][0]["train_loss"]


# ---------------------------------------------------------------- a run remembers it


def test_auto_is_the_default_and_on_the_cpu_the_batch(dataset, tmp_path):
    assert settings().runtime.micro_batch == "auto"
    quietly(settings(epochs=1), dataset, tmp_path / "run")
    assert Run.open(tmp_path / "run").settings.runtime.micro_batch is None
    assert quietly(settings(epochs=1, micro_batch="auto"), dataset, tmp_path / "run").already_finished


@pytest.fixture
def gpu(monkeypatch):
    """The trainer's view of a GPU with room for two images of a batch of 8; what it was asked is returned."""
    asked, real = [], microbatch.resolve

    def found(model, loss, hardware, shape):
        assert not shape.copies  # one process, no moving average
        asked.append((shape.images, shape.size, shape.num_findings))
        return 2

    def on_gpu(trial, stored):
        return real(replace(trial, hardware=Hardware("cuda:0", "fp32")), stored)

    monkeypatch.setattr(microbatch, "largest_micro_batch", found)
    monkeypatch.setattr(microbatch, "resolve", on_gpu)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "RTX 3090")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**34, 24 * 2**30))
    return asked


def test_a_run_remembers_what_was_found(dataset, tmp_path, gpu, monkeypatch):
    out, said, epochs = tmp_path / "run", [], []
    stopping = Hooks(on_epoch=epochs.append, should_stop=lambda: 15 if len(epochs) == 1 else None)
    with pytest.raises(Stopped), heard(said):
        train(settings(micro_batch="auto"), dataset, out, hooks=stopping)
    assert "micro-batch 2 of 8: the largest part of the batch that fits, RTX 3090, 24 GiB" in said
    assert sum(line.startswith("note: batch normalisation sees 2 images at a time, not 8") for line in said) == 1
    assert len(gpu) == 1 and gpu[0][:2] == (8, 48)
    config = json.loads((out / "config.json").read_text())
    assert config["settings"]["runtime"]["micro_batch"] == 2 and config["micro_batch"]["found"] == 2
    assert config["micro_batch"]["for"]["gpu"] == "RTX 3090"

    said.clear()
    with pytest.raises(Stopped), heard(said):
        train(settings(micro_batch="auto"), dataset, out, hooks=stopping)
    assert "micro-batch 2 of 8: found when the run began, RTX 3090, 24 GiB" in said
    assert len(gpu) == 1

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**33, 12 * 2**30))
    quietly(settings(micro_batch="auto"), dataset, out)
    assert len(gpu) == 2  # another GPU: what fitted there says nothing here


def stopped(dataset, out, **changes):
    """The micro-batch of a run that is begun or continued, and stopped within the next epoch."""
    used = []
    hooks = Hooks(on_parts=lambda parts, _: used.append(parts.settings.runtime.micro_batch), should_stop=lambda: 15)
    with pytest.raises(Stopped):
        train(settings(**changes), dataset, out, hooks=hooks)
    return used[0]


@pytest.mark.parametrize("begun", [None, 4])
def test_a_run_that_never_searched_keeps_what_it_has(dataset, tmp_path, gpu, begun):
    """The same command as ever: the whole batch was its default once, and config.json had no such setting before."""
    out = tmp_path / "run"
    assert stopped(dataset, out, micro_batch=begun) == begun
    config = read_config(out)
    assert config["micro_batch"] is None
    if begun is None:
        del config["micro_batch"], config["settings"]["runtime"]["micro_batch"]
        write_config(out, config)
    assert [stopped(dataset, out), stopped(dataset, out, micro_batch=2), stopped(dataset, out)] == [begun, 2, begun]
    assert gpu == []


def test_a_run_keeps_what_it_found_on_the_hardware_it_came_to(dataset, tmp_path, request, monkeypatch):
    out = tmp_path / "run"
    assert stopped(dataset, out) is None  # on the CPU
    gpu = request.getfixturevalue("gpu")
    assert [stopped(dataset, out), stopped(dataset, out)] == [2, 2] and len(gpu) == 1
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**33, 12 * 2**30))
    assert [stopped(dataset, out), stopped(dataset, out)] == [2, 2] and len(gpu) == 2
    assert read_config(out)["micro_batch"]["for"]["memory_bytes"] == 12 * 2**30
    assert read_config(out)["settings"]["runtime"]["micro_batch"] is None  # with which it began


@pytest.mark.parametrize(
    ("arch", "changes", "world", "said"),
    [
        ("test_efficientnet", {"micro_batch": 2}, 1, "sees 2 images at a time, not 8: other"),
        ("test_efficientnet", {"micro_batch": 2, "sync_bn": True}, 2, "sees 4 images at a time, not 16: other"),
        ("test_efficientnet", {"micro_batch": 2}, 2, "sees 2 images at a time, not 8: other"),
        ("test_efficientnet", {"micro_batch": 8}, 1, None),
        ("test_efficientnet", {}, 1, None),
        ("test_efficientnet", {"micro_batch": 2, "frozen": True, "init": "run"}, 1, None),
        ("test_convnext", {"micro_batch": 2}, 1, None),  # has layer normalisation
    ],
)
def test_smaller_groups_of_batch_normalisation_are_said(arch, changes, world, said):
    model = create(ModelOptions(arch, PIXELS, pretrained=False), FINDINGS)
    shape, heard_lines = BatchShape(8, PIXELS, FINDINGS), []
    trial = Trial(settings(**changes, batch=8 * world), CPU, Ranks(world=world), model, loss_of(), (), shape)
    with heard(heard_lines):
        microbatch.resolve(trial, None)
    assert [said in line for line in heard_lines] == [True] * bool(said)


def test_predicting_takes_as_many_at_a_time_as_training_did(dataset, tmp_path, monkeypatch):
    import cxrdali.predict.predict as predicting

    quietly(settings(epochs=1, micro_batch=4), dataset, tmp_path / "run")
    asked, real = [], predicting.LoaderOptions
    monkeypatch.setattr(predicting, "LoaderOptions", lambda *a: (asked.append(a[1]), real(*a))[1])
    for batch in (None, 6):
        predict(tmp_path / "run", dataset, "val", PredictOptions(batch=batch, device="cpu"))
    assert asked == [4, 6]


def test_a_word_that_is_no_size_is_named():
    with pytest.raises(UserError, match="micro-batch 'most': a number of images, or auto"):
        settings(micro_batch="most")


# ---------------------------------------------------------------- the step


def test_a_micro_batched_step_is_the_whole_batch_s():
    """In float64 and with batch normalisation in evaluation mode, for every loss but those that compare images;
    targets are ignored unevenly."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (8, 1, PIXELS, PIXELS), dtype=torch.uint8)
    wanted = torch.randint(0, 2, (8, FINDINGS)).double()
    wanted[0, :3] = wanted[5, 1] = float("nan")
    start = create(ModelOptions("test_byobnet", PIXELS, pretrained=False), FINDINGS).double().eval()
    start.heads[0].forward = type(start.heads[0]).forward.__get__(start.heads[0])  # float64 to the end
    for each in start.parameters():  # blocks begin as identities: nothing before their last scale had a gradient
        torch.nn.init.normal_(each, std=0.1)
    for name in (name for name in LOSSES if not loss_of(name).loss.couples):
        ends = []
        for size in (8, 4, 1):
            model = copy.deepcopy(start)
            # plain gradient descent: AdamW's first step is the gradient's sign, whatever its size
            step = Step(model, loss_of(name), torch.optim.SGD(model.parameters(), 0.1), grad_scaler(CPU), CPU)
            mean = step(images, wanted, 1, size)
            ends.append([mean, *(each.detach() for each in model.parameters())])
        for other in ends[1:]:
            torch.testing.assert_close(other, ends[0], rtol=1e-9, atol=1e-12, msg=name)
        moved = [not torch.equal(one, two) for one, two in zip(ends[0][1:], start.parameters(), strict=True)]
        assert all(moved), name


class Waiting(TorchDispatchMode):
    """Counts the operations that would wait for a GPU: reading a number, and results whose shape depends on values."""

    NAMES = ("aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::masked_select", "aten::equal",
             "aten::is_nonzero")  # fmt: skip

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        masks = function is torch.ops.aten.index.Tensor and any(
            each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
        )
        if function._schema.name in self.NAMES or masks:  # noqa: SLF001 -- of torch
            self.found.append(function._schema.name)  # noqa: SLF001 -- of torch
        return function(*args, **(kwargs or {}))


def test_what_would_wait_is_noticed():
    values = torch.tensor([1.0, float("nan")])
    with Waiting() as waiting:
        float(values.sum())
        values[~torch.isnan(values)]
        values.nonzero()
    assert [name.split("::")[1] for name in waiting.found] == ["_local_scalar_dense", "index", "nonzero"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", LOSSES)
def test_no_step_waits_for_the_gpu(name, precision):
    hardware = Hardware("cpu", precision)
    model = create(ModelOptions("test_efficientnet", PIXELS, pretrained=False), FINDINGS).train()
    step = Step(model, loss_of(name), adamw(model, 1e-3, 1e-6), grad_scaler(hardware), hardware)
    images = torch.zeros(4, 1, PIXELS, PIXELS, dtype=torch.uint8)
    wanted = torch.tensor([[1, 0, float("nan"), 0, 1]] * 4)
    step(images, wanted, 1, 2)  # the optimizer makes its state in the first step
    with Waiting() as waiting:
        mean = step(images, wanted, 1, 2)
    assert waiting.found == [] and float(mean) > 0


def test_a_trainer_s_steps_read_no_number(dataset, tmp_path):
    """The whole loop, its progress bar and its schedule: one look at the loss at the end of an epoch of 7 steps."""
    moments = []

    def note(what):
        moments.append((what, list(waiting.found)))
        waiting.found.clear()

    hooks = Hooks(lambda step: note("step"), lambda row: note("epoch"), lambda: note("asked"))
    with Waiting() as waiting:
        train(settings(epochs=2, micro_batch=4), dataset, tmp_path / "run", hooks=hooks)
    ends = [place for place, (what, _) in enumerate(moments, 1) if what == "epoch"]
    assert len(ends) == 2
    for begin, end in ((0, ends[0]), (ends[0], ends[1])):
        steps, (validation, *_) = moments[begin : begin + 14], moments[begin + 14 : end]
        assert [what for what, _ in steps] == ["step", "asked"] * 7
        assert [found for _, found in steps[begin == 0 :]] == [[]] * (14 - (begin == 0))  # the set-up may read
        assert validation == ("asked", ["aten::_local_scalar_dense"])


def test_the_search_needs_no_scaler_or_optimizer_of_the_run(monkeypatch):
    """The search's optimizer has a rate of zero and is its own: a run's moments would be gone otherwise."""
    made, real = [], microbatch.adamw
    monkeypatch.setattr(microbatch, "adamw", lambda *a, **k: (made.append(real(*a, **k)), made[-1])[1])
    search(Full("test_efficientnet", room=12))
    assert [group["lr"] for each in made for group in each.param_groups] == [0.0, 0.0]
