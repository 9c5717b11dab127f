"""Whether a claim holds: over seeds by the t interval, of one pair by samples of patients; from runs of known skill."""

import numpy as np
import pytest
from scipy import stats

from cxrdali.studies.ground import Base
from cxrdali.studies.schema import Claim
from cxrdali.studies.seeds import judged, scores, spread
from tests.cxrdali.comparable_runs import LABELS, packed, write_run
from tests.cxrdali.comparable_runs import settings_of as made

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """The dataset as its runs see it, and tables by skill and seed."""
    root = tmp_path_factory.mktemp("claims")
    dataset = packed(root)
    tables = {}
    for skill in (0.2, 3.0):
        for seed in range(3):
            run = write_run(root / f"{skill}-{seed}", dataset, skill, seed)
            tables[skill, seed] = run / "val_predictions.parquet"
    return Base(dataset, dataset.labels(LABELS), made(stage=1, size=48, batch=8, folds=2)), tables


def test_a_claim_over_seeds_by_hand(ground):
    base, tables = ground
    sides = [[tables[skill, seed] for seed in range(3)] for skill in (3.0, 0.2)]
    found = judged(Claim("a", "b", printed=(0.3, 0.2)), *sides, base, 0)
    values = [[scores(path, base)["mAP"] for path in side] for side in sides]
    paired = np.subtract(*values)
    reach = paired.std(ddof=1) / np.sqrt(3) * stats.t.ppf(0.975, 2)
    assert found["difference"] == pytest.approx(paired.mean())
    assert [found["low"], found["high"]] == pytest.approx([paired.mean() - reach, paired.mean() + reach])
    assert (found["verdict"], found["unit"], found["n"], found["printed"]) == ("holds", "seed", 3, [0.3, 0.2])
    assert found["scores"] == pytest.approx(np.mean(values, axis=1))
    assert judged(Claim("b", "a"), *sides[::-1], base, 0)["verdict"] == "does not hold"
    less = judged(Claim("a", "b", metric="macro_Brier"), *sides, base, 0)
    assert less["difference"] < 0 and less["verdict"] == "holds", "a lower Brier score is the better one"


def test_a_claim_of_one_pair_has_an_interval_of_patients(ground):
    base, tables = ground
    found = judged(Claim("a", "b"), [tables[3.0, 0]], [tables[0.2, 0]], base, 50)
    one, other = (scores(tables[skill, 0], base)["mAP"] for skill in (3.0, 0.2))
    assert found["difference"] == pytest.approx(one - other) and found["scores"] == pytest.approx([one, other])
    assert (found["verdict"], found["unit"]) == ("holds", "patient") and 0 < found["low"] < found["high"]
    assert judged(Claim("a", "b"), [tables[3.0, 0]], [tables[0.2, 0]], base, 0)["verdict"] == "not separable"


def test_a_spread_of_few_has_no_interval():
    assert spread([]) == {"mean": None, "sd": None, "n": 0, "low": None, "high": None}
    assert spread([0.5]) == {"mean": 0.5, "sd": None, "n": 1, "low": None, "high": None}
