"""Every loss against its paper's formula in float64, worked here term by term in plain Python."""

import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from timm.loss import AsymmetricLossMultiLabel
from torch.nn import functional as F

from cli.options.fields import NumberOrWord
from cxrdali.models.cosine import CosineLinear
from cxrdali.models.loss import LOSSES, class_balanced_weights
from cxrdali.models.loss_module import LossModule, bce_sum, known_targets
from cxrdali.models.losses.bce import positive_weights
from cxrdali.models.losses.ldam import margins
from cxrdali.runs import recipes
from cxrdali.runs.settings import assigned, settings_of
from shards.errors import UserError

POSITIVES, NEGATIVES = np.array([900, 40, 3, 0]), np.array([100, 960, 997, 1000])
LOGITS = torch.tensor([[0.3, -1.2, 2.5, 0.7], [-4.0, 3.1, -0.1, -2.0], [1.7, 0.0, -3.3, 5.0]], dtype=torch.float64)
TARGETS = torch.tensor([[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, math.nan], [0.0, math.nan, 1.0, 0.0]])


def loss_of(name, **given):
    return LossModule(LOSSES[name](**given), POSITIVES, NEGATIVES)


def by_hand(term, epoch=0):
    """The sum over known targets of term(x, is_positive, finding)."""
    total = 0.0
    for row, wanted in zip(LOGITS.tolist(), TARGETS.tolist(), strict=True):
        for finding, (x, target) in enumerate(zip(row, wanted, strict=True)):
            if target == target:
                total += term(x, target == 1, finding)
    return total


def p(x):
    return 1 / (1 + math.exp(-x))


def balance(finding, beta=0.9999):
    """Cui et al.: the inverse effective number, normalised to a mean of 1 over the three findings that occur."""
    raw = [(1 - beta) / (1 - beta**n) for n in (900, 40, 3)]
    return raw[finding] * 3 / sum(raw) if finding < 3 else 1.0


def margin(finding, largest=0.5):
    """Cao et al.: C / n^(1/4) with C such that the rarest finding, of 3 images, has the largest one."""
    return largest * 3**0.25 / (900, 40, 3)[finding] ** 0.25


def bce(x, positive):
    return -math.log(p(x)) if positive else -math.log(1 - p(x))


def test_binary_cross_entropy_and_positive_weights():
    assert float(loss_of("bce")(LOGITS, TARGETS, 0)) == pytest.approx(by_hand(lambda x, y, f: bce(x, y)), rel=1e-12)
    assert positive_weights(POSITIVES, NEGATIVES, "ratio").tolist() == pytest.approx([1 / 9, 24, 997 / 3, 1])
    assert positive_weights(POSITIVES, NEGATIVES, "sqrt").tolist() == pytest.approx(
        [1 / 3, 24**0.5, (997 / 3) ** 0.5, 1]
    )
    assert positive_weights(np.array([5, 5]), np.array([0, 10]), "ratio").tolist() == [1, 2]
    weights = [1 / 9, 24, 997 / 3, 1]
    wanted = by_hand(lambda x, y, f: bce(x, y) * (weights[f] if y else 1))
    assert float(loss_of("bce", pos_weight="ratio")(LOGITS, TARGETS, 0)) == pytest.approx(wanted, rel=1e-12)


def test_focal_loss_is_lin_s():
    wanted = by_hand(lambda x, y, f: ((1 - p(x)) if y else p(x)) ** 2 * bce(x, y))
    assert float(loss_of("focal")(LOGITS, TARGETS, 0)) == pytest.approx(wanted, rel=1e-12)
    wanted = by_hand(lambda x, y, f: (0.25 if y else 0.75) * ((1 - p(x)) if y else p(x)) ** 1.5 * bce(x, y))
    given = loss_of("focal", focal_alpha=0.25, focal_gamma=1.5)
    assert float(given(LOGITS, TARGETS, 0)) == pytest.approx(wanted, rel=1e-12)


def test_class_balanced_focal_loss_is_cui_s_on_all_terms_of_an_image_or_on_positive_terms():
    def focal(x, y, f):
        return ((1 - p(x)) if y else p(x)) ** 2 * bce(x, y)

    wanted = by_hand(lambda x, y, f: (balance(f) if y else 1) * focal(x, y, f))
    assert float(loss_of("cb-focal", cb_terms="positives")(LOGITS, TARGETS, 0)) == pytest.approx(wanted, rel=1e-12)
    # the three images have findings 0 and 2, 0 and 1, and 2: an ignored one is none of them
    images = [(balance(0) + balance(2)) / 2, (balance(0) + balance(1)) / 2, balance(2)]
    terms = loss_of("cb-focal").terms(LOGITS, TARGETS, 0)
    plain = loss_of("focal").terms(LOGITS, TARGETS, 0)
    np.testing.assert_allclose(terms, plain * torch.tensor(images, dtype=torch.float64)[:, None], rtol=1e-12)
    # one finding an image, as in Cui et al.: its weight times the image's whole loss; without any, 1
    for finding in (*range(3), None):
        targets = torch.zeros(1, 4)
        if finding is not None:
            targets[0, finding] = 1
        whole = sum(focal(x, f == finding, f) for f, x in enumerate(LOGITS[0].tolist()))
        found = float(loss_of("cb-focal")(LOGITS[:1], targets, 0))
        assert found == pytest.approx(whole * (1 if finding is None else balance(finding)), rel=1e-12)
    assert class_balanced_weights(POSITIVES, 0.9999).tolist() == pytest.approx([balance(f) for f in range(4)], rel=1e-9)
    assert class_balanced_weights(POSITIVES, 0.0).tolist() == [1, 1, 1, 1]


# training images of CXR-LT 2023's 26 findings, of 211,879; and a geometric tail of 1,076 : 1, as Sulake's 30 findings
SHARES = [337, 302, 290, 261, 255, 182, 158, 146, 114, 61, 57, 45, 39, 29, 21, 16, 16, 15, 13, 13, 10, 9, 4, 3, 3, 2]
CXR_LT = np.round(np.array(SHARES) * 211.879).astype(int)
GEOMETRIC = np.geomspace(40_000, 37, 30).round().astype(int)


def cui(counts, beta=0.9999, cap=math.inf):
    """The published weights, each raw one held at `cap` medians."""
    raw = [(1 - beta) / (1 - beta ** int(n)) for n in counts]
    raw = [min(each, cap * sorted(raw)[len(raw) // 2]) for each in raw]  # of an odd number of findings
    return [each * len(raw) / sum(raw) for each in raw]


@pytest.mark.parametrize("counts", [CXR_LT, GEOMETRIC, POSITIVES[:3]])
def test_the_cap_changes_nothing_of_the_papers_long_tails(counts):
    assert class_balanced_weights(counts, 0.9999, 50).tolist() == pytest.approx(cui(counts), rel=1e-9)


def test_a_finding_of_one_image_does_not_flatten_all_others():
    rare = np.append(CXR_LT, 1)
    published, capped = (class_balanced_weights(rare, 0.9999, cap) for cap in (0, 50))
    assert published.tolist() == pytest.approx(cui(rare), rel=1e-9)
    assert capped.tolist() == pytest.approx(cui(rare, cap=50), rel=1e-9)
    frequent = class_balanced_weights(CXR_LT, 0.9999)[0]
    assert frequent == pytest.approx(0.218, abs=1e-3)
    assert published[0] == pytest.approx(0.0027, abs=1e-4) and capped[0] == pytest.approx(0.118, abs=1e-3)
    assert capped.max() == capped[-1] == pytest.approx(50 * np.median(capped))
    for name in ("cb-focal", "drw", "ldam-drw"):
        loss = LOSSES[name](cb_cap=0)
        assert loss.per_finding(rare, 211_879 - rare)["balance"].tolist() == published.tolist()
        assert LOSSES[name]().per_finding(rare, 211_879 - rare)["balance"].tolist() == capped.tolist()


def test_beta_auto_is_that_of_so_many_training_images():
    """Cui et al. 2019, section 3: (N - 1) / N, N being the data's volume."""
    asked = settings_of(stage=1, loss="ldam-drw", cb_beta="auto")
    assert asked.flat()["cb_beta"] == "auto"
    assert asked.resolved(211_879).flat()["cb_beta"] == pytest.approx(1 - 1 / 211_879, rel=1e-15)
    assert settings_of(stage=1, loss="drw").resolved(100) == settings_of(stage=1, loss="drw")
    assert settings_of(stage=1).resolved(100) == settings_of(stage=1)
    with pytest.raises(UserError, match=r"cb-beta auto: only a run knows its training images, N; give \(N - 1\) / N"):
        loss_of("drw", cb_beta="auto")


def test_beta_auto_is_a_value_in_recipes_in_set_and_on_the_command_line(tmp_path):
    (tmp_path / "mine.toml").write_text('[mine]\nstage = 1\n[mine.loss]\nname = "drw"\ncb_beta = "auto"\n')
    recipe, _ = recipes.find(recipes.load(tmp_path / "mine.toml"), "mine").resolve(tmp_path, {})
    assert recipe.loss.cb_beta == "auto" and assigned("loss.cb_beta=auto") == ("cb_beta", "auto")
    assert assigned("cb_beta=0.99") == ("cb_beta", 0.99)
    assert [NumberOrWord(float).convert(each, None, None) for each in ("auto", "0.99", "1")] == ["auto", 0.99, 1.0]
    assert [NumberOrWord(int).convert(each, None, None) for each in ("auto", "16", "1.5")] == ["auto", 16, "1.5"]


@pytest.mark.parametrize(("neg", "pos", "clip"), [(4, 1, 0.05), (4, 0, 0.05), (2, 1, 0), (0, 0, 0)])
def test_asymmetric_loss_is_ridnik_s_not_the_inverted_one(neg, pos, clip):
    def term(x, y, f):
        if y:
            return -((1 - p(x)) ** pos) * math.log(p(x))
        shifted = max(p(x) - clip, 0)
        return -(shifted**neg) * math.log(1 - shifted)

    found = float(loss_of("asl", asl_gamma_neg=neg, asl_gamma_pos=pos, asl_clip=clip)(LOGITS, TARGETS, 0))
    assert found == pytest.approx(by_hand(term), rel=1e-9)
    # timm's, in its float32, where no probability is near its cut-off
    known = torch.nan_to_num(TARGETS)
    theirs = AsymmetricLossMultiLabel(neg, pos, clip, reduction="none")(LOGITS, known)[~torch.isnan(TARGETS)].sum()
    assert found == pytest.approx(float(theirs), rel=1e-4)


def test_the_margin_acts_on_the_cosine_as_cao_et_al_have_it():
    """Their NormedLinear and LDAMLoss in NumPy: x = cos(features, weights), s * (x - margin) for what is there."""
    features, rows = np.random.default_rng(0).normal(size=(3, 5)), np.random.default_rng(1).normal(size=(4, 5))
    head = CosineLinear(5, 4).double()
    head.weight.data = torch.from_numpy(rows)
    lengths = np.linalg.norm(features, axis=1)[:, None] * np.linalg.norm(rows, axis=1)
    cosines = features @ rows.T / lengths
    np.testing.assert_allclose(head(torch.from_numpy(features)).detach(), cosines, rtol=1e-12)
    assert head.bias is None and not torch.equal(head.weight, F.normalize(head.weight))
    known = TARGETS.numpy()
    margins_of = np.array([margin(0), margin(1), margin(2), 0])
    shifted = 30 * (cosines - margins_of * (known == 1))
    wanted = np.where(known == 1, np.log1p(np.exp(-shifted)), np.log1p(np.exp(shifted)))[~np.isnan(known)].sum()
    logits = 30 * head(torch.from_numpy(features)).detach()
    assert float(loss_of("ldam")(logits, TARGETS, 0)) == pytest.approx(wanted, rel=1e-12)


def test_margins_are_cao_s_on_the_scaled_logit():
    wanted = by_hand(lambda x, y, f: bce(x - 30 * margin(f), True) if y else bce(x, False))
    assert float(loss_of("ldam")(LOGITS, TARGETS, 0)) == pytest.approx(wanted, rel=1e-12)
    assert margins(POSITIVES, 0.5).tolist() == pytest.approx([margin(0), margin(1), 0.5, 0])


@pytest.mark.parametrize("name", ["drw", "ldam-drw"])
def test_reweighting_begins_after_so_many_epochs_and_touches_positives_alone(name):
    def plain(x, y, f):
        return bce(x - 30 * margin(f), True) if y and name == "ldam-drw" else bce(x, y)

    loss = loss_of(name, drw_epoch=2)
    before, after = by_hand(plain), by_hand(lambda x, y, f: plain(x, y, f) * (balance(f) if y else 1))
    assert [float(loss(LOGITS, TARGETS, epoch)) for epoch in range(4)] == pytest.approx([before, before, after, after])
    assert [loss.reweights(epoch) for epoch in range(4)] == [False, False, True, True]
    assert not loss_of("bce").reweights(10**6)


SINGLE = [name for name in LOSSES if not LOSSES[name]().couples]


@pytest.mark.parametrize("name", SINGLE)
def test_gradients_at_logits_of_20_in_bf16_are_the_formula_s(name):
    """A positive that the model denies must still pull, also in half precision; so must a negative that it asserts,
    except under ASL's shift (APL has it too), whose own formula lets go of it."""
    loss = loss_of(name)
    for target in (1.0, 0.0):
        for x in (20.0, -20.0):
            targets = torch.full((1, 4), target)
            narrow = torch.full((1, 4), x, dtype=torch.bfloat16, requires_grad=True)
            exact = torch.full((1, 4), x, dtype=torch.float64, requires_grad=True)
            for logits in (narrow, exact):
                loss(logits, targets, 20).backward()
            assert torch.isfinite(narrow.grad).all() and narrow.grad.dtype == torch.bfloat16
            torch.testing.assert_close(narrow.grad.double(), exact.grad, rtol=0.02, atol=1e-6)
            wrong = (target == 1) == (x < 0)
            if wrong and not (name in ("asl", "apl") and target == 0):
                # a finding without positives has no margin and no weight, but a pull all the same
                assert (exact.grad.abs() > 1e-3).all() and (narrow.grad.abs() > 1e-3).all()
    unclipped = loss_of(name, asl_clip=0.0) if name in ("asl", "apl") else loss
    logits = torch.full((1, 4), 20.0, dtype=torch.bfloat16, requires_grad=True)
    unclipped(logits, torch.zeros(1, 4), 0).backward()
    weights = loss.balance if name == "db-reduced" else 1  # which multiply terms of negatives, too
    assert (logits.grad / weights > 0.5).all()


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_finite_differences(name):
    logits = LOGITS.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: loss_of(name)(x, TARGETS, 20), logits)


@pytest.mark.parametrize("name", LOSSES)
def test_findings_without_positives_divide_by_nothing(name):
    for counts in (np.array([0, 0, 0, 0]), np.array([5, 0, 0, 0])):
        loss = LossModule(LOSSES[name](), counts, 10 - counts)
        assert torch.isfinite(loss.terms(LOGITS, TARGETS, 20)).all()


@pytest.mark.parametrize("name", SINGLE)
def test_micro_batches_add_up_to_the_batch(name):
    loss = loss_of(name)
    whole = loss(LOGITS, TARGETS, 20) / known_targets(TARGETS)
    parts = sum(loss(x, y, 20) for x, y in zip(LOGITS.split(1), TARGETS.split(1), strict=True)) / known_targets(TARGETS)
    torch.testing.assert_close(whole, parts)


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_any_known_target_pulls_nowhere(name):
    logits = LOGITS.clone().requires_grad_(True)
    nothing = torch.full((3, 4), math.nan)
    loss = loss_of(name)(logits, nothing, 20) / known_targets(nothing)
    loss.backward()
    assert loss.item() == 0 and (logits.grad == 0).all()


def test_validation_s_loss_is_exact_in_float64():
    assert float(bce_sum(LOGITS, TARGETS)) == pytest.approx(by_hand(lambda x, y, f: bce(x, y)), rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "given", "message"),
    [
        ("lsep", {}, "loss 'lsep': choose one of apl, asl, bce, cb-focal, db, db-reduced, drw, focal, ldam, ldam-drw"),
        ("bce", {"asl_clip": 0.1}, "asl-clip 0.1: the loss bce has no such parameter; it has pos-weight"),
        ("ldam", {"drw_epoch": 3}, "drw-epoch 3: the loss ldam has no such parameter; it has ldam-margin, ldam-scale"),
        ("focal", {"focal_gamma": 0.5}, r"focal-gamma 0.5: 0, or 1 to 20"),
        ("focal", {"focal_alpha": -0.5}, "focal-alpha -0.5: 0 to 1, or -1 for none"),
        ("cb-focal", {"cb_terms": "negatives"}, "cb-terms 'negatives': choose one of all, positives"),
        ("bce", {"head": "cosine"}, "head cosine: .* loss bce has no scale for it; give --loss ldam or ldam-drw"),
        ("bce", {"dropout": 1.0}, "dropout 1.0: 0 or more, below 1"),
        ("bce", {"lr_schedule": "month"}, "lr-schedule 'month': choose one of step, epoch, constant"),
        ("cb-focal", {"cb_beta": 1.0}, "cb-beta 1.0: 0 or more, below 1, or auto"),
        ("cb-focal", {"cb_beta": "all"}, "cb-beta 'all': 0 or more, below 1, or auto"),
        ("drw", {"cb_cap": 0.5}, "cb-cap 0.5: 1 or more, or 0 for none"),
        ("asl", {"asl_clip": 1.0}, "asl-clip 1.0: 0 or more, below 1"),
        ("ldam", {"ldam_scale": 0.0}, "ldam-scale 0.0: above 0, at most 1000"),
        ("ldam", {"ldam_margin": math.nan}, "ldam-margin nan: above 0, at most 10"),
        ("drw", {"drw_epoch": -1}, "drw-epoch -1: 0 or more epochs"),
        ("bce", {"pos_weight": "inverse"}, "pos-weight 'inverse': one of none, sqrt, ratio"),
    ],
)
def test_wrong_parameters_are_named(loss, given, message):
    with pytest.raises(UserError, match=message):
        settings_of(stage=1, loss=loss, **given)


def test_the_command_line_says_it_in_one_line():
    from cli.main import cxrdali

    said = CliRunner().invoke(cxrdali, ["train", "--stage", "1", "--out", "x", "--loss", "bce", "--asl-clip", "0.1"])
    assert isinstance(said.exception, UserError) and "the loss bce has no such parameter" in str(said.exception)
