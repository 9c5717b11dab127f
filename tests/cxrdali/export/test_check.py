"""The module that leaves, and the comparison that it has to pass."""

import numpy as np
import pytest
import torch

from cxrdali.export.check import BOUND, Expected
from cxrdali.export.graph import Calibrated
from cxrdali.postprocess.calibration_maps import Affine, Isotonic, fit_isotonic
from cxrdali.predictions import sigmoid
from shards.errors import UserError
from tests.heard import heard


def fitted(seed: int) -> Isotonic:
    """Isotonic regression of overconfident logits of 3,000 images: a few dozen steps."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 3, 3000).astype(np.float32)
    made, kept = fit_isotonic((rng.random(3000) < sigmoid(logits / 2)).astype(float), logits)
    assert isinstance(made, Isotonic) and not kept and len(made.logits) > 20
    return made


MAPS = (Affine(), Affine(0.5, -1.25), fitted(0), fitted(1), Isotonic((2.0,), (0.25,), 0.01, 1.0))


def places(made) -> np.ndarray:
    """Logits of interest: far outside, at every knot, and just beside it."""
    knots = np.array(getattr(made, "logits", (0.0,)), dtype=np.float32)
    beside = [np.nextafter(knots, np.float32(sign * np.inf)) for sign in (-1, 1)]
    return np.concatenate([knots, *beside, np.linspace(-40, 40, 1501, dtype=np.float32)])


@pytest.mark.parametrize("maps", [MAPS, MAPS[:2]])
def test_calibration_inside_is_numpys(maps):
    """In float32, where a step is steep: the outputs of logits a hair lower and higher bound it."""
    count = max(len(places(each)) for each in maps)
    logits = np.stack([np.resize(places(each), count) for each in maps], axis=1)
    found = Calibrated(maps)(torch.from_numpy(logits)).numpy()
    assert found.dtype == np.float32 and found.shape == logits.shape
    for column, made in enumerate(maps):
        given = logits[:, column].astype(np.float64)
        hair = 1e-6 * np.maximum(1, np.abs(given))
        low, high = made(given - hair), made(given + hair)
        assert (found[:, column] >= low - 1e-5).all() and (found[:, column] <= high + 1e-5).all(), made
        level = high - low < 1e-3  # not within a step
        np.testing.assert_allclose(found[level, column], made(given)[level], atol=1e-3)
        assert level.mean() > 0.9


def expected(**more) -> Expected:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, 1, 4, 4), dtype=np.uint8)
    return Expected(images, rng.normal(0, 3, (16, 5)).astype(np.float32), "16 images", **more)


def answers(target: Expected, change=lambda outputs: outputs):
    """A runtime that knows the right outputs, changed."""
    known = {each.tobytes(): row for each, row in zip(target.images, target.outputs(target.logits), strict=True)}
    return lambda images: change(np.stack([known[each.tobytes()] for each in images]).astype(np.float32))


@pytest.mark.parametrize("maps", [(), MAPS])
@pytest.mark.parametrize("probabilities", [True, False])
def test_what_is_right_passes_in_batches_of_one_and_three_and_the_difference_is_said(maps, probabilities):
    target, sizes = expected(maps=maps, probabilities=probabilities), []

    def run(images):
        sizes.append(len(images))
        return answers(target, lambda outputs: outputs + 1e-7)(images)

    with heard([]) as said:
        target.check(run, "a to onnx")
    assert sizes == [1, 3, 3, 3, 3, 3]
    kind = "probability" if probabilities else "logit"
    assert said[0].startswith(f"a to onnx: the largest difference from torch is a {kind} of ") and "e-0" in said[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda outputs: outputs + 0.02, "differs from torch by up to a logit of 0.02, on 16 images"),
        (lambda outputs: np.where(outputs == outputs.max(), np.nan, outputs), "differs from torch"),
        (lambda outputs: outputs[:, :4], r"it gives \[16, 4\], not \[16, 5\]"),
        (lambda outputs: outputs[:, ::-1], "differs from torch"),
        (lambda outputs: 1 / 0, r"it does not run in batches of 1 and 3 \(division by zero\)"),
    ],
)
def test_what_is_wrong_is_refused(change, words):
    target = expected()
    with pytest.raises(UserError, match=words):
        target.check(answers(target, change), "a to onnx")


def test_the_bound_is_one_of_logits_whatever_is_compared():
    """A hair beyond it is refused on either side of a steep step, where the outputs differ most."""
    target = expected(maps=MAPS, probabilities=True)
    span = BOUND * np.maximum(1, np.abs(target.logits))
    for factor, right in ((-0.99, True), (0.99, True), (-1.2, False), (1.2, False)):
        moved = dict(
            zip((each.tobytes() for each in target.images), target.outputs(target.logits + factor * span), strict=True)
        )
        run = lambda images, moved=moved: np.stack([moved[each.tobytes()] for each in images])  # noqa: E731
        if right:
            target.check(run, "a")
        else:
            with pytest.raises(UserError, match="differs from torch"):
                target.check(run, "a")
