"""A run's tables know on which images its best epoch and its list of findings were chosen, and those of runs before."""

import pytest

from cxrdali.evaluate.evaluate import evaluate, write
from cxrdali.evaluate.options import EvaluateOptions
from cxrdali.fitted import Fitted, here, sketch
from cxrdali.predict.options import PredictOptions
from cxrdali.predict.predict import predict
from cxrdali.predictions import read
from cxrdali.runs.layout import BEST, VAL_PREDICTIONS
from shards.errors import UserError
from tests.faults import trainers

pytestmark = pytest.mark.slow
QUICK = EvaluateOptions(draws=0)


def test_from_run_to_run_and_into_what_they_predict(dataset, tmp_path):
    labels, cpu = dataset.labels(None), PredictOptions(device="cpu")
    trainers.train(1, dataset, tmp_path, labels=labels.name, epochs=1)
    first = tmp_path / "stage1"
    own = read(first / VAL_PREDICTIONS)
    assert own.fitted == (Fitted(("best epoch",), sketch(own.ids), "val"),)
    test = predict(first, dataset, "test", cpu)
    assert test.fitted == own.fitted and not here(test.fitted, test.ids, "test").words
    assert here(predict(first, dataset, "val", cpu).fitted, own.ids, "val").words == ("best epoch",)

    test.write(tmp_path / "test.parquet")
    chosen = write(evaluate(tmp_path / "test.parquet", dataset, labels, QUICK), tmp_path / "scores")[0]
    more = {"labels": labels.name, "epochs": 1, "oversample_from": str(chosen), "oversample_below": 0.9, "fold": 0}
    trainers.train(2, dataset, tmp_path, **more)
    second = tmp_path / "stage2"
    listed = Fitted(("oversampling list",), sketch(test.ids), "test")
    expected = (own.fitted[0], listed)
    assert read(second / VAL_PREDICTIONS).fitted == expected
    for weights in (None, str(second / BEST)):
        table = predict(second, dataset, "test", PredictOptions(device="cpu", weights=weights))
        assert table.fitted == expected
    table.write(tmp_path / "second.parquet")
    with pytest.raises(UserError, match="second.parquet: oversampling list fitted on these very images, which are"):
        evaluate(tmp_path / "second.parquet", dataset, labels, QUICK)
    allowed = EvaluateOptions(draws=0, allow_same_images=True)
    assert evaluate(tmp_path / "second.parquet", dataset, labels, allowed)["fitted_here"] == ["oversampling list"]
    (second / VAL_PREDICTIONS).unlink()  # of a run that was shared without it, only the split tells
    assert here(predict(second, dataset, "val", cpu).fitted, own.ids, "val").words == ("best epoch",)
