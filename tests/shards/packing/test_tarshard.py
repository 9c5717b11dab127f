"""One tar and its index: read by others, and walked without trust."""

import io
import re
import tarfile

import pytest
import wds2idx  # DALI's own index maker, which it installs as a module

from shards.packing.tarshard import BLOCK, ShardWriter, members, read_index
from shards.storage.files import sha256_bytes

SAMPLES = [
    ("10000032/50414267/02aa804e-bde0afdd", {"jpg": b"J" * 700, "json": b"{}"}),
    ("10000032/50414267/174413ec-4ec4c1f7", {"jpg": b"K" * 512, "json": b'{"a":1}'}),
    ("p%2E1/s/x", {"jpg": b"L", "json": b""}),
]
LONG = [(f"1/2/{'x' * 150}{number}", {"npy": b"N" * 600, "json": b"{}"}) for number in range(2)]


def write(path, samples):
    shard = ShardWriter(path)
    spans = [shard.write(key, parts) for key, parts in samples]
    shard.close()
    return shard, spans


def walked(data):
    return [(name, bytes(data[offset : offset + length])) for name, offset, length in members(memoryview(data))]


def expected(samples):
    return [(f"{key}.{extension}", data) for key, parts in samples for extension, data in parts.items()]


def broken(data):
    with pytest.raises(ValueError) as error:
        walked(data)
    return str(error.value)


@pytest.mark.parametrize("samples", [SAMPLES, LONG, SAMPLES + LONG, []], ids=["short", "long names", "both", "none"])
def test_tarfile_and_our_walk_read_what_was_written(tmp_path, samples):
    write(tmp_path / "a.tar", samples)
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert [(m.name, tar.extractfile(m).read()) for m in tar.getmembers()] == expected(samples)
    assert walked((tmp_path / "a.tar").read_bytes()) == expected(samples)


@pytest.mark.parametrize("samples", [SAMPLES, LONG], ids=["short", "long names"])
def test_write_returns_where_the_first_part_lies(tmp_path, samples):
    _, spans = write(tmp_path / "a.tar", samples)
    data = (tmp_path / "a.tar").read_bytes()
    assert [data[offset : offset + length] for offset, length in spans] == [
        next(iter(parts.values())) for _, parts in samples
    ]


def test_the_index_is_what_dali_would_make(tmp_path):
    shard, _ = write(tmp_path / "a.tar", SAMPLES)
    with wds2idx.IndexCreator(str(tmp_path / "a.tar"), str(tmp_path / "a.idx"), verbose=False) as creator:
        creator.create_index()
    assert shard.index == (tmp_path / "a.idx").read_text()


@pytest.mark.parametrize("samples", [SAMPLES, LONG, []], ids=["short", "long names", "none"])
def test_the_index_points_at_every_part(tmp_path, samples):
    shard, _ = write(tmp_path / "a.tar", samples)
    data = (tmp_path / "a.tar").read_bytes()
    read = read_index(shard.index)
    assert [key for key, _ in read] == [key for key, _ in samples]
    for (_, parts), (_, wanted) in zip(read, samples, strict=True):
        assert {extension: data[at : at + length] for extension, at, length in parts} == wanted


@pytest.mark.parametrize("samples", [SAMPLES, LONG, []], ids=["short", "long names", "none"])
def test_a_shard_is_the_tar_that_tarfile_writes(tmp_path, samples):
    write(tmp_path / "a.tar", samples)
    with tarfile.open(tmp_path / "b.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for key, parts in samples:
            for extension, data in parts.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size, info.mode = len(data), 0o444
                tar.addfile(info, io.BytesIO(data))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


@pytest.mark.parametrize("name", ["a", "\u00e9" * 47, "x" * 95, "x" * 96, "x" * 150], ids=len)
def test_headers_are_tarfiles_whatever_the_length_of_the_name(tmp_path, name):
    shard, _ = write(tmp_path / "a.tar", [(name, {"jpg": b"J" * 9, "json": b"K" * 700_000})])
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for extension, data in (("jpg", b"J" * 9), ("json", b"K" * 700_000)):
            member = tarfile.TarInfo(f"{name}.{extension}")
            member.size, member.mode = len(data), 0o444
            tar.addfile(member, io.BytesIO(data))
    assert (tmp_path / "a.tar").read_bytes() == stream.getvalue()


def test_the_format_is_gnu(tmp_path):
    """DALI's reader knows no PAX headers."""
    write(tmp_path / "a.tar", LONG)
    data = (tmp_path / "a.tar").read_bytes()
    assert data[257:265] == b"ustar  \0"
    assert data[156:157] == tarfile.GNUTYPE_LONGNAME


def test_hash_and_size_are_those_of_the_file(tmp_path):
    shard, _ = write(tmp_path / "a.tar", SAMPLES)
    data = (tmp_path / "a.tar").read_bytes()
    assert (shard.sha256, shard.num_bytes) == (sha256_bytes(data), len(data))


def test_the_same_samples_are_the_same_bytes_anywhere(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    one, _ = write(tmp_path / "a.tar", SAMPLES)
    other, _ = write(tmp_path / "elsewhere" / "b.tar", SAMPLES)
    assert (one.sha256, one.index) == (other.sha256, other.index)
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar} == {(0, 0, 0, "", "", 0o444)}


def test_an_aborted_shard_has_no_end_mark(tmp_path):
    shard = ShardWriter(tmp_path / "a.tar")
    shard.write(*SAMPLES[0])
    shard.abort()
    assert "no end mark" in broken((tmp_path / "a.tar").read_bytes())


@pytest.mark.parametrize("samples", [SAMPLES, LONG], ids=["short", "long names"])
def test_a_tar_cut_at_any_block_is_broken_and_says_where(tmp_path, samples):
    write(tmp_path / "a.tar", samples)
    data = (tmp_path / "a.tar").read_bytes()
    end = -(-len(data.rstrip(b"\0")) // BLOCK) * BLOCK  # of the last member, with its padding
    for cut in {*range(0, end, BLOCK), *range(1, end, 61)}:
        place = int(re.match(r"cut at byte (\d+)", broken(data[:cut]))[1])
        assert cut // BLOCK * BLOCK <= place <= -(-cut // BLOCK) * BLOCK


def test_a_header_changed_in_any_byte_is_broken(tmp_path):
    write(tmp_path / "a.tar", SAMPLES)
    data = (tmp_path / "a.tar").read_bytes()
    second = BLOCK + 2 * BLOCK  # header of the first sample's .json
    for place in range(second, second + BLOCK):
        damaged = bytearray(data)
        damaged[place] ^= 4
        try:
            found = walked(damaged)
        except ValueError as error:
            assert f"at byte {second}" in str(error)  # noqa: PT017
        else:
            # the checksum field ends in a NUL and a blank that tar ignores
            assert found == expected(SAMPLES) and 148 <= place - second < 156


def test_members_lost_behind_an_early_end_mark_are_seen(tmp_path):
    """tarfile ends there and returns the members before it."""
    write(tmp_path / "a.tar", SAMPLES)
    data = bytearray((tmp_path / "a.tar").read_bytes())
    second = BLOCK + 2 * BLOCK
    data[second : second + BLOCK] = bytes(BLOCK)
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as tar:
        assert len(tar.getmembers()) < len(expected(SAMPLES))
    assert f"bytes after the end mark at {second}" in broken(data)


def test_pax_headers_and_folders_are_not_taken_for_samples(tmp_path):
    for format, add in ((tarfile.PAX_FORMAT, "é" * 120), (tarfile.GNU_FORMAT, "folder")):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
            info = tarfile.TarInfo(add)
            info.type = tarfile.DIRTYPE if add == "folder" else tarfile.REGTYPE
            tar.addfile(info)
        assert "unexpected member of type" in broken(buffer.getvalue())


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "not an index"),
        ("v1.1 1\njpg 512 1 a/b/c.jpg\n", "not an index of version v1.2"),
        ("v1.2 x\njpg 512 1 a/b/c.jpg\n", "not an index"),
        ("v1.2 1\njpg 512 1 a/b/c.jpg", "not an index"),  # its last line is cut
        ("v1.2 2\njpg 512 1 a/b/c.jpg\n", "1 lines where the header says 2"),
        ("v1.2 1\njpg 512 1\n", "not made of"),
        ("v1.2 1\njpg five 1 a/b/c.jpg\n", "five"),
        ("v1.2 1\njpg 512 1 a/b/c.jpg json 1536 2 a/b/d.json\n", "does not belong to one sample"),
        ("v1.2 1\n\n", "not made of"),
    ],
)
def test_an_index_that_deviates_is_refused(text, what):
    with pytest.raises(ValueError, match=what):
        read_index(text)
