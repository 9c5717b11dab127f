"""Damaged tables of CXR-LT 2026, PadChest, ChestX-ray14 and of any release: it opens, or one line names the file."""

import pytest
from hypothesis import given, settings, strategies

from shards.errors import UserError
from shards.releases import nih, padchest
from shards.releases.open import open_release
from shards.releases.table import Columns, open_table
from tests.fuzz import damaged, one_line
from tests.releases import PADCHEST_TABLE, write_nih, write_padchest, write_table
from tests.shards.releases.declared.test_mistakes import RELEASES, tables

pytestmark = pytest.mark.slow

PADCHEST_TABLES = ("CXRLT_2026_TEST_ALL_TASK1.csv", "CXRLT_2026_TRAINING.csv", PADCHEST_TABLE, "Removal.csv")
NIH_TABLES = ("Data_Entry_2017.csv", "test_list.txt", "train_val_list.txt")
COLUMNS = Columns("id", "all others", "file", split="part")
SEEDS = strategies.integers(0, 2**32 - 1)


def check(opening, root, path, data: bytes) -> bool:
    """Whether the release opens with other bytes in one of its files, which is restored."""
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        opened = opening(root)
    except UserError as error:
        one_line(error, root)
        return False
    finally:
        path.write_bytes(before)
    ids = opened.images[["image_id", "study_id", "subject_id", "path"]]
    assert ids.notna().all(axis=None) and (ids != "").all(axis=None) and opened.images["image_id"].is_unique
    assert set(opened.images["view"]) <= {"frontal", "lateral", "other"}
    for table in opened.labels:
        assert set(table.table["split"].dropna()) <= {"train", "dev", "test"} and table.table.index.is_unique
        assert all(str(table.table[finding].dtype) == "Int8" for finding in table.findings)
    return True


def check_damages(opening, root, *names: str) -> None:
    @settings(max_examples=40)
    @given(SEEDS)
    def each(seed):
        path = root / names[seed % len(names)]
        check(opening, root, path, damaged(path.read_bytes(), seed))

    each()


def test_a_damaged_padchest_opens_or_names_the_file(tmp_path):
    write_padchest(tmp_path, subjects=6)
    assert open_release(tmp_path).name == padchest.READER.name
    check_damages(open_release, tmp_path, *PADCHEST_TABLES)


@pytest.mark.parametrize("name", RELEASES)
def test_damaged_tables_of_a_declared_release_open_or_are_named(tmp_path, name):
    RELEASES[name].write(tmp_path)
    assert open_release(tmp_path).name == name
    names = [path.relative_to(tmp_path) for path in tables(tmp_path)]
    check_damages(open_release, tmp_path, *names)


def test_a_damaged_chestx_ray14_opens_or_names_the_file(tmp_path):
    write_nih(tmp_path, patients=6)
    assert open_release(tmp_path).name == nih.READER.name
    check_damages(open_release, tmp_path, *NIH_TABLES)


def test_a_damaged_table_opens_or_is_named(tmp_path):
    images = write_nih(tmp_path / "images", patients=3, place="")
    lines = [f"{n},{row.path},{row.split},{n % 2},-1" for n, row in enumerate(images.itertuples())]
    path = write_table(tmp_path / "mine.csv", "id,file,part,Edema,Mass", *lines)
    check_damages(lambda folder: open_table(path, COLUMNS, folder / "images"), tmp_path, path.name)
