"""Sealed descriptions of anything: every command that reads a packed dataset answers in one line, or as always.

A seal can be made by anyone, so it says nothing about what an entry is.
"""

import io
import json
import os
import random
import shutil

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.dataset.description import DATASET, LARGEST, seal
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.releases.open import open_release
from shards.renditions.rendition import Size
from shards.storage.files import json_bytes, sha256_bytes
from tests.cli.cli import call
from tests.fuzz import one_line
from tests.fuzz.test_shards import changed, check_dataset, make_pack, places

pytestmark = pytest.mark.slow

OTHERS = [
    None,
    True,
    -1,
    0,
    10**18,
    10**400,
    1.5,
    1e300,
    "",
    "..",
    "../../x",
    "x\ny",
    "\x1b[2J",
    [],
    [[]],
    {},
    {"": {}},
]
COMMANDS = (("inspect",), ("label",), ("label", "--remove", "chexpert"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make_pack(tmp_path_factory.mktemp("descriptions"))


@pytest.fixture(scope="module")
def entries(small):
    """Every entry that can be changed; of a list, those of its first item: the others are read alike."""
    info = json.loads((small / DATASET).read_bytes())
    return [path for path in places(info) if path and path[0] != "checksum" and not {1, 2, 3} & set(path)]


def check_commands(root, info: dict) -> None:
    """Every command with another description: nothing but UserError is raised, and it is one line."""
    kept = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}  # packing may make what it lacks
    try:
        (root / DATASET).write_bytes(json.dumps(info).encode())
        check_dataset(root)
        for command, *options in COMMANDS:
            ended = call(command, root, *options, cwd=root.parent)
            errors = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
            assert (ended.returncode, len(errors)) in ((0, 0), (1, 1)), ended.stderr
            assert not {"\x1b", "\r"} & {*ended.stdout, *ended.stderr}, "a terminal's control characters"
        (root / DATASET).write_bytes(json.dumps(info).encode())
        try:
            pack(
                open_release(root.parent / "release"), root, PackOptions((Size(32), Size(40, raw=True)), shard_images=4)
            )
        except UserError as error:
            one_line(error, root)
    finally:
        for path in {path for path in root.rglob("*") if path.is_file()} - {*kept}:
            path.unlink()
        for path, data in kept.items():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)


@pytest.mark.parametrize("part", range(4))
def test_every_entry_of_another_kind_is_one_line_in_every_command(small, entries, part):
    info = json.loads((small / DATASET).read_bytes())
    rng = random.Random(part)
    for path in entries[part::4]:
        check_commands(small, changed(info, path, None, remove=True))
        for value in rng.sample(OTHERS, 3):
            check_commands(small, changed(info, path, value, remove=False))


COUNTS = ["planned", "packed", "studies", "subjects"]


@pytest.mark.parametrize("change", [{"counts": {name: 10**18}} for name in COUNTS] + [{"counts": {"packed": 2**63}}])
def test_a_huge_count_takes_no_memory(small, change):
    info = json.loads((small / DATASET).read_bytes())
    check_commands(small, seal({**info, "counts": {**info["counts"], **change["counts"]}}))


def test_names_that_lead_out_are_refused(small):
    info = json.loads((small / DATASET).read_bytes())
    size = info["sizes"]["32"]
    shard = size["shards"][0]
    for change, words in (
        ({"labels": {"../x": "0" * 64}}, "labels.'../x' is not a hash of a table"),
        ({"stored_labels": {"a\x1bb": "0" * 64}}, "is not a hash of a table"),
        ({"default_labels": "others"}, "default_labels 'others' is not among the labels"),
        ({"counts": {**info["counts"], "rejected": {"\x1b[2J": 1}}}, "counts holds control characters"),
        ({"sizes": {"..": size}}, "sizes.'..' is not the size it describes"),
        ({"sizes": {"../32": {**size, "pixels": 32}}}, "sizes.'../32' is not the size it describes"),
        ({"sizes": {"32": {**size, "shards": [{**shard, "name": "../32/000000.tar"}]}}}, "is no shard"),
        ({"sizes": {"32": {**size, "shards": [shard, shard]}}}, "'32/000000.tar' is there twice"),
        ({"sizes": {}}, "sizes is empty"),
        ({"release": "mimic\x1b[2J"}, "release holds control characters"),
    ):
        (small / DATASET).write_bytes(json_bytes(seal({**info, **change})))
        with pytest.raises(UserError, match=words):
            PackedDataset.open(small)
    (small / DATASET).write_bytes(json_bytes(info))


def test_a_description_that_is_too_large_or_no_file_is_not_read(small, tmp_path):
    root = shutil.copytree(small, tmp_path / "pack")
    os.truncate(root / DATASET, 3_000_000_000)  # a hole: no byte is on the disk
    with pytest.raises(UserError, match=f"it has more than {LARGEST:,} bytes"):
        PackedDataset.open(root)
    (root / DATASET).unlink()
    os.mkfifo(root / DATASET)
    with pytest.raises(UserError, match="no regular file"):
        PackedDataset.open(root)


@pytest.mark.parametrize(
    "name", ["catalog.parquet", "rejects.csv", "labels/chexpert.parquet", "32/000000.tar", "32/000000.idx"]
)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_in_a_pack_is_not_read(small, tmp_path, time_limit, name, kind):
    """Links travel in a tar: reading a pipe would wait, and /dev/zero has no end."""
    root = shutil.copytree(small, tmp_path / "pack")
    (root / name).unlink()
    os.mkfifo(root / name) if kind == "pipe" else (root / name).symlink_to("/dev/zero")
    unread = {"inspect": ["32/000000.idx"], "label": ["32/000000.idx", "catalog.parquet", "rejects.csv"], "verify": []}
    for command, others in unread.items():
        ended = call(command, root, *(["--jobs", "1"] if command == "verify" else []), cwd=tmp_path)
        assert ended.returncode == (name not in others) and (name in others or str(root / name) in ended.stderr)


def bomb(rows: int, columns: dict) -> bytes:
    """A table of so many equal rows; a million take a few bytes."""
    buffer = io.BytesIO()
    table = pa.table({name: pa.repeat(pa.scalar(value), rows) for name, value in columns.items()})
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


@pytest.mark.parametrize("planned", [None, 200_000], ids=["as many rows as there are", "as many rows as are claimed"])
@pytest.mark.parametrize("name", ["catalog.parquet", "labels/bomb.parquet"])
def test_a_table_that_unpacks_to_far_more_than_it_is_is_refused_before(small, tmp_path, planned, name):
    root = shutil.copytree(small, tmp_path / "pack")
    info = json.loads((root / DATASET).read_bytes())
    columns = dict.fromkeys(pd.read_parquet(root / "catalog.parquet").columns, "x")
    data = bomb(200_000, columns if name == "catalog.parquet" else {"split": "train", "Edema": 1})
    (root / name).write_bytes(data)
    counts = {**info["counts"], "planned": planned or info["counts"]["planned"]}
    labels = {"bomb": sha256_bytes(data)} if name.startswith("labels") else info["labels"]
    changes = {"counts": counts, "labels": labels, "stored_labels": {}, "default_labels": None}
    changes |= {} if name.startswith("labels") else {"catalog_sha256": sha256_bytes(data)}
    (root / DATASET).write_bytes(json_bytes(seal({**info, **changes})))
    dataset = PackedDataset.open(root)
    words = "as no table that packing writes" if planned else "200000 rows, dataset.json says"
    with pytest.raises(UserError, match=f"{name}: .*{words}"):
        dataset.labels("bomb") if name.startswith("labels") else dataset.catalog


def with_table(small, root, name: str, change) -> PackedDataset:
    """A pack of which one table was changed, under valid hashes."""
    shutil.copytree(small, root)
    table = pd.read_parquet(root / name)
    table = change(table)
    table.to_parquet(root / name)
    info, sha256 = json.loads((root / DATASET).read_bytes()), sha256_bytes((root / name).read_bytes())
    changes = {"catalog_sha256": sha256} if name == "catalog.parquet" else {"labels": {"chexpert": sha256}}
    (root / DATASET).write_bytes(json_bytes(seal({**info, "default_labels": "chexpert", **changes})))
    return PackedDataset.open(root)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("view_position", None),
        ("view_position", [[1]]),
        ("view_position", 1.5),
        ("height", "x"),
        ("width", [{"a": 1}]),
        ("converted", 5),
        ("pixels", "x" * 1000),
        ("pixels", 7),
        ("image_id", None),
        ("offset_32", 1.5),
        ("length_32", -1),
        ("shard", "0"),
    ],
)
def test_a_column_of_the_catalog_of_another_kind_is_named(small, tmp_path, column, value):
    def change(table):
        return table.drop(columns=column) if value is None else table.assign(**{column: [value] * len(table)})

    dataset = with_table(small, tmp_path / "pack", "catalog.parquet", change)
    with pytest.raises(UserError, match=f"column '{column}' "):
        _ = dataset.catalog
    ended = call("inspect", dataset.root, cwd=tmp_path)
    assert ended.returncode == 1 and f"column '{column}' " in ended.stderr


@pytest.mark.parametrize(
    "places",
    [
        {"offset_32": 10**12},
        {"offset_32": 2**63 - 1},
        {"length_32": 2**63 - 1},
        {"shard": 4000},
        {"shard": 2**31 - 1},
        {"shard": 2**32},
        {"shard": 2**63 - 1},
    ],
)
def test_a_place_beyond_its_shard_is_not_read(small, tmp_path, places):
    def change(table):
        kept = table["shard"].notna()
        for column, value in places.items():
            table[column] = table[column].astype("Int64").mask(kept, value)
        return table

    dataset = with_table(small, tmp_path / "pack", "catalog.parquet", change)
    with pytest.raises(UserError, match="row .* lies outside shard"):
        dataset.stored(32)


@pytest.mark.parametrize("value", [257, 2, -2, 2**40])
def test_labels_that_are_no_labels_are_named_and_do_not_become_others(small, tmp_path, value):
    """257 in 8 bits is 1."""
    name = next(name for name in pd.read_parquet(small / "labels/chexpert.parquet") if name not in ("row", "split"))
    dataset = with_table(
        small, tmp_path / "pack", "labels/chexpert.parquet", lambda table: table.assign(**{name: value})
    )
    with pytest.raises(UserError, match=f"finding '{name}' holds numbers other than 1, 0 and -1"):
        dataset.labels("chexpert")


def test_a_finding_s_name_does_not_steer_the_terminal(small, tmp_path):
    name = "\x1b]0;owned\x07"
    dataset = with_table(small, tmp_path / "pack", "labels/chexpert.parquet", lambda table: table.assign(**{name: 1}))
    for words in (("inspect",), ("label",)):
        ended = call(*words, dataset.root, cwd=tmp_path)
        assert ended.returncode == 0 and "\x1b" not in ended.stdout + ended.stderr
    assert "]0;owned" in call("inspect", dataset.root, cwd=tmp_path).stdout


def test_a_file_s_name_does_not_steer_the_terminal(small, tmp_path):
    root = shutil.copytree(small, tmp_path / "pack")
    (root / "\x1b]0;owned\x07").touch()
    ended = call("verify", root, "--jobs", 1, cwd=tmp_path)
    assert ended.returncode == 1 and r"pack/\x1b]0;owned\x07: not in dataset.json" in ended.stderr
    assert "\x1b" not in ended.stdout + ended.stderr
