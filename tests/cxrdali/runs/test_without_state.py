"""A finished run without last.pt, three quarters of its bytes: everybody reads it, and nobody trains over it."""

import json
import shutil

import pytest

from cxrdali.predictions import read
from cxrdali.runs.layout import BEST, LAST, METRICS, PROGRESS, VAL_PREDICTIONS
from cxrdali.runs.oversampling import read_ap
from cxrdali.runs.reader import Run
from shards.errors import UserError
from shards.storage.sealed import sealed_json
from tests.cli.cli import call
from tests.releases import contents

pytestmark = pytest.mark.slow

SMALL = ["--batch", 8, "--arch", "test_byobnet", "--no-pretrained", "--device", "cpu", "--lr", 3e-3]


def train(pack, out, *more, epochs=2):
    return ["train", "--data", pack, "--out", out, "--epochs", epochs, *SMALL, *more]


def done(folder, *words):
    result = call(*words, cwd=folder)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def trained(pack_folder, tmp_path_factory):
    """Two finished runs, `run` and `other`, with everything."""
    folder = tmp_path_factory.mktemp("trained")
    done(folder, *train(pack_folder, "run", "--stage", 1, "--size", 64))
    done(folder, *train(pack_folder, "other", "--stage", 1, "--size", 64, "--seed", 1))
    return folder


@pytest.fixture(scope="module")
def lean(trained, tmp_path_factory):
    """The same without what training continues from."""
    folder = shutil.copytree(trained, tmp_path_factory.mktemp("lean") / "runs")
    for name in ("run", "other"):
        (folder / name / LAST).unlink()
    return folder


def test_it_predicts_and_is_evaluated(trained, lean, pack_folder):
    for folder in (trained, lean):
        done(folder, "predict", "--run", "run", "--data", pack_folder, "--split", "test", "--out", "p.parquet",
             "--device", "cpu")  # fmt: skip
    assert (read(trained / "p.parquet").values == read(lean / "p.parquet").values).all()
    done(lean, "evaluate", "p.parquet", "--data", pack_folder, "--draws", 0)
    refused = call("predict", "--run", "run", "--weights", "other", "--data", pack_folder, "--split", "test", "--out",
                   "p.parquet", "--device", "cpu", cwd=lean)  # fmt: skip
    words = "error: other: is a folder; name a file in it, as with --weights other/best.safetensors"
    assert refused.stderr.splitlines()[-1] == words


def test_the_next_stage_starts_from_it(lean, pack_folder, tmp_path):
    said = done(lean, *train(pack_folder, tmp_path / "two", "--stage", 2, "--size", 48, "--init", "run", epochs=1))
    assert "two: finished" in said


def test_its_classifier_is_retrained(lean, pack_folder, tmp_path):
    words = ("--data", pack_folder, "--out", tmp_path / "crt", "--epochs", 1, "--batch", 8, "--device", "cpu")
    assert "crt: finished" in done(lean, "retrain-head", "--run", "run", *words)


def test_images_are_oversampled_by_its_ap(trained, lean):
    ap = read_ap(lean / "run")
    assert {name: str(value) for name, value in ap.items()} == {
        name: str(value) for name, value in read_ap(trained / "run").items()
    }
    assert any(0 < value < 1 for value in ap.values())


def test_it_has_a_page(lean, pack_folder):
    done(lean, "report", "run", "other", "--data", pack_folder, "--out", "report.html")


def test_it_is_explained(lean, pack_folder):
    said = done(lean, "explain", "--run", "run", "--data", pack_folder, "--images", 1, "--layer", "stages.2",
                "--device", "cpu", "--out", "maps.html")  # fmt: skip
    assert "maps.html: 4 findings" in said


def test_it_is_compared(lean, pack_folder):
    said = done(lean, "compare", "run", "other", "--data", pack_folder, "--draws", 0, "--folds", 2, "--out", "c.html")
    assert "run" in said and "2 of" not in said


def test_training_it_again_does_nothing_and_other_settings_are_refused(lean, pack_folder):
    same = train(pack_folder, "run", "--stage", 1, "--size", 64)
    before = contents(lean / "run")
    assert "run: was already finished; best epoch" in done(lean, *same)
    refused = call(*same, "--seed", 5, cwd=lean)
    assert refused.returncode == 1 and "run: holds a run with another seed: 0 there, 5 now" in refused.stderr
    assert contents(lean / "run") == before


def test_a_finished_stage_is_finished_also_without_the_one_that_it_started_from(lean, pack_folder, tmp_path):
    done(lean, *train(pack_folder, "two", "--stage", 2, "--size", 48, "--init", "run", epochs=1))
    (lean / "two" / LAST).unlink()
    (lean / "two").rename(tmp_path / "two")
    said = done(tmp_path, *train(pack_folder, "two", "--stage", 2, "--size", 48, epochs=1))
    assert "two: was already finished; best epoch 1 of 1, validation mAP " in said


# ---------------------------------------------------------------- what is not there


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained / "run", tmp_path / "run")


def test_an_unfinished_run_without_its_state_is_never_begun_anew(copy, pack_folder, tmp_path):
    said = json.loads((copy / PROGRESS).read_bytes())
    (copy / PROGRESS).write_bytes(sealed_json({**said, "epoch": 1, "finished": False}))
    (copy / LAST).unlink()
    before = contents(copy)
    for name in (PROGRESS, None):
        ended = call(*train(pack_folder, "run", "--stage", 1, "--size", 64), cwd=tmp_path)
        assert ended.returncode == 1
        words = "run: holds a run that is not finished, without its last.pt, so it cannot go on"
        gone = "run: holds best.safetensors of a run, without last.pt and progress.json, so it cannot go on"
        assert (words if name else gone) in ended.stderr
        assert contents(copy) == before
        if name:  # then without both: there are weights and metrics still
            (copy / name).unlink()
            before = contents(copy)


@pytest.mark.parametrize("content", [None, b"[]"])
def test_a_run_without_progress_is_finished_by_its_trainer(copy, pack_folder, tmp_path, content):
    expected = (copy / PROGRESS).read_bytes()
    (copy / PROGRESS).unlink() if content is None else (copy / PROGRESS).write_bytes(content)
    with pytest.raises(UserError, match="progress.json: .*; run the same `cxrdali train` once, which writes it"):
        Run.open(copy).best_weights()
    assert "already finished" in done(tmp_path, *train(pack_folder, "run", "--stage", 1, "--size", 64))
    assert (copy / PROGRESS).read_bytes() == expected
    assert Run.open(copy).best_weights() == copy / BEST


@pytest.mark.parametrize("content", [b"", b"[]", b'{"epoch": 1}', b"\xff"])
def test_a_damaged_progress_is_one_line(copy, content):
    (copy / PROGRESS).write_bytes(content)
    with pytest.raises(UserError, match="progress.json: not as `cxrdali train` writes it .* run the same"):
        Run.open(copy).check_finished("finish it")


def test_a_run_says_what_it_is(trained, dataset):
    run = Run.open(trained / "run")
    labels = dataset.labels()
    assert (run.settings.data.size, run.settings.optimizer.batch, run.settings.optimizer.epochs) == (64, 8, 2)
    assert (run.dataset_id, run.labels, run.labels_sha256) == (dataset.id, labels.name, labels.sha256)
    assert run.findings == labels.findings and [*run.train_positives] == [*labels.findings]
    assert run.progress.finished and run.progress.metric == "mAP"
    assert run.progress.best_score == run.best["mAP"] and run.progress.best_epoch == run.best["epoch"]
    assert run.best_weights() == run.path / BEST and run.val_predictions == run.path / VAL_PREDICTIONS
    assert len(run.metrics) == 2 and len(run.finding_metrics) == 2 * len(labels.findings)
    assert (run.path / METRICS).exists() and run.fold.folds == 5 and run.origin == "random weights"
