"""Which reader knows a folder; a release is one file, found by itself."""

import pytest

from shards import releases
from shards.errors import UserError
from shards.releases.open import open_release, readers

READER = """
import pandas as pd

from shards.releases.release import IMAGE_COLUMNS, Reader, Release


def read(root, label_folders):
    return Release("mine", root, pd.DataFrame({name: ["a"] for name in IMAGE_COLUMNS}), (), (root / "mine.csv",))


READER = Reader(
    name="mine",
    order=5,
    folders="mine has mine.csv",
    label_files="mine.csv",
    recognises=lambda root: (root / "mine.csv").exists(),
    read=read,
    label_tables=lambda folder, images: [],
)
"""


def test_readers_are_asked_in_their_order():
    found = readers()
    of_code = [reader.name for reader in found if not reader.declaration]
    assert of_code == ["mimic-cxr", "mimic-cxr-jpg", "chestx-ray14", "padchest", "folder"]
    assert [reader.order for reader in found] == sorted(reader.order for reader in found)
    assert len({reader.name for reader in found}) == len(found) and found[-1].name == "folder"


def test_a_file_with_a_reader_is_all_that_a_new_release_needs(tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    (package / "of_the_test.py").write_text(READER)
    monkeypatch.setattr(releases, "__path__", [*releases.__path__, str(package)])
    assert readers()[0].name == "mine"
    (tmp_path / "mine.csv").write_text("a\n")
    assert open_release(tmp_path).name == "mine"


def test_a_folder_that_nobody_knows_names_what_the_known_ones_hold(tmp_path):
    with pytest.raises(
        UserError, match="not a release that cxrdali reads; a MIMIC-CXR release of DICOMs has cxr-.* and"
    ):
        open_release(tmp_path)
