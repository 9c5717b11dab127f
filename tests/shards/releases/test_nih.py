"""ChestX-ray14: both of its tables, its lists, and where its images may be."""

import pandas as pd
import pytest

from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.attach import attach
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.releases.checks import check_links, check_subjects
from shards.releases.nih import FINDINGS
from shards.releases.open import open_release
from shards.renditions.rendition import Size
from tests.releases import NIH_HEADER, write_nih, write_table

OLD, NEW, TRAIN, TEST = "Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv", "train_val_list.txt", "test_list.txt"


@pytest.fixture
def release(tmp_path):
    """The release's folder, and the truth about its 20 images."""
    return tmp_path / "release", write_nih(tmp_path / "release")


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def refused(root):
    with pytest.raises(UserError) as error:
        open_release(root)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_images_are_read_with_patient_study_and_view(release):
    root, truth = release
    found = open_release(root)
    images = found.images
    assert found.name == "chestx-ray14" and len(images) == 20
    assert images["image_id"].tolist() == truth["image"].tolist()
    assert images["subject_id"].tolist() == truth["patient"].tolist()
    assert images["study_id"].tolist() == (truth["patient"] + "_" + truth["follow_up"]).tolist()
    assert images["view_position"].tolist() == truth["view"].tolist() and set(images["view"]) == {"frontal"}
    assert images["path"].tolist() == truth["path"].tolist()
    assert images["sex"].tolist() == ["M"] * 20 and images["age"].tolist() == ["58"] * 20
    check_links(found)
    check_subjects(found.labels[0], images)


def test_an_age_that_nobody_has_is_not_known_and_counted(release):
    root, _ = release
    edit(
        root / OLD,
        "00000002_001.png,Infiltration|Effusion,1,2,58,M",
        "00000002_001.png,Infiltration|Effusion,1,2,414,M",
    )
    edit(root / OLD, "00000001_000.png,No Finding,0,1,58,M", "00000001_000.png,No Finding,0,1,005Y,F")
    found = open_release(root)
    by_image = found.images.set_index("image_id")
    assert by_image.loc["00000001_000.png", ["sex", "age"]].tolist() == ["F", "5"]
    assert by_image["age"].tolist().count("") == 1
    assert any("Data_Entry_2017.csv: age is not known of 1 image: '414' (1)" in note for note in found.notes)


def test_findings_are_split_at_the_bar_and_no_finding_is_one(release):
    root, truth = release
    (labels,) = open_release(root).labels
    assert (labels.name, labels.findings) == ("chestx-ray14", FINDINGS) and len(FINDINGS) == 15
    for image, text in zip(truth["image"], truth["labels"], strict=True):
        row = labels.table.loc[image, list(FINDINGS)]
        assert "|".join(sorted(row.index[row == 1])) == "|".join(sorted(text.split("|")))
        assert row.isin([0, 1]).all()
    assert labels.table["split"].tolist() == truth["split"].tolist()
    assert labels.inputs == (root / OLD, root / TRAIN, root / TEST) and labels.notes == ()


@pytest.mark.parametrize("place", ["", "images/", "images_{number:03d}/images/"])
def test_images_may_be_flat_in_images_or_as_they_unpack(tmp_path, place):
    truth = write_nih(tmp_path, patients=2, place=place)
    assert open_release(tmp_path).images["path"].tolist() == truth["path"].tolist()


def test_both_tables_are_label_releases_and_the_newer_is_the_default(release):
    """The newer has no trailing column; its bracket pairs are split by the comma too."""
    root, truth = release
    lines = [f"{r.image},Mass,{r.follow_up},{r.patient},58,M,{r.view},2682,2749,0.1,0.1" for r in truth.itertuples()]
    write_table(root / NEW, NIH_HEADER, *lines)
    found = open_release(root)
    assert [table.name for table in found.labels] == ["chestx-ray14-v2020", "chestx-ray14"]
    assert found.inputs == (root / NEW,)
    assert found.labels[0].table["Mass"].tolist() == [1] * 20
    assert found.labels[1].table["Mass"].sum() == truth["labels"].str.contains("Mass").sum()
    with_quotes = NIH_HEADER.replace("OriginalImage[Width,Height]", '"OriginalImage[Width,Height]"')
    write_table(root / NEW, with_quotes.replace("OriginalImagePixelSpacing[x,y]", "x,y,z"), *lines)
    assert open_release(root).images["view_position"].tolist() == truth["view"].tolist()


def test_unknown_findings_are_listed(release):
    root, _ = release
    edit(root / OLD, "Hernia|Mass", "Hernia|Masses")
    edit(root / OLD, "Pleural_Thickening", "Pleural Thickening")
    said = f"{root / OLD}: column 'Finding Labels' has unknown findings: 'Masses', 'Pleural Thickening'; known are "
    assert refused(root) == said + ", ".join(FINDINGS)


def test_a_blank_cell_of_findings_is_unknown_too(release):
    root, _ = release
    edit(root / OLD, "Pleural_Thickening", "")
    assert "unknown findings: ''" in refused(root)


def test_a_trailing_column_that_is_not_empty_shows_shifted_rows(release):
    root, _ = release
    edit(root / OLD, "0.143,\n00000002_000", "0.143,7\n00000002_000")
    assert refused(root) == (
        f"{root / OLD}: a column without a name holds '7' in line 3, so its rows are shifted; download it again"
    )


def test_an_image_in_both_lists_and_one_in_no_table_are_refused(release):
    root, truth = release
    first, last = truth["image"].iloc[0], truth["image"].iloc[-1]
    write_table(root / TEST, first, last)
    assert refused(root).startswith(f"{root / TEST}: image {first!r} is also in {TRAIN}, 1 image in all; an ")
    write_table(root / TEST, "00009999_000.png", last)
    assert refused(root).startswith(f"{root / TEST}: image '00009999_000.png' is not in {OLD}, 1 image in all")
    write_table(root / TEST, last, last)
    assert f"{root / TEST}: image {last!r} is in more than one row" in refused(root)


def test_without_lists_all_is_training_and_with_one_the_rest_has_no_split_and_both_are_said(release):
    root, truth = release
    (root / TRAIN).unlink()
    (labels,) = open_release(root).labels
    assert labels.table["split"].fillna("").tolist() == truth["split"].replace("train", "").tolist()
    assert labels.notes == ("16 images are in no list, and so in no split",)
    (root / TEST).unlink()
    (labels,) = open_release(root).labels
    assert set(labels.table["split"]) == {"train"}
    assert labels.notes == (f"no {TRAIN} or {TEST}: every image is in train",)


def test_a_missing_column_and_an_image_twice_are_refused(release):
    root, truth = release
    edit(root / OLD, "Follow-up #", "Follow up")
    assert "column 'Follow-up #' is missing; found Image Index" in refused(root)
    edit(root / OLD, "Follow up", "Follow-up #")
    edit(root / OLD, truth["image"].iloc[3], truth["image"].iloc[2])
    assert "is in more than one row" in refused(root)


def test_it_packs_with_the_hash_of_every_table_and_takes_the_other_table_later(release, tmp_path):
    root, truth = release
    options = PackOptions(sizes=(Size(32),), shard_images=8)
    pack(open_release(root), tmp_path / "pack", options)
    dataset = PackedDataset.open(tmp_path / "pack")
    assert set(dataset.info["inputs"]) == {OLD, *(f"chestx-ray14/{name}" for name in (OLD, TRAIN, TEST))}
    assert dataset.info["counts"]["packed"] == 20
    other = tmp_path / "other"
    lines = [f"{r.image},Mass,{r.follow_up},{r.patient},58,M,{r.view},1,1,1,1" for r in truth.itertuples()]
    write_table(other / NEW, NIH_HEADER, *lines)
    ((labels, new),) = attach(tmp_path / "pack", [other])
    assert (labels.name, new) == ("chestx-ray14-v2020", True)
    values = PackedDataset.open(tmp_path / "pack").labels("chestx-ray14-v2020").values
    assert (values[:, FINDINGS.index("Mass")] == 1).all() and values.sum() == 20
    with pytest.raises(UserError, match="no label table; give a folder that holds Data_Entry_2017_v2020.csv or"):
        attach(tmp_path / "pack", [root / "images_001"])


def test_what_is_no_release_says_what_each_looks_like(tmp_path):
    with pytest.raises(UserError, match="not a release that cxrdali reads") as error:
        open_release(tmp_path)
    for part in ("MIMIC-CXR-JPG", "a training table of CXR-LT 2026", "PADCHEST_chest_x_ray", NEW, "--table FILE"):
        assert part in str(error.value)


def test_a_pandas_copy_of_the_table_is_read_alike(release):
    root, truth = release
    before = open_release(root).labels[0].table
    pd.read_csv(root / OLD, dtype=str).to_csv(root / OLD, index=False)
    assert "Unnamed: 11" in (root / OLD).read_text()
    pd.testing.assert_frame_equal(open_release(root).labels[0].table, before)
