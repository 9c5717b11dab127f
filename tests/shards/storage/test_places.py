"""The same is done with a place on this disk and in a bucket, and comes out the same."""

import pytest

from shards.storage.places import storage_of
from shards.storage.remote import place


@pytest.fixture(params=["disk", "bucket"])
def folder(request, tmp_path):
    return tmp_path if request.param == "disk" else place(f"memory://{tmp_path.name}/x")


def test_what_was_written_is_there_and_read_whole_or_in_part(folder):
    path = folder / "a.txt"
    assert not storage_of(path).exists() and storage_of(path).fingerprint() is None
    with pytest.raises(FileNotFoundError):
        storage_of(path).read_bytes()
    storage_of(path).write_bytes(b"0123456789")
    file = storage_of(path)
    assert file.exists() and file.fingerprint()[0] == 10
    assert (file.read_bytes(), file.read_bytes(stop=3), file.read_bytes(2, 5)) == (b"0123456789", b"012", b"234")
    assert file.sha256() == "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"


def test_a_folder_lists_what_it_holds_and_goes_with_it(folder):
    for name in ("b.txt", "a.txt", "below/c.txt"):
        storage_of((folder / name).parent).make_folder()
        storage_of(folder / name).write_bytes(name.encode())
    found = sorted((entry.name, entry.is_folder()) for entry in storage_of(folder).entries())
    assert found == [("a.txt", False), ("b.txt", False), ("below", True)]
    assert {entry.name: entry.num_bytes() for entry in storage_of(folder / "below").entries()} == {"c.txt": 11}
    assert storage_of(folder).read_each(["b.txt", "a.txt"]) == [b"b.txt", b"a.txt"]
    assert storage_of(folder).has_folder() and not storage_of(folder / "absent").has_folder()
    storage_of(folder).remove_tree()
    storage_of(folder).remove_tree()
    assert not storage_of(folder).has_folder()


def test_a_file_of_this_machine_is_moved_to_its_place(folder, tmp_path):
    (tmp_path / "aside").write_bytes(b"whole")
    storage_of(folder / "final").publish(tmp_path / "aside")
    assert storage_of(folder / "final").read_bytes() == b"whole" and not (tmp_path / "aside").exists()


def test_a_folder_contains_itself_and_what_is_below_but_no_namesake_and_nothing_elsewhere(folder, tmp_path):
    inside = storage_of(folder / "pack").contains
    assert inside(folder / "pack") and inside(folder / "pack" / "224")
    assert not inside(folder) and not inside(folder / "pack2")
    elsewhere = place("memory://other/pack") if storage_of(folder).local else tmp_path / "pack"
    assert not inside(elsewhere)
