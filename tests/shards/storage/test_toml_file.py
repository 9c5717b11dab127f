"""A TOML file of a user is read within a bound, whatever is at its place."""

import os

import pytest

from shards.errors import UserError
from shards.storage.toml_file import MOST_BYTES, read_toml
from shards.synthetic.hospital import open_hospital


def test_text_and_tables_with_and_without_a_mark_of_bytes(tmp_path):
    for start in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "a.toml").write_bytes(start + b"[a]\nb = 1\n")
        assert read_toml(tmp_path / "a.toml") == ("[a]\nb = 1\n", {"a": {"b": 1}})


def test_a_pipe_a_folder_a_large_file_and_endless_lists_are_told(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "large.toml").write_bytes(b"#" * (MOST_BYTES + 1))
    for name in ("pipe", "folder", "large"):
        with pytest.raises(ValueError, match="no plain file of at most 1,000,000 bytes"):
            read_toml(tmp_path / f"{name}.toml")
    (tmp_path / "deep.toml").write_text("a = " + "[" * 20_000)
    with pytest.raises(ValueError, match="in one another beyond all measure"):
        read_toml(tmp_path / "deep.toml")
    with pytest.raises(FileNotFoundError):
        read_toml(tmp_path / "none.toml")


def test_a_hospital_from_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(UserError, match=r"pipe\.toml: no plain file of at most"):
        open_hospital(str(tmp_path / "pipe.toml"))
