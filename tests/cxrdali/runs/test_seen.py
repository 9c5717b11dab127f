"""Which images a run has seen, through all runs that its weights come from: counted here from the catalog alone."""

import json
import shutil
from hashlib import sha256

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from cxrdali import predictions
from cxrdali.data.splits import FoldOptions, train_and_validation
from cxrdali.predict.predict import PredictOptions, predict
from cxrdali.predictions import ABOUT, CHECKSUM
from cxrdali.runs.layout import BEST, CONFIG, LAST, SEEN, VAL_PREDICTIONS
from cxrdali.runs.reader import Run
from cxrdali.runs.seen import seen_by, seen_by_weights
from cxrdali.runs.settings import settings_of
from cxrdali.train.retrain import retrain_settings
from cxrdali.train.selection import select_data
from cxrdali.train.trainer import train
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.storage.sealed import sealed_json
from tests.cli.cli import done
from tests.cxrdali.comparable_runs import change_config, write_run
from tests.cxrdali.folds_by_hand import folds_by_hand
from tests.heard import heard
from tests.releases import image_path, write_release

pytestmark = pytest.mark.slow

LABELS = "cxr-lt-2023"
FIELDS = ("fold_rule", "fold_seed", "stratify", "view")


def settings(**changes):
    given = {"stage": 1, "size": 48, "batch": 8, "epochs": 1, "arch": "test_byobnet", "pretrained": False}
    return settings_of(**{**given, "device": "cpu", "labels": LABELS, **changes})


def fold_of(dataset, fold=0, folds=5, group="subject", labels=LABELS):
    """Catalog rows of training and validation, by pandas and a hash of each id alone."""
    catalog = dataset.catalog
    rows = np.flatnonzero((dataset.labels(labels).split == "train") & catalog["shard"].notna())
    keys = catalog["subject_id"] + ("" if group == "subject" else "/" + catalog["study_id"])
    validation = folds_by_hand(keys[rows], folds) == fold
    return rows[~validation], rows[validation]


def of_same(dataset, rows, trained, column):
    """Those of rows that share a subject or study with rows that were trained on, and are none of these."""
    keys = dataset.catalog[column]
    return [row for row in rows if row not in set(trained) and keys[row] in set(keys[trained])]


def checksum(about, images):
    """As seen.parquet has it."""
    made = sha256(about + b"\n")
    for name in images:
        made.update(images[name].to_numpy(dtype="<u8").tobytes())
    return made.hexdigest().encode()


def chained(folder, dataset, init=None, **split):
    """A finished run with a list of what it saw, after that of `init`; its weights are not there."""
    write_run(folder, dataset, 1.0, 0, folds=split.pop("folds", 5), **split)
    before = seen_by_weights(init and str(init), dataset)
    own = seen_by(Run.open(folder), dataset)
    rows, _ = train_and_validation(dataset, dataset.labels(LABELS), Run.open(folder).fold)
    before.after(own.runs[0], dataset, rows).write(folder)
    return folder


def begun(dataset, out, **changes):
    """What the trainer finds before it writes anything."""
    asked = settings(**changes)
    return select_data(asked, dataset, dataset.labels(asked.data.labels), out)


def refusal(dataset, tmp_path, **changes):
    with pytest.raises(UserError) as error:
        begun(dataset, tmp_path / "next", **changes)
    return str(error.value)


@pytest.fixture(scope="module")
def stage1(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "stage1"
    train(settings(), dataset, out)
    return out


# ---------------------------------------------------------------- one run before


def test_a_stage_on_another_fold_is_refused_before_it_writes_and_goes_on_where_allowed(dataset, stage1, tmp_path):
    trained, (_, validation) = fold_of(dataset)[0], fold_of(dataset, 1)
    assert set(validation) <= set(trained)
    words = f"{len(validation)} of {len(validation)} validation images were trained on by stage1 (fold 0 of 5)"
    advice = "so their scores would say nothing of unseen images; give --fold 0 as stage1 had, start from other weights"
    with pytest.raises(UserError) as error:
        train(settings(stage=2, init=str(stage1), fold=1), dataset, tmp_path / "stage2")
    assert str(error.value) == f"{stage1}: {words}, {advice}, or say --allow-leak"
    assert [path.name for path in (tmp_path / "stage2").iterdir()] == [".lock"]

    said, allowed = [], settings(stage=2, init=str(stage1), fold=1, allow_leak=True)
    with heard(said):
        train(allowed, dataset, tmp_path / "stage2")
    assert f"note: {words}" in said and Run.open(tmp_path / "stage2").config["seen"] == [words]
    assert predictions.read(tmp_path / "stage2" / VAL_PREDICTIONS).provenance.seen == (words,)
    again = train(allowed.changed(allow_leak=False), dataset, tmp_path / "stage2")  # what is begun goes on
    assert again.already_finished
    with pytest.raises(
        UserError, match=f"stage2: {len(validation)} of .* by stage1 .*; predict images that it has not"
    ):
        predict(tmp_path / "stage2", dataset, "val", PredictOptions(device="cpu"))
    with pytest.raises(UserError, match=f"{len(validation)} of .* by stage1 .*; start from other weights, or say"):
        train(retrain_settings(tmp_path / "stage2", dataset, {"device": "cpu"}), dataset, tmp_path / "crt")


def test_a_stage_on_the_same_fold_goes_on_without_a_word(dataset, stage1, tmp_path):
    said = []
    with heard(said):
        train(settings(stage=2, init=str(stage1)), dataset, tmp_path / "stage2")
        found = predict(tmp_path / "stage2", dataset, "val", PredictOptions(device="cpu"))
    assert Run.open(tmp_path / "stage2").config["seen"] == [] and found.provenance.seen == ()
    assert not [line for line in said if "trained on" in line or "not known" in line]
    assert seen_by_weights(None, dataset).among(dataset, dataset.labels(), np.arange(9), "subject", "images") == ()


def test_training_images_are_counted_and_predicted(dataset, stage1):
    said, trained = [], fold_of(dataset)[0]
    every = np.flatnonzero(dataset.packed)
    with heard(said):
        tables = {name: predict(stage1, dataset, name, PredictOptions(device="cpu")) for name in ("train", "all")}
    words = f"{len(trained)} of {len(trained)} train images were trained on by stage1 (fold 0 of 5)"
    assert f"note: {words}" in said and tables["train"].provenance.seen == (words,)
    assert tables["all"].provenance.seen == (
        f"{len(trained)} of {len(every)} images were trained on by stage1 (fold 0 of 5)",
    )


@pytest.mark.parametrize(
    "split", [{"fold": 1, "folds": 3}, {"group": "study"}, {"fold": 2, "folds": 4, "group": "study"}]
)
def test_another_rule_of_folds(dataset, tmp_path, split):
    """The stage after it splits by subject: images of its patients count, too."""
    init = chained(tmp_path / "stage1", dataset, **split)
    trained, _ = fold_of(dataset, **split)
    _, validation = fold_of(dataset)
    itself = len(np.intersect1d(trained, validation))
    others = len(of_same(dataset, validation, trained, "subject_id"))
    assert itself and itself + others <= len(validation)
    of = f"fold {split.get('fold', 0)} of {split.get('folds', 5)}{' by study' if 'group' in split else ''}"
    expected = f"{itself} of {len(validation)} validation images were trained on by stage1 ({of})"
    expected += f", and {others} more are other images of patients that were trained on" if others else ""
    found = refusal(dataset, tmp_path, init=str(init))
    assert found.startswith(f"{init}: {expected}, so their scores")
    advice = " ".join(f"--{name} {split[name]}" for name in ("fold", "folds", "group") if name in split)
    assert f"; give {advice} as stage1 had, start" in found
    assert begun(dataset, tmp_path / "next", init=str(init), **split).leak == ()  # which is right


def test_patients_alone(dataset, tmp_path):
    """By study, the other study of a patient may be on the other side: as asked for; not where patients are kept."""
    trained, validation = fold_of(dataset, group="study")
    others = of_same(dataset, validation, trained, "subject_id")
    run = seen_by(Run.open(write_run(tmp_path / "one", dataset, 1.0, 0, folds=5, group="study")), dataset)
    labels = dataset.labels(LABELS)
    assert others and not np.intersect1d(trained, validation).size
    assert run.among(dataset, labels, validation, "study", "images") == ()
    (text,) = run.among(dataset, labels, validation, "subject", "images")
    start = f"{len(others)} of {len(validation)} images are other images of patients that were trained on by one"
    assert text == f"{start} (fold 0 of 5 by study)"


@pytest.mark.parametrize("file", [BEST, LAST, "link"])
def test_a_file_in_a_run_s_folder_counts_as_the_run(dataset, stage1, tmp_path, file):
    path = stage1 / file
    if file == "link":
        path = tmp_path / "weights.safetensors"
        path.symlink_to(stage1 / BEST)
    count = len(fold_of(dataset, 1)[1])
    assert f"{path}: {count} of {count} validation images" in refusal(dataset, tmp_path, init=str(path), fold=1)


def test_a_copied_run_has_seen_the_same_and_is_called_by_its_folder(dataset, stage1, tmp_path):
    copy = shutil.copytree(stage1, tmp_path / "elsewhere" / "copy")
    count = len(fold_of(dataset, 1)[1])
    assert f"{count} of {count} validation images were trained on by copy (" in refusal(
        dataset, tmp_path, init=str(copy), fold=1
    )
    (copy / CONFIG).unlink()  # the list alone tells, too
    words = f"{copy / BEST}: {count} of {count} validation images were trained on by stage1 ("
    assert words in refusal(dataset, tmp_path, init=str(copy / BEST), fold=1)


def test_weights_of_somebody_else_are_called_so(dataset, stage1, tmp_path):
    said, file = [], shutil.copy(stage1 / BEST, tmp_path / "foreign.safetensors")
    (tmp_path / CONFIG).write_text('{"architecture": "resnet18", "num_classes": 5}')  # as timm's downloads have it
    with heard(said):
        train(settings(stage=2, init=str(file), fold=1), dataset, tmp_path / "stage2")
        table = predict(tmp_path / "stage2", dataset, "val", PredictOptions(device="cpu"))
    note = f"note: it is not known which images {file} was trained on, and so whether these are among them"
    assert said.count(note) == 2 and table.provenance.seen is None
    assert Run.open(tmp_path / "stage2").config["seen"] is None
    with pytest.raises(UserError, match="by stage2 .fold 1 of 5"):  # what is known counts all the same
        begun(dataset, tmp_path / "stage3", init=str(tmp_path / "stage2"))


# ---------------------------------------------------------------- chains


def test_a_chain_remembers_every_run_also_those_that_are_gone(dataset, tmp_path):
    first = chained(tmp_path / "one", dataset)
    second = chained(tmp_path / "two", dataset, first, fold=1)
    third = chained(tmp_path / "three", dataset, second)
    shutil.rmtree(first), shutil.rmtree(second)
    parts = [set(fold_of(dataset, fold)[0]) for fold in (0, 1)]
    for fold in range(3):
        _, validation = fold_of(dataset, fold)
        one, two = (len(part & set(validation)) for part in parts)
        both, of = (
            len((parts[0] | parts[1]) & set(validation)),
            f"of {len(validation)} validation images were trained on",
        )
        runs = {"one (fold 0 of 5)": one, "two (fold 1 of 5)": two, "three (fold 0 of 5)": one}
        runs = {name: count for name, count in runs.items() if count}
        by = f" by {[*runs][0]}" if len(runs) == 1 else ": " + ", ".join(f"{n} by {name}" for name, n in runs.items())
        assert f"{both} {of}{by}, so" in refusal(dataset, tmp_path, init=str(third), fold=fold)
    assert "as one had" not in refusal(dataset, tmp_path, init=str(third))  # no fold is left


def test_more_runs_than_bits(dataset, tmp_path):
    run, rows = seen_by(Run.open(write_run(tmp_path / "one", dataset, 1.0, 0, folds=5)), dataset), fold_of(dataset)[0]
    for _ in range(70):
        run = run.after(run.runs[0], dataset, rows[:10])
    run.write(tmp_path / "one")
    (text,) = seen_by(Run.open(tmp_path / "one"), dataset).among(
        dataset, dataset.labels(LABELS), rows, "subject", "images"
    )
    assert text.startswith(f"{len(rows)} of {len(rows)} images were trained on: {len(rows)} by one (")
    assert text.count(", 10 by one (") == 70


# ---------------------------------------------------------------- runs of before


@pytest.fixture
def older(dataset, stage1, tmp_path):
    """Two stages of a version that kept no list, the second on another fold."""
    runs = tmp_path / "runs"
    shutil.copytree(stage1, runs / "stage1")
    train(settings(stage=2, init=str(runs / "stage1"), fold=1, allow_leak=True), dataset, runs / "stage2")
    for name in ("stage1", "stage2"):
        (runs / name / SEEN).unlink()
    return runs


def test_a_run_without_a_list_is_known_by_its_config(dataset, older, tmp_path):
    moved = older.rename(tmp_path / "moved")
    _, validation = fold_of(dataset, 2)
    n = len(validation)
    found = refusal(dataset, tmp_path, init=str(moved / "stage2"), fold=2)
    assert f"{n} of {n} validation images were trained on: {n} by stage1 (fold 0 of 5), {n} by stage2 (fold 1" in found


def test_what_an_older_run_does_not_tell_is_said(dataset, older, tmp_path, pack_folder):
    shutil.rmtree(older / "stage1")
    said = []
    with heard(said):
        begun(dataset, tmp_path / "next", init=str(older / "stage2"), fold=1)
    assert said == [
        f"note: it is not known which images {older / 'stage1'} was trained on, and so whether these are among them"
    ]
    change_config(older / "stage2", dataset__id="another")
    found = seen_by(Run.open(older / "stage2"), dataset)
    assert (found.runs, found.unknown) == ((), (str(older / "stage1"), "stage2"))


@pytest.fixture
def catalog(dataset, tmp_path):
    """A finished first stage of a version that had no other rule of folds than the catalog's order."""
    out = tmp_path / "before" / "stage1"
    train(settings(fold_rule="catalog"), dataset, out)
    config = json.loads((out / CONFIG).read_text())
    for name in ("fold_rule", "fold_seed", "stratify"):
        del config["settings"]["data"][name]
    (out / CONFIG).write_bytes(sealed_json(config))
    return out


@pytest.mark.parametrize("list_of_before", [True, False])
def test_the_fold_of_a_run_of_before_is_its_own_and_the_next_stage_is_told_how_to_have_it(
    dataset, catalog, tmp_path, list_of_before
):
    catalog_rows = train_and_validation(dataset, dataset.labels(LABELS), FoldOptions(fold_rule="catalog"))
    if list_of_before:
        table = pq.read_table(catalog / SEEN)
        about = json.loads(table.schema.metadata[ABOUT])
        about["runs"] = [{k: v for k, v in each.items() if k not in FIELDS} for each in about["runs"]]
        found = seen_by(Run.open(catalog), dataset)
        sealed = {ABOUT: json.dumps(about).encode(), CHECKSUM: checksum(json.dumps(about).encode(), found.images)}
        pq.write_table(table.replace_schema_metadata(sealed), catalog / SEEN)
    else:
        (catalog / SEEN).unlink()
    assert train(settings(fold_rule="catalog"), dataset, catalog).already_finished
    with pytest.raises(UserError, match="'ids' now; it began before there was this setting: give --fold-rule cata"):
        train(settings(), dataset, catalog)
    ids = dataset.catalog["image_id"]
    table = predict(catalog, dataset, "val", PredictOptions(device="cpu"))
    assert table.ids["image_id"].tolist() == ids[catalog_rows[1]].tolist() and table.provenance.seen == ()
    validation = fold_of(dataset)[1]
    count = len(np.intersect1d(validation, catalog_rows[0]))
    said = refusal(dataset, tmp_path, stage=2, init=str(catalog))
    assert f"{count} of {len(validation)} validation images were trained on by stage1 (fold 0 of 5, by the cata" in said
    assert "; give --fold-rule catalog as stage1 had, start from other weights" in said
    following = begun(dataset, tmp_path / "next", stage=2, init=str(catalog), fold_rule="catalog")
    assert following.leak == () and following.val_rows.tolist() == catalog_rows[1].tolist()
    crt = select_data(retrain_settings(catalog, dataset, {}), dataset, dataset.labels(LABELS), tmp_path / "crt")
    assert crt.val_rows.tolist() == catalog_rows[1].tolist()


def test_other_rules_of_folds_are_advised_as_options(dataset, tmp_path):
    init = chained(tmp_path / "stage1", dataset, stratify=True, fold_seed=3)
    said = refusal(dataset, tmp_path, init=str(init))
    assert " by stage1 (fold 0 of 5, stratified, seed 3)" in said
    assert "; give --fold-seed 3 --stratify as stage1 had" in said
    assert begun(dataset, tmp_path / "next", init=str(init), stratify=True, fold_seed=3).leak == ()
    plain = chained(tmp_path / "plain", dataset)
    said = refusal(dataset, tmp_path, init=str(plain), stratify=True)
    assert "; give --set stratify=false as plain had" in said


def test_a_first_stage_that_was_trained_anew_is_not_the_one_that_began(dataset, older):
    shutil.rmtree(older / "stage1")
    train(settings(seed=1, fold=3), dataset, older / "stage1")
    found = seen_by(Run.open(older / "stage2"), dataset)
    assert [run.fold for run in found.runs] == [1] and found.unknown == (str(older / "stage1"),)


def test_a_run_that_descends_from_itself_ends(dataset, older):
    weights = json.loads((older / "stage2" / CONFIG).read_text())["init_sha256"]
    shutil.copy(older / "stage1" / BEST, older / "stage2" / BEST)
    change_config(older / "stage2", settings__init=str(older / "stage2"), init_sha256=weights)
    assert seen_by(Run.open(older / "stage2"), dataset).unknown == (str(older / "stage2"),)


def test_a_list_of_another_run_or_a_damaged_one_is_refused(dataset, stage1, tmp_path):
    run, other = shutil.copytree(stage1, tmp_path / "run"), chained(tmp_path / "other", dataset, fold=1)
    data = bytearray((run / SEEN).read_bytes())
    shutil.copy(other / SEEN, run / SEEN)
    with pytest.raises(UserError, match="run/seen.parquet: is another run's; restore it, or delete it to go by config"):
        predict(run, dataset, "test", PredictOptions(device="cpu"))
    data[len(data) // 3] ^= 1
    (run / SEEN).write_bytes(data)
    with pytest.raises(
        UserError, match="run/seen.parquet: not the images that a run has seen .*; restore it, or delete"
    ):
        begun(dataset, tmp_path / "next", init=str(run))
    (run / SEEN).unlink()
    assert begun(dataset, tmp_path / "next", init=str(run)).leak == ()


# ---------------------------------------------------------------- other datasets


@pytest.fixture(scope="module")
def table(release_folder):
    """The release's images with paths, for tables of one's own."""
    images = pd.read_csv(release_folder / "mimic-cxr-2.0.0-metadata.csv.gz", dtype=str)
    images["path"] = [image_path(row) for row in images.itertuples()]
    images["fold"] = np.where(images["subject_id"].astype(int) % 3 == 0, "test", "train")
    return images.assign(Edema="0", Mass=["0", "1"] * (len(images) // 2) + ["0"] * (len(images) % 2))


def packed(folder, release_folder, table, sizes="48", **columns):
    """A hospital's pack of some of the release's images."""
    table.assign(**columns).to_csv(folder / "h.csv", index=False)
    names = {"id": "dicom_id", "path": "path", "subject": "subject_id", "study": "study_id", "split": "fold"}
    options = [word for name, column in names.items() for word in (f"--{name}-column", column)]
    done(folder, "shard", "--source", release_folder, "--table", "h.csv", *options, "--findings", "Edema,Mass",
         "--sizes", sizes, "--out", "h", "--shard-images", 10, "--jobs", 1)  # fmt: skip
    return PackedDataset.open(folder / "h")


def met(dataset, run, other, group="subject"):
    """What the run has seen of all images of another pack, in words."""
    labels = other.labels()
    rows = np.flatnonzero(other.packed)
    return seen_by(Run.open(run), dataset).among(other, labels, rows, group, "images"), rows


def counted(dataset, other, trained, rows, key):
    """How many of another pack's images were trained on, and of how many others the patient was. key: its column that
    has the ids of the first."""
    ids = set(dataset.catalog["image_id"][trained])
    itself = other.catalog[key].iloc[rows].isin(ids)
    patients = set(other.catalog["subject_id"].iloc[rows][itself])
    return itself.sum(), (other.catalog["subject_id"].iloc[rows].isin(patients) & ~itself).sum()


@pytest.mark.parametrize("sizes", ["48,64", "48"])
def test_images_that_were_packed_anew_are_the_same(dataset, stage1, release_folder, table, tmp_path, sizes):
    """In other shards; where another largest size leaves no pixels to compare, by their ids."""
    other = packed(tmp_path, release_folder, table, sizes)
    assert other.id != dataset.id
    trained = fold_of(dataset)[0]
    (text,), rows = met(dataset, stage1, other)
    itself, others = counted(dataset, other, trained, rows, "image_id")
    assert itself == len(trained) and others == 0
    by = "" if "64" in sizes else ", by their ids: pixels of other sizes do not compare"
    expected = (
        f"{itself} of {len(rows)} images were trained on by stage1 (fold 0 of 5 of cxr-lt-2023, in another pack){by}"
    )
    assert text == expected


def test_the_same_pixels_under_another_id_are_the_same_image(dataset, stage1, release_folder, table, tmp_path):
    """And so are the patients whom they show, whatever they are called there."""
    new = {"dicom_id": [f"{number}.png" for number in range(len(table))], "old": table["dicom_id"]}
    new |= {name: "x" + table[name] for name in ("subject_id", "study_id")}
    patients = table["subject_id"].astype(int) // 21  # three of ours are one there
    new |= {"subject_id": "y" + patients.astype(str), "fold": "train"}
    other = packed(tmp_path, release_folder, table, "64", **new)
    trained = set(dataset.catalog["image_id"][fold_of(dataset)[0]])
    (text,), rows = met(dataset, stage1, other)
    old = pd.Series(new["old"].to_numpy(), index=new["dicom_id"])[other.catalog["image_id"].iloc[rows]].isin(trained)
    patient = other.catalog["subject_id"].iloc[rows].to_numpy()
    others = np.isin(patient, patient[old.to_numpy()]) & ~old.to_numpy()
    assert old.sum() == len(trained) and others.sum()
    assert text.startswith(f"{old.sum()} of {len(rows)} images were trained on by stage1 (")
    assert text.endswith(f", and {others.sum()} more are other images of patients that were trained on")


def test_another_hospital_s_images_of_the_same_names_are_others(dataset, stage1, table, tmp_path):
    write_release(tmp_path / "there", seed=5)
    paths = pd.read_csv(tmp_path / "there" / "mimic-cxr-2.0.0-metadata.csv.gz", dtype=str)
    paths = [image_path(row) for row in paths.itertuples()]
    other = packed(tmp_path, tmp_path / "there", table, "64", path=paths[: len(table)])
    said = []
    with heard(said):
        found, rows = met(dataset, stage1, other)
    assert found == () and len(rows) == len(table)
    count = len(fold_of(dataset)[0])
    assert said == [
        f"note: {count} images have ids of images that stage1 was trained on, and other pixels: they count as others"
    ]
    renamed = [f"{number}.png" for number in range(len(table))]
    (tmp_path / "again").mkdir()
    alone = packed(tmp_path / "again", tmp_path / "there", table, "64", path=paths[: len(table)], dicom_id=renamed,
                   study_id=renamed)  # fmt: skip
    assert met(dataset, stage1, alone)[0] == ()  # patients of the same names, and nothing else
    (tmp_path / "studies").mkdir()
    studies = packed(tmp_path / "studies", tmp_path / "there", table, "64", path=paths[: len(table)], dicom_id=renamed)
    (text,), rows = met(dataset, stage1, studies, "study")
    trained = set(dataset.catalog["study_id"][fold_of(dataset)[0]])
    itself = studies.catalog["study_id"].iloc[rows].isin(trained).sum()
    run = "stage1 (fold 0 of 5 by subject of cxr-lt-2023, in another pack)"
    assert text == (
        f"{itself} of {len(rows)} images are other images of studies that were trained on by {run}, by the ids of "
        "studies alone"
    )


def test_images_of_one_gray_are_not_the_same_image(dataset, stage1, table, tmp_path):
    import cv2

    from shards.dataset.pixels import pixels_hash

    (tmp_path / "black").mkdir()
    cv2.imwrite(str(tmp_path / "black" / "0.png"), np.zeros((80, 70), np.uint8))
    other = packed(
        tmp_path, tmp_path / "black", table[:1], "64", path="0.png", dicom_id="x", subject_id="x", study_id="x"
    )
    assert other.catalog["pixels"][0] == pixels_hash(np.zeros((64, 64), np.uint8))
    black = seen_by(Run.open(stage1), dataset)
    black = black.after(black.runs[0], other, np.array([0]))
    assert black.images["pixels"].iloc[-1] == 0


def test_hashes_are_those_of_every_version():
    """Lists that were written before are compared with what is hashed now."""
    made = pd.util.hash_array(np.array(["10000032"], dtype=object))
    assert made.tolist() == [8984479441836713717] and made.dtype == np.uint64
