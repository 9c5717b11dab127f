"""PadChest's own findings: lists as text, what is no finding in them, and what the challenge holds out."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.attach import attach
from shards.packing.engine import Local
from shards.packing.job import PackJob
from shards.packing.options import PackLimits, PackOptions, Part
from shards.packing.pack import pack, pack_job
from shards.releases.open import open_release
from shards.renditions.options import Size
from tests.releases import PADCHEST_TABLE, write_padchest, write_table
from tests.shards.releases.declared.layout import images_of, labels_of, numbers_of, packed, write_images

OPTIONS = PackOptions(sizes=(Size(32, raw=True),), shard_images=16)
CHALLENGE = ("CXRLT_2026_TRAINING.csv", "CXRLT_2026_TEST_ALL_TASK1.csv", "Removal.csv")
HEADER = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,Projection,Manufacturer_DICOM,"
    "PhotometricInterpretation_DICOM,Report,Labels"
)
ROWS = (  # ImageID is the number with .png, and so on
    ("20140915", "1956.0", "F", "PA", "PhilipsMedicalSystems", "[' cardiomegaly', 'aortic elongation ']"),
    ("20140915", "1956", "M", "L", "ImagingDynamicsCompany Ltd", "['normal']"),
    ("20100101", "", "O", "AP", "", ""),
    ("20100101", "2011", "F", "COSTAL", "", "nan"),
    ("20100101", "1880", "F", "AP_horizontal", "", "['exclude', ' nodule']"),
    ("20100101", "2009", "M", "PA", "", '["normal", "suboptimal study"]'),
    ("20100101", "2010", "M", "EXCLUDE", "", "['Unchanged']"),
    ("20100101", "1990", "", "PA", "", "[]"),
    ("20100101", "1990", "M", "PA", "", "['nodule', 'nodule', '', 'NSG tube']"),
)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "padchest"
    lines = (
        f'{n},{n}.png,0,{date},S{n},19{n:037d},{birth},{sex},{view},{maker},MONOCHROME2,"dos\nlíneas","{names}"'
        for n, (date, birth, sex, view, maker, names) in enumerate(
            (*row[:5], row[5].replace('"', '""')) for row in ROWS
        )
    )
    write_table(root / PADCHEST_TABLE, HEADER, *lines)
    write_images(root, *(f"0/{number}.png" for number in range(len(ROWS))), bits=12)
    return root


def test_what_a_list_names_is_positive_and_what_it_does_not_is_negative_unless_a_mark_says_otherwise(root):
    release = open_release(root)
    assert release.labels[0].findings == ("NSG tube", "aortic elongation", "cardiomegaly", "nodule", "normal")
    assert labels_of(release) == {
        "0.png": ("train", "01100"),
        "1.png": ("train", "00001"),
        "2.png": ("train", "....."),  # blank
        "3.png": ("train", "....."),  # nan
        "4.png": ("train", "...1."),  # exclude
        "5.png": ("train", "....1"),  # suboptimal study
        "6.png": ("train", "....."),  # Unchanged
        "7.png": ("train", "....."),  # an empty list
        "8.png": ("train", "10010"),
    }


def test_what_was_made_of_the_lists_is_said(root):
    (labels,) = open_release(root).labels
    assert labels.notes == (
        f"{PADCHEST_TABLE}: 5 findings; what a list does not name is 0, but unknown with no list (3 images), 'exclude' "
        "(1 image), 'suboptimal study' (1 image), 'unchanged' (1 image); all are in train",
    )


def test_sex_age_and_manufacturer_are_those_of_the_table(root):
    release = open_release(root)
    assert images_of(release, "sex", "age", "manufacturer") == {
        "0.png": ("F", "58", "PhilipsMedicalSystems"),
        "1.png": ("M", "58", "ImagingDynamicsCompany Ltd"),
        "2.png": ("", "", ""),
        "3.png": ("F", "", ""),  # born after the study
        "4.png": ("F", "", ""),  # 130 years
        "5.png": ("M", "1", ""),
        "6.png": ("M", "0", ""),
        "7.png": ("", "20", ""),
        "8.png": ("M", "20", ""),
    }
    assert f"{PADCHEST_TABLE}: not known: the sex of 2 images and the age of 3 images" in release.notes


@pytest.mark.parametrize("text", ["cardiomegaly", "['a', ['b']]", "{'a': 1}", "['a'", "[" * 300, "['a' 'b']"])
def test_what_is_no_list_of_names_is_refused(root, text):
    path = root / PADCHEST_TABLE
    path.write_text(path.read_text().replace("['normal']", text))
    with pytest.raises(UserError, match="no list of names; download the table again") as error:
        open_release(root)
    assert str(error.value).startswith(f"{path}: column 'Labels' holds {text[:80]!r}")


def test_a_table_without_the_column_has_no_labels(root):
    path = root / PADCHEST_TABLE
    path.write_text(path.read_text().replace(",Labels", ",Other"))
    assert open_release(root).labels == ()


def test_pixels_labels_and_people_are_packed_and_a_broken_file_is_a_reject(root, tmp_path):
    broken = root / "0" / "1.png"
    broken.write_bytes(broken.read_bytes()[:80])
    dataset, pixels = packed(open_release(root), tmp_path / "pack")
    assert numbers_of(pixels) == {f"{number}.png": number for number in (0, 2, 3, 4, 5, 6, 7, 8)}
    assert dataset.info["counts"]["planned"] == 9 and sum(dataset.info["counts"]["rejected"].values()) == 1
    people = dataset.catalog.set_index("image_id").loc["0.png", ["sex", "age", "manufacturer"]]
    assert people.tolist() == ["F", 58.0, "PhilipsMedicalSystems"]
    assert dataset.labels().findings[0] == "NSG tube"


# ---------------------------------------------------------------- beside the challenge


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    root = tmp_path_factory.mktemp("both") / "release"
    return root, write_padchest(root, subjects=12)


def test_the_challenges_labels_stay_the_default_and_its_test_images_have_no_others(both):
    root, truth = both
    release = open_release(root)
    assert [table.name for table in release.labels] == ["cxr-lt-2026", "padchest"]
    own = release.labels[1]
    training = truth[truth["split"] == "train"].set_index("ImageID")
    assert set(own.table.index) == set(training.index) and set(own.table["split"]) == {"train"}
    assert own.findings == ("aortic elongation", "normal")
    expected = {image: ("train", "11" if text else "..") for image, text in training["Labels"].items()}
    assert labels_of(release, "padchest") == expected and set(expected.values()) == {("train", "11"), ("train", "..")}
    assert own.elsewhere == (truth["split"] == "removed").sum() > 0
    held = (truth["split"] == "test").sum()
    assert f"{PADCHEST_TABLE}: its labels of {held} images held out are not read" in own.notes


def test_they_are_attached_to_a_pack_that_was_made_without_them(both, tmp_path):
    root, truth = both
    release = open_release(root)
    older = replace(release, labels=release.labels[:1])  # as earlier versions read it
    pack(older, tmp_path / "pack", OPTIONS)
    assert pack(release, tmp_path / "pack", OPTIONS).already_finished
    assert PackedDataset.open(tmp_path / "pack").label_names == ["cxr-lt-2026"]
    ((_, first), (labels, second)) = attach(tmp_path / "pack", [root])
    assert (first, second, labels.name) == (False, True, "padchest")
    stored = PackedDataset.open(tmp_path / "pack").labels("padchest")
    assert stored.findings == ("aortic elongation", "normal")
    assert int((np.asarray(stored.split[:], dtype=object) == "train").sum()) == (truth["split"] == "train").sum()


def test_ids_without_the_suffix_are_the_same_images(both, tmp_path):
    root, _ = both
    release = open_release(root)
    for name in CHALLENGE:
        text = (root / name).read_text()
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / name).write_text(text.replace(".png", ""))
    bare = open_release(root, [tmp_path / "labels"])
    frames = [each.labels[[table.name for table in each.labels].index("padchest")].table for each in (release, bare)]
    expected = frames[0].set_axis(pd.Index(frames[0].index.str.removesuffix(".png"), name="image_id"))
    pd.testing.assert_frame_equal(frames[1].sort_index(), expected.sort_index())


def test_a_pack_that_an_earlier_version_began_without_them_is_finished_with_them(both, tmp_path):
    release = open_release(both[0])
    older = replace(release, labels=release.labels[:1])
    pack_job(PackJob(older, tmp_path / "pack", OPTIONS, PackLimits(), part=Part(1, 2)), Local(1))
    pack(release, tmp_path / "pack", OPTIONS)
    assert PackedDataset.open(tmp_path / "pack").label_names == ["cxr-lt-2026", "padchest"]
