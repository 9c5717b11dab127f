"""The index of a shard: what the writer wrote, or a ValueError."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shards.dataset.key import sample_key
from shards.packing.tarshard import INDEX_VERSION, ShardWriter, read_index
from tests.fuzz import damaged

pytestmark = pytest.mark.slow

IDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
# keys as the plan makes them, and others that a tar can hold; some need GNU's long names
KEYS = st.one_of(
    st.builds(sample_key, IDS, IDS, IDS),
    st.text(st.sampled_from("a/%é例-_"), min_size=1, max_size=30),
    st.builds(lambda head, count: head + "x" * count, st.just("1/2/"), st.integers(80, 300)),
)
EXTENSIONS = st.sampled_from(["jpg", "json", "npy", "seg.png", "x"])
SAMPLES = st.lists(
    st.tuples(KEYS, st.dictionaries(EXTENSIONS, st.binary(max_size=1100), min_size=1, max_size=3)), max_size=5
)
SEEDS = st.integers(0, 2**32 - 1)
TEXT = f"{INDEX_VERSION} 3\n" + "".join(
    f"jpg {512 * n} {100 * n} 1/2/{'x' * 9 * n}.jpg json {512 * n + 1024} 1{n} 1/2/{'x' * 9 * n}.json\n"
    for n in range(3)
)


def check_index(text: str) -> bool:
    """Whether read_index read it; what it reads is written as the same text again."""
    try:
        samples = read_index(text)
    except ValueError:
        return False
    lines = [" ".join(f"{ext} {at} {length} {key}.{ext}" for ext, at, length in parts) for key, parts in samples]
    assert "\n".join([f"{INDEX_VERSION} {len(samples)}", *lines, ""]) == text
    assert all(at >= 0 and length >= 0 for _, parts in samples for _, at, length in parts)
    return True


@given(SAMPLES)
def test_the_index_of_any_shard_points_at_its_bytes(tmp_path, samples):
    shard = ShardWriter(tmp_path / "a.tar")
    spans = [shard.write(key, parts) for key, parts in samples]
    shard.close()
    data = (tmp_path / "a.tar").read_bytes()
    assert check_index(shard.index)
    read = read_index(shard.index)
    assert [(key, {ext: data[at : at + size] for ext, at, size in parts}) for key, parts in read] == samples
    assert [parts[0][1:] for _, parts in read] == spans


@pytest.mark.parametrize("key", ["a b", "a\nb", "a\0b", "a\u00a0b", "a\u2028b"])
def test_a_name_that_the_index_cannot_hold_is_not_written(tmp_path, key):
    shard = ShardWriter(tmp_path / "a.tar")
    with pytest.raises(AssertionError):
        shard.write(key, {"jpg": b"J"})
    shard.abort()


@given(SEEDS)
def test_damage_is_refused_or_read_as_it_stands(seed):
    assert check_index(TEXT)
    check_index(damaged(TEXT.encode(), seed).decode(errors="surrogateescape"))


@given(
    st.lists(st.sampled_from([*"019 \n.jpgv-+_²٣", "v1.2", "jpg", " 1 ", "a.jpg", "\u00a0"]), max_size=14).map("".join)
)
@example("v1.2 ²\njpg 1 1 a.jpg\n")
@example("v1.2 1\njpg 1 1 \n")
def test_any_text_is_refused_or_read_as_it_stands(text):
    check_index(text)


NUMBERS = ["-1", "+1", "01", "1_0", "²", "٣", "１", "1e3", "0x1", "", "1.0", "\t1", "9" * 5000]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("place", [f"{INDEX_VERSION} @\njpg 1 1 a.jpg\n", f"{INDEX_VERSION} 1\njpg @ 1 a.jpg\n"])
def test_only_the_writers_numbers_are_numbers(place, number):
    assert not check_index(place.replace("@", number))


def test_every_line_removed_or_doubled_is_seen():
    lines = TEXT.splitlines(keepends=True)
    for place in range(len(lines)):
        for count in (0, 2):
            assert not check_index("".join(lines[:place] + lines[place : place + 1] * count + lines[place + 1 :]))


@pytest.mark.parametrize("end", ["x", " ", "\n", "\njpg 1 1 a.jpg"])
def test_anything_behind_the_last_line_is_seen(end):
    assert not check_index(TEXT + end) and not check_index(TEXT[:-1])
