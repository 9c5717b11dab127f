"""A run continued with the other memory layout: fused AdamW pairs numbers by their place in memory.

The reference is AdamW (Loshchilov & Hutter) in NumPy, element by element, which knows of no memory at all.
"""

import io

import numpy as np
import pytest
import torch

from cxrdali.runs.folder import load_last
from cxrdali.train.hooks import Hooks
from cxrdali.train.state import load_optimizer
from cxrdali.train.step import adamw
from cxrdali.train.stopping import Stopped
from cxrdali.train.trainer import train
from tests.cxrdali.train.test_trainer import quietly, settings

LR, DECAY, BETAS, EPS = 0.1, 0.01, (0.9, 0.999), 1e-8
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
SHAPE = (4, 3, 5, 2)  # no two sides alike


def by_hand(weight: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    weight, first, second = weight.astype(np.float64), np.zeros(SHAPE), np.zeros(SHAPE)
    for step, gradient in enumerate(gradients, 1):
        weight = weight * (1 - LR * DECAY)
        first = BETAS[0] * first + (1 - BETAS[0]) * gradient
        second = BETAS[1] * second + (1 - BETAS[1]) * gradient**2
        weight = weight - LR * (first / (1 - BETAS[0] ** step)) / (np.sqrt(second / (1 - BETAS[1] ** step)) + EPS)
    return weight


def laid_out(values: np.ndarray, layout: str) -> torch.nn.Module:
    made = torch.nn.Conv2d(SHAPE[1], SHAPE[0], SHAPE[2:], bias=False)
    made.weight = torch.nn.Parameter(torch.from_numpy(values).float().contiguous(memory_format=LAYOUTS[layout]))
    return made


@pytest.mark.parametrize("before", LAYOUTS)
@pytest.mark.parametrize("after", LAYOUTS)
def test_moments_follow_their_weights_into_the_other_layout(before, after):
    rng = np.random.default_rng(3)
    start, gradients = rng.normal(size=SHAPE), [rng.normal(size=SHAPE) * 10.0**power for power in (0, -2, 1, 0, -1, 2)]

    def steps(model, optimizer, some):
        for each in some:
            model.weight.grad = torch.empty_like(model.weight).copy_(torch.from_numpy(each))
            optimizer.step()

    model = laid_out(start, before)
    optimizer = adamw(model, LR, DECAY)
    steps(model, optimizer, gradients[:3])
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    model = laid_out(model.weight.detach().numpy(), after)
    optimizer = adamw(model, LR, DECAY)
    load_optimizer(optimizer, torch.load(file))
    kept = optimizer.state[model.weight]
    assert {kept[name].stride() for name in ("exp_avg", "exp_avg_sq")} == {model.weight.stride()}
    assert float(kept["step"]) == 3 and not any(each.requires_grad for each in kept.values())
    steps(model, optimizer, gradients[3:])
    # float32 against float64
    np.testing.assert_allclose(model.weight.detach().numpy(), by_hand(start, gradients), rtol=0, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("before", [True, False])
def test_a_run_goes_on_with_the_other_layout(dataset, tmp_path, before):
    """Stopped after an epoch of 7 steps. Convolutions add up in another order in the other layout, and nothing else
    differs: the weights agree to a hundredth of how far an epoch moves them."""
    out, unbroken, epochs = tmp_path / "run", tmp_path / "unbroken", []
    given = {"epochs": 2, "lr": 1e-3, "lr_schedule": "constant", "warmup_epochs": 0}
    hooks = Hooks(on_epoch=epochs.append, should_stop=lambda: 15 if epochs else None)
    with pytest.raises(Stopped):
        train(settings(**given, channels_last=before), dataset, out, hooks=hooks)
    begun = load_last(out)["model"]
    quietly(settings(**given, channels_last=not before), dataset, out)
    quietly(settings(**given, channels_last=before), dataset, unbroken)
    one, other = (load_last(path) for path in (out, unbroken))
    convolutions = [name for name, value in begun.items() if value.ndim == 4 and value.numel() > value.shape[0]]
    assert len(convolutions) > 5 and len(one["metrics"]) == 2

    def apart(these, those):
        return float(torch.cat([(these[name] - those[name]).flatten() for name in convolutions]).norm())

    assert apart(one["model"], other["model"]) < 0.01 * apart(begun, other["model"])
