"""One flipped bit in anything that a command reads of another's work: a line naming the file, or the same content."""

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from cxrdali import predictions
from cxrdali.models import weights_file
from cxrdali.models.weights import read_weights
from cxrdali.postprocess import calibration, thresholds, views
from cxrdali.predictions import Predictions
from cxrdali.report.training.folder import read_evaluation
from cxrdali.runs import layout
from cxrdali.runs.folder import load_last
from cxrdali.runs.oversampling import read_ap
from cxrdali.runs.reader import Run
from cxrdali.runs.seen import read_list
from shards.errors import UserError
from shards.storage import sealed
from shards.storage.sealed import read_json, sealed_json
from tests.cli.cli import call
from tests.faults.trainers import error_line
from tests.heard import heard

pytestmark = pytest.mark.slow

SMALL = ["--size", 48, "--batch", 8, "--arch", "test_byobnet", "--no-pretrained", "--device", "cpu", "--epochs", 1]
FOLDS = ["--folds", 2]
EVERY = 1500  # flips in a file of at most so many bytes: one in each
UNREAD = {".lock", "calibration.html", layout.EVENTS}  # by no command

# what reads each file, by its name in the folder; the file of a run in that of run `one`
READERS: dict[str, Callable[[Path], object]] = {
    f"one/{layout.CONFIG}": lambda path: Run.open(path.parent).config,
    f"one/{layout.PROGRESS}": lambda path: vars(Run.open(path.parent).progress),
    f"one/{layout.METRICS}": lambda path: Run.open(path.parent).metrics,
    f"one/{layout.FINDINGS}": lambda path: Run.open(path.parent).finding_metrics,
    f"one/{layout.BEST}": lambda path: (Run.open(path.parent).best_weights(), read_weights(path)),
    f"one/{layout.LAST}": lambda path: load_last(path.parent),
    f"one/{layout.VAL_PREDICTIONS}": predictions.read,
    f"one/{layout.SEEN}": lambda path: vars(read_list(path)),
    "one.parquet": predictions.read,
    "two.parquet": predictions.read,
    "one.csv": predictions.read,
    "one.csv.sha256": lambda path: predictions.read(path.with_suffix("")),
    "calibration.json": calibration.read,
    "thresholds.json": thresholds.read,
    "views.json": views.read,
    "scores.json": read_evaluation,
    "scores.csv": read_ap,
    "scores.csv.sha256": lambda path: read_ap(path.with_suffix("")),
}
_RUN = [f"one/{layout.CONFIG}", f"one/{layout.PROGRESS}"]
_BEST = [*_RUN, f"one/{layout.BEST}"]
_SEEN = f"one/{layout.SEEN}"
_TABLES = [f"one/{layout.METRICS}", f"one/{layout.FINDINGS}"]
# commands, and what they read
COMMANDS: list[tuple[list, list[str]]] = [
    (["predict", "--run", "one", "--out", "new.csv", "--device", "cpu"], [*_BEST, _SEEN]),
    (["explain", "--run", "one", "--layer", "stages.2", "--out", "new.html", "--device", "cpu"], _BEST),
    (["retrain-head", "--run", "one", "--out", "new", "--device", "cpu"], [*_BEST, _SEEN]),
    (["train", "--stage", 2, "--init", "one", "--out", "new", *SMALL], [*_BEST, _SEEN]),
    (["train", "--stage", 2, "--init", f"one/{layout.BEST}", "--out", "new", *SMALL], [_BEST[-1], _SEEN]),
    (["train", "--stage", 1, "--out", "one", *SMALL], [f"one/{layout.CONFIG}", f"one/{layout.LAST}"]),
    (["train", "--stage", 2, "--init", f"one/{layout.LAST}", "--out", "new", *SMALL], [f"one/{layout.LAST}"]),
    *(
        (["train", "--stage", 1, "--oversample-from", name, "--oversample-below", 0.9, "--out", "new", *SMALL], [file])
        for name, file in (("one", f"one/{layout.FINDINGS}"), ("scores.csv", "scores.csv"), ("scores.json",) * 2)
    ),
    (["report", "one", "--out", "new.html"], [*_RUN, *_TABLES]),
    (["report", "one", "--evaluation", "scores.json", "--out", "new.html"], ["scores.json"]),
    (["compare", "one", "two", "--draws", 0, *FOLDS], [*_RUN, _TABLES[0], f"one/{layout.VAL_PREDICTIONS}", _SEEN]),
    (["evaluate", "one.csv", "--thresholds", "thresholds.json"], ["one.csv", "one.csv.sha256", "thresholds.json"]),
    (["ensemble", "one.parquet", "two.parquet", "--out", "new.csv"], ["one.parquet", "two.parquet"]),
    (["calibrate", "one.parquet", "--rules", "calibration.json", "--out", "new.csv"], ["calibration.json"]),
    (["calibrate", "--fit", "one.parquet", "--method", "platt", "--out", "new.json", *FOLDS], ["one.parquet"]),
    (["thresholds", "--fit", "one.parquet", "--out", "new.json", *FOLDS], ["one.parquet"]),
    (["postprocess", "one.parquet", "--rules", "views.json", "--out", "new.csv"], ["one.parquet", "views.json"]),
    (["submit", "one.parquet", "--template", "one.csv", "--out", "new.zip"], ["one.parquet"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(pack_folder, dataset, tmp_path_factory):
    """Two finished runs, and one of everything that is made of them."""
    folder = tmp_path_factory.mktemp("whole")

    def done(*words, data=True):
        result = call(*words, *(["--data", pack_folder] if data else []), cwd=folder)
        assert result.returncode == 0, result.stderr

    for seed, name in enumerate(("one", "two")):
        done("train", "--stage", 1, "--out", name, "--seed", seed, *SMALL)
        done("predict", "--run", name, "--split", "val", "--out", f"{name}.parquet", "--device", "cpu")
    predictions.read(folder / "one.parquet").write(folder / "one.csv")
    done("calibrate", "--fit", "one.parquet", "--method", "platt", "--out", "calibration.json", *FOLDS)
    done("thresholds", "--fit", "one.parquet", "--out", "thresholds.json", *FOLDS)
    views.fit(folder / "one.parquet", dataset, dataset.labels(None)).write(folder / "views.json")
    done("evaluate", "one.parquet", "--draws", 0, "--out", "scores", "--thresholds", "thresholds.json")
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


@pytest.fixture(autouse=True)
def _notes():
    sealed.noted.clear()


def plain(value: object) -> object:
    """Content that can be compared."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, pd.DataFrame):
        return value.to_csv()
    if isinstance(value, Predictions):
        return value.ids.to_csv(), value.findings, value.values.tobytes(), value.provenance
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else repr(value)


def flip(path: Path, data: bytes, at: int, bit: int) -> None:
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    path.write_bytes(changed)


def test_every_file_of_a_command_is_read_here(whole):
    """A new one needs a checksum, and a line in READERS."""
    names = {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()}
    kinds = {name for name in names if not name.startswith("two/") and not UNREAD & {*name.split("/")}}
    assert kinds == set(READERS)
    assert kinds - {name for _, files in COMMANDS for name in files} == {"scores.csv.sha256"}


@pytest.mark.parametrize("name", READERS)
def test_a_flip_anywhere_is_named_or_changes_nothing(copy, name):
    path, read = copy / name, READERS[name]
    data, expected, rng, named = path.read_bytes(), plain(read(path)), random.Random(0), 0
    places = range(len(data)) if len(data) <= EVERY else sorted(rng.sample(range(len(data)), 150))
    for at in places:
        bit = rng.randrange(8)
        flip(path, data, at, bit)
        sealed.noted.clear()
        try:
            found = plain(read(path))
        except UserError as error:
            assert path.name.removesuffix(".sha256") in str(error) and "\n" not in str(error), (at, bit, str(error))
            named += 1
            continue
        if sealed.noted and isinstance(found, dict):  # the word "checksum" itself became an entry of another name
            found = {key: value for key, value in found.items() if key in expected}
        assert found == expected, (at, bit)
    # what is left says nothing: the name in a hash file, dates in a zip, statistics in parquet
    assert named > (0.4 if name.endswith(("sha256", layout.LAST, "parquet")) else 0.95) * len(places)


@pytest.mark.parametrize(
    "words, name",
    [(words, name) for words, files in COMMANDS for name in files],
    ids=[f"{words[0]}-{name}-{number}" for number, (words, files) in enumerate(COMMANDS) for name in files],
)
def test_every_command_names_a_damaged_file_in_one_line(copy, pack_folder, words, name):
    data = (copy / name).read_bytes()
    for at in range(len(data) // 3 if len(data) > EVERY else 20, len(data)):
        flip(copy / name, data, at, 0)
        with contextlib.suppress(UserError):
            READERS[name](copy / name)  # what parquet keeps beside the columns changes nothing
            continue
        break
    needs_data = words[0] not in ("report", "ensemble", "submit") and words[:3:2] != ["calibrate", "--rules"]
    result = call(*words, *(["--data", pack_folder] if needs_data else []), cwd=copy)
    said = error_line(result.returncode, result.stderr)
    assert name.rpartition("/")[2].removesuffix(".sha256") in said
    assert not [path for path in copy.iterdir() if path.suffix in (".zip", ".html") and path.stem == "new"]


# ---------------------------------------------------------------- exchanged, edited, old


def test_another_runs_weights_of_the_same_epoch_are_refused(copy, pack_folder):
    mine, others = (weights_file.identity(copy / name / layout.BEST) for name in ("one", "two"))
    shutil.copy(copy / "two" / layout.BEST, copy / "one" / layout.BEST)
    result = call("predict", "--run", "one", "--data", pack_folder, "--out", "p.csv", "--device", "cpu", cwd=copy)
    words = f"is not what this run wrote (checksum {others[:12]}, progress.json names {mine[:12]})"
    error_line(result.returncode, result.stderr, f"one/{layout.BEST}: {words}; restore it, or train the run again")


def test_a_table_of_another_run_is_refused(copy):
    shutil.copy(copy / "two" / layout.METRICS, copy / "one" / layout.METRICS)
    with pytest.raises(UserError, match=r"metrics.csv: is not what this run wrote \(.*\); run the same"):
        _ = Run.open(copy / "one").metrics
    (copy / "one" / layout.LAST).unlink()
    with pytest.raises(UserError, match=r"metrics.csv: is not what this run wrote \(.*\); restore it"):
        _ = Run.open(copy / "one").metrics
    (copy / "one" / layout.METRICS).unlink()
    with pytest.raises(UserError, match=r"metrics.csv: is not what this run wrote \(checksum none, "):
        _ = Run.open(copy / "one").metrics


def test_the_trainer_mends_what_follows_from_last_pt(copy, pack_folder):
    before = {name: (copy / "one" / name).read_bytes() for name in (layout.METRICS, layout.FINDINGS, layout.PROGRESS)}
    for name, data in before.items():
        flip(copy / "one" / name, data, len(data) // 2, 0)
    result = call("train", "--stage", 1, "--out", "one", *SMALL, "--data", pack_folder, cwd=copy)
    assert result.returncode == 0, result.stderr
    assert {name: (copy / "one" / name).read_bytes() for name in before} == before


def test_a_change_of_ones_own_is_kept_as_the_line_says(copy):
    config, table = copy / "one" / layout.CONFIG, copy / "one.csv"
    config.write_text(config.read_text().replace('"device": "', '"device": "my '))
    with pytest.raises(UserError, match='to keep a change of your own, delete its entry "checksum".; restore it'):
        Run.open(copy / "one")
    stored = {key: value for key, value in json.loads(config.read_bytes()).items() if key != "checksum"}
    config.write_text(json.dumps(stored))
    assert Run.open(copy / "one").device.startswith("my ")
    table.write_text(table.read_text().replace("frontal", "Frontal"))
    with pytest.raises(UserError, match="delete one.csv.sha256 if you changed it yourself"):
        predictions.read(table)
    (copy / "one.csv.sha256").unlink()
    assert "Frontal" in set(predictions.read(table).ids["view"])


def test_files_without_a_checksum_are_read_and_noted_once(copy, pack_folder):
    """As an older version left them: the run continues, and its weights start others."""
    run = copy / "one"
    for path in (*copy.rglob("*.json"),):
        stored = read_json(path)
        stored.pop("checksums", None)
        path.write_bytes(sealed.json_bytes(stored))
    about = {key: value for key, value in weights_file.metadata(run / layout.BEST).items() if key != sealed.CHECKSUM}
    save_file(load_file(run / layout.BEST), run / layout.BEST, about)
    (copy / "one.csv.sha256").unlink()
    lines: list[str] = []
    with heard(lines):
        assert Run.open(run).best_weights() and len(Run.open(run).metrics) == 1
        read_weights(run / layout.BEST), predictions.read(copy / "one.csv"), calibration.read(copy / "calibration.json")
    again = ["train", "--stage", 1, "--out", "one", *SMALL]
    for words in (["predict", "--run", "one", "--out", "p.csv", "--device", "cpu"], again):
        sealed.noted.clear()
        result = call(*words, "--data", pack_folder, cwd=copy)
        assert result.returncode == 0, result.stderr
        assert result.stdout.count("has no checksum") == 1


def test_weights_of_others_have_no_checksum_and_no_note(copy):
    save_file(load_file(copy / "one" / layout.BEST), copy / "timm.safetensors", {"format": "pt"})
    read_weights(copy / "timm.safetensors")
    assert not sealed.noted


def test_equal_weights_in_another_order_are_the_same_start(copy, pack_folder):
    """The order of the metadata was chance; and the hash of the file, as older versions knew it, still counts."""
    best, start = copy / "one" / layout.BEST, copy / "start.safetensors"
    about = weights_file.metadata(best)
    orders = set()
    while len(orders) < 2:
        save_file(load_file(best), start, {key: about[key] for key in about if key != sealed.CHECKSUM})
        orders.add(start.read_bytes())
        assert weights_file.identity(start) == weights_file.identity(best)
    command = ["train", "--stage", 2, "--init", start, "--out", "next", *SMALL, "--data", pack_folder]
    for data in (best.read_bytes(), *orders):
        start.write_bytes(data)
        assert call(*command, cwd=copy).returncode == 0
    config = read_json(copy / "next" / layout.CONFIG)
    old = sealed.sha256_bytes(start.read_bytes())
    (copy / "next" / layout.CONFIG).write_bytes(sealed_json({**config, "init_sha256": old}))
    assert call(*command, cwd=copy).returncode == 0
    (copy / "next" / layout.CONFIG).write_bytes(sealed_json({**config, "init_sha256": "0" * 64}))
    result = call(*command, cwd=copy)
    error_line(result.returncode, result.stderr, "next: holds a run with another init_sha256")
