"""Runs whose release is packed again: in other shards, with further sizes, and with other images or pixels."""

import itertools
import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import simplejpeg
import torch
from safetensors.torch import load_file

from cxrdali.data.splits import train_and_validation
from cxrdali.evaluate.compare import CompareOptions, compare
from cxrdali.evaluate.same_images import check_same_dataset
from cxrdali.postprocess import thresholds, views
from cxrdali.postprocess.ensemble import ensemble
from cxrdali.postprocess.options import FitOptions
from cxrdali.predict.predict import predict
from cxrdali.predictions import Kind, Provenance, read
from cxrdali.runs import layout, recipes, same_data
from cxrdali.runs.reader import Run
from cxrdali.runs.steps import Book
from cxrdali.studies.options import StudyOptions
from cxrdali.studies.plan import make_plan
from cxrdali.studies.shipped import open_study
from cxrdali.train.retrain import retrain_settings
from cxrdali.train.stopping import Stopped
from cxrdali.train.trainer import train
from shards.dataset.description import seal
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.attach import attach, detach
from shards.packing.options import PackLimits, PackOptions
from shards.packing.pack import pack
from shards.releases.open import open_release
from shards.renditions.options import Size
from shards.storage.files import json_bytes
from shards.storage.sealed import sealed_json
from tests.cxrdali.comparable_runs import change_config
from tests.cxrdali.folds_by_hand import folds_by_hand
from tests.cxrdali.train.test_trainer import settings as every
from tests.cxrdali.train.test_trainer import stopped_at
from tests.releases import jpeg, smooth_image

pytestmark = pytest.mark.slow

ONE, MORE = (Size(48),), (Size(32), Size(48))


def settings(**changes):
    return every(**{"epochs": 2, "labels": "cxr-lt-2023", **changes})


def packed(release, out, sizes=ONE, **options):
    options = PackOptions(sizes=sizes, **{"shard_images": 16, **options})
    pack(open_release(release), out, options, limits=PackLimits(max_reject_fraction=0.5))
    return PackedDataset.open(out)


def begun(dataset, out, **changes):
    """A run that was stopped in its second epoch, after validation of the first."""
    with pytest.raises(Stopped):
        train(settings(**changes), dataset, out, hooks=stopped_at(12))
    return out


def in_its_fold(subject):
    """Another id, whose fold of 5 is the same."""
    (fold,) = folds_by_hand([subject], 5)
    return next(f"h{tried}" for tried in itertools.count(int(subject)) if folds_by_hand([f"h{tried}"], 5)[0] == fold)


def refused(call, *arguments, **options):
    with pytest.raises(UserError) as error:
        call(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def weights(run):
    return load_file(run / layout.BEST)


def same_weights(one, two):
    left, right = weights(one), weights(two)
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def as_before(dataset, out):
    """The dataset as versions packed it that knew neither content nor hashes."""
    root = shutil.copytree(dataset.root, out)
    info = json.loads((root / "dataset.json").read_text())
    del info["hashed"]
    for size in info["sizes"].values():
        size["shards"] = [{k: v for k, v in each.items() if k != "content"} for each in size["shards"]]
    (root / "dataset.json").write_bytes(json_bytes(seal(info)))
    return PackedDataset.open(root)


def run_as_before(run):
    """config.json and table as earlier versions wrote them."""
    config = json.loads((run / layout.CONFIG).read_text())
    config["dataset"] = {"id": config["dataset"]["id"]}
    del config["labels"]["values"], config["labels"]["values_sorted"]
    (run / layout.CONFIG).write_bytes(sealed_json(config))
    table = read(run / layout.VAL_PREDICTIONS)
    replace(table, provenance=replace(table.provenance, images=None)).write(run / layout.VAL_PREDICTIONS)


@pytest.fixture(scope="module")
def one(release_folder, tmp_path_factory):
    return packed(release_folder, tmp_path_factory.mktemp("one") / "pack")


@pytest.fixture(scope="module")
def two(release_folder, tmp_path_factory):
    """The same in other shards, and with one size more."""
    return packed(release_folder, tmp_path_factory.mktemp("two") / "pack", MORE, shard_images=7)


@pytest.fixture(scope="module")
def runs(one, two, tmp_path_factory):
    """a on one, b on two with another seed."""
    root = tmp_path_factory.mktemp("runs")
    train(settings(), one, root / "a")
    train(settings(seed=1), two, root / "b")
    return root / "a", root / "b"


@pytest.fixture(scope="module")
def stopped(one, tmp_path_factory):
    return begun(one, tmp_path_factory.mktemp("stopped") / "half")


@pytest.fixture
def half(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "half")


@pytest.fixture
def release(release_folder, tmp_path):
    return shutil.copytree(release_folder, tmp_path / "release")


def image_of(dataset, split, labels="cxr-lt-2023"):
    """The first image of a split, and its file in the release's folder."""
    rows = np.flatnonzero((dataset.labels(labels).split == split) & dataset.packed)
    at = dataset.catalog.iloc[rows[0]]
    return at["image_id"], f"files/p{at.subject_id[:2]}/p{at.subject_id}/s{at.study_id}/{at.image_id}.jpg"


# ---------------------------------------------------------------- the same data


def test_a_run_continues_on_the_same_images_in_other_shards_bit_for_bit(runs, half, two):
    train(settings(), two, half)
    assert same_weights(half, runs[0]) and Run.open(half).progress.finished
    made, whole = (read(run / layout.VAL_PREDICTIONS) for run in (half, runs[0]))
    assert made.values.tobytes() == whole.values.tobytes()


def test_what_is_made_of_a_run_is_the_same_on_the_other_dataset(runs, one, two, tmp_path):
    a, b = runs
    assert one.id != two.id
    tables = [predict(a, dataset, "val") for dataset in (one, two)]
    assert tables[0].values.tobytes() == tables[1].values.tobytes()
    assert len({each.provenance.images for each in (*tables, read(a / layout.VAL_PREDICTIONS))}) == 1
    assert retrain_settings(a, one, {}) == retrain_settings(a, two, {})
    made = [compare([a, b], dataset, CompareOptions(draws=20, folds=2)) for dataset in (one, two)]
    assert made[0]["runs"] == made[1]["runs"] and made[0]["differences"] == made[1]["differences"]
    check_same_dataset([Run.open(run) for run in runs], two)
    paths = [tmp_path / f"{name}.parquet" for name in "ab"]
    for run, dataset, path in zip(runs, (one, two), paths, strict=True):
        predict(run, dataset, "test").write(path)
    pooled = ensemble(paths)
    np.testing.assert_array_equal(pooled.ids["image_id"], read(paths[1]).ids["image_id"])
    assert pooled.provenance.dataset is None and pooled.provenance.images == read(paths[0]).provenance.images
    labels = [dataset.labels("cxr-lt-2023") for dataset in (one, two)]
    for library in (thresholds, views):
        how = ("f1", FitOptions(folds=2)) if library is thresholds else ()
        rules = [library.fit(b / layout.VAL_PREDICTIONS, *each, *how) for each in zip((one, two), labels, strict=True)]
        assert rules[0].rules == rules[1].rules
    views.apply(paths[0], rules[0], two, allow_other_run=True)


def test_tables_of_datasets_in_another_order_are_pooled(runs, one, release_folder, tmp_path):
    """Another --seed of the packing: other rows in other shards, the same images."""
    three = packed(release_folder, tmp_path / "pack", seed=5)
    paths = [tmp_path / f"{name}.parquet" for name in "ab"]
    for run, dataset, path in zip(runs, (one, three), paths, strict=True):
        predict(run, dataset, "test").write(path)
    assert read(paths[0]).ids["image_id"].tolist() != read(paths[1]).ids["image_id"].tolist()
    assert len(ensemble(paths).values) == len(read(paths[0]).values)
    there, here = read(runs[0] / layout.VAL_PREDICTIONS), predict(runs[0], three, "val")
    order = here.ids["image_id"].tolist()
    assert order != there.ids["image_id"].tolist() and sorted(order) == sorted(there.ids["image_id"])
    values = pd.DataFrame(there.values, index=there.ids["image_id"]).loc[order]
    assert np.allclose(here.values, values, atol=1e-5)
    run = shutil.copytree(runs[0], tmp_path / "older")  # its images are known in their order alone
    noted = {name: each for name, each in Run.open(run).config["dataset"].items() if name not in same_data.SORTED}
    change_config(run, dataset=noted)
    assert "as many images, but others, in another order, or with other" in refused(predict, run, three, "val")
    change_config(run, settings__fold_rule="catalog")  # and its fold goes by the order of the packing
    said = refused(predict, run, three, "val")
    assert "fold 0 comes out differently here than where it was trained: " in said
    assert said.endswith("so its val split is not there; choose dev, test or all")


def test_a_size_that_was_added_to_the_dataset_is_no_change(half, runs, one, release_folder, tmp_path):
    root = shutil.copytree(one.root, tmp_path / "pack")
    train(settings(), packed(release_folder, root, (Size(48), Size(64))), half)
    assert same_weights(half, runs[0])


def test_a_repaired_image_of_another_split_is_no_change(runs, one, release, tmp_path):
    _, path = image_of(one, "test")
    whole = (release / path).read_bytes()
    (release / path).write_bytes(b"")
    partial = packed(release, tmp_path / "pack")
    half = begun(partial, tmp_path / "half")
    (release / path).write_bytes(whole)
    repaired = packed(release, tmp_path / "pack")
    assert repaired.id != partial.id and repaired.packed.sum() == partial.packed.sum() + 1
    train(settings(), repaired, half)
    assert same_weights(half, runs[0])


def test_labels_are_those_of_the_run_s_images(half, runs, one, release, tmp_path):
    """Attached again with other values in the dev split, and then in training."""
    root = shutil.copytree(one.root, tmp_path / "pack")
    (table,) = [table for table in open_release(release).labels if table.name == "cxr-lt-2023"]
    for split, goes_on in (("dev", True), ("train", False)):
        changed = table.table.copy()
        row = changed.index[changed["split"] == split][0]
        finding = table.findings[0]
        changed.loc[row, finding] = 1 - changed.loc[row, finding]
        detach(root, table.name)
        attach(root, [], tables=[replace(table, table=changed)])
        dataset = PackedDataset.open(root)
        if goes_on:
            assert len(predict(runs[0], dataset, "val").values)
            shutil.copytree(half, tmp_path / "copy")
            train(settings(), dataset, tmp_path / "copy")
            assert same_weights(tmp_path / "copy", runs[0])
        else:
            said = refused(train, settings(), dataset, half)
            assert "half: holds a run with other labels 'cxr-lt-2023', which have changed; give the same again" in said
            said = refused(retrain_settings, runs[0], dataset, {})
            assert f"labels 'cxr-lt-2023' of {root} are not those that it was trained on; give the dataset" in said


def test_a_study_goes_on_with_the_same_data(one, two, release_folder, tmp_path):
    table = tmp_path / "models.toml"
    table.write_text(
        "[every]\narch = 'test_efficientnet'\npretrained = false\nepochs = 1\nbatch = 8\nsize = 48\n"
        "[model0]\nstage = 1\n"
    )
    options = StudyOptions(draws=2, synthetic=True, labels="cxr-lt-2023", models=("model0",))

    def plan(dataset):
        study = open_study("stage-training")
        return make_plan(tmp_path / "study", {"": dataset}, study, recipes.read(table), options).steps

    book = Book(tmp_path / "study")
    book.run(plan(one))
    assert set(book.plan(plan(two)).values()) == {None}
    other = book.plan(plan(packed(release_folder, tmp_path / "other", quality=50)))
    assert other["train model0"] == "dataset changed: the same images packed otherwise: quality 95 there, 50 here"
    assert other["predict model0 test"].startswith("dataset changed: the same images") and set(other.values()) != {None}
    for path in (tmp_path / "study" / ".steps").glob("*.json"):  # as earlier versions recorded them
        record = json.loads(path.read_text())
        record["settings"]["dataset"] = one.id
        path.write_bytes(sealed_json(record))
    assert set(book.plan(plan(one)).values()) == {None}
    assert book.plan(plan(two))["train model0"] == f"dataset changed: dataset {one.id!r} there, {two.id!r} here"


# ---------------------------------------------------------------- other data


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fit": "crop"}, "fit 'squash' there, 'crop' here"),
        ({"sizes": (Size(48, raw=True),)}, "encoding 'jpeg' there, 'raw' here"),
        ({"sizes": (Size(48), Size(128))}, "decoded_for 48 there, 128 here"),
    ],
)
def test_what_is_packed_otherwise_is_named(stopped, one, release_folder, tmp_path, options, words):
    other = packed(release_folder, tmp_path / "pack", **options)
    labels = other.labels("cxr-lt-2023")
    rows = train_and_validation(other, labels, settings().data)
    here = same_data.described(settings(), other, labels, *rows)["dataset"]
    there = json.loads((stopped / layout.CONFIG).read_text())["dataset"]
    assert same_data.difference(there, here) == f"the same images packed otherwise: {words}"
    assert same_data.difference(here, here) is None


def test_other_pixels_of_the_same_images_do_not_continue_a_run(half, runs, release_folder, tmp_path):
    other = packed(release_folder, tmp_path / "pack", quality=50)
    words = "quality 95 there, 50 here"
    said = refused(train, settings(), other, half)
    assert said == (
        f"{half}: holds a run with another dataset: the same images packed otherwise: {words}; give the same again, or "
        "another --out folder"
    )
    assert len(predict(runs[0], other, "val").values) and retrain_settings(runs[0], other, {})  # the images decide


def test_files_that_have_changed_are_other_pixels(half, runs, one, release, tmp_path):
    _, path = image_of(one, "train")
    before = (release / path).read_bytes()
    height, width, *_ = simplejpeg.decode_jpeg_header(before)
    (release / path).write_bytes(jpeg(smooth_image(np.random.default_rng(9), height, width)))
    said = refused(train, settings(), packed(release, tmp_path / "pack"), half)
    assert "another dataset: the same images with other pixels: their files changed; give the same again" in said


def test_other_images_are_named(half, runs, one, release, tmp_path):
    own = read(runs[0] / layout.VAL_PREDICTIONS).ids
    at = own.iloc[0]
    subject = one.catalog.set_index("image_id")["subject_id"][at["image_id"]]
    (release / f"files/p{subject[:2]}/p{subject}/s{at['study_id']}/{at['image_id']}.jpg").write_bytes(b"")
    other = packed(release, tmp_path / "pack")
    _, val = train_and_validation(other, other.labels("cxr-lt-2023"), Run.open(runs[0]).fold)
    gone = own["image_id"][~own["image_id"].isin(other.catalog["image_id"].iloc[val])]
    words = f"{len(gone)} of its {len(own)} validation images are not among those here, first {gone.iloc[0]!r}"
    assert f"holds a run with another dataset: {words}; give the same again" in refused(train, settings(), other, half)
    assert f"{words}; give the dataset of the run with --data" in refused(retrain_settings, runs[0], other, {})
    assert f"{words}; give the dataset of the runs with --data" in refused(
        check_same_dataset, [Run.open(runs[0])], other
    )


def test_patients_are_part_of_what_an_image_is(runs, one, tmp_path):
    """The same names and views of images of another hospital."""
    other = replace(one)
    names = {each: in_its_fold(each) for each in one.catalog["subject_id"].unique()}
    other.__dict__["catalog"] = one.catalog.assign(subject_id=one.catalog["subject_id"].map(names))
    said = refused(retrain_settings, runs[0], other, {})
    assert "as many images, but others, in another order, or with other patients, views or sides of their files" in said
    rows = np.flatnonzero(one.packed)
    made = [same_data.with_images(Provenance(), dataset, rows) for dataset in (one, other)]
    assert made[0].images != made[1].images
    tables = [predict(runs[0], one, "test") for _ in made]
    for name, table, dataset, at in zip("ab", tables, (one, other), ("d1", "d2"), strict=True):
        places = np.flatnonzero(one.catalog["image_id"].isin(table.ids["image_id"]))
        about = same_data.with_images(Provenance(Kind.LOGIT, name, "test", dataset=at), dataset, places)
        replace(table, provenance=about).write(tmp_path / f"{name}.parquet")
    said = refused(ensemble, [tmp_path / "a.parquet", tmp_path / "b.parquet"])
    assert "b.parquet: was predicted on dataset 'd2'" in said


def test_windowed_order_follows_the_shards(one, two, tmp_path):
    run = begun(one, tmp_path / "run", order="windowed")
    said = refused(train, settings(order="windowed"), two, run)
    assert "another dataset: the same images lie in other shards here, and --order windowed follows the shards" in said
    train(settings(order="windowed"), one, run)
    train(settings(order="windowed"), one, tmp_path / "whole")
    assert same_weights(run, tmp_path / "whole")


def test_another_stored_size_to_read_from_is_another_dataset(release_folder, tmp_path):
    """Images of 40 px are resized from the nearest larger size that is stored."""
    dataset = packed(release_folder, tmp_path / "pack")
    run = begun(dataset, tmp_path / "run", size=40)
    nearer = packed(release_folder, tmp_path / "pack", (Size(48), Size(44)))
    assert nearer.id == dataset.id
    said = refused(train, settings(size=40), nearer, run)
    assert "another dataset: images are read from 44 px here, from 48 px there; give the same again" in said


# ---------------------------------------------------------------- earlier versions


def test_runs_and_datasets_of_earlier_versions_go_on_by_the_id(half, runs, one, two, tmp_path):
    old = as_before(one, tmp_path / "old")
    assert old.id == one.id
    run_as_before(half)
    said = refused(train, settings(), two, half)
    assert f"holds a run with another dataset: dataset {one.id!r} there, {two.id!r} here; give the same again" in said
    train(settings(), old, half)
    assert same_weights(half, runs[0])
    assert predict(half, old, "val").values.tobytes() == predict(half, one, "val").values.tobytes()
    said = refused(predict, half, two, "val")
    assert f"half: was trained on another dataset than {two.root}, so its val split is not there" in said


def test_a_dataset_of_an_earlier_version_does_not_tell_its_pixels(one, two, tmp_path):
    old, other = as_before(one, tmp_path / "old"), as_before(two, tmp_path / "other")
    run = begun(old, tmp_path / "run")
    assert json.loads((run / layout.CONFIG).read_text())["dataset"]["content"] is None
    said = refused(train, settings(), other, run)
    assert "the same images, but an earlier version packed them: whether their pixels are the same is not known" in said
    said = refused(train, settings(), two, run)
    assert "another dataset: the same images packed otherwise: hashed None there, 48 here" in said
    assert predict(run, other, "val").provenance.images == read(run / layout.VAL_PREDICTIONS).provenance.images
    train(settings(), old, run)
    assert Run.open(run).progress.finished


def test_hashes_alone_tell_that_pixels_are_the_same(half, runs, two, tmp_path):
    """Of a dataset of an earlier version, which hashed pixels and had no content."""
    root = shutil.copytree(two.root, tmp_path / "pack")
    info = json.loads((root / "dataset.json").read_text())
    for shard in info["sizes"]["48"]["shards"]:
        del shard["content"]
    (root / "dataset.json").write_bytes(json_bytes(seal(info)))
    train(settings(), PackedDataset.open(root), half)
    assert same_weights(half, runs[0])


def test_which_images_is_told_alike_from_the_whole_catalog(one):
    rows = np.flatnonzero(one.packed)
    fresh = PackedDataset.open(one.root)
    before = same_data.which(fresh, rows, rows[::-1])
    assert fresh.catalog is not None and same_data.which(fresh, rows, rows[::-1]) == before and before[0] != before[1]
    assert asdict(same_data.with_images(Provenance(), one, rows)) == asdict(
        same_data.with_images(Provenance(), fresh, rows[::-1])
    )
