"""A run folder with any of its files missing: nothing in it is written over, unless the run really goes on."""

import itertools
import shutil

import numpy as np
import pytest
from safetensors.numpy import save

from cxrdali.runs.layout import BEST, CONFIG, FINDINGS, LAST, METRICS, NEW, PROGRESS, VAL_PREDICTIONS
from cxrdali.runs.settings import settings_of
from cxrdali.train.hooks import Hooks
from cxrdali.train.stopping import Stopped
from cxrdali.train.trainer import train
from shards.errors import UserError
from tests.cli.cli import call
from tests.releases import contents

pytestmark = pytest.mark.slow

FILES = (CONFIG, PROGRESS, METRICS, FINDINGS, LAST, BEST, VAL_PREDICTIONS)
SUBSETS = [set(names) for count in range(1, 8) for names in itertools.combinations(FILES, count)]


def settings(**changes):
    given = {"stage": 1, "size": 48, "batch": 16, "epochs": 2, "arch": "test_efficientnet", "pretrained": False}
    return settings_of(**{**given, "device": "cpu", **changes})


def stop_after(moments):
    asked = itertools.count(1)
    return Hooks(should_stop=lambda: 15 if next(asked) == moments else None)


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """A finished run, and one that was stopped in its second epoch; without TensorBoard's events."""
    folder = tmp_path_factory.mktemp("runs")
    train(settings(), dataset, folder / "finished")
    with pytest.raises(Stopped):
        train(settings(), dataset, folder / "stopped", hooks=stop_after(6))  # 3 steps and a batch of validation first
    for each in folder.iterdir():
        shutil.rmtree(each / "tensorboard")
    return folder


def with_files(run, names, out):
    """A copy of the run with these files alone."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    for name in names:
        (out / name).write_bytes((run / name).read_bytes())
    return contents(out)


def trained(out, dataset, **changes):
    """What training into the folder says, or whether it was finished; it never trains for longer than a step."""
    try:
        return train(settings(**changes), dataset, out, hooks=stop_after(1)).already_finished
    except UserError as error:
        return str(error)
    except Stopped:
        return None


def expected(names, finished):
    """A part of what is to be said; True for already finished, None for a run that goes on."""
    if CONFIG not in names:
        return f"without its {CONFIG}; restore that file, or give another --out folder"
    if LAST in names:
        return (True if finished else None) if BEST in names else f"{BEST} of epoch "
    if names == {CONFIG}:
        return None
    if PROGRESS not in names:
        return f"of a run, without {LAST} and {PROGRESS}, so it cannot go on and nothing here is overwritten; restore"
    if not finished:
        return f"holds a run that is not finished, without its {LAST}"
    return True if BEST in names else f"{BEST}: is missing, the weights of epoch "


@pytest.mark.parametrize("name", ["finished", "stopped"])
def test_the_same_command_continues_says_finished_or_is_refused(runs, dataset, tmp_path, name):
    out, wrong = tmp_path / "run", []
    for names in SUBSETS:
        before, wanted = with_files(runs / name, names, out), expected(names, name == "finished")
        if wanted is None and names not in ({CONFIG}, {CONFIG, LAST, BEST}, set(FILES)):
            continue  # it goes on, whatever else follows from last.pt is there
        said, after = trained(out, dataset), contents(out)
        right = wanted in said if isinstance(said, str) and isinstance(wanted, str) else said is wanted
        # a finished run's tables are written anew from last.pt
        kept = wanted is None or all(after.get(each) == content for each, content in before.items())
        more = set(after) - set(before) - {".lock"}
        made = more <= {METRICS, FINDINGS, PROGRESS} if LAST in names and wanted is True else not more or wanted is None
        if not (right and kept and made):
            wrong.append((sorted(names), said, wanted, kept, sorted(more)))
    assert wrong == []


def test_another_command_never_begins_among_a_run_s_files(runs, dataset, tmp_path):
    out, wrong = tmp_path / "run", []
    for names in SUBSETS:
        before = with_files(runs / "finished", names, out)
        said = trained(out, dataset, seed=5)
        if names == {CONFIG}:  # nothing was reached: other settings may begin here
            assert said is None
            continue
        wanted = "another seed: 0 there, 5 now; give the same" if CONFIG in names else f"without its {CONFIG}; restore"
        if not (isinstance(said, str) and wanted in said and contents(out) == {**before, ".lock": b""}):
            wrong.append((sorted(names), said))
    assert wrong == []


def test_weights_of_a_later_epoch_that_no_state_has_saved_are_kept(runs, dataset, tmp_path):
    """They are those of a copied run whose kill came between two renames; of the first epoch, they are dropped."""
    out = tmp_path / "run"
    late = save({"x": np.zeros(1)}, {"epoch": "2"})
    for names, said in (({CONFIG}, f", without {LAST} and {PROGRESS}"), (set(), f" without its {CONFIG}")):
        with_files(runs / "finished", names, out)
        (out / NEW[BEST]).write_bytes(late)
        assert f"holds {NEW[BEST]} of a run{said}" in trained(out, dataset)
        assert (out / NEW[BEST]).read_bytes() == late


def test_a_longer_run_is_told_how_to_begin(runs, dataset, tmp_path):
    shutil.copytree(runs / "finished", tmp_path / "run")
    said = trained(tmp_path / "run", dataset, epochs=9)
    assert said.endswith(
        f"another epochs: 2 there, 9 now; give the same again, or another --out folder; --init {tmp_path}/run/{BEST} "
        "starts a new run from its weights"
    )
    fresh = settings(epochs=1, init=str(tmp_path / "run" / BEST))
    assert train(fresh, dataset, tmp_path / "new").epochs == 1


# ---------------------------------------------------------------- commands


def test_config_and_weights_are_enough_to_predict(runs, pack_folder, tmp_path):
    with_files(runs / "finished", {CONFIG, BEST}, tmp_path / "lean")
    tables = []
    for run in (runs / "finished", tmp_path / "lean"):
        words = ("predict", "--run", run, "--data", pack_folder, "--split", "test", "--device", "cpu")
        done = call(*words, "--out", f"{run.name}.csv", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert ("has no progress.json: its weights, of epoch " in done.stdout) == (run.name == "lean")
        tables.append((tmp_path / f"{run.name}.csv").read_bytes())
    assert tables[0] == tables[1]
    started = call("train", "--stage", 2, "--data", pack_folder, "--init", "lean", "--out", "two", cwd=tmp_path)
    assert started.returncode == 1 and not (tmp_path / "two" / CONFIG).exists()
    assert f"another run starts from its weights with --init lean/{BEST}" in started.stderr


def test_no_command_writes_over_a_run_s_files(runs, pack_folder, tmp_path):
    run = shutil.copytree(runs / "finished", tmp_path / "run")
    (run / ".lock").unlink()
    with_files(runs / "stopped", set(FILES), tmp_path / "other")
    before, table = contents(run), f"run/{VAL_PREDICTIONS}"
    small = ("--data", pack_folder, "--device", "cpu")
    plain = ("--arch", "test_efficientnet", "--no-pretrained", "--size", 48, "--batch", 16)
    for words, name in {
        ("predict", "--run", "run", *small, "--split", "test", "--out", table): VAL_PREDICTIONS,
        ("evaluate", table, "--data", pack_folder, "--out", "run/metrics"): METRICS,
        ("evaluate", table, "--data", pack_folder, "--out", "run/findings.csv"): FINDINGS,
        ("ensemble", table, f"other/{VAL_PREDICTIONS}", "--data", pack_folder, "--out", table): VAL_PREDICTIONS,
        ("calibrate", "--fit", table, "--data", pack_folder, "--out", "run/config.json"): CONFIG,
        ("calibrate", table, "--fit", table, "--out", "t.csv", "--save-rules", "run/progress.json"): PROGRESS,
        ("thresholds", "--fit", table, "--data", pack_folder, "--out", "run/progress.json"): PROGRESS,
        ("postprocess", table, "--fit", table, "--out", "t.csv", "--views", "run/config.json"): CONFIG,
        ("submit", table, "--template", table, "--out", f"run/{BEST}"): BEST,
        ("report", "run", "--out", f"run/{LAST}"): LAST,
        ("report", "run", "--out", "run/config.html"): CONFIG,
        ("compare", "run", "other", "--out", "run/metrics.html"): METRICS,
        ("explain", "--run", "run", *small, "--out", "run/progress.html"): PROGRESS,
        ("inspect", pack_folder, "--html", "run/config.html"): CONFIG,
    }.items():
        refused = call(*words, cwd=tmp_path)
        said = f"{name} there belongs to a run, and would be written over; give another name"
        assert refused.returncode == 1 and said in refused.stderr, (words, refused.stderr)
        assert contents(run) == before, words
    for words in (
        ("train", "--stage", 2, "--init", "run", "--out", "run", *small, *plain),
        ("retrain-head", "--run", "run", "--out", "run", *small),
    ):
        refused = call(*words, cwd=tmp_path)
        assert refused.returncode == 1 and "run: holds a run with another" in refused.stderr, refused.stderr
        assert contents(run) == {**before, ".lock": b""}
    # a page and a table beside the run's files are nobody's
    assert call("report", "run", "--data", pack_folder, "--out", "run/report.html", cwd=tmp_path).returncode == 0
