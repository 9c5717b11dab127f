"""`cxrdali average`: the mean of kept epochs' or of several runs' weights, as a run of its own."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from cxrdali import predictions
from cxrdali.data.augment import options_of
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.metrics.ranking import score
from cxrdali.models.classifier import create
from cxrdali.predict.predict import PredictOptions, predict
from cxrdali.report.watch import screen
from cxrdali.runs import kept_epochs, layout
from cxrdali.runs.reader import Run
from cxrdali.runs.seen import Seen, read_list, seen_by
from cxrdali.runs.seen_together import together
from cxrdali.runs.settings import sampling_seed
from cxrdali.train.average import average, of_epochs, of_runs
from cxrdali.train.trainer import train
from shards.errors import UserError
from tests.cli.cli import call
from tests.cxrdali.comparable_runs import change_config
from tests.cxrdali.train.test_optimisation import settings


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    """Four epochs, of which the two best and the two last are kept."""
    out = tmp_path_factory.mktemp("kept") / "run"
    train(settings(epochs=4, keep_epochs=2, lr=3e-3), dataset, out)
    return Run.open(out)


@pytest.fixture(scope="module")
def mean(run, dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("mean") / "mean"
    average(of_epochs(run, 2, best=False), dataset, out, "cpu")
    return Run.open(out)


def test_the_best_and_the_last_epochs_are_kept(run):
    metrics = run.metrics["mAP"].to_numpy()
    best = (np.argsort(-metrics, kind="stable")[:2] + 1).tolist()
    assert [each.epoch for each in of_epochs(run, 2, best=True)] == best
    assert [each.epoch for each in of_epochs(run, 2, best=False)] == [4, 3]
    there = {path.name for path in (run.path / "epochs").iterdir()}
    assert there == {f"{epoch}.safetensors" for epoch in {*best, 3, 4}}
    for epoch in {*best, 3, 4}:
        with safe_open(kept_epochs.file_of(run.path, epoch), framework="pt") as file:
            about = file.metadata()
        assert about["epoch"] == str(epoch) and float(about["map"]) == metrics[epoch - 1]
    top = kept_epochs.file_of(run.path, run.progress.best_epoch)
    assert top.read_bytes() == (run.path / layout.BEST).read_bytes()


def test_an_undefined_score_is_the_lowest_and_the_first_of_equals_the_best():
    rows = [{"epoch": n, "mAP": value} for n, value in enumerate((0.2, float("nan"), 0.4, 0.4, 0.0), 1)]
    assert kept_epochs.best_and_last(rows, "mAP", 4) == ([3, 4, 1, 5], [5, 4, 3, 2])


def test_parameters_are_the_mean_and_statistics_those_of_one_pass(run, mean, dataset):
    made = load_file(mean.path / layout.BEST)
    parts = [load_file(kept_epochs.file_of(run.path, epoch)) for epoch in (3, 4)]
    for name in parts[0]:
        if "running" not in name and "num_batches" not in name:
            expected = np.mean([part[name].double().numpy() for part in parts], axis=0)
            np.testing.assert_allclose(made[name].numpy(), expected, rtol=1e-6, atol=1e-8)
    # the first layer's statistics, from the images themselves: the mean over batches of each one's mean and variance
    how = run.settings
    model = create(how.model_options(), len(run.findings))
    model.backbone.load_state_dict(made)
    rows = read_rows(run, dataset)
    loader = Loader(
        dataset, rows, LoaderOptions(48, 16, 1, "cpu", "cpu"), seed=sampling_seed(0, 1), shuffle=True,
        augment=options_of(how.data.flips, how.data.cutout, how.data.augment), drop_last=True,
    )  # fmt: skip
    means, variances = [], []
    with torch.no_grad():
        for images, _ in loader:
            seen = model.backbone.conv_stem(images.float() * model.scale + model.shift).double()
            means.append(seen.mean(dim=(0, 2, 3)))
            variances.append(seen.var(dim=(0, 2, 3), unbiased=True))
    assert len(means) == 3 and int(made["bn1.num_batches_tracked"]) == 3
    torch.testing.assert_close(made["bn1.running_mean"].double(), torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made["bn1.running_var"].double(), torch.stack(variances).mean(0), rtol=1e-4, atol=1e-5)


def read_rows(run, dataset):
    from cxrdali.runs.same_data import labels_of, run_rows

    return run_rows(run, dataset, labels_of(run, dataset), "")[0]


def test_the_mean_is_a_run_that_is_scored_predicts_and_starts_others(run, mean, dataset, tmp_path):
    progress, table = mean.progress, predictions.read(mean.val_predictions)
    assert progress.finished and progress.epoch == progress.best_epoch == 4
    labels = dataset.labels()
    at = dataset.catalog.set_index("image_id").index.get_indexer(table.ids["image_id"])
    reached = score(labels.findings, labels.values[at], table.values).macro_ap
    assert progress.best_score == mean.best["mAP"] == pytest.approx(reached)
    np.testing.assert_allclose(
        predict(mean.path, dataset, "val", PredictOptions(device="cpu")).values, table.values, rtol=1e-4, atol=1e-4
    )
    config = json.loads((mean.path / "config.json").read_text())
    assert [each["epoch"] for each in config["averaged"]] == [4, 3] and config["settings"]["model"]["init"] == str(
        run.path
    )
    assert train(mean.settings, dataset, mean.path).already_finished
    train(settings(epochs=1, init=str(mean.path)), dataset, tmp_path / "next")
    assert [each.name for each in seen_by(Run.open(tmp_path / "next"), dataset).runs] == ["mean", "next"]
    assert screen(mean.path, 100) and len(mean.metrics) == 1


def test_runs_of_one_fold_are_averaged_and_know_what_each_has_seen(run, dataset, tmp_path):
    train(settings(epochs=4, seed=1, lr=3e-3), dataset, tmp_path / "other")
    change_config(tmp_path / "other", seen=["2 validation images were seen"])
    runs = [run, Run.open(tmp_path / "other")]
    average(of_runs(runs), dataset, tmp_path / "mean", "cpu")
    parts, made = [load_file(each.path / layout.BEST) for each in runs], load_file(tmp_path / "mean" / layout.BEST)
    key = "classifier.weight"
    torch.testing.assert_close(made[key], (parts[0][key].double() + parts[1][key].double()).div(2).float())
    seen = seen_by(Run.open(tmp_path / "mean"), dataset)
    assert [each.name for each in seen.runs] == ["other", "mean"]
    told = ("2 validation images were seen",)
    assert tuple(Run.open(tmp_path / "mean").config["seen"]) == told
    assert predictions.read(tmp_path / "mean" / layout.VAL_PREDICTIONS).provenance.seen == told
    assert set(seen.images["by"]) == {3} and len(seen.images) == len(read_rows(run, dataset))
    fold = settings(epochs=4, fold=1)
    train(fold.changed(epochs=1), dataset, tmp_path / "fold")
    with pytest.raises(UserError, match="fold: has other validation images than .*; average runs of one --fold"):
        average(of_runs([run, Run.open(tmp_path / "fold")]), dataset, tmp_path / "no", "cpu")
    train(settings(epochs=1, size=64), dataset, tmp_path / "large")
    with pytest.raises(UserError, match="size is '64', and '48' in .*; only weights of one form"):
        average(of_runs([run, Run.open(tmp_path / "large")]), dataset, tmp_path / "no", "cpu")
    assert not (tmp_path / "no").exists()


def test_lists_of_what_was_seen_add_up(run):
    seen = read_list(run.path / layout.SEEN)
    half = Seen(seen.runs, (), seen.images.iloc[:5].assign(by=np.uint64(1)))
    two = [replace(seen.runs[0], name=name) for name in ("a", "b")]
    rest = Seen(tuple(two), ("x",), seen.images.iloc[3:9].assign(by=np.uint64(2)))
    both = together(half, rest)
    assert both.runs == (*seen.runs, *two) and both.unknown == ("x",)
    assert both.images["by"].tolist() == [1, 1, 1, 1 | 4, 1 | 4, 4, 4, 4, 4]
    assert both.images[["image"]].equals(seen.images.iloc[:9][["image"]])
    # a run that both come from is in the list once, where the second has it: the second's own run stays the last
    first = Seen((two[0], two[1]), (), seen.images.iloc[:2].assign(by=np.array([1, 2], dtype=np.uint64)))
    second = Seen((two[0], *seen.runs), (), seen.images.iloc[1:3].assign(by=np.array([1, 2], dtype=np.uint64)))
    both = together(first, second)
    assert both.runs == (two[1], two[0], *seen.runs) and both.images["by"].tolist() == [2, 1 | 2, 4]


@pytest.mark.parametrize(
    "options, code, message",
    [
        (["--best", 3], 1, "--best 3: of 4 epochs, it keeps the 2 best and the 2 last; give --best 2 to 2"),
        ([], 2, "give --best K or --last K of one --run, or more than one --run"),
        (["--best", 2, "--last", 2], 2, "give --best K or --last K of one --run"),
    ],
)
def test_what_cannot_be_averaged_is_named(run, pack_folder, tmp_path, options, code, message):
    said = call("average", "--run", run.path, "--data", pack_folder, "--out", tmp_path / "m", *options, cwd=tmp_path)
    assert (said.returncode, message in said.stderr) == (code, True), said.stderr


def test_the_command_writes_a_run_once(run, pack_folder, tmp_path):
    words = (
        "average",
        "--run",
        run.path,
        "--best",
        2,
        "--data",
        pack_folder,
        "--out",
        tmp_path / "m",
        "--device",
        "cpu",
    )
    said = call(*words, cwd=tmp_path)
    assert said.returncode == 0 and "batch normalisation: statistics computed anew" in said.stdout, said.stderr
    assert f"{tmp_path / 'm'}: best epoch 4 of 4, validation mAP" in said.stdout
    again = call(*words, cwd=tmp_path)
    assert again.returncode == 1 and "m: exists; give --out another folder" in again.stderr


def test_a_run_that_kept_nothing_is_named(mean):
    with pytest.raises(UserError, match="mean: --last 2: it kept no epochs; train with --keep-epochs"):
        of_epochs(mean, 2, best=False)


@pytest.mark.parametrize(
    "sizes, count, fix",
    [
        ([48, 64, 64], 3, "keeps the 3 best and the 3 last of its last size; give --best 2 to 2"),
        ([48, 48, 64], 2, "keeps the 3 best and the 3 last of its last size; train more epochs of its last size"),
    ],
)
def test_of_a_schedule_there_are_no_more_epochs_than_its_last_size_has(sizes, count, fix):
    metrics = pd.DataFrame({"epoch": [1, 2, 3], "mAP": [0.5, 0.1, 0.2], "size": sizes})
    given = {"keep_epochs": 3, "schedule": "48x1@8,64x2@8"}
    found = SimpleNamespace(
        path=Path("r"),
        metrics=metrics,
        chosen_by="mAP",
        check_finished=lambda fix: None,
        setting=lambda name, otherwise=None: given[name],
    )
    with pytest.raises(UserError, match=f"r: --best {count}: of 3 epochs, it {fix}"):
        of_epochs(found, count, best=True)
    if count == 3:
        assert [each.epoch for each in of_epochs(found, 2, best=True)] == [3, 2]


def test_a_run_given_twice_has_no_say_twice(run):
    with pytest.raises(UserError, match="run: is given 2 times; give every run once"):
        of_runs([run, Run.open(run.path / ".." / run.path.name)])
