"""Training, predicting and reporting from a bucket, as a user types it."""

import json
import os
import signal

import pandas as pd
import pytest
import s3fs
from safetensors.torch import load_file

from cxrdali.train.hooks import Hooks
from cxrdali.train.stopping import Stopped
from shards.dataset.packed import PackedDataset
from tests.cli.cli import call
from tests.faults.trainers import STAGES, TIMES, hooked, train, train_command
from tests.s3 import SECRET, Link, lead

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("time_limit")]


def done(folder, *arguments):
    result = call(*arguments, cwd=folder)
    assert result.returncode == 0, result.stderr
    return result


def refused(folder, *arguments) -> str:
    result = call(*arguments, cwd=folder)
    lines = result.stderr.splitlines()
    assert result.returncode == 1 and lines[-1].startswith("error: "), result.stderr
    assert SECRET not in result.stderr + result.stdout
    return lines[-1]


def assert_same_run(one, other):
    """Numbers, weights and predictions; not timings."""
    ours, theirs = (pd.read_csv(run / "metrics.csv").drop(columns=list(TIMES)) for run in (one, other))
    assert len(ours) == 2 and ours.equals(theirs)
    ours, theirs = (load_file(run / "best.safetensors") for run in (one, other))
    assert set(ours) == set(theirs) and all((ours[name] == theirs[name]).all() for name in ours)
    ours, theirs = (pd.read_parquet(run / "val_predictions.parquet") for run in (one, other))
    assert ours.equals(theirs)


@pytest.mark.parametrize("order", ["global", "windowed"])
def test_a_run_from_a_bucket_is_the_run_from_the_disk_and_no_secret_is_in_it(address, s3, pack_folder, tmp_path, order):
    copies = ("--cache", "copies")
    done(tmp_path, *train_command(pack_folder, "local"), "--order", order)
    said = [done(tmp_path, *train_command(address, "remote"), "--order", order, *copies)]
    assert_same_run(tmp_path / "local", tmp_path / "remote")
    lines = said[0].stdout.splitlines()
    assert lines[0].startswith(f"{address}: 0 of 8 shards of 48 px are in ")
    assert lines[0].endswith("; 0.00041 GB are copied when they are needed")
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert len(epochs) == 2 and all(" s for the bucket" in line for line in epochs)

    data = ("--data", address, *copies)
    said += [
        done(tmp_path, "predict", "--run", "remote", "--split", "test", "--out", "test.parquet", *data),
        done(tmp_path, "evaluate", "test.parquet", "--draws", 0, *data),
        done(tmp_path, "report", "remote", "--out", "page.html", "--images", *data),
        done(tmp_path, "inspect", address, "--html", "inspect.html", "--images", *copies),
    ]
    done(tmp_path, "predict", "--run", "local", "--split", "test", "--out", "own.parquet", "--data", pack_folder)
    assert pd.read_parquet(tmp_path / "test.parquet").equals(pd.read_parquet(tmp_path / "own.parquet"))
    assert "waited " in said[1].stdout and address in (tmp_path / "inspect.html").read_text()
    config = json.loads((tmp_path / "remote/config.json").read_text())
    assert address in config.pop("command") and address not in json.dumps(config)  # it knows the dataset, not its place
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert not [each for each in said if SECRET in each.stdout + each.stderr]


@pytest.mark.parametrize("first", ["bucket", "disk"])
def test_a_stopped_run_goes_on_with_the_dataset_elsewhere(address, pack_folder, tmp_path, monkeypatch, first):
    from shards.dataset.cache import Cache
    from shards.storage.remote import place

    places = [PackedDataset.open(place(address), Cache(tmp_path / "copies")), PackedDataset.open(pack_folder)]
    if first == "disk":
        places.reverse()
    train(1, places[0], tmp_path / "unbroken")
    steps = []

    def noted(step):
        steps.append(len(step.rows))
        if len(steps) == STAGES[1][1] + 1:  # in the second epoch
            os.kill(os.getpid(), signal.SIGTERM)

    hooked(monkeypatch, lambda _: Hooks(on_step=noted))
    with pytest.raises(Stopped):
        train(1, places[0], tmp_path / "moved")
    train(1, places[1], tmp_path / "moved")
    assert len(steps) == 2 * STAGES[1][1]
    assert_same_run(tmp_path / "unbroken/stage1", tmp_path / "moved/stage1")


def test_the_default_cache_is_said(address, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    result = done(tmp_path, "inspect", address)
    assert f"copies: {tmp_path / 'home/.cache/cxrdali'} (the default)" in result.stderr
    assert len(list(tmp_path.glob("home/.cache/cxrdali/*/dataset.json"))) == 1


def test_options_for_a_bucket_do_nothing_for_a_folder_and_say_so(pack_folder, tmp_path):
    result = done(tmp_path, "inspect", pack_folder, "--cache", "copies")
    assert f"note: {pack_folder} is on this machine, so nothing is copied to a cache" in result.stderr
    assert not (tmp_path / "copies").exists()


def test_what_goes_wrong_is_one_line_with_a_way_out(address, s3, tmp_path, monkeypatch):
    copies = ("--cache", "copies")
    command = train_command(address, "run")
    assert "missing-bucket/pack/dataset.json: not there" in refused(
        tmp_path, *train_command("s3://missing-bucket/pack", "run"), *copies
    )
    with s3.checking_credentials():
        assert f"{address}/dataset.json: access denied" in refused(tmp_path, *command, *copies)
    secret = f"s3://key:{SECRET}@bucket/pack"
    assert "credentials do not belong in an address" in refused(tmp_path, *train_command(secret, "run"), *copies)
    with Link(s3.host, s3.port) as link:
        lead(monkeypatch, link.environment() | {"AWS_MAX_ATTEMPTS": "1"})
        monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
        link.dead_after = 60_000  # the tables, and the beginning of a shard
        assert ".tar: the store does not answer as it should" in refused(tmp_path, *command, *copies)
        link.dead_after = None
        done(tmp_path, *command, *copies)


def test_the_doctor_looks_at_a_bucket_and_leaves_nothing(address, s3, tmp_path):
    result = call("doctor", "--data", address, "--cache", "copies", cwd=tmp_path)
    lines = {line.split("  ")[0]: line for line in result.stdout.splitlines()}
    assert f"{address}: 120 images, labels cxr-lt-2023, chexpert" in lines["packed dataset"]
    assert f"ok     {tmp_path}: " in lines["disk of the data"]
    assert all("fits in memory" in lines[size] for size in ("48 px", "56 px", "64 px"))
    assert not list(tmp_path.iterdir())
    result = call("doctor", "--data", f"{s3.address}/absent", cwd=tmp_path)
    assert result.returncode == 1 and f"{s3.address}/absent/dataset.json: not there" in result.stdout
