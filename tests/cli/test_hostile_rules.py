"""Files of rules, evaluations and runs that others made: as always, or one line; no wait, no bomb, no escape codes."""

import json
import os
import random
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxrdali import predictions
from cxrdali.postprocess import calibration, thresholds, views
from cxrdali.runs.layout import BEST, CONFIG, FINDINGS, LAST, METRICS, PROGRESS, VAL_PREDICTIONS
from shards.errors import UserError
from shards.storage import parquet
from shards.storage.sealed import sealed_json
from tests.cli.cli import call, done
from tests.cxrdali.comparable_runs import packed, write_run
from tests.fuzz.test_descriptions import OTHERS
from tests.fuzz.test_shards import changed, places

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("time_limit")]

ESCAPE = "\x1b]0;owned\x07"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """pack/, runs/plain, and rules of every kind that were fitted to it."""
    root = tmp_path_factory.mktemp("hostile")
    dataset = packed(root)
    table = write_run(root / "runs" / "plain", dataset, 1.0, seed=0) / VAL_PREDICTIONS
    labels = dataset.labels("cxr-lt-2023")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "ENOUGH", 10)  # else isotonic's file holds lines
        for method in ("platt", "isotonic"):
            calibration.fit(table, dataset, labels, method).write(root / f"{method}.json")
    thresholds.fit(table, dataset, labels, "f1").write(root / "thresholds.json")
    views.fit(table, dataset, labels).write(root / "views.json")
    done(root, "evaluate", table, "--data", "pack", "--draws", 0, "--out", "evaluation")
    return root


def use(root, folder, kind, file, *more):
    """The command that reads a file of this kind."""
    table, data = root / "runs/plain" / VAL_PREDICTIONS, ("--data", root / "pack")
    words = {
        "platt": ("calibrate", table, "--rules", file, "--out", "out.parquet"),
        "isotonic": ("calibrate", table, "--rules", file, "--out", "out.parquet"),
        "thresholds": ("evaluate", table, *data, "--thresholds", file, "--draws", 0, "--out", "out"),
        "views": ("postprocess", table, "--rules", file, *data, "--out", "out.parquet"),
        "evaluation": ("report", root / "runs/plain", "--evaluation", file, "--out", "out.html"),
    }
    return call(*words[kind], *more, cwd=folder)


KINDS = ("platt", "isotonic", "thresholds", "views", "evaluation")
TEXTS = {
    "nested": b"[" * 100_000,
    "nested inside": b'{"findings": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
    "no object": b"null",
    "no text": b"\xff",
    "twice": b'{"format": 1, "format": 1}',
    "NaN": b'{"format": 1, "findings": NaN}',
    "infinite": b'{"format": 1, "findings": 1e999}',
    "digits": b'{"format": ' + b"9" * 5000 + b"}",
    "many": b'{"format": 1, "made_from": {}, "findings": [' + b"0," * 500_000 + b"0]}",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_no_rules_is_one_line(root, tmp_path, kind):
    for name, data in TEXTS.items():
        (tmp_path / "x.json").write_bytes(data)
        refused(use(root, tmp_path, kind, "x.json"), name)
    (tmp_path / "x.json").write_bytes(b"{}")
    os.truncate(tmp_path / "x.json", 300_000_000_000)  # a hole: no byte is on the disk
    ended = use(root, tmp_path, kind, "x.json")
    assert refused(ended, "sparse").count("at most 67,108,864 are read") == 1
    (tmp_path / "x.json").unlink()
    os.mkfifo(tmp_path / "x.json")
    assert "no regular file" in refused(use(root, tmp_path, kind, "x.json"), "pipe")
    assert "no regular file" in refused(use(root, tmp_path, kind, "/dev/zero"), "device")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json"]


def refused(ended, name) -> str:
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert ended.returncode == 1 and len(errors) == 1 and errors[0].isprintable() and len(errors[0]) < 1000, name
    return errors[0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_entry_of_another_kind_under_a_valid_checksum_is_used_or_one_line(root, tmp_path, kind):
    info = json.loads((root / f"{kind}.json").read_bytes())
    entries = [path for path in places(info) if path and path[0] != "checksum" and not {1, 2, 3, 4} & set(path)]
    rng, used = random.Random(kind), 0
    for path in rng.sample(entries, min(len(entries), 40)):
        for value in rng.sample(OTHERS, 2):
            (tmp_path / "x.json").write_bytes(json.dumps(changed(info, path, value, remove=False)).encode())
            ended = use(root, tmp_path, kind, "x.json")
            used += ended.returncode == 0
            assert not {"\x1b", "\r"} & {*ended.stdout, *ended.stderr}
            if ended.returncode:
                refused(ended, path)
    assert used


@pytest.mark.parametrize(
    ("kind", "entry", "value", "words"),
    [
        ("platt", "map", {"kind": "os.system"}, "map 'os.system' is not one of affine, isotonic"),
        ("platt", "map", {"kind": ["affine"]}, "no calibration"),
        ("platt", "map", {"kind": "affine", "slope": 1.0, "__class__": {}}, "unexpected keyword"),
        ("platt", "map", {"kind": "affine", "slope": -1.0}, "finite, and the slope above 0"),
        ("platt", "map", {"kind": "affine", "slope": 1e308, "offset": 1e308}, "would leave the range of numbers"),
        ("isotonic", "map", {"kind": "isotonic", "logits": [], "probabilities": [], "tilt": 1, "centre": 0}, "knots"),
        ("thresholds", "threshold", 1e300, "probability is"),
        ("views", "frontal_ap", 2, "neither null nor within 0..1"),
        ("views", "superior", "yes", "not true or false"),
    ],
)
def test_rules_that_no_fit_writes_are_named(root, tmp_path, kind, entry, value, words):
    info = json.loads((root / f"{kind}.json").read_bytes())
    info["findings"][0][entry] = value
    (tmp_path / "x.json").write_bytes(sealed_json(info))
    assert words in refused(use(root, tmp_path, kind, "x.json"), value)


def test_an_evaluation_of_no_finding_is_named(root, tmp_path):
    info = json.loads((root / "evaluation.json").read_bytes())
    info["all"]["findings"] = []
    (tmp_path / "x.json").write_bytes(sealed_json(info))
    assert "x.json: not an evaluation (all has no finding)" in refused(use(root, tmp_path, "evaluation", "x.json"), "")


def test_what_rules_say_of_themselves_does_not_steer_the_terminal(root, tmp_path):
    for kind in ("platt", "thresholds", "views"):
        info = json.loads((root / f"{kind}.json").read_bytes())
        info["made_from"] |= {"predictions": ESCAPE, "run": ESCAPE}
        info["findings"][0]["remark" if kind == "thresholds" else "kept"] = ESCAPE
        (tmp_path / "x.json").write_bytes(sealed_json(info))
        ended = use(root, tmp_path, kind, "x.json", "--allow-other-run")
        assert ended.returncode == 0 and "\x1b" not in ended.stdout + ended.stderr
        assert kind == "views" or r"\x1b]0;owned\x07" in ended.stdout


# ---------------------------------------------------------------- runs and tables


@pytest.mark.parametrize("name", [CONFIG, PROGRESS, METRICS, FINDINGS, BEST, LAST, VAL_PREDICTIONS])
def test_a_pipe_in_a_run_is_not_waited_for(root, tmp_path, name):
    run = shutil.copytree(root / "runs/plain", tmp_path / "run")
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    data = ("--data", root / "pack")
    commands = [
        ("report", run, "--out", "out.html"),
        ("predict", "--run", run, *data, "--device", "cpu", "--out", "p.parquet"),
        ("compare", run, run / VAL_PREDICTIONS, *data, "--draws", 0, "--out", "c.html"),
        ("train", "--stage", 1, *data, "--device", "cpu", "--no-pretrained", "--size", 48, "--out", run),
        ("evaluate", run / VAL_PREDICTIONS, *data, "--draws", 0, "--out", "m"),
    ]
    failed = 0
    for words in commands:
        ended = call(*words, cwd=tmp_path)
        assert "Traceback" not in ended.stderr
        failed += ended.returncode == 1
    assert failed


@pytest.mark.parametrize("kind", ["texts", "dictionary"])
def test_a_table_of_predictions_that_unpacks_without_bounds_is_refused(tmp_path, monkeypatch, kind):
    texts = pa.array(["x" * 1000] * 2048)
    part = pa.table(dict.fromkeys(predictions.ID_COLUMNS, texts if kind == "texts" else texts.dictionary_encode()))
    with pq.ParquetWriter(tmp_path / "bomb.parquet", part.schema, compression="zstd") as writer:
        for _ in range(10):
            writer.write_table(part)
    assert (tmp_path / "bomb.parquet").stat().st_size < 200_000
    monkeypatch.setattr(parquet, "MOST", 10**7)
    with pytest.raises(UserError, match="bomb.parquet: holds more than 10,000,000 bytes"):
        predictions.read(tmp_path / "bomb.parquet")


def test_a_table_of_predictions_of_too_many_values_is_refused_before_it_is_read(tmp_path):
    rows = pa.table({str(place): pa.nulls(2**20) for place in range(257)})
    pq.write_table(rows, tmp_path / "bomb.parquet", compression="zstd")
    with pytest.raises(UserError, match="holds 1,048,576 rows of 257 columns"):
        predictions.read(tmp_path / "bomb.parquet")
