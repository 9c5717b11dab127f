"""Damaged tables of CXR-LT 2026, PadChest, ChestX-ray14 and of any release: it opens, or one line names the file."""

import pytest
from hypothesis import given, settings, strategies

from shards.errors import UserError
from shards.releases import nih, padchest
from shards.releases.open import open_release
from shards.releases.table import Columns, open_table
from tests.fuzz import damaged, one_line
from tests.releases import PADCHEST_TABLE, write_nih, write_padchest, write_table

pytestmark = pytest.mark.slow

PADCHEST_TABLES = ("CXRLT_2026_TEST_ALL_TASK1.csv", "CXRLT_2026_TRAINING.csv", PADCHEST_TABLE, "Removal.csv")
NIH_TABLES = ("Data_Entry_2017.csv", "test_list.txt", "train_val_list.txt")
COLUMNS = Columns("id", "all others", "file", split="part")
SEEDS = strategies.integers(0, 2**32 - 1)


def check(opening, root, path, seed: int) -> bool:
    """Whether the release opens with one table damaged; the table is restored."""
    before = path.read_bytes()
    path.write_bytes(damaged(before, seed))
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


def test_a_damaged_padchest_opens_or_names_the_file(tmp_path_factory):
    root = tmp_path_factory.mktemp("padchest")
    write_padchest(root, subjects=6)
    assert open_release(root).name == padchest.READER.name

    @settings(max_examples=40)
    @given(SEEDS)
    def each(seed):
        check(open_release, root, root / PADCHEST_TABLES[seed % len(PADCHEST_TABLES)], seed)

    each()


def test_a_damaged_chestx_ray14_opens_or_names_the_file(tmp_path_factory):
    root = tmp_path_factory.mktemp("nih")
    write_nih(root, patients=6)
    assert open_release(root).name == nih.READER.name

    @settings(max_examples=40)
    @given(SEEDS)
    def each(seed):
        check(open_release, root, root / NIH_TABLES[seed % len(NIH_TABLES)], seed)

    each()


def test_a_damaged_table_opens_or_is_named(tmp_path_factory):
    root = tmp_path_factory.mktemp("table")
    images = write_nih(root / "images", patients=3, place="")
    lines = [f"{n},{row.path},{row.split},{n % 2},-1" for n, row in enumerate(images.itertuples())]
    path = write_table(root / "mine.csv", "id,file,part,Edema,Mass", *lines)

    @settings(max_examples=40)
    @given(SEEDS)
    def each(seed):
        check(lambda folder: open_table(path, COLUMNS, folder / "images"), root, path, seed)

    each()
