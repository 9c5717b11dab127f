"""What the committed rows of calibrations say of the number of positives that isotonic regression needs."""

import json
from pathlib import Path

from cxrdali.postprocess.calibration_maps import ENOUGH

ROOT = Path(__file__).parents[2]


def test_isotonic_costs_little_from_the_number_it_needs_and_much_below():
    rows = [json.loads(line) for line in (ROOT / "benchmarks/results/calibration.jsonl").read_text().splitlines()]
    lost = {
        (row["logits"], row["prevalence"], row["positives"]): row["log_loss_percent_above"]
        for row in rows
        if row["environment"]["date"] == rows[-1]["environment"]["date"]
    }
    for (kind, _, positives), each in lost.items():
        assert positives < ENOUGH or each["isotonic"] < 1.5
        if positives >= 10 and kind in ("calibrated", "shifted", "stretched"):  # a line corrects these
            assert each["platt"] < each["isotonic"]
    assert all(lost["calibrated", share, 100]["isotonic"] > 1 for share in (0.002, 0.01, 0.05, 0.3))
    assert all(
        lost["bent", share, ENOUGH]["isotonic"] < lost["bent", share, ENOUGH]["platt"] for share in (0.01, 0.05, 0.3)
    )
