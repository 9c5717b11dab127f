"""Mixup and CutMix in training: what the model sees, continued runs, micro-batches, ranks."""

import pytest
import torch
from safetensors.torch import load_file

from cxrdali.data.pairs import Pairs
from cxrdali.runs.layout import BEST
from cxrdali.runs.settings import sampling_seed, settings_of
from cxrdali.train.cached import is_cached
from cxrdali.train.hooks import Hooks
from cxrdali.train.stopping import Stopped
from cxrdali.train.trainer import train
from shards.errors import UserError


def settings(**changes):
    given = {"stage": 1, "size": 32, "batch": 16, "epochs": 1, "arch": "test_byobnet", "pretrained": False,
             "device": "cpu", "threads": 1, "augment_preset": "none"}  # fmt: skip
    return settings_of(**{**given, **changes})


def seen(dataset, out, how, stop_after=None):
    """Images and targets of all steps; stop_after: a step after which the run is stopped and continued."""
    images, targets, asked = [], [], []
    hooks = Hooks(
        on_parts=lambda parts, _: parts.step.loss.register_forward_pre_hook(lambda _, given: targets.append(given[1])),
        on_step=lambda step: images.append(step.images.clone()),
        should_stop=lambda: asked.append(0) or (15 if len(asked) == stop_after else None),
    )
    if stop_after:
        with pytest.raises(Stopped):
            train(how, dataset, out, hooks=hooks)
    train(how, dataset, out, hooks=hooks)
    images, targets = torch.cat(images), torch.cat(targets)
    return images, targets[: len(images)]


@pytest.mark.slow
def test_the_model_sees_mixed_images_and_targets_and_a_continued_run_the_same(dataset, tmp_path):
    how = {"mixup": 0.4, "cutmix": 1.0}
    plain = seen(dataset, tmp_path / "plain", settings())
    whole = seen(dataset, tmp_path / "whole", settings(**how))
    wanted = Pairs(0.4, 1.0, sampling_seed(0, 1))(plain[0], 0, 0, plain[1])
    assert torch.equal(whole[0], wanted[0]) and not torch.equal(whole[0], plain[0])
    assert torch.allclose(whole[1], wanted[1])
    assert ((whole[1] > 0.05) & (whole[1] < 0.95)).any()
    for name, changes, stop_after in (("parts", {}, 2), ("micro", {"micro_batch": 4}, None)):
        images, targets = seen(dataset, tmp_path / name, settings(**how, **changes), stop_after)
        assert torch.equal(images, whole[0]) and torch.allclose(targets, whole[1])
    one, two = (load_file(tmp_path / name / BEST) for name in ("whole", "parts"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_batches_that_are_not_made_of_pairs_are_refused_and_features_are_not_kept(dataset, tmp_path):
    message = "mixup: mixes pairs of neighbours, and a batch of 15 is not made of pairs; give a --batch that 2 divides"
    with pytest.raises(UserError, match=message):
        train(settings(batch=15, mixup=0.2), dataset, tmp_path / "run")
    with pytest.raises(UserError, match="loss two-way: takes no targets between 0 and 1, which mixup 0.2 makes"):
        settings(loss="two-way", mixup=0.2)
    frozen = settings(frozen=True, init="run", pretrained=True)
    assert is_cached(frozen) and not is_cached(frozen.changed(cutmix=0.5))
