"""Runs that tell Weights & Biases (offline), MLflow (a database of its own) and TensorBoard, killed and continued."""

import errno
import getpass
import json
import os
import signal
import socket
import sys

import numpy as np
import pytest
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter
from wandb.proto.wandb_internal_pb2 import Record

from cxrdali.runs import layout
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import settings_of
from cxrdali.train.dry_run import dry_run
from cxrdali.train.hooks import Hooks
from cxrdali.train.stopping import Stopped
from cxrdali.train.trackers import wandb as wandb_tracker
from cxrdali.train.tracking import Tracking
from cxrdali.train.trainer import train
from shards.errors import UserError
from shards.storage.sealed import read_json
from tests.faults.trainers import command_line, differences, in_child, train_command
from tests.heard import heard

pytestmark = pytest.mark.slow

EPOCHS = 3


def tracked(log, arguments, variables, last=None):
    """For a child: the command line with these variables, killed where it would tell of the `last` epoch, saved."""
    os.environ.update(variables)
    wandb_tracker.SECONDS = 1  # where nobody answers
    whole = Tracking.send

    def send(tracking):
        if tracking.state.epoch == last:
            os.kill(os.getpid(), signal.SIGKILL)
        whole(tracking)

    pytest.MonkeyPatch().setattr(Tracking, "send", send)
    command_line(log, arguments)


def arguments_of(pack, out, *more):
    return [*train_command(pack, out), "--epochs", EPOCHS, *more]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Variables of both services: nothing leaves this machine."""
    folder = tmp_path_factory.mktemp("store")
    return {"WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}


@pytest.fixture(scope="module")
def ran(pack_folder, tmp_path_factory, store):
    """A run that was killed when its second epoch was saved, and when its last one was; and its log."""
    out, log = tmp_path_factory.mktemp("home-of-alice") / "night" / "kept", tmp_path_factory.mktemp("logs") / "log"
    arguments = arguments_of(pack_folder, out, "--track", "tensorboard,wandb", "--track", "mlflow")
    for epoch in (2, EPOCHS):
        assert in_child(tracked, log, arguments, store, epoch) == -signal.SIGKILL
    assert in_child(tracked, log, arguments, store) == 0
    return out, log.read_text()


def expected(out):
    """What every tracker has to have: name -> epoch -> value, of the run's own tables."""
    run, found = Run.open(out), {}
    for row in run.metrics.to_dict("records"):
        for name in set(row) - {"epoch"}:
            found.setdefault(name, {})[row["epoch"]] = row[name]
    for row in run.finding_metrics.to_dict("records"):
        found.setdefault(f"AP/{row['finding']}", {})[row["epoch"]] = row["AP"]
    known = {name: {epoch: value for epoch, value in each.items() if value == value} for name, each in found.items()}
    return {name: each for name, each in known.items() if each}


def wandb_records(out):
    """Of all starts, in their order; wandb's protocol reads them."""
    files = sorted(out.glob("wandb/offline-run-*/*.wandb"))
    return [Record.FromString(each) for file in files for each in wandb_tracker.records(file.read_bytes())]


def wandb_history(out):
    """name -> [(epoch, value)]: repeated ones stay."""
    found = {}
    for record in wandb_records(out):
        if record.HasField("history"):
            for item in record.history.item:
                name = "/".join(item.nested_key) or item.key
                found.setdefault(name, []).append((record.history.step.num, json.loads(item.value_json)))
    return found


def mlflow_run(store, out):
    client = MlflowClient(store["MLFLOW_TRACKING_URI"])
    runs = client.search_runs([client.get_experiment_by_name("cxrdali").experiment_id])
    (found,) = [run for run in runs if run.data.tags["cxrdali.id"] == read_json(out / layout.TRACKED)["id"]]
    return client, found


# ---------------------------------------------------------------- killed and continued


def test_every_epoch_is_there_once_in_wandb(ran):
    out, _ = ran
    found = wandb_history(out)
    for name, values in expected(out).items():
        assert found[name] == [(epoch, pytest.approx(value)) for epoch, value in values.items()], name
    assert found["best_score"][-1] == (EPOCHS, pytest.approx(Run.open(out).progress.best_score))
    assert len(list(out.glob("wandb/offline-run-*"))) == 3  # starts


def test_every_epoch_is_there_once_in_mlflow(ran, store):
    out, _ = ran
    client, run = mlflow_run(store, out)
    for name, values in expected(out).items():
        history = [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)]
        assert history == [(epoch, pytest.approx(value)) for epoch, value in values.items()], name
    assert run.info.status == "FINISHED" and run.data.metrics["best_epoch"] == Run.open(out).progress.best_epoch


def test_tensorboard_misses_only_the_last_epoch_of_a_run_that_was_killed_when_it_was_saved(ran):
    out, _ = ran
    events = EventAccumulator(str(out / layout.EVENTS))
    events.Reload()
    for name, values in expected(out).items():
        steps = [(each.step, pytest.approx(each.value, rel=1e-6)) for each in events.Scalars(name)]
        assert steps == [(epoch, value) for epoch, value in values.items() if epoch < EPOCHS], name
    assert events.Tags()["tensors"] == ["settings/text_summary"]


def test_the_last_start_says_what_it_tells(ran):
    assert "tells wandb and mlflow of this finished run" in ran[1] and "was already finished" in ran[1]
    assert sorted(read_json(ran[0] / layout.TRACKED)["ended"]) == ["mlflow", "wandb"]


# ---------------------------------------------------------------- what is told, and what is not


def test_settings_name_and_group(ran, store):
    out, _ = ran
    told = [record.run for record in wandb_records(out) if record.HasField("run")]
    assert {(each.display_name, each.run_group, each.project) for each in told} == {("kept", "night", "cxrdali")}
    config = {item.key: json.loads(item.value_json) for item in told[0].config.update}
    _, run = mlflow_run(store, out)
    assert run.info.run_name == "kept" and run.data.tags["cxrdali.group"] == "night"
    wanted = {"lr": 0.001, "batch": 16, "epochs": EPOCHS, "loss": "bce", "train_images": 59, "val_images": 13}
    assert {name: config[name] for name in wanted} == wanted
    assert {name: run.data.params[name] for name in wanted} == {name: str(value) for name, value in wanted.items()}
    assert config["artefacts"][:2] == ["best.safetensors", "val_predictions.parquet"]


def test_no_patient_user_machine_path_or_command_is_told(ran, store, dataset):
    """In wandb's files and MLflow's run; TensorBoard's events, whose file is named after the machine, inside."""
    out, _ = ran
    ids = dataset.of_rows(np.arange(120), "image_id", "study_id", "subject_id")
    secret = {*map(str, ids.to_numpy().ravel()), str(out.parent.parent.name), socket.gethostname() + "\n", "--epochs"}
    secret |= {sys.executable, f'"{getpass.getuser()}"', str(dataset.root)}
    files = b"".join(file.read_bytes() for file in [*out.glob("wandb/*/*.wandb"), *out.glob("tensorboard/*")])
    words = "\n".join(map(str, wandb_records(out)))
    _, run = mlflow_run(store, out)
    words += str({**run.data.params, **run.data.tags, **run.data.metrics, "user": run.info.user_id})
    assert [each for each in secret if each.encode() in files or each in words] == []
    assert "night" in words and not any(each.HasField("files") for each in wandb_records(out))


def test_weights_are_those_of_a_run_that_tells_nobody(ran, pack_folder, tmp_path, store):
    out, _ = ran
    alone, log = tmp_path / "alone", tmp_path / "log"
    assert in_child(tracked, log, arguments_of(pack_folder, alone, "--track", "none"), store) == 0
    ours = {"config.json", layout.TRACKED, "wandb", ".live.json"}
    assert not (alone / layout.EVENTS).exists() and not (alone / layout.TRACKED).exists()
    assert [each for each in differences(out, alone) if " against " not in each] == []
    assert {p.name for p in out.iterdir()} - ours - {layout.EVENTS} == {p.name for p in alone.iterdir()} - ours


# ---------------------------------------------------------------- trackers that fail


def settings(*track, **changes):
    given = {"stage": 1, "size": 48, "batch": 16, "epochs": 2, "arch": "test_efficientnet", "pretrained": False}
    return settings_of(**{**given, "device": "cpu", "track": track, **changes})


@pytest.fixture
def mlflow_here(store, monkeypatch):
    """The variables, and a function that takes the line to MLflow away, or brings it back."""
    for name, value in store.items():
        monkeypatch.setenv(name, value)
    whole = MlflowClient.log_batch

    def lost(*_, **__):
        raise ConnectionError("the line is dead\nwith details")

    return store, lambda works: monkeypatch.setattr(MlflowClient, "log_batch", whole if works else lost)


def steps_of(store, out):
    client, run = mlflow_run(store, out)
    return [each.step for each in client.get_metric_history(run.info.run_id, "mAP")], run.info.status


DEAD = "warning: mlflow cannot be told of this run (the line is dead); the training goes on"


def test_a_server_that_comes_back_is_told_the_rest_at_the_end(dataset, tmp_path, mlflow_here):
    store, line = mlflow_here
    with heard([]) as lines:
        hooks = Hooks(on_epoch=lambda row: line(row["epoch"] >= 2))  # told of the first, not of the second
        train(settings("mlflow", epochs=3), dataset, tmp_path / "run", hooks=hooks)
    assert [line for line in lines if "mlflow" in line] == [DEAD]
    assert steps_of(store, tmp_path / "run") == ([1, 2, 3], "FINISHED")


def test_a_server_that_is_gone_stops_no_training_and_the_same_command_tells_it_the_rest(dataset, tmp_path, mlflow_here):
    (store, line), out = mlflow_here, tmp_path / "run"
    with heard([]) as lines:
        train(settings("mlflow"), dataset, out, hooks=Hooks(on_epoch=lambda row: line(False)))
    end = "warning: mlflow was not told all of this run (the line is dead); the same command tells it the rest"
    assert [line for line in lines if "mlflow" in line] == [DEAD, end] and Run.open(out).progress.finished
    assert steps_of(store, out) == ([1], "RUNNING")
    line(True)
    for said in (["tells mlflow of this finished run"], []):  # once
        with heard([]) as lines:
            assert train(settings("mlflow"), dataset, out).already_finished
        assert [line for line in lines if "mlflow" in line] == said
    assert steps_of(store, out) == ([1, 2], "FINISHED")


def test_a_run_of_two_sizes_ends_for_a_tracker_with_its_last_one(dataset, tmp_path, mlflow_here):
    (store, line), out = mlflow_here, tmp_path / "run"
    given = settings("mlflow", size=64, schedule="48x1@16,64x1@16")
    train(given, dataset, out, hooks=Hooks(on_epoch=lambda row: line(False)))  # not told of the second size
    assert steps_of(store, out)[0] == [1]
    line(True)
    assert train(given, dataset, out).already_finished
    assert steps_of(store, out) == ([1, 2], "FINISHED")


def test_services_that_nobody_answers_for_stop_no_training(pack_folder, tmp_path):
    nobody = "http://127.0.0.1:9"  # the port of "discard": nothing listens there
    given = {"MLFLOW_TRACKING_URI": nobody, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "WANDB_MODE": "online"}
    given |= {"WANDB_BASE_URL": nobody, "WANDB_API_KEY": 40 * "a"}
    arguments = arguments_of(pack_folder, tmp_path / "run", "--track", "wandb,mlflow")
    assert in_child(tracked, tmp_path / "log", arguments, given) == 0
    lines = (tmp_path / "log").read_text().splitlines()
    for name in ("wandb", "mlflow"):
        said = [line.split(" (")[0] for line in lines if line.startswith(f"warning: {name} ")]
        assert said == [
            f"warning: {name} cannot be told of this run", f"warning: {name} was not told all of this run",
        ]  # fmt: skip
    assert Run.open(tmp_path / "run").progress.finished


def test_events_that_cannot_be_written_end_the_training_and_the_others_know(
    dataset, tmp_path, mlflow_here, monkeypatch
):
    def full(writer):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "run"
    with pytest.raises(UserError, match="tensorboard: cannot be written"):
        patch = lambda row: monkeypatch.setattr(SummaryWriter, "flush", full)  # noqa: E731
        train(settings("mlflow", "tensorboard"), dataset, out, hooks=Hooks(on_epoch=patch))
    assert steps_of(mlflow_here[0], out) == ([1, 2], "FAILED") and Run.open(out).progress.epoch == 2


def test_a_stopped_run_is_no_finished_one(dataset, tmp_path, mlflow_here):
    store, _ = mlflow_here
    asked = iter([None] * 5 + [signal.SIGTERM])
    with pytest.raises(Stopped):
        train(settings("mlflow"), dataset, tmp_path / "run", hooks=Hooks(should_stop=lambda: next(asked)))
    assert steps_of(store, tmp_path / "run") == ([1], "KILLED")
    train(settings("mlflow"), dataset, tmp_path / "run")
    assert steps_of(store, tmp_path / "run") == ([1, 2], "FINISHED")


def test_a_study_names_the_group_and_paths_are_told_where_they_are_asked_for(dataset, tmp_path, mlflow_here):
    (store, _), out = mlflow_here, tmp_path / "a run"
    train(settings("mlflow", track_paths=True, epochs=1, warmup_epochs=0), dataset, out, hooks=Hooks(group="my study"))
    _, run = mlflow_run(store, out)
    assert run.data.tags["cxrdali.group"] == "my study" and run.data.params["folder"] == str(out)
    assert str(out / layout.BEST) in run.data.params["artefacts"]


# ---------------------------------------------------------------- what no training begins with


def test_a_missing_package_is_one_line_before_anything_is_written(dataset, tmp_path, monkeypatch):
    for name, package in (("wandb", "wandb"), ("mlflow", "mlflow")):
        monkeypatch.setitem(sys.modules, package, None)
        words = f"track {name}: {package} is not installed; pip install 'cxrdali\\[track\\]'"
        with pytest.raises(UserError, match=words):
            train(settings(name), dataset, tmp_path / "run")
        with pytest.raises(UserError, match=words):
            dry_run(settings(name), dataset, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_nobody_logged_in_is_one_line(pack_folder, tmp_path):
    out, nobody = tmp_path / "run", {"WANDB_MODE": "online", "HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}
    arguments = arguments_of(pack_folder, out, "--track", "wandb")
    assert in_child(tracked, tmp_path / "log", arguments, nobody) == 1
    end = "error: track wandb: nobody is logged in; run `wandb login`, or set WANDB_MODE=offline"
    assert (tmp_path / "log").read_text().splitlines()[-1] == end and not out.exists()


def test_a_damaged_record_is_one_line(dataset, tmp_path, mlflow_here):
    out = tmp_path / "run"
    train(settings("mlflow"), dataset, out)
    (out / layout.TRACKED).write_text("{")
    with pytest.raises(UserError, match=r"tracked.json: cannot be read .*restore it, or delete it"):
        train(settings("mlflow"), dataset, out)
