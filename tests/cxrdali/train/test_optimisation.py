"""Average of weights, clipping, groups, rates, drop-path and head epochs, against independent references."""

import csv
import json
import math

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from cxrdali import predictions
from cxrdali.metrics.ranking import score
from cxrdali.models.classifier import create
from cxrdali.models.loss import LOSSES
from cxrdali.models.loss_module import LossModule
from cxrdali.models.options import ModelOptions
from cxrdali.runs import layout
from cxrdali.runs.folder import load_last
from cxrdali.runs.progress import Progress
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import assigned, settings_of
from cxrdali.runtime.device import Hardware
from cxrdali.setting import option_words
from cxrdali.train.ema import Ema
from cxrdali.train.groups import parameter_groups
from cxrdali.train.hooks import Hooks
from cxrdali.train.rates import Rates
from cxrdali.train.step import Step, adamw, grad_scaler
from cxrdali.train.trainer import train
from shards.errors import UserError
from tests.heard import heard

ARCH = "test_efficientnet"
CPU = Hardware("cpu", "fp32")


def settings(**changes):
    given = {"stage": 1, "size": 48, "batch": 16, "epochs": 2, "arch": ARCH, "pretrained": False, "device": "cpu"}
    return settings_of(**{**given, **changes})


def rows_of(run):
    return list(csv.DictReader((run / "metrics.csv").open()))


def followed(given, dataset, out):
    """Train; the backbone's state before the first step and after each, in float64."""
    seen = []

    def look(parts, _):
        seen.append(parts)

    def note(_):
        state = seen[0].model.backbone.state_dict()
        seen.append({name: value.double().numpy() for name, value in state.items()})

    train(given, dataset, out, hooks=Hooks(on_parts=lambda *parts: look(*parts), on_step=note))
    return seen[1:]


@pytest.fixture(scope="module")
def start(dataset, tmp_path_factory):
    """A finished run of one epoch, to start from."""
    out = tmp_path_factory.mktemp("start") / "start"
    train(settings(epochs=1), dataset, out)
    return out


# ---------------------------------------------------------------- the average of weights


@pytest.fixture(scope="module")
def averaged(dataset, tmp_path_factory):
    """A run with an average and clipping; its weights after every step; what it said."""
    out, said = tmp_path_factory.mktemp("ema") / "run", []
    with heard(said):
        weights = followed(settings(ema=0.7, ema_warmup=True, clip_norm=0.3, lr=0.02), dataset, out)
    return out, weights, said


def test_the_average_is_the_recurrence_of_its_definition(averaged):
    out, weights, _ = averaged
    expected = {name: value.copy() for name, value in weights[0].items()}  # the first step's weights as they are
    for number, now in enumerate(weights[1:], 1):
        decay = min(0.7, 1 - (1 + number) ** (-2 / 3))
        for name, value in now.items():
            mixed = decay * expected[name] + (1 - decay) * value
            expected[name] = value if "num_batches" in name else mixed
    state = load_last(out)["averaged"]
    assert state["updates"] == len(weights) == 6
    assert state["average"].keys() == {name.replace(".", "/") for name in expected}
    for name, value in expected.items():
        np.testing.assert_allclose(state["average"][name.replace(".", "/")].numpy(), value, rtol=2e-5, atol=1e-6)


def test_both_are_scored_and_the_better_one_is_the_best(averaged, dataset):
    out, _, _ = averaged
    rows, run = rows_of(out), Run.open(out)
    assert all(row["ema_mAP"] and row["ema_val_loss"] and row["mAP"] != row["ema_mAP"] for row in rows)
    best = max(max(float(row["mAP"]), float(row["ema_mAP"])) for row in rows)
    assert run.progress.best_score == pytest.approx(best, abs=0) and run.best["mAP"] == best
    chosen = rows[run.progress.best_epoch - 1]
    whose = "ema" if float(chosen["ema_mAP"]) > float(chosen["mAP"]) else "raw"
    assert run.progress.weights == whose and run.best["epoch"] == run.progress.best_epoch
    with safe_open(out / layout.BEST, framework="pt") as file:
        assert file.metadata().get("weights", "raw") == whose
    table, labels = predictions.read(out / layout.VAL_PREDICTIONS), dataset.labels()
    at = dataset.catalog.set_index("image_id").index.get_indexer(table.ids["image_id"])
    assert score(labels.findings, labels.values[at], table.values).macro_ap == pytest.approx(best, abs=1e-9)
    ap = {row["finding"]: row["AP"] for row in csv.DictReader((out / "findings.csv").open()) if row["epoch"] == "2"}
    last = max(float(rows[1]["mAP"]), float(rows[1]["ema_mAP"]))
    assert np.mean([float(each) for each in ap.values() if each]) == pytest.approx(last)


@pytest.mark.parametrize(
    "row, expected",
    [
        ({"mAP": 0.2, "ema_mAP": 0.3}, (0.3, True)),
        ({"mAP": 0.3, "ema_mAP": 0.3}, (0.3, False)),
        ({"mAP": 0.3}, (0.3, False)),
        ({"mAP": math.nan, "ema_mAP": 0.1}, (0.1, True)),
        ({"mAP": 0.1, "ema_mAP": math.nan}, (0.1, False)),
    ],
)
def test_the_better_candidate(row, expected):
    assert layout.candidate(row, "mAP") == expected


def test_an_average_that_is_better_is_what_the_run_is(dataset, tmp_path):
    """After each epoch's last step the classifier is 0, so that it cannot rank; the average is not."""
    out, seen = tmp_path / "run", []

    def spoil(step):
        if step.position == 16 * (seen[0].steps_per_epoch - 1):
            with torch.no_grad():
                seen[0].model.backbone.classifier.weight.zero_()

    train(settings(ema=0.5), dataset, out, hooks=Hooks(on_parts=lambda parts, _: seen.append(parts), on_step=spoil))
    run, state = Run.open(out), load_last(out)
    best = run.progress.best_epoch
    assert run.progress.weights == "ema" and run.best["mAP"] == run.metrics["ema_mAP"][best - 1] == state["best_score"]
    assert (
        run.best["mAP"] > run.metrics["mAP"][best - 1] and run.best["val_loss"] == run.metrics["ema_val_loss"][best - 1]
    )
    weights = load_file(out / layout.BEST)
    assert weights["classifier.weight"].any() and not state["model"]["classifier.weight"].any()
    if best == 2:
        kept = state["averaged"]["average"]
        assert all(torch.equal(value, kept[name.replace(".", "/")]) for name, value in weights.items())


def test_a_half_life_is_a_decay():
    how = settings(ema_half_life=160, batch=16).optimizer
    assert how.ema_decay**10 == pytest.approx(0.5)
    assert settings(ema=0.99).optimizer.ema_decay == 0.99 and settings().optimizer.ema_decay is None


def test_epochs_of_the_classifier_alone_do_not_count_against_the_patience():
    given = settings(init="r", epochs=9, head_epochs=4, patience=2)
    finished = [epoch for epoch in range(1, 10) if Progress.of(epoch, 1, 0.5, given).finished]
    assert finished == [6, 7, 8, 9]


def test_no_value_is_advised_as_the_command_line_takes_it():
    assert option_words("ema", None) == "--set ema=none" and assigned("ema=none") == ("ema", None)


def test_none_that_is_a_name_is_that_one():
    assert assigned("augment_preset=none") == ("augment_preset", "none")
    assert settings_of(dict([assigned("data.augment_preset=none")]), stage=1).data.flips == "none"


@pytest.mark.parametrize(
    "given, message",
    [
        ({"ema": 0.9, "ema_half_life": 10.0}, "ema 0.9: its decay is given as ema-half-life 10, too; leave one out"),
        ({"ema_warmup": True}, "ema-warmup: there is no average of weights; give --ema or --ema-half-life, too"),
        ({"ema": 1.0}, "ema 1.0: above 0, below 1"),
        ({"ema_half_life": 1e30}, "ema-half-life 1e+30: with a batch of 16 the average would never move"),
        (
            {"ema_half_life": 1e-9},
            "ema-half-life 1e-09: with a batch of 16 the average would be the weights themselves",
        ),
        ({"ema_half_life": math.inf}, "ema-half-life inf: give a finite number, or leave it out"),
        ({"clip_norm": 0.0}, "clip-norm 0.0: above 0"),
        ({"layer_decay": 1.5}, "layer-decay 1.5: above 0, at most 1"),
        ({"lr_schedule": "one-cycle", "min_lr": 1e-6}, "min-lr 1e-06: one-cycle has a rise and an end of its own"),
        ({"lr_schedule": "one-cycle", "warmup_epochs": 2}, "warmup-epochs 2: one-cycle has a rise"),
        ({"head_epochs": 2}, "head-epochs 2: all of 2 epochs would train the classifier alone; give fewer, or --froz"),
        ({"head_epochs": 1}, "head-epochs 1: a backbone from scratch is random; give --init"),
        ({"head_epochs": 1, "frozen": True, "init": "r"}, "head-epochs 1: with --frozen, all are"),
        ({"head_epochs_lr": 1e-3}, "head-epochs-lr 0.001: there are no epochs of it; give --head-epochs"),
        ({"frozen": True, "init": "r", "layer_decay": 0.5}, "layer-decay 0.5: with --frozen the classifier alone is"),
        ({"frozen": True, "init": "r", "drop_path": 0.1}, "drop-path 0.1: a frozen backbone leaves nothing out"),
    ],
)
def test_what_does_not_go_together_is_named(given, message):
    with pytest.raises(UserError) as error:
        settings(**given)
    assert str(error.value).startswith(message)


# ---------------------------------------------------------------- a step: clipping, skipped steps


class _Tiny(nn.Module):
    def __init__(self, factor=1):
        super().__init__()
        self.factor = factor
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))

    def forward(self, images):
        return self.factor * self.backbone(images.to(self.backbone[1].weight.dtype))


def step_of(model, scaler, clip_norm=None, ema=None, dtype=torch.float64):
    loss = LossModule(LOSSES["bce"](), np.ones(3), np.ones(3)).to(dtype)
    return Step(model, loss, torch.optim.SGD(model.parameters(), lr=1.0), scaler, CPU, clip_norm=clip_norm, ema=ema)


def batch_of(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 1, 4, 4), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 2, (8, 3), generator=generator).to(dtype)


@pytest.mark.parametrize("micro_batch", [8, 2])
def test_a_gradient_is_shortened_to_the_norm(micro_batch):
    """In float64: what SGD at a rate of 1 takes off a weight is the gradient that it was given."""
    torch.manual_seed(0)
    model = _Tiny().double().eval()
    images, wanted = batch_of()
    before = [each.detach().clone() for each in model.parameters()]
    loss = nn.functional.binary_cross_entropy_with_logits(model(images), wanted)
    gradients = [each.numpy() for each in torch.autograd.grad(loss, list(model.parameters()))]
    norm = math.sqrt(sum((each**2).sum() for each in gradients))
    step = step_of(model, grad_scaler(CPU), clip_norm=norm / 3)
    step(images, wanted, 0, micro_batch)
    assert float(step.norm) == pytest.approx(norm)
    for old, new, each in zip(before, model.parameters(), gradients, strict=True):
        np.testing.assert_allclose((old - new.detach()).numpy(), each / 3, rtol=1e-5, atol=1e-9)


def test_a_step_that_fp16_skips_moves_neither_weights_nor_average():
    torch.manual_seed(0)
    model = _Tiny(factor=1000)
    ema, images = Ema(model, settings(ema=0.5).optimizer, False), batch_of(torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)  # its gradients are infinite
    step, before = (
        step_of(model, scaler, 1.0, ema, torch.float32),
        [each.detach().clone() for each in model.parameters()],
    )
    step(*images, 0, 8)
    assert ema.updates == 0 and all(map(torch.equal, before, model.parameters()))
    scaler.load_state_dict({**scaler.state_dict(), "scale": 1024.0})
    step(*images, 0, 8)
    assert ema.updates == 1 and not all(map(torch.equal, before, model.parameters()))
    for name, value in ema.weights().items():
        assert torch.equal(value, model.backbone.state_dict()[name])


def test_the_model_has_its_own_weights_again_after_the_average_s():
    torch.manual_seed(0)
    model = _Tiny()
    ema = Ema(model, settings(ema=0.5).optimizer, False)
    ema.update()
    own = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    with torch.no_grad():
        for each in model.parameters():
            each += 1
    moved, mean = {name: value.clone() for name, value in model.backbone.state_dict().items()}, ema.weights()
    mean = {name: value.clone() for name, value in mean.items()}
    with pytest.raises(ZeroDivisionError), ema.in_place():
        assert all(torch.equal(value, mean[name]) for name, value in model.backbone.state_dict().items())
        assert all(torch.equal(value, own[name]) for name, value in mean.items())
        raise ZeroDivisionError
    assert all(torch.equal(value, moved[name]) for name, value in model.backbone.state_dict().items())
    assert all(torch.equal(value, mean[name]) for name, value in ema.weights().items())


def test_a_tensor_under_two_names_is_averaged_under_both():
    torch.manual_seed(0)
    model = _Tiny()
    model.backbone.append(nn.Linear(3, 3))
    model.backbone.append(model.backbone[4])
    ema = Ema(model, settings(ema=0.5).optimizer, False)
    ema.update()
    first = model.backbone[4].weight.detach().clone()
    with torch.no_grad():
        model.backbone[4].weight += 2
    ema.update()
    found = ema.weights()
    assert found.keys() == model.backbone.state_dict().keys()
    for name in ("4.weight", "5.weight"):
        torch.testing.assert_close(found[name], first + 1)


def test_the_norm_is_in_the_table_and_one_that_is_infinite_ends_the_run(averaged, dataset, tmp_path, monkeypatch):
    rows = rows_of(averaged[0])
    assert all(0.01 < float(row["grad_norm"]) < 100 for row in rows)
    monkeypatch.setattr("cxrdali.train.step.clip_grad_norm_", lambda *_: torch.tensor(math.inf))
    with pytest.raises(UserError, match="the norm of the gradient became inf in epoch 1, by step 3; lower --lr, with"):
        train(settings(clip_norm=1.0), dataset, tmp_path / "run")
    assert not (tmp_path / "run" / "last.pt").exists()


# ---------------------------------------------------------------- groups of parameters


def rates_by_name(model, how):
    groups, names = parameter_groups(model, how), {id(each): key for key, each in model.backbone.named_parameters()}
    optimizer = adamw(model, how.lr, how.weight_decay, groups)
    Rates(optimizer, how, [10] * how.epochs).step_update(10)  # after the warm-up
    found = {}
    for group in optimizer.param_groups:
        for each in group["params"]:
            assert names[id(each)] not in found
            found[names[id(each)]] = (group["lr"], group["weight_decay"])
    assert found.keys() == set(names.values())
    return found


@pytest.fixture(scope="module")
def vit():
    return create(ModelOptions("test_vit", 160, pretrained=False), 4)


def test_layers_and_the_classifier_have_rates_of_their_own(vit):
    how = settings(lr=1e-3, layer_decay=0.5, head_lr=1e-2, weight_decay=0.1).optimizer
    found = rates_by_name(vit, how)
    depth = len(vit.backbone.blocks)
    for name, (lr, decay) in found.items():
        if name.startswith("head."):
            expected = 1e-2
        elif name.startswith("blocks."):  # the norm behind the last block is of its layer
            expected = 1e-3 * 0.5 ** (depth - int(name.split(".")[1]))
        else:
            expected = 1e-3 * 0.5 ** (1 if name.startswith("norm.") else depth + 1)
        assert (lr, decay) == (pytest.approx(expected), 0.1), name


def test_decay_spares_norms_biases_positions_and_tokens(vit):
    found = rates_by_name(vit, settings(decay_norms=False, weight_decay=0.1).optimizer)
    for name, (lr, decay) in found.items():
        spared = name.endswith("bias") or "norm" in name or name in ("pos_embed", "cls_token")
        assert (lr, decay) == (pytest.approx(1e-3), 0.0 if spared else 0.1), name
    assert {each[1] for each in found.values()} == {0.0, 0.1}
    both = rates_by_name(vit, settings(decay_norms=False, weight_decay=0.1, layer_decay=0.5).optimizer)
    assert {name: decay for name, (_, decay) in both.items()} == {name: decay for name, (_, decay) in found.items()}


def test_without_any_of_it_there_is_one_group(vit):
    (group,) = parameter_groups(vit, settings().optimizer)
    assert list(group) == ["params"] and len(group["params"]) == len(list(vit.parameters()))


def test_every_group_follows_the_schedule_in_proportion(vit):
    how = settings(lr=1e-3, min_lr=1e-4, head_lr=1e-2, epochs=4).optimizer
    optimizer = adamw(vit, how.lr, 0.0, parameter_groups(vit, how))
    rates, seen = Rates(optimizer, how, [5] * 4), []
    for step in range(20):
        rates.step_update(step)
        seen.append(sorted({group["lr"] for group in optimizer.param_groups}))
    assert all(high == pytest.approx(10 * low) for low, high in seen)
    cosine = [1e-4 + 9e-4 * (1 + math.cos(math.pi * step / 15)) / 2 for step in range(15)]
    assert [low for low, _ in seen[5:]] == pytest.approx(cosine)


# ---------------------------------------------------------------- rates


@pytest.mark.parametrize("epochs, steps", [(5, 20), (1, 3), (2, 7)])
def test_one_cycle_is_torch_s(epochs, steps):
    first, second = (torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2e-3, momentum=0.9) for _ in range(2))
    theirs = torch.optim.lr_scheduler.OneCycleLR(first, 2e-3, epochs=epochs, steps_per_epoch=steps)
    ours = Rates(second, settings(lr=2e-3, lr_schedule="one-cycle", epochs=epochs).optimizer, [steps] * epochs)
    for step in range(epochs * steps):
        ours.step_update(step)
        assert second.param_groups[0]["lr"] == pytest.approx(first.param_groups[0]["lr"], rel=1e-9), step
        first.step()
        theirs.step() if step + 1 < epochs * steps else None


# ---------------------------------------------------------------- drop-path


def test_drop_path_is_timm_s_and_a_run_predicts_with_the_same_network(dataset, tmp_path):
    made = create(ModelOptions("test_convnext", 64, pretrained=False, drop_path=0.2), 3)
    theirs = timm.create_model("test_convnext", num_classes=3, drop_path_rate=0.2)

    def drops(network):
        return [round(float(each.drop_prob), 6) for each in network.modules() if type(each).__name__ == "DropPath"]

    assert drops(made.backbone) == drops(theirs) and max(drops(theirs)) == 0.2
    train(settings(arch="test_convnext", drop_path=0.2, epochs=1), dataset, tmp_path / "run")
    options = Run.open(tmp_path / "run").settings.model_options()
    assert options.drop_path == 0.2 and drops(create(options, 3).backbone) == drops(theirs)


def test_a_network_without_residual_branches_is_named():
    with pytest.raises(
        UserError, match="^drop-path 0.1: 'test_vgg.*' has no residual branches|^drop-path 0.1: 'vgg11'"
    ):
        create(ModelOptions("vgg11", 64, pretrained=False, drop_path=0.1), 3)


# ---------------------------------------------------------------- head epochs


def test_the_classifier_alone_first_then_all(start, dataset, tmp_path):
    given = settings(init=str(start), epochs=3, head_epochs=1, head_epochs_lr=5e-2, lr=1e-3, ema=0.9, min_lr=1e-5)
    weights, before = followed(given, dataset, tmp_path / "run"), load_file(start / layout.BEST)
    steps = len(weights) // 3
    for name, value in weights[steps - 1].items():  # statistics of batch normalisation, too
        same = np.array_equal(value, before[name].double().numpy())
        assert same == (not name.startswith("classifier.")), name
    later = weights[-1]
    moved = [name for name, value in later.items() if not np.array_equal(value, before[name].double().numpy())]
    assert set(moved) == set(later), "all are trained in the end"
    lrs = [float(row["lr"]) for row in rows_of(tmp_path / "run")]
    last = 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * (steps - 1) / steps)) / 2
    assert lrs == pytest.approx([5e-2, 1e-3 * steps / (steps + 1) + 1e-3 / (steps + 1) * 0, last], rel=0.2)


# ---------------------------------------------------------------- other findings


def test_a_run_starts_from_one_of_other_findings_with_a_new_head(start, dataset, tmp_path):
    said, other = [], settings(labels="chexpert", init=str(start), epochs=1)
    with pytest.raises(UserError, match=r"is only in these weights; leave its classifier out with --new-head"):
        train(other, dataset, tmp_path / "run")
    with heard(said):
        train(other.changed(new_head=True), dataset, tmp_path / "new")
    theirs, ours = dataset.labels().findings, dataset.labels("chexpert").findings
    (line,) = [each for each in said if "the new one" in each]
    words = f"its classifier is of {len(theirs)} findings, the new one of {len(ours)} (only there: 'Hernia'"
    assert words in line and "only here" not in line  # of these three, the weights know all
    assert json.loads((tmp_path / "new" / "config.json").read_text())["findings"] == list(ours)
