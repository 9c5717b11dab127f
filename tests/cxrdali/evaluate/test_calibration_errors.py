"""What an evaluation says of probabilities: three kinds of calibration error, macro and pooled, beside their floor."""

import csv

import numpy as np
import pytest

from cxrdali.evaluate.evaluate import evaluate, write
from cxrdali.evaluate.options import EvaluateOptions
from cxrdali.metrics.calibration_error import KINDS, errors
from cxrdali.predictions import Kind, Predictions, Provenance, read, sigmoid
from tests.cxrdali.held_out import written


@pytest.fixture
def labels(dataset):
    return dataset.labels("cxr-lt-2023")


def test_every_part_has_its_errors_and_their_floor(dataset, labels, tmp_path):
    rows, truth = written(tmp_path / "p.parquet", dataset, "test", "test")
    result = evaluate(tmp_path / "p.parquet", dataset, labels, EvaluateOptions(draws=0))
    probabilities = sigmoid(read(tmp_path / "p.parquet").values)
    frontal = (dataset.catalog["view"].iloc[rows] == "frontal").to_numpy()
    for part, mask in (("all", frontal >= 0), ("frontal", frontal), ("lateral", ~frontal)):
        wanted = errors(truth[mask].astype(np.float32), probabilities[mask])
        for name, value in wanted.items():
            assert result[part][name] == (value if name == "ECE_floor" else pytest.approx(value))
        for name, kind in KINDS.items():
            found = np.array([row[name] for row in result[part]["findings"]], dtype=float)  # None: NaN
            by_hand = kind(truth[mask].astype(np.float32), probabilities[mask])
            assert found == pytest.approx(by_hand, nan_ok=True)
    table = list(csv.DictReader(write(result, tmp_path / "p.metrics")[1].open()))
    mean = next(row for row in table if row["view"] == "all" and row["group"] == "all" and not row["finding"])
    for name in KINDS:
        assert float(mean[name]) == pytest.approx(result["all"][f"macro_{name}"])


def test_mean_ranks_have_neither_errors_nor_a_floor(dataset, labels, tmp_path):
    written(tmp_path / "p.parquet", dataset, "test", "test")
    table = read(tmp_path / "p.parquet")
    ranks = Predictions(table.ids, table.findings, sigmoid(table.values), Provenance(Kind.RANK, "m", "test"))
    ranks.write(tmp_path / "ranks.parquet")
    part = evaluate(tmp_path / "ranks.parquet", dataset, labels, EvaluateOptions(draws=0))["all"]
    assert "ECE_floor" not in part and "pooled_ECE" not in part
    assert part["macro_ECE"] is part["macro_ECE_equal_mass"] is part["macro_ECE_debiased"] is None
