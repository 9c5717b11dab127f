"""Tables of a release under their published names, compressed or not, in a folder of their own, in capitals."""

import gzip

import pytest

from shards.errors import UserError
from shards.releases.cxrlt import find
from shards.releases.locate import table_in
from shards.releases.open import open_release
from tests.releases import PADCHEST_TABLE, write_nih, write_padchest, write_release, write_table

FINDING = "dicom_id,Edema"


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    root = tmp_path_factory.mktemp("mimic")
    write_release(root, subjects=5)
    return root


@pytest.fixture
def copy(release, tmp_path):
    """The release without its images, which no reading of tables looks at."""
    for path in (*release.glob("*.gz"), *(release / "cxr-lt-2023").iterdir()):
        target = tmp_path / "mimic" / path.relative_to(release)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (tmp_path / "mimic" / "files").mkdir()
    return tmp_path / "mimic"


def unpack(path):
    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))


def same_release(found, expected):
    assert found.images.equals(expected.images) and found.name == expected.name
    assert [table.name for table in found.labels] == [table.name for table in expected.labels]
    assert all(a.table.equals(b.table) for a, b in zip(found.labels, expected.labels, strict=True))


def test_uncompressed_tables_are_the_same_release(copy, release):
    for path in copy.glob("*.gz"):
        unpack(path)
        path.unlink()
    same_release(open_release(copy), open_release(release))


def test_compressed_challenge_tables_are_the_same_labels(copy, release):
    for path in (copy / "cxr-lt-2023").iterdir():
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    same_release(open_release(copy), open_release(release))


def test_tables_in_a_folder_beside_the_images_are_found(copy, release):
    (copy / "tables").mkdir()
    for path in copy.glob("*.gz"):
        path.rename(copy / "tables" / path.name)
    found = open_release(copy)
    same_release(found, open_release(release))
    assert found.root == copy


@pytest.mark.parametrize("change", [str.upper, lambda name: name.replace(".csv.gz", ".CSV.gz").replace("gz", "GZ")])
def test_names_in_capitals_are_found(copy, change):
    for path in copy.glob("*.gz"):
        unpack(path)
        path.unlink()
    for path in copy.glob("*.csv"):
        path.rename(copy / change(f"{path.name}.gz").removesuffix(".GZ"))
    assert len(open_release(copy).labels) == 2


def test_the_names_of_version_2_1_0_are_found(copy, release):
    for path in copy.glob("*.gz"):
        path.rename(copy / path.name.replace("2.0.0", "2.1.0"))
    same_release(open_release(copy), open_release(release))


def test_of_a_table_that_is_there_both_ways_the_published_one_is_read_and_that_is_said(copy, tmp_path):
    packed = copy / "mimic-cxr-2.0.0-metadata.csv.gz"
    unpack(packed)
    release = open_release(copy)
    assert release.inputs == (packed,)
    assert release.notes == (f"{packed.name} is read, and {packed.stem} beside it, the same table, is not",)
    plain = write_table(tmp_path / "nih" / "Data_Entry_2017.csv", "a,b", "1,2")
    write_table(tmp_path / "nih" / "Data_Entry_2017.csv.gz", "a,b", "1,2")
    assert table_in(tmp_path / "nih", "Data_Entry_2017.csv") == plain


def test_a_table_that_is_there_both_ways_and_differs_is_refused(copy):
    packed = copy / "mimic-cxr-2.0.0-chexpert.csv.gz"
    unpack(packed)
    packed.with_suffix("").write_text(packed.with_suffix("").read_text().replace("1.0", "0.0", 1))
    with pytest.raises(UserError, match=f"{packed}: differs from {packed.stem} beside it; remove the one that is not"):
        open_release(copy)


def test_challenge_tables_that_differ_are_refused(tmp_path):
    write_table(tmp_path / "train.csv", FINDING, "a,1")
    write_table(tmp_path / "train.csv.gz", FINDING, "a,0")
    with pytest.raises(UserError, match=r"train.csv: differs from train.csv.gz beside it"):
        find(tmp_path)


def test_two_padchest_tables_that_differ_are_refused(tmp_path):
    write_padchest(tmp_path, subjects=2)
    data = (tmp_path / PADCHEST_TABLE).read_bytes()
    (tmp_path / f"{PADCHEST_TABLE}.gz").write_bytes(gzip.compress(data))
    assert open_release(tmp_path).inputs == (tmp_path / PADCHEST_TABLE,)
    (tmp_path / f"{PADCHEST_TABLE}.gz").write_bytes(gzip.compress(data.replace(b"MONOCHROME1", b"MONOCHROME2")))
    with pytest.raises(UserError, match=f"{PADCHEST_TABLE}: differs from {PADCHEST_TABLE}.gz beside it"):
        open_release(tmp_path)


def test_a_folder_above_the_release_names_the_release(copy, tmp_path):
    with pytest.raises(
        UserError, match=f"{copy.parent}: not a release that cxrdali reads; .*; {copy} in it is one, give that with"
    ):
        open_release(copy.parent)
    write_nih(tmp_path / "other" / "nih", patients=1)
    with pytest.raises(UserError, match="other/nih in it is one"):
        open_release(tmp_path / "other")


def test_two_ids_of_one_file_are_refused(tmp_path):
    root = tmp_path / "padchest"
    write_padchest(root, subjects=4)
    table = root / PADCHEST_TABLE
    lines = table.read_text().split("\n")
    name = lines[1].split(",")[1]
    for path in root.glob("*.csv"):
        if path != table:
            path.unlink()
    table.write_text(table.read_text().rstrip("\n") + "\n" + "\n".join(lines[1:3]).replace(name, name[:-4]) + "\n")
    with pytest.raises(UserError, match=f"images {name!r} and {name[:-4]!r} are the same file, '0/{name}'; keep one"):
        open_release(root)
