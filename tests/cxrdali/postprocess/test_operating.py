import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from cxrdali.postprocess.thresholds import Strategy, choose, operating_points, parse_strategy
from shards.errors import UserError

# by falling logit: 1, then two that tie (one positive), then 1, 0, 1, 0 and one that is not known
TRUTH = np.array([1, 1, 0, 1, 0, 1, 0, np.nan])
LOGITS = np.array([6.0, 5.0, 5.0, 4.0, 3.0, 2.0, 1.0, 9.0])


def chosen(strategy, truth=TRUTH, logits=LOGITS):
    return choose(operating_points(truth, logits), parse_strategy(strategy))


def made(images=300, seed=0, prevalence=0.3):
    """Targets and logits that tie often."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(images) < prevalence).astype(np.float32)
    truth[rng.random(images) < 0.05] = np.nan
    return truth, np.round(rng.normal(size=images) + 1.2 * np.nan_to_num(truth), 1).astype(np.float32)


def test_points_worked_by_hand():
    points = operating_points(TRUTH, LOGITS)
    assert points.thresholds.tolist() == [6, 5, 4, 3, 2, 1]
    assert points.called.tolist() == [1, 3, 4, 5, 6, 7] and points.hits.tolist() == [1, 2, 3, 3, 4, 4]
    assert points.positives == 4


@pytest.mark.parametrize(
    ("strategy", "threshold"),
    [
        # F1 = 2 hits / (called + 4): 2/5, 4/7, 6/8, 6/9, 8/10, 8/11
        ("f1", 2),
        # precision: 1, 2/3, 3/4, 3/5, 2/3, 4/7
        ("precision=0.75", 4), ("precision=0.76", 6), ("precision=0.6", 2), ("precision=0.5", 1), ("precision=1", 6),
        # recall: 1/4, 1/2, 3/4, 3/4, 1, 1
        ("recall=0.25", 6), ("recall=0.5", 5), ("recall=0.51", 4), ("recall=0.75", 4), ("recall=1", 2),
        # four positives: four are called at 4
        ("prevalence", 4),
    ],
)  # fmt: skip
def test_strategies_worked_by_hand(strategy, threshold):
    assert chosen(strategy) == (threshold, "")


def test_a_precision_that_is_not_reached_is_said():
    truth, logits = np.array([0, 1, 1, 0, 1]), np.array([5.0, 4, 3, 2, 1])  # precisions 0, 1/2, 2/3, 1/2, 3/5
    assert chosen("precision=0.9", truth, logits) == (3, "precision 0.9 is not reached, the best is 0.667")
    tied = np.array([0, 1, 0, 1])  # 0, 1/2, 1/3, 1/2: of equals the lowest threshold, which finds more
    assert chosen("precision=0.9", tied, np.array([4.0, 3, 2, 1]))[0] == 1


def test_of_equal_f1_the_highest_threshold_and_of_equally_near_counts_too():
    truth = np.array([1, 0, 0, 1])  # F1 by hand: 2/3, 1/2, 2/5, 2/3
    assert chosen("f1", truth, np.array([4.0, 3, 2, 1]))[0] == 4
    # 2 positives; 1 or 3 can be called: 1
    assert chosen("prevalence", np.array([1, 1, 0]), np.array([2.0, 1, 1]))[0] == 2


def test_a_finding_without_a_positive_has_no_threshold():
    for truth in (np.zeros(3), np.full(3, np.nan), np.zeros(0)):
        assert chosen("f1", truth, np.arange(float(len(truth)))) == (
            None, "no positive, so no image is called positive",
        )  # fmt: skip


def test_without_a_negative_all_are_called():
    assert chosen("f1", np.ones(3), np.arange(3.0)) == (0, "")


@pytest.mark.parametrize("seed", range(3))
def test_as_scikit_learn_scores_every_threshold(seed):
    truth, logits = made(seed=seed)
    known = ~np.isnan(truth)
    target, values = truth[known], logits[known]
    tried = np.unique(values)
    f1, precision, recall = (
        np.array([measure(target, values >= limit) for limit in tried])
        for measure in (f1_score, precision_score, recall_score)
    )
    assert f1[tried == chosen("f1", truth, logits)[0]] == pytest.approx([f1.max()])
    for wanted in (0.3, 0.5):
        limit, remark = chosen(f"precision={wanted}", truth, logits)
        assert remark == "" and limit == tried[precision >= wanted].min()
        limit, _ = chosen(f"recall={wanted}", truth, logits)
        assert limit == tried[recall >= wanted].max()
    called = np.array([(values >= limit).sum() for limit in tried])
    nearest = np.abs(called - target.sum()).min()
    limit, _ = chosen("prevalence", truth, logits)
    assert abs((values >= limit).sum() - target.sum()) == nearest


def test_strategies_are_read():
    assert parse_strategy("f1") == Strategy("f1") and str(Strategy("f1")) == "f1"
    assert parse_strategy("recall=0.90") == Strategy("recall", 0.9) and str(Strategy("recall", 0.9)) == "recall=0.9"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f2", "strategy 'f2': choose one of f1, precision=P, recall=R, prevalence"),
        ("f1=0.5", "choose one of"),
        ("precision", "choose one of"),
        ("precision=80", "precision= takes a number above 0, at most 1, such as precision=0.8"),
        ("recall=0", "recall= takes a number above 0"),
        ("recall=nan", "recall= takes a number above 0"),
        ("recall=", "recall= takes a number above 0"),
    ],
)
def test_other_strategies_are_named(text, message):
    with pytest.raises(UserError, match=message):
        parse_strategy(text)
