"""cxrdali ensemble with weights from validation tables, as a user types it."""

import numpy as np
import pytest

from cxrdali.predictions import Predictions, Provenance, read
from tests.cli.cli import call, done, refused
from tests.releases import FINDINGS


@pytest.fixture
def folder(dataset, tmp_path):
    """good and noise: predictions of two runs for dev and test."""
    labels = dataset.labels("cxr-lt-2023")
    rng = np.random.default_rng(0)
    for split in ("dev", "test"):
        rows = np.flatnonzero((labels.split == split) & dataset.packed)
        ids = dataset.catalog.iloc[rows][["image_id", "study_id", "view"]]
        for name, skill in (("good", 1.5), ("noise", 0)):
            values = (rng.normal(size=(len(rows), 5)) + skill * labels.values[rows]).astype(np.float32)
            about = Provenance("logit", name, split, labels.name, dataset.id, "none")
            Predictions(ids, FINDINGS, values, about).write(tmp_path / f"{name}.{split}.parquet")
    return tmp_path


TEST = ("good.test.parquet", "noise.test.parquet")


@pytest.mark.parametrize("method", ["mean", "geometric", "rank"])
def test_weights_by_map_and_fitted_ones_are_said_and_used(folder, pack_folder, method):
    for option in ("--weights-by-map", "--fit-weights"):
        result = done(folder, "ensemble", *TEST, option, "good.dev.parquet,noise.dev.parquet", "--data", pack_folder,
                      "--folds", 3, "--method", method, "--out", "e.parquet")  # fmt: skip
        lines = result.stdout.splitlines()
        assert lines[0].startswith("good.dev.parquet   validation mAP 0.") and "  weight 0." in lines[0]
        assert float(lines[0].split()[-1]) > float(lines[1].split()[-1])
        if option == "--fit-weights":
            assert "cross-fitted over 3 folds of subjects" in lines[2] and "of the best table alone" in lines[2]
        assert lines[-3] == read(folder / "e.parquet").provenance.history[0]
        assert "good.test.parquet, noise.test.parquet" in lines[-3] and "the mAP of good.dev.parquet" in lines[-3]


def test_a_fit_that_gains_nothing_is_called_so(folder, pack_folder):
    # two copies of one table: every weight pools them to the same
    for split in ("dev", "test"):
        read(folder / f"good.{split}.parquet").write(folder / f"noise.{split}.parquet")
    result = call("ensemble", *TEST, "--fit-weights", "good.dev.parquet,noise.dev.parquet", "--data", pack_folder,
                  "--out", "e.parquet", cwd=folder)  # fmt: skip
    assert "fitting gains nothing on subjects it has not seen: equal weights did as well or better" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("--weights 1,2 --fit-weights a.parquet,b.parquet", 2, "--weights and --fit-weights: weights come from one"),
        ("--method rank --as probability", 2, "--method rank --as probability: a mean rank is no probability"),
        ("--method median", 2, "'median': did you mean mean? choose one of mean, geometric, rank"),
        ("--weights-by-map good.dev.parquet", 1, "give at least two tables"),
        ("--weights-by-map good.dev.parquet,e.csv", 1, "e.csv: is a table that this one is made from"),
        (
            "--weights-by-map noise.dev.parquet,good.dev.parquet",
            1,
            "run 'good' here, 'noise' in the validation table in its",
        ),
        ("--fit-weights good.dev.parquet,noise.test.parquet", 1, "was predicted on split 'test', good.dev.parquet on"),
        ("--fit-weights good.dev.parquet,noise.dev.parquet --folds 1", 1, "folds 1: at least 2"),
        ("--fit-weights good.dev.parquet,noise.dev.parquet --labels x", 1, "no labels 'x'"),
    ],
)
def test_mistakes_are_named(folder, pack_folder, arguments, code, said):
    given = ("ensemble", *TEST, "--out", "e.csv", "--data", pack_folder, *arguments.split())
    refused(*given, cwd=folder, code=code, said=said)
