"""One run's verdicts are predict's, several runs' are ensemble's, and rules are refused as everywhere."""

import shutil

import numpy as np
import pytest
import torch

from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.postprocess import calibration, ensemble, thresholds
from cxrdali.postprocess.options import FitOptions
from cxrdali.predict.judge import Judge
from cxrdali.predict.options import JudgeOptions, PredictOptions
from cxrdali.predict.predict import predict
from cxrdali.runs.reader import Run
from shards.errors import UserError
from tests.cxrdali.comparable_runs import change_config
from tests.cxrdali.predict.new_images import trained
from tests.releases import FINDINGS

FITS = FitOptions(folds=2)
CPU = {"device": "cpu"}


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """a and b of 48 px, c of 40 px, resized from 48."""
    root = tmp_path_factory.mktemp("runs")
    return [
        trained(dataset, root / name, size=size, seed=seed)
        for name, size, seed in (("a", 48, 0), ("b", 48, 1), ("c", 40, 2))
    ]


@pytest.fixture(scope="module")
def tables(runs, dataset, tmp_path_factory):
    """Their predictions of all images and of val, as files by run and split."""
    root, made = tmp_path_factory.mktemp("tables"), {}
    for run in runs:
        for split in ("all", "val"):
            made[run.name, split] = root / f"{run.name}-{split}.parquet"
            predict(run, dataset, split, PredictOptions(**CPU)).write(made[run.name, split])
    return made


@pytest.fixture(scope="module")
def rules(tables, dataset, tmp_path_factory):
    """Calibration and thresholds of run a, plain and calibrated."""
    root, labels = tmp_path_factory.mktemp("rules"), dataset.labels("cxr-lt-2023")
    calibration.fit(tables["a", "val"], dataset, labels, "platt", FITS).write(root / "platt.json")
    calibration.apply(tables["a", "val"], calibration.read(root / "platt.json")).write(root / "calibrated.parquet")
    thresholds.fit(tables["a", "val"], dataset, labels, "f1", FITS).write(root / "plain.json")
    thresholds.fit(root / "calibrated.parquet", dataset, labels, "f1", FITS).write(root / "f1.json")
    return root


def opened(*paths):
    return [Run.open(path) for path in paths]


def batches(dataset, size):
    loader = Loader(dataset, np.flatnonzero(dataset.packed), LoaderOptions(size, 8))
    return [images.numpy()[:, 0].copy() for images, _ in loader]


def judged(judge, dataset, *sizes):
    """All images of the dataset, in the batches of `predict`."""
    each = [batches(dataset, size) for size in sizes]
    logits = np.concatenate([judge.judge(list(columns)) for columns in zip(*each, strict=True)])
    return logits, judge.decide(logits)


@pytest.mark.parametrize("tta", ["none", "hflip"])
def test_one_run_gives_the_logits_of_predict_bit_for_bit(runs, dataset, tta):
    judge = Judge.of(opened(runs[0]), JudgeOptions(tta=tta, **CPU))
    assert judge.batch == 8 and judge.findings == FINDINGS and judge.thresholds is None
    logits, decisions = judged(judge, dataset, 48)
    table = predict(runs[0], dataset, "all", PredictOptions(tta=tta, **CPU))
    assert logits.dtype == np.float32 and (logits == table.values).all() and decisions is None


def test_several_runs_give_what_ensemble_makes_of_their_tables(runs, dataset, tables):
    judge = Judge.of(opened(runs[2], *runs[:2]), JudgeOptions(**CPU))
    logits, _ = judged(judge, dataset, 40, 48, 48)
    pooled = ensemble.ensemble([tables[name, "all"] for name in "cab"])
    assert (logits == pooled.values).all()
    assert judge.provenance.run == pooled.provenance.run == "ensemble of c, a, b"


def test_runs_of_the_same_findings_in_another_order(runs, dataset, tmp_path):
    shutil.copytree(runs[1], tmp_path / "b")
    change_config(tmp_path / "b", findings=list(FINDINGS[::-1]))  # its outputs follow: the weights have names
    assert Judge.of(opened(tmp_path / "b"), JudgeOptions(**CPU)).findings == FINDINGS[::-1]
    plain, turned = (
        judged(Judge.of(opened(runs[0], other), JudgeOptions(**CPU)), dataset, 48, 48)[0]
        for other in (runs[1], tmp_path / "b")
    )
    assert np.allclose(plain, turned, rtol=0, atol=1e-5)


def test_calibration_and_thresholds_are_applied_as_to_a_table(runs, dataset, tables, rules):
    options = JudgeOptions(calibration=str(rules / "platt.json"), thresholds=str(rules / "f1.json"), **CPU)
    judge = Judge.of(opened(runs[0]), options)
    logits, decisions = judged(judge, dataset, 48)
    fitted = thresholds.read(rules / "f1.json")
    calibrated = calibration.apply(tables["a", "all"], calibration.read(rules / "platt.json"))
    assert (logits == calibrated.values).all() and judge.provenance.calibrated == calibrated.provenance.calibrated
    assert (decisions == fitted.decide(rules / "x", calibrated)).all() and 0 < decisions.mean() < 1
    assert judge.thresholds == fitted and judge.thresholds.findings == FINDINGS
    hernia = FINDINGS.index("Hernia")
    assert fitted.rules[hernia].probability is None and not decisions[:, hernia].any()


def test_one_probability_for_all_findings(runs, dataset):
    judge = Judge.of(opened(runs[0]), JudgeOptions(thresholds="0.5", **CPU))
    logits, decisions = judged(judge, dataset, 48)
    assert {rule.probability for rule in judge.thresholds.rules} == {0.5} and (decisions == (logits >= 0)).all()


@pytest.mark.parametrize(
    ("who", "given", "said"),
    [
        ("b", {"calibration": "platt.json"}, "runs?.*b: run 'b' here, 'a' in a-val.parquet.*--allow-other-run"),
        ("a", {"calibration": "platt.json", "tta": "hflip"}, "test-time augmentation 'hflip' here, 'none'"),
        (
            "a",
            {"thresholds": "f1.json"},
            "f1.json: fitted to logits that are calibrated: platt.*here they are not c",
        ),
        (
            "a",
            {"calibration": "platt.json", "thresholds": "plain.json"},
            "plain.json: fitted to logits that are not ",
        ),
        ("b", {"thresholds": "plain.json"}, "run 'b' here"),
        ("a", {"thresholds": "platt.json"}, "platt.json: no thresholds"),
        ("a", {"thresholds": "1.5"}, "threshold 1.5: a probability between 0 and 1"),
        ("a", {"calibration": "gone.json"}, "gone.json: no such file"),
    ],
)
def test_rules_are_refused_as_everywhere(runs, rules, who, given, said):
    run = next(run for run in runs if run.name == who)
    files = {name: str(rules / text) if text.endswith(".json") else text for name, text in given.items()}
    with pytest.raises(UserError, match=said):
        Judge.of(opened(run), JudgeOptions(**files, **CPU))


def test_rules_of_another_run_may_be_allowed(runs, rules):
    options = JudgeOptions(calibration=str(rules / "platt.json"), allow_other_run=True, **CPU)
    judge = Judge.of(opened(runs[1]), options)
    assert "(allowed: run 'b' here" in judge.provenance.history[-1]


def test_runs_that_do_not_go_together(runs, dataset, tmp_path):
    with pytest.raises(UserError, match="a: is given twice"):
        Judge.of(opened(runs[0], runs[1], runs[0]), JudgeOptions(**CPU))
    with pytest.raises(UserError, match="of which of 2 runs they are is not said"):
        Judge.of(opened(*runs[:2]), JudgeOptions(weights=str(runs[0] / "best.safetensors"), **CPU))
    other = Run.open(runs[1])
    other.config["findings"] = [*FINDINGS[:-1], "Nodule"]
    with pytest.raises(UserError, match="finding 'Nodule' .and 1 more. is not in both"):
        Judge.of([Run.open(runs[0]), other], JudgeOptions(**CPU))


def test_other_weights_are_named(runs):
    judge = Judge.of(opened(runs[0]), JudgeOptions(weights=str(runs[0] / "last.pt"), **CPU))
    assert judge.provenance.run == "a + last.pt" and "weights of last.pt, content " in judge.provenance.history[0]


def test_a_network_that_gives_nan(runs, dataset):
    judge = Judge.of(opened(runs[0]), JudgeOptions(**CPU))
    with torch.no_grad():
        next(judge.model.backbone.parameters()).fill_(float("nan"))
    images = batches(dataset, 48)[0]
    with pytest.raises(UserError, match="NaN or infinity for image 'x.jpg' in fp32; predict with other weights"):
        judge.judge(images, ["x.jpg", *"yzabcde"])
