"""CXR-LT 2026 on PadChest: the traps of its tables, what PadChest's own table mends, and where images may be."""

import gzip
import shutil
from unittest import mock

import cv2
import numpy as np
import pandas as pd
import pytest

from shards.dataset.mapped import MappedSize
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.attach import attach, detach
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.releases.checks import check_links, check_subjects
from shards.releases.locate import image_paths
from shards.releases.open import open_release
from shards.renditions.rendition import Size, resize
from tests.releases import PADCHEST_FINDINGS, PADCHEST_TABLE, write_padchest, write_table

TRAIN, TEST, REMOVAL = "CXRLT_2026_TRAINING.csv", "CXRLT_2026_TEST_ALL_TASK1.csv", "Removal.csv"
OPTIONS = PackOptions(sizes=(Size(32, raw=True),), shard_images=16)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A release in PadChest's form and the truth about it; read-only by agreement."""
    root = tmp_path_factory.mktemp("padchest") / "release"
    return root, write_padchest(root)


@pytest.fixture
def truth(whole):
    return whole[1]


@pytest.fixture
def root(whole, tmp_path):
    """A copy, to be changed."""
    return shutil.copytree(whole[0], tmp_path / "release")


def edit(path, change):
    path.write_text(change(path.read_text()))


def refused(root, match):
    with pytest.raises(UserError, match=match) as error:
        open_release(root)
    assert "\n" not in str(error.value)
    return str(error.value)


def with_text_patients(root, truth):
    """Without PadChest's table, and with patients as text in the challenge's: not what was published, but thinkable."""
    (root / PADCHEST_TABLE).unlink()
    patients = truth.set_index("ImageID")["PatientID"]
    for name in (TRAIN, TEST, REMOVAL):
        table = pd.read_csv(root / name, dtype=str, header=None, keep_default_na=False)
        table.loc[1:, 2] = table.loc[1:, 0].map(patients)
        table.to_csv(root / name, index=False, header=False)


# ---------------------------------------------------------------- what is read


def test_patients_studies_and_views_come_from_padchests_own_table(whole):
    root, truth = whole
    images = open_release(root).images.set_index("image_id")
    expected = truth.set_index("ImageID").loc[images.index]
    assert len(images) == len(truth) - (truth["split"] == "removed").sum()
    for column, other in (
        ("subject_id", "PatientID"),
        ("study_id", "StudyID"),
        ("view", "view"),
        ("view_position", "Projection"),
        ("path", "path"),
    ):
        assert images[column].tolist() == expected[other].tolist()
    assert images["subject_id"].nunique() == truth["PatientID"].nunique() == 24
    assert set(images["view"]) == {"frontal", "lateral", "other"}
    inverted = expected["PhotometricInterpretation_DICOM"] == "MONOCHROME1"
    assert images["inverted"].tolist() == inverted.tolist() and inverted.any()


def test_removed_images_leave_training_and_test_images_stay_in_test_and_never_in_train(whole):
    root, truth = whole
    labels = open_release(root).labels[0]
    by_split = truth.groupby("split")["ImageID"].apply(set)
    assert set(labels.table.index[labels.table["split"] == "train"]) == by_split["train"]
    assert set(labels.table.index[labels.table["split"] == "dev"]) == by_split["test"]
    assert not (labels.table["split"] == "test").any(), "the public list is the development set, whatever its name"
    assert not labels.table.index.isin(by_split["removed"]).any()
    listed = set(pd.read_csv(root / TRAIN, dtype=str)["ImageID"])
    assert by_split["test"] < listed and by_split["removed"] < listed  # the trap: they stand in the training table
    removed, test = len(by_split["removed"]), len(by_split["test"])
    assert (
        f"{REMOVAL}: left out of training: {removed + test} images of {TRAIN}; {test} of its {removed + test} "
        "images are in the development or test table and stay there"
    ) in labels.notes


def test_findings_keep_their_case_and_lose_their_tabs_and_those_of_the_test_table_are_unknown(whole):
    root, truth = whole
    labels = open_release(root).labels[0]
    assert (labels.name, labels.findings) == ("cxr-lt-2026", PADCHEST_FINDINGS)
    assert "aortic elongation\t," in (root / TRAIN).read_text()
    train, dev = (labels.table[labels.table["split"] == split] for split in ("train", "dev"))
    expected = truth.set_index("ImageID").loc[train.index, list(PADCHEST_FINDINGS)]
    assert train[list(PADCHEST_FINDINGS)].astype(int).to_numpy().tolist() == expected.to_numpy().tolist()
    assert len(dev) == 12 and dev[list(PADCHEST_FINDINGS)].isna().all(axis=None)
    said = "its 5 columns of findings have no name and no value; no known label of its 12 images"
    assert f"{TEST}: {said}" in labels.notes


def test_a_test_table_that_pandas_saved_again_or_without_findings_is_read_alike(root):
    before = open_release(root).labels[0].table
    pd.read_csv(root / TEST, dtype=str).to_csv(root / TEST, index=False)
    assert "Unnamed: 3" in (root / TEST).read_text()
    pd.testing.assert_frame_equal(open_release(root).labels[0].table, before)
    pd.read_csv(root / TEST, dtype=str).iloc[:, :3].to_csv(root / TEST, index=False)
    labels = open_release(root).labels[0]
    pd.testing.assert_frame_equal(labels.table, before)
    assert f"{TEST}: it has no findings; no known label of its 12 images" in labels.notes


def test_a_test_table_with_names_is_matched_by_name_not_by_place(root):
    names = PADCHEST_FINDINGS[::-1]
    table = pd.read_csv(root / TEST, dtype=str).iloc[:, :3]
    for name in names:
        table[name] = str(int(name == "cardiomegaly"))
    table.to_csv(root / TEST, index=False)
    labels = open_release(root).labels[0]
    test = labels.table[labels.table["split"] == "test"]
    assert test.loc[:, list(PADCHEST_FINDINGS)].sum().tolist() == [0, 0, len(test), 0, 0]
    edit(root / TEST, lambda text: text.replace("cardiomegaly", "Cardiomegaly"))
    assert "'Cardiomegaly' is not in both" in refused(root, "finding")


@pytest.mark.parametrize("columns", [1, 3, 8])  # ids alone, without findings, with labels
def test_the_table_of_the_test_images_is_given_as_a_file_under_any_name(root, tmp_path, columns):
    """It lies beside the public list or elsewhere; both splits are there, and nothing else has changed."""
    before = open_release(root).labels[0].table
    table = pd.read_csv(root / TRAIN, dtype=str).rename(columns=str.strip)
    test = table[table["ImageID"].isin(before.index[before["split"] == "train"])].iloc[:3]
    table[~table["ImageID"].isin(test["ImageID"])].to_csv(root / TRAIN, index=False)
    for place in (root / "what the mail held.csv", tmp_path / "CXRLT_2026_FINAL.csv"):
        test.iloc[:, :columns].to_csv(place, index=False)
        release = open_release(root, [place])
        (labels, _) = release.labels
        assert labels.table.groupby("split")["cardiomegaly"].size().to_dict() == {"dev": 12, "test": 3, "train": 49}
        known = labels.table.loc[test["ImageID"], list(PADCHEST_FINDINGS)]
        if columns == 8:
            assert known.astype(str).to_numpy().tolist() == test[list(PADCHEST_FINDINGS)].to_numpy().tolist()
        else:
            assert known.isna().all(axis=None)
        assert place in labels.inputs and len(release.images) == len(before)
        if place.parent == root:
            place.unlink()
    labels_folder = tmp_path / "labels"
    labels_folder.mkdir()
    for name in (TRAIN, TEST, REMOVAL):
        shutil.move(root / name, labels_folder)
    again = open_release(root, [labels_folder, place]).labels[0].table
    pd.testing.assert_frame_equal(again, labels.table)
    pack(open_release(root, [labels_folder, place]), tmp_path / "pack", OPTIONS)
    detach(tmp_path / "pack", "cxr-lt-2026")
    attach(tmp_path / "pack", [labels_folder, place])
    attached = PackedDataset.open(tmp_path / "pack").labels("cxr-lt-2026")
    assert {split: int((attached.split[:] == split).sum()) for split in ("dev", "test")} == {"dev": 12, "test": 3}


def test_files_of_labels_that_belong_nowhere_are_one_line(root, tmp_path):
    other = write_table(tmp_path / "final.csv", "ImageID", "a.png")
    twice = write_table(tmp_path / "final2.csv", "ImageID", "b.png")
    for name in (TRAIN, TEST, REMOVAL):
        (root / name).unlink()
    with pytest.raises(UserError, match="final.csv: a table that belongs to no label release here; give the folder"):
        open_release(root, [other])
    write_padchest(tmp_path / "again")
    with pytest.raises(UserError, match="final2.csv: a second test table beside final.csv; keep one of them"):
        open_release(tmp_path / "again", [other, twice])
    with pytest.raises(UserError, match="none.csv: no such folder; give a label release's folder with --labels"):
        open_release(tmp_path / "again", [tmp_path / "none.csv"])


def test_two_tables_of_test_images_in_a_folder_are_told_apart_by_their_labels(root):
    """The one without labels is the public list; of two without, neither is guessed."""
    table = pd.read_csv(root / TRAIN, dtype=str).rename(columns=str.strip)
    kept = open_release(root).labels[0].table.query("split == 'train'").index[:2]
    table[~table["ImageID"].isin(kept)].to_csv(root / TRAIN, index=False)
    labelled = table[table["ImageID"].isin(kept)]
    labelled.to_csv(root / "a_test.csv", index=False)
    found = open_release(root).labels[0].table["split"]
    assert (found[kept] == "test").all() and (found == "dev").sum() == 12
    labelled.iloc[:, :3].to_csv(root / "a_test.csv", index=False)
    assert "the table of the test images is given as --labels FILE" in refused(root, "a second")


def test_another_tasks_table_is_not_read_and_that_is_said(root):
    shutil.copy(root / TEST, root / "CXRLT_2026_TEST_ALL_TASK2.csv")
    labels = open_release(root).labels[0]
    assert any(note.startswith("CXRLT_2026_TEST_ALL_TASK2.csv is not read: another task") for note in labels.notes)


def test_a_table_that_is_not_told_to_be_one_is_not_passed_over_in_silence(root):
    edit(root / TEST, lambda text: text.replace("ImageID", "Image"))
    (root / "sample_submission.csv").write_text("ImageID,Normal\n")
    labels = open_release(root).labels[0]
    assert f"not read, as they are no tables of the challenge: {TEST}, sample_submission.csv" in labels.notes


def test_tables_in_a_folder_of_their_own_and_compressed_are_found(root):
    before = open_release(root)
    folder = root / "CXRLT-2026-TRAINING-DATA"
    folder.mkdir()
    for name in (TRAIN, TEST, REMOVAL, PADCHEST_TABLE):
        data = (root / name).read_bytes()
        (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        (root / name).unlink()
    found = open_release(root)
    pd.testing.assert_frame_equal(found.images, before.images)
    pd.testing.assert_frame_equal(found.labels[0].table, before.labels[0].table)


def test_padchests_own_table_alone_gives_every_image_and_its_own_labels(root, truth):
    for name in (TRAIN, TEST, REMOVAL):
        (root / name).unlink()
    release = open_release(root)
    assert sorted(release.images["image_id"]) == sorted(truth["ImageID"])
    assert [(table.name, len(table.table)) for table in release.labels] == [("padchest", len(truth))]


def test_labels_from_another_folder_come_first_and_are_attached_later_too(root, tmp_path):
    for name in (TRAIN, TEST, REMOVAL):
        (tmp_path / "labels").mkdir(exist_ok=True)
        shutil.move(root / name, tmp_path / "labels")
    release = open_release(root, [tmp_path / "labels"])
    assert [table.name for table in release.labels] == ["cxr-lt-2026", "padchest"]
    pack(open_release(root), tmp_path / "pack", OPTIONS)
    ((labels, new),) = attach(tmp_path / "pack", [tmp_path / "labels"])
    dataset = PackedDataset.open(tmp_path / "pack")
    assert new and dataset.labels("cxr-lt-2026").findings == PADCHEST_FINDINGS
    split = pd.Series(dataset.labels("cxr-lt-2026").split[:], index=dataset.catalog["image_id"])
    assert split.dropna().to_dict() == labels.table["split"].to_dict()
    with pytest.raises(UserError, match="no label table; give a folder that holds a training table of CXR-LT 2026"):
        (tmp_path / "none").mkdir()
        attach(tmp_path / "pack", [tmp_path / "none"])


def test_chestx_ray14_images_in_the_tables_are_told_by_their_names(root):
    """PadChest's own table does not have them; whether the challenge does is not known."""
    folder = root / "0"
    for name in ("00000013_026.png", "00000013_027.png"):
        cv2.imwrite(str(folder / name), np.zeros((40, 40), np.uint16))
        edit(root / TRAIN, lambda text, name=name: text + f"{name},20140915,1.30E+01,0,0,0,0,0\n")
    release = open_release(root)
    found = release.images.set_index("image_id").loc[["00000013_026.png", "00000013_027.png"]]
    assert found["subject_id"].tolist() == ["nih-00000013"] * 2
    assert found["study_id"].tolist() == ["nih-00000013_026", "nih-00000013_027"]
    assert set(found["view"]) == {"other"}
    assert any(note.startswith("2 images are named as ChestX-ray14's") for note in release.notes)
    assert not found["inverted"].any() and release.images["inverted"].dtype == bool


# ---------------------------------------------------------------- patients as floats


def test_patients_as_floats_are_refused_with_the_reason_and_the_way_out(root, truth):
    (root / PADCHEST_TABLE).unlink()
    assert float("1.90E+38") == pytest.approx(float(truth["PatientID"].iloc[0]), rel=0.01)
    train = (truth["split"] == "train").sum()
    assert refused(root, "PatientID") == (
        f"{root / TRAIN}: column 'PatientID' holds '1.90E+38', a float that several patients share ({train} images "
        "have such values, 6 different ones), so splits would mix patients; put PadChest's own table "
        "(PADCHEST_chest_x_ray_images_labels_160K_*.csv or .csv.gz) beside it, which has the ids as text"
    )


@pytest.mark.parametrize("value", ["1.90E+38", "1.9e+38", "190000000000000000000000000000000000000.0"])
def test_one_float_among_text_ids_is_refused(root, truth, value):
    with_text_patients(root, truth)
    edit(root / TEST, lambda text: text.replace(truth["PatientID"].iloc[-1], value))
    message = refused(root, "a float that several patients share")
    assert message.startswith(f"{root / TEST}: column 'PatientID' holds {value!r}") and "(3 images" in message


def test_patients_as_floats_in_padchests_own_table_are_refused_too(root, truth):
    edit(root / PADCHEST_TABLE, lambda text: text.replace(truth["PatientID"].iloc[0], "1.90E+38"))
    assert "'PatientID' holds '1.90E+38', a number that has lost digits" in refused(root, "copy of the table")


def test_patients_as_text_need_no_other_table_and_what_is_then_unknown_is_said(root, truth):
    with_text_patients(root, truth)
    release = open_release(root)
    images = release.images.set_index("image_id")
    expected = truth.set_index("ImageID").loc[images.index]
    assert images["subject_id"].tolist() == expected["PatientID"].tolist()
    assert images["study_id"].tolist() == expected["StudyID"].tolist()  # the part of the name before its _
    assert set(images["view"]) == {"other"} and "inverted" not in images
    (note,) = [note for note in release.notes if note.startswith("no PADCHEST_chest")]
    assert "98.8 %" in note and "every view is other" in note and "MONOCHROME1 is not known" in note


# ---------------------------------------------------------------- mistakes in the tables


@pytest.mark.parametrize(
    ("name", "old", "new", "match"),
    [
        (TRAIN, "aortic elongation\t", "", "1 of its 5 columns of findings have no name, the first is column 5; write"),
        (TRAIN, "Normal\t,aortic elongation\t", ",", "2 of its 5 columns of findings have no name"),
        (TRAIN, "aortic elongation\t", "Normal ", "column 'Normal' is duplicated"),
        (TRAIN, ",0,0,0,0,0\n", ",0,0,0,0,yes\n", "column 'calcified densities' holds 'yes'"),
        (TRAIN, "ImageID,", "Image,", "without a training table"),
        (TEST, ",,,,,\n2", ",1,,,,\n2", "column 4 has values and no name, and findings are never matched by place"),
        (REMOVAL, "ImageID,", "Image,", "Removal.csv: column 'ImageID' is missing"),
        (PADCHEST_TABLE, ",Projection", ",projection", "column 'Projection' is missing"),
    ],
)
def test_a_mistake_is_one_line(root, name, old, new, match):
    head, found, tail = (root / name).read_text().rpartition(old)
    assert found
    (root / name).write_text(head + new + tail)
    refused(root, match)


def test_a_test_table_of_another_number_of_nameless_findings_is_refused(root):
    edit(root / TEST, lambda text: text.replace(",,,,,", ",,,,"))
    assert refused(root, "no name") == (
        f"{root / TEST}: 4 of its 4 columns of findings have no name, and {TRAIN} has 5 findings; write their names "
        "into the first line"
    )


def test_without_removal_a_test_image_in_the_training_table_is_refused(root):
    (root / REMOVAL).unlink()
    message = refused(root, "is also in")
    assert "12 images in all" in message and "put the release's Removal.csv beside them" in message


def test_a_second_training_table_an_image_twice_and_one_that_padchest_does_not_know_are_refused(root, truth):
    shutil.copy(root / TRAIN, root / "another.csv")
    refused(root, "a second train table beside")
    (root / "another.csv").unlink()
    first = truth["ImageID"].iloc[0]
    edit(root / PADCHEST_TABLE, lambda text: text.replace(first, "other.png"))
    refused(root, f"1 of the 64 images of the labels are not in it, the first is '{first}'")
    edit(root / PADCHEST_TABLE, lambda text: text.replace("other.png", truth["ImageID"].iloc[1]))
    edit(root / TRAIN, lambda text: "\n".join(line for line in text.split("\n") if not line.startswith(first)))
    refused(root, "is in more than one row")


def test_a_patient_in_train_and_test_is_found_by_padchests_ids(root, truth):
    first, last = truth["PatientID"].iloc[0], truth["PatientID"].iloc[-1]
    release = open_release(root)
    check_subjects(release.labels[0], release.images)
    edit(root / PADCHEST_TABLE, lambda text: text.replace(last, first))
    release = open_release(root)
    with pytest.raises(UserError, match=r"subjects in more than one split of labels .*\(dev\) and .*\(train\)"):
        check_subjects(release.labels[0], release.images)


# ---------------------------------------------------------------- where images are


@pytest.mark.parametrize("place", ["", "images/", "{folder}/", "images/{folder}/"])
def test_images_are_found_flat_in_images_and_in_padchests_folders(tmp_path, place):
    truth = write_padchest(tmp_path / "release", subjects=6, place=place)
    release = open_release(tmp_path / "release")
    assert (
        release.images["path"].tolist() == truth.set_index("ImageID").loc[release.images["image_id"], "path"].tolist()
    )
    check_links(release)


def test_many_images_are_found_without_a_look_at_each(tmp_path):
    (tmp_path / "images").mkdir()
    names = pd.Series([f"{number:04d}.png" for number in range(1000)])
    for name in names:
        (tmp_path / "images" / name).symlink_to("nowhere")  # a look at one would fail
    with (
        mock.patch("os.stat", side_effect=AssertionError),
        mock.patch("os.lstat", side_effect=AssertionError),
        mock.patch("pathlib.Path.is_dir", return_value=True),
    ):
        paths = image_paths(tmp_path, names, tmp_path / "t.csv")
    assert paths.tolist() == [f"images/{name}" for name in names]


def test_an_absent_image_has_a_path_and_becomes_a_reject(root, truth):
    gone = truth[truth["split"] == "train"].iloc[0]
    (root / gone.path).unlink()
    release = open_release(root)
    path = release.images.set_index("image_id").loc[gone.ImageID, "path"]
    assert path == gone.ImageID and not (root / path).exists()


def test_an_image_in_two_folders_and_images_in_none_are_refused(root, truth):
    first = truth.iloc[0]
    shutil.copy(root / first.path, root / "1")
    assert refused(root, "is in it twice") == (
        f"{root}: image '{first.ImageID}' is in it twice, as 0/{first.ImageID} and as 1/{first.ImageID}; "
        "move one of the folders out of the release"
    )
    for folder in "012":
        shutil.rmtree(root / folder)
    refused(root, "none of the 64 images of PADCHEST.* is in it or up to 2 folders below; the first is")


# ---------------------------------------------------------------- packing


@pytest.fixture(scope="module")
def packed(whole, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "pack"
    summary = pack(open_release(whole[0]), out, OPTIONS)
    assert (summary.packed, summary.converted) == (64, {"16-bit": 64, "MONOCHROME1": 6})
    return out


def test_every_rendition_is_its_files_window_and_monochrome1_is_inverted(whole, packed):
    root, truth = whole
    dataset = PackedDataset.open(packed)
    stored = MappedSize(dataset.stored(32))
    truth = truth.set_index("ImageID")
    for row, image in enumerate(dataset.catalog["image_id"]):
        pixels = cv2.imread(str(root / truth.loc[image, "path"]), cv2.IMREAD_UNCHANGED).astype(float)
        gray = np.floor(np.interp(pixels, np.percentile(pixels, [0.5, 99.5]), (0, 255)) + 0.5)
        if truth.loc[image, "PhotometricInterpretation_DICOM"] == "MONOCHROME1":
            gray = 255 - gray
        expected = resize(gray.astype(np.uint8), 32, "squash")
        assert np.abs(stored.pixels([row])[0][:, :, 0].astype(int) - expected).max() <= 1, image


def test_the_window_is_an_option_of_the_dataset(whole, packed):
    assert PackedDataset.open(packed).info["options"]["window"] == "percentile"
    assert pack(open_release(whole[0]), packed, OPTIONS).already_finished
    with pytest.raises(UserError, match="another option 'window': percentile there, minmax now"):
        pack(open_release(whole[0]), packed, PackOptions(OPTIONS.sizes, shard_images=16, window="minmax"))
    with pytest.raises(UserError, match="window 'log': choose one of percentile, minmax, full"):
        PackOptions(window="log")


def test_12_bit_images_are_all_rejected_under_full_and_the_way_out_is_said(whole, tmp_path):
    full = PackOptions(OPTIONS.sizes, shard_images=16, window="full")
    with pytest.raises(UserError, match="64 nearly black under --window full, pack with --window percentile or minmax"):
        pack(open_release(whole[0]), tmp_path / "pack", full)
    reasons = pd.read_csv(tmp_path / "pack" / ".packing" / "rejects.csv")["reason"]
    assert set(reasons.str.rpartition(": ")[2]) == {"a 16-bit image that uses 12 bits"}
