"""Damage of a packed dataset: `verify` names every file, opening refuses what a count or a size can show."""

import random
import re
import shutil
import tarfile
from collections import Counter

import pytest

from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.options import PackLimits, PackOptions
from shards.packing.pack import pack
from shards.packing.verify import verify
from shards.releases.open import open_release
from shards.renditions.rendition import Size
from tests.faults.processes import Warm
from tests.releases import write_release

pytestmark = pytest.mark.slow

FLIPS = 500
BLOCK = 512
LIMITS = PackLimits(max_reject_fraction=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """12 images in 4 shards per size, one image rejected; read-only by agreement."""
    folder = tmp_path_factory.mktemp("whole")
    write_release(folder / "release", subjects=3)
    release = open_release(folder / "release")
    (folder / "release" / release.images["path"].iloc[5]).write_bytes(b"")
    options = PackOptions(sizes=(Size(48), Size(40, raw=True)), shard_images=4)
    summary = pack(release, folder / "pack", options, limits=LIMITS)
    assert (summary.planned, summary.packed, summary.shards) == (12, 11, 4)
    return folder / "pack"


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "pack")


def problems(root):
    """What verify reports; its refusal of a description that it cannot read is a report too."""
    try:
        return verify(root).problems
    except UserError as error:
        assert "\n" not in str(error)
        return (str(error),)


def check_named(root, *paths):
    """Exactly these files are named, each by a problem of its own (dataset.json and the like by more, if need be)."""
    found = problems(root)
    assert sorted({problem.split(": ")[0] for problem in found}) == sorted(map(str, paths)), found
    assert all(re.fullmatch(r"[^\n]+: [^\n]+", problem) for problem in found)


def refused(root):
    with pytest.raises(UserError) as error:
        PackedDataset.open(root)
    assert "\n" not in str(error.value)
    return str(error.value)


def exchange(one, other):
    """Swap two files' contents."""
    first, second = one.read_bytes(), other.read_bytes()
    assert first != second
    one.write_bytes(second)
    other.write_bytes(first)


# ---------------------------------------------------------------- flipped bits


def test_every_one_of_many_flipped_bits_is_reported_with_its_file(copy):
    """A third of the places in headers of tars; the rest anywhere in a file drawn first, so small files count."""
    seed = random.SystemRandom().randrange(2**32)
    draw = random.Random(seed)
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    headers = {path: header_bytes(path) for path in files if path.suffix == ".tar"}
    tried, missed = Counter(), []
    for number in range(FLIPS):
        if number % 3:
            path = draw.choice(files)
            place = draw.randrange(path.stat().st_size)
        else:
            path = draw.choice(sorted(headers))
            place = draw.choice(headers[path])
        bit = 1 << draw.randrange(8)
        tried["header" if place in headers.get(path, ()) else kind(path)] += 1
        with path.open("r+b") as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ bit]))
            file.flush()
            found = problems(copy)
            file.seek(place)
            file.write(bytes([byte]))
        if not any(problem.startswith(f"{path}: ") for problem in found):
            missed.append((path.relative_to(copy).as_posix(), place, bit, found))
    assert missed == [], f"seed {seed}"
    assert problems(copy) == ()
    assert set(tried) == {"header", ".tar", ".idx", ".csv", ".json", "catalog", "chexpert", "cxr-lt-2023"}, tried


def kind(path):
    return path.stem if path.suffix == ".parquet" else path.suffix


def header_bytes(path):
    """The places of every byte of every member's header."""
    with tarfile.open(path) as tar:
        return [place for member in tar for place in range(member.offset, member.offset_data)]


# ---------------------------------------------------------------- cut shards


def cut(path, where):
    """Shorten a tar at one of four places; returns the names of the members that are still whole."""
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    third = members[2]
    end = members[-1].offset_data + -(-members[-1].size // BLOCK) * BLOCK
    size = {
        "between members": third.offset,
        "in a header": third.offset + 200,
        "in the data": third.offset_data + third.size // 2,
        "in the end mark": end + BLOCK,
    }[where]
    path.write_bytes(path.read_bytes()[:size])
    return [member.name for member in members if member.offset_data + member.size <= size]


CUTS = ("between members", "in a header", "in the data", "in the end mark")


@pytest.mark.parametrize("where", CUTS)
@pytest.mark.parametrize("size", ["48", "40"])
def test_a_cut_shard_is_named_by_verify_and_by_opening(copy, size, where):
    path = copy / size / "000002.tar"
    before = path.stat().st_size
    cut(path, where)
    assert problems(copy) == (f"{path}: {path.stat().st_size} bytes, dataset.json says {before}",)
    assert refused(copy).startswith(f"{path}: has {path.stat().st_size} bytes, dataset.json says {before}; ")


@pytest.mark.parametrize("where", CUTS)
def test_pythons_tarfile_reads_most_cut_shards_without_an_error(copy, where):
    """Why sizes and hashes are compared: three cuts of four just look like a shorter archive."""
    path = copy / "48" / "000002.tar"
    left = cut(path, where)
    if where == "in the data":
        with pytest.raises(tarfile.ReadError), tarfile.open(path) as tar:
            tar.getmembers()
    else:
        with tarfile.open(path) as tar:
            assert [(m.name, bool(tar.extractfile(m).read())) for m in tar] == [(name, True) for name in left]


def test_pythons_tarfile_reads_flipped_shards_without_an_error(copy):
    """A bit in an image is another image; a bit in a header ends the archive there. Verify names both."""
    image, header = copy / "40" / "000000.tar", copy / "40" / "000002.tar"
    names = {}
    for path, place in ((image, "offset_data"), (header, "offset")):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
        names[path] = [member.name for member in members]
        data = bytearray(path.read_bytes())
        data[getattr(members[2], place) + 140] ^= 4
        path.write_bytes(data)
    for path, count in ((image, len(names[image])), (header, 2)):
        with tarfile.open(path) as tar:
            assert [member.name for member in tar] == names[path][:count]
    assert count < len(names[header])
    PackedDataset.open(copy)  # neither a count nor a size shows it
    check_named(copy, image, header)


# ---------------------------------------------------------------- exchanged, deleted and foreign files


def pair(root, equal):
    """Two shards of one size folder, of equal or of different length."""
    for size in ("40", "48"):
        shards = sorted((root / size).glob("*.tar"))
        for place, one in enumerate(shards):
            for other in shards[place + 1 :]:
                if (one.stat().st_size == other.stat().st_size) == equal:
                    return one, other
    raise AssertionError("no such pair in the fixture")


@pytest.mark.parametrize("indexes", [False, True], ids=["tars alone", "indexes too"])
@pytest.mark.parametrize("equal", [False, True], ids=["of different length", "of equal length"])
def test_two_exchanged_shards_are_both_named(copy, equal, indexes):
    one, other = pair(copy, equal)
    exchange(one, other)
    if indexes:
        exchange(one.with_suffix(".idx"), other.with_suffix(".idx"))
    check_named(copy, one, other)
    if equal:
        PackedDataset.open(copy)  # only a hash shows it
    else:
        assert refused(copy).startswith((f"{one}: ", f"{other}: "))


def test_two_exchanged_indexes_are_both_named(copy):
    one, other = copy / "48" / "000000.idx", copy / "48" / "000003.idx"
    exchange(one, other)
    check_named(copy, one, other)


def test_two_exchanged_sizes_are_named_shard_by_shard(copy):
    (copy / "48").rename(copy / "other")
    (copy / "40").rename(copy / "48")
    (copy / "other").rename(copy / "40")
    check_named(copy, *(copy / size / f"{number:06d}.tar" for size in ("40", "48") for number in range(4)))
    assert f"{copy}/4" in refused(copy)


@pytest.mark.parametrize("name", ["48/000001.tar", "40/000003.tar"])
def test_a_deleted_shard_is_named_by_verify_and_by_opening(copy, name):
    (copy / name).unlink()
    check_named(copy, copy / name)
    assert refused(copy).startswith(f"{copy / name}: is missing, dataset.json says ")


@pytest.mark.parametrize("name", ["48/000001.idx", "rejects.csv", "labels/chexpert.parquet", "catalog.parquet"])
def test_a_deleted_file_that_opening_does_not_read_is_named(copy, name):
    (copy / name).unlink()
    check_named(copy, copy / name)
    PackedDataset.open(copy)


def test_a_deleted_catalog_is_named_when_it_is_needed(copy):
    (copy / "catalog.parquet").unlink()
    with pytest.raises(UserError, match=f"{copy}/catalog.parquet: cannot be read"):
        PackedDataset.open(copy).stored(48)


def test_deleted_labels_are_not_silently_another_label_release(copy):
    """Without a name the default is meant, and the dataset knows which that is."""
    dataset = PackedDataset.open(copy)
    assert dataset.labels().name == "cxr-lt-2023"
    (copy / "labels" / "cxr-lt-2023.parquet").unlink()
    with pytest.raises(UserError, match="cxr-lt-2023"):
        PackedDataset.open(copy).labels()
    assert PackedDataset.open(copy).labels("chexpert").name == "chexpert"


def test_a_deleted_size_is_named_and_the_others_open(copy):
    """A node needs only the sizes it trains on, so opening does not refuse; asking for that size does."""
    shutil.rmtree(copy / "48")
    assert verify(copy).problems == () and verify(copy).absent == ("48",)
    assert verify(copy, sizes=["40", "48"]).problems == (f"{copy / '48'}: the folder is missing",)
    dataset = PackedDataset.open(copy)
    assert dataset.sizes == [40]
    with pytest.raises(UserError, match="size 48 is not stored here; stored are 40"):
        dataset.stored(48)


@pytest.mark.parametrize(
    "name",
    [
        *("48/000004.tar", "48/000000.tar.orig", "40/.000001.idx.4242.part", "40/more/000000.tar"),
        *("labels/notes.txt", "labels/.chexpert.parquet.4242.part"),
        *("notes.txt", ".dataset.json.4242.part", "64/000000.tar", "48.tar"),
    ],
)
def test_a_foreign_file_is_named(copy, name):
    path = copy / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    found = problems(copy)
    assert len(found) == 1, found
    assert re.match(f"({re.escape(str(path))}|{re.escape(str(path.parent))}): not in dataset.json", found[0])


def test_what_belongs_to_a_packer_is_not_foreign(copy):
    """A kill between publication and clean-up leaves it, and the next run removes it."""
    (copy / ".packing" / "records").mkdir(parents=True)
    (copy / ".packing" / "lock").write_bytes(b"")
    assert problems(copy) == ()


def test_labels_that_were_replaced_are_named_and_refused(copy):
    path = copy / "labels" / "chexpert.parquet"
    shutil.copy(copy / "labels" / "cxr-lt-2023.parquet", path)
    check_named(copy, path)
    with pytest.raises(UserError, match=f"{path}: its hash is not the one in dataset.json"):
        PackedDataset.open(copy).labels("chexpert")


def test_a_description_of_another_dataset_is_told_from_the_files(copy, whole, tmp_path):
    """Right in itself, but of a dataset with other options."""
    options = PackOptions(sizes=(Size(48), Size(40, raw=True)), shard_images=4, quality=50)
    other = tmp_path / "other"
    pack(open_release(whole.parent / "release"), other, options, limits=LIMITS)
    shutil.copy(other / "dataset.json", copy / "dataset.json")
    assert any(problem.startswith(f"{copy / 'catalog.parquet'}: its sha256 differs") for problem in problems(copy))


def test_the_command_prints_every_problem_and_says_how_many(copy, tmp_path):
    """Several kinds at once: none hides another."""
    damaged = [copy / name for name in ("40/000000.tar", "48/000001.tar", "48/000002.idx", "labels/chexpert.parquet")]
    cut(damaged[0], "in a header")
    damaged[1].unlink()
    damaged[2].unlink()
    damaged[3].write_bytes(damaged[3].read_bytes()[:-1])
    warm = Warm(tmp_path / "said")
    ended = warm.cxrdali("verify", copy, "--jobs", 1)
    assert warm.end() == "" and ended.code == 1
    lines = ended.said.splitlines()
    assert lines[-1].startswith(f"error: {copy}: 4 problems; ") and "Traceback" not in ended.said
    assert all(sum(line.startswith(f"{path}: ") for line in lines) == 1 for path in damaged)
