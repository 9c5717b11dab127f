"""Shards and packed datasets: the bytes that were written, or a problem that names the file.

A bit changed in the padding between members is no member's: only the shard's sha256 sees it.
"""

import contextlib
import io
import json
import random
import shutil
import tarfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.dataset.description import dataset_identity, seal
from shards.dataset.key import sample_key
from shards.dataset.mapped import MappedSize
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.packing.tarshard import BLOCK, ShardWriter, members
from shards.packing.verify import VerifyReport, verify
from shards.releases.open import open_release
from shards.renditions.rendition import Size
from shards.storage.files import json_bytes, sha256_file
from tests.fuzz import damaged, one_line
from tests.releases import write_release

pytestmark = pytest.mark.slow

IDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
LENGTHS = st.one_of(st.integers(0, 3), st.sampled_from([511, 512, 513, 1024, 10_240]))
PARTS = st.fixed_dictionaries({"jpg": LENGTHS, "json": LENGTHS}).map(
    lambda lengths: {ext: ext[-1].encode() * size for ext, size in lengths.items()}
)
SAMPLES = st.lists(
    st.tuples(st.builds(sample_key, IDS, IDS, IDS), PARTS), min_size=1, max_size=4, unique_by=lambda sample: sample[0]
)
SEEDS = st.integers(0, 2**32 - 1)


def written(path, samples) -> bytes:
    shard = ShardWriter(path)
    for key, parts in samples:
        shard.write(key, parts)
    shard.close()
    path.with_suffix(".idx").write_text(shard.index)
    return path.read_bytes()


def walked(data: bytes) -> list[tuple[str, bytes]]:
    return [(name, data[at : at + length]) for name, at, length in members(memoryview(data))]


def check_members(data: bytes) -> bool:
    """Whether the walk came to the end; every member lies within the data, behind the one before."""
    behind = BLOCK
    try:
        for _name, offset, length in members(memoryview(data)):
            assert behind <= offset <= offset + length <= len(data) and length >= 0
            behind = offset + length + BLOCK
    except ValueError as error:
        assert str(error)
        return False
    return True


# ---------------------------------------------------------------- one tar


@given(SAMPLES)
def test_tarfile_webdataset_and_the_walk_read_the_same_bytes(tmp_path, samples):
    data = written(tmp_path / "a.tar", samples)
    wanted = [(f"{key}.{ext}", content) for key, parts in samples for ext, content in parts.items()]
    assert walked(data) == wanted
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert [(member.name, tar.extractfile(member).read()) for member in tar.getmembers()] == wanted
    found = webdataset.WebDataset([str(tmp_path / "a.tar")], shardshuffle=False, empty_check=False)
    assert [(one["__key__"], {ext: one[ext] for ext in ("jpg", "json")}) for one in found] == samples


def test_dali_reads_the_same_bytes(tmp_path):
    from nvidia.dali import fn, pipeline_def

    lengths = [1, 511, 512, 513, 4000]
    names = ["10000032", "a.b", "..", "é/\n%", "x" * 120]
    samples = [
        (sample_key("1", "2", name), {"jpg": b"J" * length, "json": name.encode()})
        for name, length in zip(names, lengths, strict=True)
    ]
    written(tmp_path / "a.tar", samples)

    @pipeline_def(batch_size=len(samples), num_threads=1, device_id=None)
    def reading():
        return tuple(
            fn.readers.webdataset(
                paths=[str(tmp_path / "a.tar")], index_paths=[str(tmp_path / "a.idx")], ext=["jpg", "json"]
            )
        )

    images, texts = reading().run()
    found = [{"jpg": bytes(images.at(n)), "json": bytes(texts.at(n))} for n in range(len(samples))]
    assert found == [parts for _, parts in samples]


TAR = [(sample_key("1", "2", name), {"jpg": b"J" * 700, "json": b"{}"}) for name in ("3", "é" * 40, "4")]


def shard_bytes() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for key, parts in TAR:
            for extension, data in parts.items():
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def reheaded(data: bytes, seed: int) -> bytes:
    """One header field replaced by what a tar may hold but a shard does not, under a valid checksum."""
    rng, out = random.Random(seed), bytearray(data)
    headers = [at for at in range(0, len(data), BLOCK) if data[at + 257 : at + 262] == b"ustar"]
    at = rng.choice(headers)
    sizes = [b"0" * 11 + b"\0", b"-1".ljust(12, b"\0"), b"\xff" * 12, b"\x80" + b"\xff" * 11, b"7" * 11 + b"\0"]
    sizes += [b"\xff" * 10 + b"\xfa\0", b" " * 12, b"1_0".ljust(12, b"\0"), rng.randbytes(12), b"\xff" * 11 + b"\0"]
    field, value = rng.choice(
        [(124, rng.choice(sizes)), (124, rng.choice(sizes)), (156, bytes([rng.choice(b"\x000123456789DKLMNSVXgx")]))]
        + [(0, rng.choice([b"\0" * 100, b"\xff" * 100, b"../a".ljust(100, b"\0"), b"a/".ljust(100, b"\0")]))]
        + [(257, rng.randbytes(8)), (345, b"prefix"), (100, rng.randbytes(8)), (386, rng.randbytes(24))]
    )
    out[at + field : at + field + len(value)] = value
    out[at + 148 : at + 156] = b" " * 8
    out[at + 148 : at + 156] = b"%06o\0 " % sum(out[at : at + BLOCK])
    return bytes(out)


@given(SEEDS)
@settings(max_examples=400)
def test_the_walk_of_a_damaged_tar_ends_within_its_bounds(seed):
    assert check_members(shard_bytes())
    check_members(damaged(shard_bytes(), seed))


@given(SEEDS)
@settings(max_examples=400)
def test_the_walk_of_a_tar_with_strange_headers_ends_within_its_bounds(seed):
    check_members(reheaded(shard_bytes(), seed))


def test_a_tar_cut_before_its_end_mark_is_broken():
    data = shard_bytes()
    end = max(at + length for _, at, length in members(memoryview(data)))
    assert not any(check_members(data[:length]) for length in range(0, end + BLOCK, 17))
    assert not check_members(data + b"x") and not check_members(data + data)


def test_a_size_below_zero_does_not_walk_back():
    data = bytearray(shard_bytes())
    data[124:136] = b"\xff" * 10 + b"\xfc\x00"  # base 256: -1024
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:BLOCK])
    assert tarfile.TarInfo.frombuf(bytes(data[:BLOCK]), "utf-8", "strict").size == -1024
    with pytest.raises(ValueError, match="broken header at byte 0: size -1024"):
        walked(bytes(data))


@pytest.mark.parametrize("names", [2, 1], ids=["two names", "a name and no member"])
def test_a_long_name_belongs_to_one_member(names):
    data = shard_bytes()
    at = next(at for at in range(0, len(data), BLOCK) if data[at + 156 : at + 157] == b"L")
    header = data[at : at + 2 * BLOCK]
    assert not check_members(header * names + (data[at + 2 * BLOCK :] if names == 2 else bytes(2 * BLOCK)))


# ---------------------------------------------------------------- a whole dataset


@pytest.fixture(scope="module")
def small_pack(tmp_path_factory):
    """A few images in two sizes and shards of 4: small enough to be verified hundreds of times."""
    return make_pack(tmp_path_factory.mktemp("small"))


def make_pack(folder):
    write_release(folder / "release", subjects=3)
    out = folder / "pack"
    pack(
        open_release(folder / "release"),
        out,
        PackOptions(sizes=(Size(32), Size(40, raw=True)), shard_images=4),
    )
    return out


def check_dataset(root) -> tuple[str, ...] | None:
    """The problems that verify finds, or None if there is nothing to verify. Nothing but UserError is raised."""
    try:
        dataset = PackedDataset.open(root)
        for name in dataset.label_names:
            dataset.labels(name)
        for pixels in dataset.sizes:
            mapped = MappedSize(dataset.stored(pixels))
            for row in np.flatnonzero(dataset.packed)[:5].tolist():
                assert len(mapped[row]) == mapped.stored.length[row]
    except UserError as error:
        one_line(error, root)
    try:
        report = verify(root, deep=True)
    except UserError as error:
        one_line(error, root)
        return None
    assert isinstance(report, VerifyReport)
    assert all(str(root) in problem for problem in report.problems)
    return report.problems


def check_damaged_file(root, seed: int) -> None:
    """One file of the dataset is damaged: verify says so."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    path = files[seed % len(files)]
    before = path.read_bytes()
    after = damaged(before, seed)
    path.write_bytes(after)
    try:
        problems = check_dataset(root)
        assert after == before or problems is None or problems or is_blank_alone(before, after), path
    finally:
        path.write_bytes(before)


def is_blank_alone(before: bytes, after: bytes) -> bool:
    """Whether two JSON texts differ in blanks between their parts only, which say nothing."""
    with contextlib.suppress(ValueError):
        return json.loads(before) == json.loads(after)
    return False


VALUES = st.sampled_from(
    [None, True, 0, -1, 10**400, 1e400, float("nan"), "", "..", "../../etc/passwd", "/etc/passwd", "x\ny"]
    + [[], {}, [None], [[]], {"": {}}, {"224": None}, 224, "224", 1.5]
)


def places(value, path=()):
    """The path of every entry of a JSON value."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def changed(info: dict, path: tuple, value, remove: bool) -> dict:
    """`info` with one entry replaced or removed, under a valid checksum and, where it has one, a valid id."""
    info = json.loads(json_bytes(info))
    holder = info
    for key in path[:-1]:
        holder = holder[key]
    if remove:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    with contextlib.suppress(Exception):  # the change may be in what the id is made of
        info["id"] = dataset_identity(info)
    return seal(info)


def check_description(root, path: tuple, value, remove: bool) -> None:
    before = (root / "dataset.json").read_bytes()
    info = changed(json.loads(before), path, value, remove)
    (root / "dataset.json").write_text(json.dumps(info))
    try:
        problems = check_dataset(root)
    finally:
        (root / "dataset.json").write_bytes(before)
    # earlier versions wrote neither, and nothing but a size that is made again shows whether the first is right
    optional = path[-1] == "decoded_for" and (remove or type(value) is int) or (path[-1] == "content" and remove)
    compared = not optional and (
        path[:2] == ("counts", "planned") or (path[0] == "sizes" and len(path) > 2) or path[0] == "catalog_sha256"
    )
    assert not compared or problems is None or problems or info == json.loads(before), path


def test_a_whole_dataset_has_no_problem(small_pack):
    assert check_dataset(small_pack) == ()


@given(SEEDS)
@settings(max_examples=100)
def test_damage_to_any_file_is_found(small_pack, seed):
    check_damaged_file(small_pack, seed)


@given(data=st.data())
@settings(max_examples=200)
def test_a_sealed_description_of_anything_is_refused_or_verified(small_pack, data):
    info = json.loads((small_pack / "dataset.json").read_bytes())
    path = data.draw(st.sampled_from([path for path in places(info) if path and path[0] != "checksum"]))
    check_description(small_pack, path, data.draw(VALUES), data.draw(st.booleans()))


@pytest.mark.parametrize(
    "text",
    ["[]", "null", '"x"', "1", "[" * 100_000, '{"a":' * 100_000, "1e400", "9" * 5000, "{}", '{"sizes": {}}', "\ud800"],
    ids=[
        "list",
        "null",
        "string",
        "number",
        "deep list",
        "deep dict",
        "infinity",
        "long",
        "empty",
        "keys",
        "surrogate",
    ],
)
def test_a_description_of_another_kind_is_refused(small_pack, tmp_path, text):
    root = shutil.copytree(small_pack, tmp_path / "pack")
    (root / "dataset.json").write_bytes(text.encode(errors="surrogatepass"))
    assert check_dataset(root) in (None, (f"{root / 'dataset.json'}: its checksum does not match its content",))


CATALOG_CHANGES = {
    "no ids": lambda table: table.drop(columns="image_id"),
    "no shard": lambda table: table.drop(columns="shard"),
    "no offset": lambda table: table.drop(columns="offset_32"),
    "blank id": lambda table: table.assign(subject_id=None),
    "numbers for ids": lambda table: table.assign(study_id=range(len(table))),
    "text for a shard": lambda table: table.assign(shard="x"),
    "an absent shard": lambda table: table.assign(shard=table["shard"] + 90),
    "a shard below zero": lambda table: table.assign(shard=-5),
    "an offset past the end": lambda table: table.assign(offset_32=table["offset_32"] + 10**9),
    "a huge offset": lambda table: table.assign(offset_32=2**63 - 1),
    "an offset below zero": lambda table: table.assign(offset_32=-1),
    "no length": lambda table: table.assign(length_32=0),
    "a blank length": lambda table: table.assign(length_32=table["length_32"].where(table.index > 2)),
    "fractions": lambda table: table.assign(offset_40=0.5),
}


@pytest.mark.parametrize("change", CATALOG_CHANGES.values(), ids=CATALOG_CHANGES)
def test_a_sealed_catalog_of_anything_is_a_problem(small_pack, tmp_path, change):
    root = shutil.copytree(small_pack, tmp_path / "pack")
    change(pd.read_parquet(root / "catalog.parquet")).to_parquet(root / "catalog.parquet")
    info = json.loads((root / "dataset.json").read_bytes())
    info = changed(info, ("catalog_sha256",), sha256_file(root / "catalog.parquet"), remove=False)
    (root / "dataset.json").write_bytes(json_bytes(info))
    assert check_dataset(root)


def test_a_sealed_catalog_with_a_text_that_is_not_utf_8_is_refused(small_pack, tmp_path):
    root = shutil.copytree(small_pack, tmp_path / "pack")
    table = pq.read_table(root / "catalog.parquet")
    views = pa.array([b"\xff\xfe"] * len(table), pa.binary()).cast(
        options=pc.CastOptions(pa.string(), allow_invalid_utf8=True)
    )
    pq.write_table(table.set_column(table.schema.get_field_index("view"), "view", views), root / "catalog.parquet")
    info = json.loads((root / "dataset.json").read_bytes())
    info = changed(info, ("catalog_sha256",), sha256_file(root / "catalog.parquet"), remove=False)
    (root / "dataset.json").write_bytes(json_bytes(info))
    problems = check_dataset(root)  # None where opening it is refused
    assert problems is None or "UTF8" in problems[0]


@pytest.mark.parametrize("columns", [{"Edema": "x"}, {"Edema": 0.5}, {"split": None}], ids=str)
def test_an_attached_table_of_anything_is_refused(small_pack, tmp_path, columns):
    root = shutil.copytree(small_pack, tmp_path / "pack")
    rows = len(pd.read_parquet(root / "catalog.parquet"))
    table = pd.DataFrame({"row": range(rows), "split": "train", "Mass": 1, **columns}).dropna(how="all", axis=1)
    table.to_parquet(root / "labels" / "other.parquet")
    info = json.loads((root / "dataset.json").read_bytes())
    info["labels"]["other"] = sha256_file(root / "labels" / "other.parquet")
    (root / "dataset.json").write_bytes(json_bytes(seal(info)))
    with pytest.raises(UserError, match="other.parquet: not a table of labels"):
        PackedDataset.open(root).labels("other")


def test_a_description_that_is_a_folder_is_refused(tmp_path):
    (tmp_path / "dataset.json").mkdir()
    assert check_dataset(tmp_path) is None
