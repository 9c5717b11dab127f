"""Training without the images that another pack has too: one pack, several, a run that goes on, and refusals."""

import shutil

import numpy as np
import pandas as pd
import pytest

from cxrdali.data.splits import train_and_validation
from cxrdali.evaluate.overlap import OverlapOptions, overlap
from cxrdali.predict.predict import PredictOptions, predict
from cxrdali.runs.exclusion import write_list
from cxrdali.runs.layout import EXCLUDED
from cxrdali.runs.reader import Run
from cxrdali.runs.same_data import run_rows
from cxrdali.runs.settings import settings_of
from cxrdali.train.retrain import retrain_settings
from cxrdali.train.selection import select_data
from cxrdali.train.trainer import train
from shards.dataset.union import Union
from shards.errors import UserError
from tests.cxrdali.two_packs import two_packs
from tests.heard import heard

pytestmark = pytest.mark.slow


def settings(**changes):
    given = {"stage": 1, "size": 192, "batch": 16, "epochs": 1, "arch": "test_byobnet", "pretrained": False}
    return settings_of(**{**given, "device": "cpu", "folds": 3, **changes})


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    home, away, _ = two_packs(tmp_path_factory.mktemp("packs"))
    return home, away


@pytest.fixture(scope="module")
def listed(packs, tmp_path_factory):
    """A list of what they share, and the pairs' rows."""
    path = tmp_path_factory.mktemp("list") / "overlap.csv"
    found = overlap(*packs, OverlapOptions())
    write_list(path, found.listed(("home", "away")), (("home", packs[0]), ("away", packs[1])))
    return path, found.pairs


@pytest.fixture(scope="module")
def finished(packs, listed, tmp_path_factory):
    """A run on home without them, and what it said."""
    out, said = tmp_path_factory.mktemp("runs") / "home", []
    with heard(said):
        train(settings(exclude=(str(listed[0]),)), packs[0], out)
    return out, said


def without(dataset, rows):
    """Training and validation rows of a fold, the former without `rows`."""
    train_rows, val_rows = train_and_validation(dataset, dataset.labels(), settings().data)
    return train_rows[~np.isin(train_rows, rows)], val_rows


def test_images_of_the_list_are_left_out_of_training_alone(packs, listed, tmp_path):
    path, pairs = listed
    for pack, side in zip(packs, "ab", strict=True):
        data = select_data(settings(exclude=(str(path),)), pack, pack.labels(), tmp_path)
        train_rows, val_rows = without(pack, pairs[f"row_{side}"])
        assert data.train_rows.tolist() == train_rows.tolist() and data.val_rows.tolist() == val_rows.tolist()
        assert len(train_rows) < len(select_data(settings(), pack, pack.labels(), tmp_path).train_rows)
        wanted = data.targets[train_rows]
        assert data.positives.tolist() == (wanted == 1).sum(axis=0).tolist()
        assert set(data.epoch_rows) == set(train_rows) and len(data.seen.images) == len(train_rows)


def test_a_run_says_and_records_what_it_left_out(packs, listed, finished):
    path, pairs = listed
    out, said = finished
    released, val_rows = train_and_validation(packs[0], packs[0].labels(), settings().data)
    gone = released[np.isin(released, pairs["row_a"])]
    stay = len(np.intersect1d(val_rows, pairs["row_a"]))
    assert f"{path}: {len(gone)} training images of {len(released)} left out; {stay} validation images of it" in str(
        said
    )
    noted = Run.open(out).config["excluded"]
    assert noted["images"] == len(gone) and [each["name"] for each in noted["lists"]] == ["overlap.csv"]
    ids = sorted(packs[0].of_rows(gone, "image_id")["image_id"])
    assert (out / EXCLUDED).read_text().splitlines() == ids


def test_an_image_of_several_pairs_is_counted_once(packs, listed, tmp_path):
    path, pairs = listed
    twice, said = tmp_path / "twice.csv", []
    both = pd.concat([pd.read_csv(path, dtype=str)] * 2)
    write_list(twice, both, (("home", packs[0]), ("away", packs[1])))
    with heard(said):
        select_data(settings(exclude=(str(twice), str(path))), packs[0], packs[0].labels(), tmp_path)
    released = train_and_validation(packs[0], packs[0].labels(), settings().data)[0]
    gone = np.isin(released, pairs["row_a"]).sum()
    assert f"{twice}: {gone} training images of {len(released)} left out" in str(said)
    assert f"{path}: 0 training images of {len(released)} left out" in str(said)


def test_its_rows_are_known_again_without_the_list(packs, listed, finished):
    run, labels = Run.open(finished[0]), packs[0].labels()
    train_rows, val_rows = without(packs[0], listed[1]["row_a"])
    found = run_rows(run, packs[0], labels, "")
    assert found[0].tolist() == train_rows.tolist() and found[1].tolist() == val_rows.tolist()
    table = predict(finished[0], packs[0], "val", PredictOptions(device="cpu"))
    assert len(table.values) == len(val_rows) and not table.provenance.seen
    assert retrain_settings(finished[0], packs[0], {}).data.exclude == (str(listed[0]),)


def test_it_goes_on_without_the_list_and_not_with_another(packs, listed, finished, tmp_path):
    path, pairs = listed
    copy, moved = tmp_path / "run", tmp_path / "moved.csv"
    shutil.copytree(finished[0], copy)
    gone = settings(exclude=(str(tmp_path / "nowhere.csv"),))
    assert train(gone, packs[0], copy).already_finished
    fewer = overlap(*packs, OverlapOptions(near=False))
    write_list(moved, fewer.listed(("home", "away")), (("home", packs[0]), ("away", packs[1])))
    with pytest.raises(UserError, match="another selection|other images|another dataset"):
        train(settings(exclude=(str(moved),)), packs[0], copy)
    with pytest.raises(UserError, match="another exclude"):
        train(settings(), packs[0], copy)
    (copy / EXCLUDED).write_text("other\n")
    with pytest.raises(UserError, match="which images the run left out is not known"):
        train(gone, packs[0], copy)


def test_of_two_packs_an_image_is_trained_on_once_and_not_where_its_copy_is_held_out(packs, listed, tmp_path):
    path, pairs = listed
    union = Union.of({"home": packs[0], "away": packs[1]})
    start = union.parts[1].start
    with pytest.raises(UserError, match=r"of (home|away) are training images of .*cxrdali overlap .*--exclude"):
        select_data(settings(), union, union.labels(), tmp_path)
    allowed = select_data(settings(allow_leak=True), union, union.labels(), tmp_path)
    assert any("are training images of" in words for words in allowed.leak)
    data = select_data(settings(exclude=(str(path),)), union, union.labels(), tmp_path)
    released = set(allowed.train_rows.tolist())
    wanted = set(released)
    for one, other in zip(pairs["row_a"], pairs["row_b"] + start, strict=True):
        if other in released:
            wanted.discard(other)
        elif one in released:
            wanted.discard(one)
    assert set(data.train_rows.tolist()) == wanted and len(wanted) < len(released)
    assert data.val_rows.tolist() == allowed.val_rows.tolist() and data.leak == ()


def test_what_is_no_list_of_these_packs_is_refused(packs, listed, dataset, tmp_path):
    path, _ = listed

    def refused(words, given, pack=packs[0]):
        with pytest.raises(UserError, match=words):
            select_data(settings(exclude=(str(given),)), pack, pack.labels(), tmp_path / "run")

    refused("lists images of home and away.*none of them is in --data", path, dataset)
    refused("cannot be read", tmp_path / "absent.csv")
    copy = tmp_path / "copy.csv"
    shutil.copy(path, copy)
    refused("copy.csv.sha256.*is not beside it", copy)
    shutil.copy(f"{path}.sha256", f"{copy}.sha256")
    copy.write_text(copy.read_text().replace("exact", "near", 1))
    refused("its SHA-256 is not the one", copy)
    refused(r"restore it, or write it with `cxrdali overlap", copy)  # without its hash it would be refused too
