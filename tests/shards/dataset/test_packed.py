"""Opening a packed dataset: what is read, and what is refused with the file's name."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import simplejpeg

from shards.dataset.description import seal
from shards.dataset.labels import Coded
from shards.dataset.mapped import MappedSize
from shards.dataset.packed import PackedDataset
from shards.dataset.tables import sorted_rows, take
from shards.errors import UserError
from shards.packing.attach import detach
from shards.packing.tarshard import members
from shards.storage.files import json_bytes, sha256_bytes


@pytest.fixture
def copy(pack_folder, tmp_path):
    return shutil.copytree(pack_folder, tmp_path / "pack")


def refused(action):
    with pytest.raises(UserError) as error:
        action()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_sizes_labels_and_key(dataset):
    assert dataset.sizes == [48, 56, 64]
    assert dataset.label_names == ["cxr-lt-2023", "chexpert"]  # the default first
    assert dataset.labels().name == "cxr-lt-2023"
    assert dataset.packed.all() and len(dataset.packed) == len(dataset.catalog) == 120
    first = dataset.catalog.iloc[0]
    assert dataset.key(0) == f"{first['subject_id']}/{first['study_id']}/{first['image_id']}"


@pytest.mark.parametrize("pixels", [48, 56, 64])
def test_mapped_bytes_are_those_of_the_tars(dataset, pixels):
    stored = dataset.stored(pixels)
    assert (stored.pixels, stored.raw, len(stored.paths)) == (pixels, pixels == 56, 8)
    mapped, row = MappedSize(stored), 0
    for path in stored.paths.values():
        data = path.read_bytes()
        for name, offset, length in members(memoryview(data)):
            if not name.endswith(".json"):
                assert mapped[row].tobytes() == data[offset : offset + length]
                row += 1
    assert row == len(dataset.catalog)


def test_mapped_bytes_decode_and_cannot_be_written(dataset):
    mapped = MappedSize(dataset.stored(64))
    assert simplejpeg.decode_jpeg(mapped[7].tobytes(), "GRAY").shape == (64, 64, 1)
    with pytest.raises(ValueError, match="read-only"):
        mapped[7][0] = 0


def test_raw_pixels_are_the_array_behind_the_npy_header(dataset, tmp_path):
    mapped = MappedSize(dataset.stored(56))
    for row in (0, 60, 119):
        (tmp_path / "a.npy").write_bytes(mapped[row].tobytes())
        pixels = mapped.pixels([row])[0]
        assert pixels.shape == (56, 56, 1)
        assert np.array_equal(pixels[:, :, 0], np.load(tmp_path / "a.npy"))


@pytest.mark.parametrize("pixels", [48, 56])
def test_a_batch_s_slices_are_the_rows_own_repeats_included(dataset, pixels):
    mapped, rows = MappedSize(dataset.stored(pixels)), np.array([7, 119, 0, 7, 60])
    assert [each.tobytes() for each in mapped.slices(rows)] == [mapped[row].tobytes() for row in rows.tolist()]
    assert mapped.slices(rows[:0]) == []


def test_columns_are_those_of_the_catalog_and_leave_it_unread(dataset):
    names = ("subject_id", "length_64", "shard")
    fresh = PackedDataset.open(dataset.root)
    table = fresh.arrow(*names)
    assert "catalog" not in vars(fresh) and table.column_names == [*names]
    assert table.to_pydict() == {name: fresh.catalog[name].tolist() for name in names}
    assert fresh.arrow(*names).to_pydict() == table.to_pydict()
    rows, shown = np.array([7, 3, 119]), ("image_id", "study_id", "view")
    pd.testing.assert_frame_equal(fresh.of_rows(rows, *shown), fresh.catalog[[*shown]].iloc[rows])


@pytest.mark.parametrize("change", ["missing", "negative", "number"])
def test_a_column_that_packing_does_not_write_is_refused_where_it_is_read(copy, change):
    path, info = copy / "catalog.parquet", json.loads((copy / "dataset.json").read_bytes())
    table = pd.read_parquet(path)
    if change == "missing":
        table = table.drop(columns="offset_64")
    else:
        table["offset_64"] = table["offset_64"].where(table["row"] != 5, -1) if change == "negative" else "0"
    table.to_parquet(path)
    info["catalog_sha256"] = sha256_bytes(path.read_bytes())
    (copy / "dataset.json").write_bytes(json_bytes(seal(info)))
    dataset = PackedDataset.open(copy)
    assert dataset.packed.all() and len(dataset.stored(48).length) == 120  # other columns are as they were
    message = refused(lambda: dataset.stored(64))
    assert str(path) in message and "'offset_64'" in message and "pack again" in message


@pytest.mark.parametrize("limit", [9, 3])
def test_more_shards_than_open_files(pack_folder, limit):
    """A mapped shard is no open file; where not one may be opened, how to fix it is said."""
    script = f"""
import os, resource
from pathlib import Path
from shards.errors import UserError
from shards.dataset.labels import Coded
from shards.dataset.mapped import MappedSize
from shards.dataset.packed import PackedDataset

dataset = PackedDataset.open(Path({str(pack_folder)!r}))
sizes = [MappedSize(dataset.stored(pixels)) for pixels in (48, 56, 64)]
resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
try:
    print(all(len(each[row]) == each.stored.length[row] for each in sizes for row in range(120)), len(sizes[2].mapped))
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert not done.returncode, done.stderr
    if limit == 3:
        assert "48 px: shard 0 of 8 cannot be mapped (Too many open files)" in done.stdout
        assert "may open 3 files" in done.stdout and "--shard-images" in done.stdout and done.stdout.count("\n") == 1
    else:
        assert done.stdout.split() == ["True", "8"]


def test_a_shard_is_mapped_when_a_row_of_it_is_first_asked_for(dataset):
    mapped, shard = MappedSize(dataset.stored(56)), dataset.stored(56).shard
    assert mapped.mapped == []
    rows = np.flatnonzero((shard == 5) | (shard == 2))
    mapped.pixels(rows)
    assert sorted(mapped.mapped) == [2, 5]
    mapped.slices(rows[:1])
    assert len(mapped.mapped) == 2


def test_a_table_is_hashed_once_and_again_when_its_file_is_another(copy):
    dataset, path = PackedDataset.open(copy), copy / "catalog.parquet"
    before, damaged = dataset.numbers("shard")[0], bytearray(path.read_bytes())
    assert before.dtype == np.int32 and before.tolist() == dataset.catalog["shard"].tolist()
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    assert "its hash is not the one in dataset.json" in refused(lambda: dataset.numbers("shard"))


def test_a_split_is_a_byte_a_row_and_reads_as_texts(dataset):
    labels = dataset.labels("cxr-lt-2023")
    stored = pd.read_parquet(dataset.root / "labels" / "cxr-lt-2023.parquet")
    plain = np.array(labels.split)
    assert plain.dtype == object and labels.split.codes.dtype == np.int8
    assert (
        [*labels.split]
        == plain.tolist()
        == stored["split"].astype(object).where(stored["split"].notna(), None).tolist()
    )
    assert ((labels.split == "train") == (plain == "train")).all() and not (labels.split == "no split").any()


def test_splits_of_several_pieces_and_without_one():
    split = Coded(np.empty(6, dtype=np.int8))
    split.put(0, pa.array(["test", None, "train"]))
    split.put(3, pa.array(["train", "dev", None]))
    assert [*split] == ["test", None, "train", "train", "dev", None]
    assert (split == "train").tolist() == [False, False, True, True, False, False]
    assert split[np.array([4, 1])].tolist() == ["dev", None]


def test_rows_are_taken_of_a_column_in_chunks_as_of_one():
    for values in (["a", "b", None, "d", "e", "f"], [1, 2, None, 4, 5, 6]):
        column, rows = (
            pa.chunked_array([values[:2], [], values[2:5], values[5:]], pa.array(values).type),
            [5, 0, 4, 2, 0],
        )
        assert take(column, np.array(rows)).to_pylist() == [values[row] for row in rows]
        assert take(column, np.arange(0)).to_pylist() == []
    assert take(pa.chunked_array([["a"]]), np.array([0])).type == pa.large_string()


@pytest.mark.parametrize("common", ["", "patient0", "päti"])
def test_texts_are_sorted_as_python_sorts_them(common):
    """Short ones, equal ones and those that their first eight bytes do not tell apart."""
    rng = np.random.default_rng(0)
    texts = [common + "".join(rng.choice([*"abé0\U0001f600"], rng.integers(0, 12))) for _ in range(2000)]
    some, none = np.flatnonzero(rng.random(2000) < 0.7), np.arange(0)
    found = sorted_rows(pa.chunked_array([texts[:700], texts[700:]]), some, none, np.arange(2000))
    assert found[0].tolist() == sorted(some.tolist(), key=lambda row: texts[row])
    assert found[1].tolist() == [] and found[2].tolist() == sorted(range(2000), key=lambda row: texts[row])


def test_pages_that_were_given_back_are_read_again(dataset):
    mapped = MappedSize(dataset.stored(48))
    row = int(dataset.packed.nonzero()[0][0])
    before = mapped[row].tobytes()
    mapped.forget(int(mapped.stored.shard[row]))
    assert mapped[row].tobytes() == before


def test_a_size_that_is_not_stored_names_those_that_are(dataset):
    assert "size 224 is not stored here; stored are 48, 56, 64" in refused(lambda: dataset.stored(224))


def test_labels_that_are_not_attached_name_those_that_are(dataset):
    message = refused(lambda: dataset.labels("cxr-lt-2024"))
    assert "no labels 'cxr-lt-2024'; did you mean cxr-lt-2023? attached are cxr-lt-2023, chexpert" in message


def test_a_dataset_without_labels_opens_and_says_how_to_get_some(copy):
    for name in ("chexpert", "cxr-lt-2023"):
        detach(copy, name)
    dataset = PackedDataset.open(copy)
    assert dataset.label_names == []
    assert "--labels" in refused(dataset.labels)


def test_a_node_needs_only_the_sizes_it_trains_on(copy):
    shutil.rmtree(copy / "48")
    shutil.rmtree(copy / "64")
    dataset = PackedDataset.open(copy)
    assert dataset.sizes == [56]
    assert len(MappedSize(dataset.stored(56))[0]) > 56 * 56
    assert "stored are 56" in refused(lambda: dataset.stored(48))


# ---------------------------------------------------------------- what opening refuses


def test_no_dataset_and_an_unfinished_one_are_told_apart(tmp_path):
    assert "no packed dataset; run `cxrdali shard` first" in refused(lambda: PackedDataset.open(tmp_path / "absent"))
    (tmp_path / "begun" / ".packing").mkdir(parents=True)
    assert "unfinished packed dataset; run the same" in refused(lambda: PackedDataset.open(tmp_path / "begun"))


@pytest.mark.parametrize("change", ["truncated", "grown", "missing"])
def test_a_shard_of_another_size_is_named_with_both_sizes(copy, change):
    path = copy / "56" / "000003.tar"
    whole = path.read_bytes()
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes(whole[:-512] if change == "truncated" else whole + b"\0")
    message = refused(lambda: PackedDataset.open(copy))
    found = "is missing" if change == "missing" else f"has {path.stat().st_size} bytes"
    assert f"{path}: {found}, dataset.json says {len(whole)}" in message


def test_two_swapped_shards_of_different_length_are_refused(copy):
    lengths = {path.stat().st_size: path for path in sorted((copy / "56").glob("*.tar"))}
    one, other, *_ = lengths.values()
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    assert re.search(f"{one}|{other}", refused(lambda: PackedDataset.open(copy)))


def test_a_description_changed_in_any_byte_is_refused(copy):
    path = copy / "dataset.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 11):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        assert str(path) in refused(lambda: PackedDataset.open(copy))


@pytest.mark.parametrize("text", ["", "{}", "[]", "1", '"x"', "null", "nonsense", "\xff"])
def test_a_description_that_is_none_is_refused(copy, text):
    (copy / "dataset.json").write_bytes(text.encode("latin-1"))
    assert str(copy / "dataset.json") in refused(lambda: PackedDataset.open(copy))


def test_another_format_version_is_named(copy):
    info = json.loads((copy / "dataset.json").read_bytes())
    (copy / "dataset.json").write_bytes(json_bytes(seal({**info, "format": 2})))
    assert "format 2, this cxrdali reads 1" in refused(lambda: PackedDataset.open(copy))


def test_a_catalog_changed_in_any_byte_is_refused_when_read(copy):
    """A changed offset would hand out another image's bytes."""
    path = copy / "catalog.parquet"
    whole = path.read_bytes()
    for place in range(0, len(whole), len(whole) // 150):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        assert str(path) in refused(lambda: PackedDataset.open(copy).catalog)


@pytest.mark.parametrize("change", ["missing", "cut", "empty", "a row less"])
def test_a_catalog_that_is_not_whole_is_refused(copy, change):
    path = copy / "catalog.parquet"
    if change == "missing":
        path.unlink()
    elif change == "a row less":
        pd.read_parquet(path).iloc[:-1].to_parquet(path)
    else:
        path.write_bytes(path.read_bytes()[: -100 if change == "cut" else 0])
    assert str(path) in refused(lambda: PackedDataset.open(copy).catalog)


@pytest.mark.parametrize("change", ["a bit", "a row less", "a value"])
def test_changed_labels_are_refused_when_read(copy, change):
    path = copy / "labels" / "chexpert.parquet"
    if change == "a bit":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        table = pd.read_parquet(path)
        table.loc[0, "Edema"] = 1 - table["Edema"].fillna(0)[0]
        (table.iloc[:-1] if change == "a row less" else table).to_parquet(path)
    dataset = PackedDataset.open(copy)
    assert str(path) in refused(lambda: dataset.labels("chexpert"))
    assert dataset.labels("cxr-lt-2023").findings


def list_labels(root, name, data):
    """Write a label file that the description lists with its hash, whatever it holds."""
    (root / "labels" / f"{name}.parquet").write_bytes(data)
    info = json.loads((root / "dataset.json").read_bytes())
    info["labels"][name] = sha256_bytes(data)
    (root / "dataset.json").write_bytes(json_bytes(seal(info)))


def test_attached_labels_of_another_dataset_are_refused_by_their_rows(copy):
    table = pd.read_parquet(copy / "labels" / "chexpert.parquet").iloc[:50]
    list_labels(copy, "other", table.to_parquet())
    message = refused(lambda: PackedDataset.open(copy).labels("other"))
    assert "other.parquet: 50 rows, dataset.json says 120" in message


def test_a_damaged_attached_label_table_is_named(copy):
    list_labels(copy, "other", b"PAR1 no PAR1")
    assert "other.parquet" in refused(lambda: PackedDataset.open(copy).labels("other"))
