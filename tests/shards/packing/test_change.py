"""A finished dataset that takes in what was rejected, gains sizes, gets lost ones again, and drops others."""

import errno
import json
import logging
import os
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest

from shards import __version__
from shards.dataset.description import dataset_identity, seal
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing import change
from shards.packing.attach import attach, detach
from shards.packing.change import drop_sizes
from shards.packing.engine import Local
from shards.packing.job import PackJob
from shards.packing.options import PackLimits, PackOptions, Part
from shards.packing.pack import pack, pack_job
from shards.packing.verify import verify
from shards.releases.open import open_release
from shards.releases.table import Columns, open_table
from shards.renditions.rendition import Size
from shards.storage.disk import Disk
from shards.storage.files import json_bytes, sha256_bytes, sha256_file
from tests.releases import contents, jpeg, smooth_image, write_release, write_table

SIZES = (Size(64), Size(40, raw=True))
ID = ("id", "content", "ever", "checksum")
ANY = PackLimits(max_reject_fraction=1.0)


def packed(root, out, sizes=SIZES, limits=ANY, jobs=1):
    return pack(open_release(root), out, PackOptions(sizes=sizes, shard_images=4), jobs, limits)


def refused(action, *arguments, **options):
    with pytest.raises(UserError) as error:
        action(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """release/ of 15 images, the first two large enough to be decoded at a reduced scale; of it pack/ at 64 and 40 raw,
    more/ at 32 too, and large/ at 600 too. Read-only by agreement."""
    folder = tmp_path_factory.mktemp("whole")
    write_release(folder / "release", subjects=4)
    rng = np.random.default_rng(1)
    for path in paths_of(folder / "release")[:2]:
        noise = rng.normal(0, 12, (1400, 1300))
        path.write_bytes(jpeg(np.clip(smooth_image(rng, 1400, 1300) + noise, 0, 255).astype(np.uint8)))
    packed(folder / "release", folder / "pack")
    packed(folder / "release", folder / "more", (*SIZES, Size(32)))
    packed(folder / "release", folder / "large", (*SIZES, Size(600)))
    return folder


def paths_of(root):
    """The images' files in the order of the catalog's rows."""
    release = open_release(root)
    from shards.packing.plan import plan

    return [root / path for path in plan(release.images, 4, 0).rows()["path"]]


@pytest.fixture
def root(whole, tmp_path):
    """A copy of the release, to be changed; times of files as there."""
    return shutil.copytree(whole / "release", tmp_path / "release")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "pack"


def as_packed_before(out):
    """A dataset as versions wrote it that knew neither fingerprints nor hashes of pixels."""
    info = json.loads((out / "dataset.json").read_bytes())
    del info["hashed"]
    for size in info["sizes"].values():
        del size["decoded_for"]
    pd.read_parquet(out / "catalog.parquet").drop(columns="pixels").to_parquet(out / "catalog.parquet", index=False)
    rejects = pd.read_csv(out / "rejects.csv", dtype=str).drop(columns="fingerprint")
    rejects.to_csv(out / "rejects.csv", index=False)
    info["catalog_sha256"], info["rejects_sha256"] = (
        sha256_file(out / name) for name in ("catalog.parquet", "rejects.csv")
    )
    info["id"] = dataset_identity(info)
    (out / "dataset.json").write_bytes(json_bytes(seal(info)))


def times(out):
    return {path.relative_to(out).as_posix(): path.stat().st_mtime_ns for path in out.glob("*/*.tar")}


# ---------------------------------------------------------------- rejected images that can be read now


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_download_that_is_completed_later_ends_in_the_bytes_of_one_packing(whole, root, out, jobs):
    files = paths_of(root)
    asides = [file.rename(file.with_suffix(".later")) for file in (files[0], files[1], files[6])]
    assert packed(root, out).rejected == {"absent": 3}
    before, catalog = times(out), PackedDataset.open(out).catalog
    for aside in asides:
        aside.rename(aside.with_suffix(".jpg"))
    summary = packed(root, out, jobs=jobs, limits=PackLimits())
    assert (summary.packed, summary.rejected, summary.already_finished) == (15, {}, False)
    again = set(pd.read_parquet(whole / "pack" / "catalog.parquet")["shard"].iloc[[0, 1, 6]])
    assert summary.images_this_run == int(
        pd.read_parquet(whole / "pack" / "catalog.parquet")["shard"].isin(again).sum()
    )
    assert contents(out) == contents(whole / "pack")
    kept = {name: time for name, time in before.items() if int(name[-10:-4]) not in again}
    assert kept and kept.items() <= times(out).items()
    assert len(catalog) == 15 and packed(root, out).already_finished


def test_a_release_of_which_nothing_was_there_is_completed(whole, root, out):
    (root / "files").rename(root / "later")
    assert packed(root, out).packed == 0
    (root / "later").rename(root / "files")
    packed(root, out)
    assert contents(out) == contents(whole / "pack")


def test_a_file_that_the_disk_could_not_read_is_read_again_though_it_has_not_changed(whole, root, out, monkeypatch):
    broken, real = paths_of(root)[0], Disk.read_into

    def read_into(disk, *arguments, **options):
        if disk.path == broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(disk, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Disk, "read_into", read_into)
        assert packed(root, out).rejected == {"unreadable": 1}
    assert packed(root, out).rejected == {} and contents(out) == contents(whole / "pack")


def test_a_rejected_file_that_is_as_bad_as_before_costs_no_shard(root, out):
    files = paths_of(root)
    files[2].write_bytes(files[2].read_bytes()[:-300])
    files[5].unlink()
    packed(root, out)
    before, known = times(out), PackedDataset.open(out).id
    assert packed(root, out).already_finished
    os.utime(files[2], ns=(1, 1))  # copied without its time
    files[5].write_bytes(b"")
    summary = packed(root, out)
    assert not summary.already_finished and times(out) == before and PackedDataset.open(out).id == known
    assert summary.rejected == {"damaged JPEG": 1, "empty file": 1}
    one_go = out.with_name("one go")
    packed(root, one_go)
    assert contents(out) == contents(one_go) and packed(root, out).already_finished


def test_the_limit_of_this_call_counts(whole, root, out):
    files = paths_of(root)
    whole_bytes = files[3].read_bytes()
    files[3].unlink()
    files[9].write_bytes(b"")
    packed(root, out)
    before = contents(out)
    said = refused(packed, root, out, limits=PackLimits(0.1))
    assert (
        "2 of 15 images (13.33%) were rejected, more than --max-reject-fraction 0.1 allows: 1 absent, 1 empty" in said
    )
    assert str(out / "rejects.csv") in said and contents(out) == before
    files[3].write_bytes(whole_bytes)
    said = refused(packed, root, out, limits=PackLimits(0.05))
    assert "1 of 15 images (6.67%) were rejected" in said and f"listed in {out}/.changing/rejects.csv" in said
    assert PackedDataset.open(out).packed.sum() == 13 and verify(out).problems == ()
    summary = packed(root, out, limits=PackLimits(0.1))
    assert (summary.images_this_run, summary.packed) == (0, 14)  # the shard was made by the call before
    assert verify(out, deep=True).problems == () and not (out / ".changing").exists()


def test_a_packed_image_that_is_gone_is_missed_only_where_its_shard_is_made_again(root, out):
    files = paths_of(root)
    absent, data = files[0], files[0].read_bytes()
    absent.unlink()
    packed(root, out)
    shard = PackedDataset.open(out).catalog["shard"].fillna(-1)
    first = shard[shard >= 0].min()
    beside, far = (files[int(np.flatnonzero(where)[0])] for where in (shard == first, shard > first))
    far.unlink()
    assert packed(root, out).already_finished
    absent.write_bytes(data)
    beside.unlink()
    before = contents(out)
    said = refused(packed, root, out)
    assert said.startswith(f"{beside}: cannot be read now (absent), but is packed in {out}; put back what was packed")
    assert {name: data for name, data in contents(out).items() if not name.startswith(".changing")} == before


def test_a_dataset_from_before_looks_at_its_rejects_once(whole, root, out):
    files = paths_of(root)
    gone, damaged, data = files[0], files[7], files[7].read_bytes()
    aside = gone.rename(gone.with_suffix(".later"))
    damaged.write_bytes(data[:-300])
    packed(root, out)
    as_packed_before(out)
    before = times(out)
    assert packed(root, out).rejected == {"absent": 1, "damaged JPEG": 1} and times(out) == before
    assert packed(root, out).already_finished  # now it knows the damaged file
    as_if = PackedDataset.open(out).info
    assert "hashed" not in as_if
    aside.rename(gone)
    damaged.write_bytes(data)
    assert packed(root, out).packed == 15
    assert {name: data for name, data in contents(out).items() if name[0].isdigit()} == {
        name: data for name, data in contents(whole / "pack").items() if name[0].isdigit()
    }
    assert verify(out, deep=True).problems == ()


# ---------------------------------------------------------------- sizes


def but_for_id(folder):
    """A dataset that got a size keeps the id that it had; one packed at once has that of all its sizes."""
    found = contents(folder)
    info = {key: value for key, value in json.loads(found["dataset.json"]).items() if key not in ID}
    return {**found, "dataset.json": info}


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_smaller_size_is_added_and_all_is_as_if_packed_at_once(whole, out, jobs, caplog):
    shutil.copytree(whole / "pack", out)
    before = times(out)
    with caplog.at_level(logging.INFO, "shards"):
        summary = packed(whole / "release", out, (Size(32),), jobs=jobs)
    assert summary.images_this_run == 15 and before.items() <= times(out).items()
    assert but_for_id(out) == but_for_id(whole / "more")
    assert f"{out}: sizes that are not asked for stay as they are: 40, 64" in caplog.messages
    assert packed(whole / "release", out, (Size(32), *SIZES)).already_finished


def test_a_larger_size_is_added_with_its_own_bytes_and_leaves_the_others(whole, out):
    shutil.copytree(whole / "pack", out)
    packed(whole / "release", out, (*SIZES, Size(600)))
    found, large, small = contents(out), contents(whole / "large"), contents(whole / "pack")
    assert {n: d for n, d in found.items() if n.startswith("600/")} == {
        n: d for n, d in large.items() if n.startswith("600/")
    }
    assert {n: d for n, d in found.items() if n[:3] in ("64/", "40/")} == {
        n: d for n, d in small.items() if n[:3] in ("64/", "40/")
    }
    assert any(found[n] != large[n] for n in found if n.startswith("64/"))  # decoded for another size
    info = PackedDataset.open(out).info
    assert {name: size["decoded_for"] for name, size in info["sizes"].items()} == {"64": 64, "40": 64, "600": 600}
    assert info["options"]["sizes"] == ["64", "40:raw", "600"] and verify(out, deep=True).problems == ()
    for name in ("64", "600"):  # each is made again as it was made
        shutil.rmtree(out / name)
    packed(whole / "release", out, (Size(600), Size(64)))
    assert contents(out) == found


@pytest.mark.parametrize("lost", ["folder", "shard", "cut", "index"])
@pytest.mark.parametrize("before", [False, True], ids=["", "packed before"])
def test_what_was_lost_of_a_size_is_made_again(whole, out, lost, before):
    shutil.copytree(whole / "large", out)
    if before:
        as_packed_before(out)
    bytes_before = contents(out)
    tar = out / "64" / "000001.tar"
    if lost == "folder":
        shutil.rmtree(out / "64")
    elif lost == "cut":
        tar.write_bytes(tar.read_bytes()[:-512])
    else:
        (tar if lost == "shard" else tar.with_suffix(".idx")).unlink()
    summary = packed(whole / "release", out, (*SIZES, Size(600)))
    assert contents(out) == bytes_before and (summary.images_this_run == 15) == (lost == "folder")


def test_the_sizes_of_completed_downloads_and_added_sizes_go_together(whole, root, out):
    aside = paths_of(root)[4].rename(root / "later")
    packed(root, out)
    aside.rename(paths_of(root)[4])
    summary = packed(root, out, (Size(64), Size(32)))
    assert (summary.packed, summary.images_this_run) == (15, 15)
    assert but_for_id(out) == but_for_id(whole / "more")


def test_a_rejected_image_stays_rejected_in_an_added_size(root, out):
    paths_of(root)[4].write_bytes(b"")
    packed(root, out)
    packed(root, out, (Size(32),))
    one_go = out.with_name("one go")
    packed(root, one_go, (*SIZES, Size(32)))
    assert but_for_id(out) == but_for_id(one_go)


@pytest.mark.parametrize("before", [False, True], ids=["", "packed before"])
@pytest.mark.parametrize("way", ["add", "restore"])
def test_an_image_that_has_changed_or_gone_is_named(whole, root, out, way, before):
    shutil.copytree(whole / "pack", out)
    if before:
        as_packed_before(out)
    sizes = (*SIZES, Size(32) if way == "add" else Size(64))[-2:]
    if way == "restore":
        shutil.rmtree(out / "64")
    there = contents(out)
    path = paths_of(root)[11]
    data, gray = path.read_bytes(), cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
    path.write_bytes(jpeg(gray[: -gray.shape[0] // 2] if before else 255 - gray))
    end = f"in {out}; put back what was packed and give the same command again, or pack to another --out folder"
    said = refused(packed, root, out, sizes)
    assert said == f"{path}: has other pixels now than those that cxrdali {__version__} packed {end}"
    path.unlink()
    assert refused(packed, root, out, sizes) == f"{path}: cannot be read now (absent), but is packed {end}"
    assert {n: d for n, d in contents(out).items() if not n.startswith(".changing")} == there
    path.write_bytes(data)
    packed(root, out, sizes)
    assert verify(out, deep=True).problems == ()
    assert {n for n in contents(out) if n.startswith(".")} == set()


def test_a_size_has_one_encoding_and_one_process_changes_a_dataset(whole, out):
    shutil.copytree(whole / "pack", out)
    said = refused(packed, whole / "release", out, (Size(40),))
    assert "size 40 is stored as raw, not as jpeg; give --sizes 40:raw, or drop it first (cxrdali shard --out" in said
    options = PackOptions(sizes=(Size(32),), shard_images=4)
    job = PackJob(open_release(whole / "release"), out, options, ANY, Part(1, 2))
    assert "size 32 is to be added; a finished dataset is changed by one process" in refused(pack_job, job, Local())
    assert contents(out) == contents(whole / "pack")


def test_shards_are_not_packed_again_in_half_of_the_sizes(root, out):
    aside = paths_of(root)[4].rename(root / "later")
    packed(root, out)
    aside.rename(paths_of(root)[4])
    shutil.rmtree(out / "40")
    said = refused(packed, root, out, (Size(64),))
    assert "1 shard is to be packed again in every size, but 40 is not whole here" in said


# ---------------------------------------------------------------- sizes that go


def test_a_dropped_size_is_gone_and_no_fault_and_comes_back_as_it_was(whole, out):
    shutil.copytree(whole / "large", out)
    (out / "600" / "mine.txt").write_text("mine")
    drop_sizes(out, ["600"])
    assert [path.name for path in (out / "600").iterdir()] == ["mine.txt"]
    shutil.rmtree(out / "600")
    report = verify(out, deep=True)
    assert (report.problems, report.absent) == ((), ()) and PackedDataset.open(out).sizes == [40, 64]
    assert packed(whole / "release", out).already_finished  # although 64 was decoded for 600
    shutil.rmtree(out / "64")
    packed(whole / "release", out, (*SIZES, Size(600)))
    assert {n: d for n, d in contents(out).items() if n[0].isdigit()} == {
        n: d for n, d in contents(whole / "large").items() if n[0].isdigit()
    }


def test_a_dataset_from_before_remembers_what_it_was_decoded_for(whole, out):
    shutil.copytree(whole / "large", out)
    as_packed_before(out)
    drop_sizes(out, ["600", "40"])
    shutil.rmtree(out / "64")
    packed(whole / "release", out, (Size(64),))
    assert verify(out).problems == () and PackedDataset.open(out).info["sizes"]["64"]["decoded_for"] == 600


def test_what_is_not_to_be_dropped_is_refused(whole, out, tmp_path):
    shutil.copytree(whole / "pack", out)
    assert "no size '96' to drop; stored are 40, 64" in refused(drop_sizes, out, ["64", "96"])
    assert "64, 40 would be the last to go" in refused(drop_sizes, out, ["64", "40"])
    assert "no finished packed dataset" in refused(drop_sizes, tmp_path, ["64"])
    shutil.move(out / "64", tmp_path / "elsewhere")
    (out / "64").symlink_to(tmp_path / "elsewhere")
    assert f"{out / '64'}: is a link" in refused(drop_sizes, out, ["64"])
    assert contents(tmp_path / "elsewhere") != {} and verify(out).problems == ()
    packed(whole / "release", out, (Size(32),))  # a size may be on another disk, if it stays as it is
    assert contents(tmp_path / "elsewhere") and PackedDataset.open(out).sizes == [32, 40, 64]


def test_a_published_change_does_not_leave_the_dataset_by_a_link(whole, out, tmp_path):
    shutil.copytree(whole / "pack", out)
    shutil.copytree(out / "64", out / ".changing" / "64")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "000000.tar").write_text("mine")
    shutil.rmtree(out / "64")
    (out / "64").symlink_to(tmp_path / "mine")
    info = json.loads((out / "dataset.json").read_bytes())
    for hostile in ({"staged": ["64/000000.tar"]}, {"dropped": ["64/000000.tar"]}):
        (out / "dataset.json").write_bytes(json_bytes(seal({**info, **hostile})))
        assert "is a link, and nothing is written or removed where a link leads" in refused(
            packed, whole / "release", out
        )
    assert contents(tmp_path / "mine") == {"000000.tar": b"mine"}


@pytest.mark.parametrize("name", ["64", ".packing", "look"])
def test_a_change_takes_nothing_from_where_a_link_in_it_leads(whole, out, tmp_path, name):
    """As a folder of another dataset of the user's, whose shards would move here."""
    shutil.copytree(whole / "pack", out)
    mine = shutil.copytree(whole / "pack" / "64", tmp_path / "mine")
    (mine / "tmp").mkdir()
    before = contents(mine)
    (out / ".changing").mkdir()
    (out / ".changing" / name).symlink_to(mine)
    info = json.loads((out / "dataset.json").read_bytes())
    (out / "dataset.json").write_bytes(json_bytes(seal({**info, "staged": ["64/000000.tar", "64/000000.idx"]})))
    for action in (lambda: packed(whole / "release", out), lambda: drop_sizes(out, ["40"])):
        assert f".changing/{name}: is a link, and nothing is written or removed where a link leads" in refused(action)
    assert contents(mine) == before and (mine / "tmp").is_dir()


@pytest.mark.parametrize("name", ["dataset.json", "rejects.csv", ".changing/64/000000.tar"])
def test_packing_does_not_wait_for_a_pipe_in_a_finished_dataset(whole, out, time_limit, name):
    shutil.copytree(whole / "pack", out)
    info = json.loads((out / "dataset.json").read_bytes())
    (out / "dataset.json").write_bytes(json_bytes(seal({**info, "staged": ["64/000000.tar"]})))
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).unlink(missing_ok=True)
    os.mkfifo(out / name)
    if name.startswith(".changing"):
        packed(whole / "release", out)
        assert contents(out) == contents(whole / "pack")
        return
    with pytest.raises((UserError, OSError), match="no regular file"):
        packed(whole / "release", out)


@pytest.mark.parametrize(
    "line",
    [
        '0,x,y,absent,"' + "[" * 100_000 + '"',
        "0,x,y,absent,NaN",
        "9" * 5000 + ",x,y,absent,",
        "-1,x,y,absent,",
        "0,x,y," + "z" * 200_000 + ",",
        "0",
        '0,x,y,absent,"',
        "\udce9,x,y,absent,",
    ],
)
def test_rejects_of_another_kind_are_one_line(whole, out, line):
    shutil.copytree(whole / "pack", out)
    data = f"row,id,path,reason,fingerprint\n{line}\n".encode(errors="surrogateescape")
    (out / "rejects.csv").write_bytes(data)
    info = json.loads((out / "dataset.json").read_bytes())
    (out / "dataset.json").write_bytes(json_bytes(seal({**info, "rejects_sha256": sha256_bytes(data)})))
    assert "rejects.csv: not as packing writes it" in refused(packed, whole / "release", out)


@pytest.mark.parametrize("data", [b"[", b"[]", b"[" * 100_000, b"{}", b'{"options": [], "inputs": {}, "encoders": {}}'])
def test_an_unfinished_packing_of_another_kind_is_one_line(whole, out, data):
    (out / ".packing").mkdir(parents=True)
    (out / ".packing" / "options.json").write_bytes(data)
    assert "options.json: not as packing writes it" in refused(packed, whole / "release", out)


@pytest.mark.parametrize("name", ["../mine.tar", "64/000000.tar", "64/mine", "/etc/passwd", "labels/chexpert.parquet"])
def test_nothing_goes_that_is_no_shard_of_a_dropped_size(whole, out, name):
    shutil.copytree(whole / "pack", out)
    (out.parent / "mine.tar").write_text("mine")
    info = json.loads((out / "dataset.json").read_bytes())
    (out / "dataset.json").write_bytes(json_bytes(seal({**info, "dropped": [name], "staged": [name]})))
    packed(whole / "release", out)
    assert contents(out) == contents(whole / "pack") and (out.parent / "mine.tar").read_text() == "mine"


# ---------------------------------------------------------------- in the middle


def test_a_published_change_that_was_cut_short_is_read_where_it_lies_and_ended(whole, out, monkeypatch):
    shutil.copytree(whole / "pack", out)

    def broken(aside, final):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(change, "publish", broken)
        assert f"{out}: cannot be written (Input/output error)" in refused(packed, whole / "release", out, (Size(32),))
    dataset = PackedDataset.open(out)
    assert dataset.sizes == [32, 40, 64] and not list((out / "32").iterdir()) and verify(out, deep=True).problems == ()
    assert dataset.stored(32).paths[0].read_bytes() == (whole / "more" / "32" / "000000.tar").read_bytes()
    detach(out, "chexpert")  # other commands may come first
    attach(out, [whole / "release"])
    assert PackedDataset.open(out).sizes == [32, 40, 64] and verify(out).problems == ()
    assert packed(whole / "release", out, (Size(32), *SIZES)).already_finished
    assert but_for_id(out) == but_for_id(whole / "more")


# ---------------------------------------------------------------- other words


def test_labels_are_changed_by_label_and_not_by_packing(whole, root, out, tmp_path):
    shutil.copytree(whole / "pack", out)
    table = root / "cxr-lt-2023" / "train.csv"
    pd.read_csv(table, dtype=str).iloc[:-1].to_csv(table, index=False)
    said = refused(packed, root, out)
    assert "'cxr-lt-2023/train.csv'" in said and "--out" not in said
    assert (
        f"`cxrdali label {out} --labels DIR` attaches them (of the same name, first `cxrdali label {out} --remove"
        in said
    )
    shutil.rmtree(root / "cxr-lt-2023")
    assert "not given now; give its folder with --labels again" in refused(packed, root, out)
    write_table(tmp_path / "new" / "train_labeled.csv", "dicom_id,Edema", f"{paths_of(root)[0].stem},1")
    more = open_release(root, [tmp_path / "new"])
    said = refused(pack, more, out, PackOptions(sizes=SIZES, shard_images=4))
    assert "'cxr-lt-2024/train_labeled.csv': not given there, " in said or "'cxr-lt-2023/" in said


def of_table(folder, lines):
    table = write_table(folder / "mine.csv", "key,file,patient,Edema,Mass", *lines)
    return lambda findings="Edema": open_table(table, Columns("key", findings, path="file", subject="patient"), folder)


def test_a_table_of_images_and_labels_is_told_both(tmp_path):
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.png"), np.zeros((40, 40), np.uint8))
    opened = of_table(tmp_path / "in", ["1,a.png,p,1,0"])
    pack(opened(), tmp_path / "out", PackOptions(sizes=SIZES))
    for release in (opened("Mass"), of_table(tmp_path / "in", ["1,a.png,p,0,0"])()):
        said = refused(pack, release, tmp_path / "out", PackOptions(sizes=SIZES))
        assert f"findings and splits need no packing: `cxrdali label {tmp_path}/out --remove NAME`, then" in said


# ---------------------------------------------------------------- the same pixels, and patients that are none


def test_the_same_pixels_are_counted_over_patients_and_within_one(tmp_path, caplog):
    """Whatever the files' bytes are; black images say nothing of a patient."""
    (root := tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    pictures = [smooth_image(rng, 50, 45) for _ in range(6)]
    close, black = pictures[5].copy(), np.zeros((50, 45), np.uint8)
    close[20:24, 20:24] ^= 8
    shown = [*(pictures[number] for number in (0, 0, 1, 1, 2, 3, 4, 5)), black, black, close]
    for number, picture in enumerate(shown):
        cv2.imwrite(str(root / f"{number}.png"), picture, [cv2.IMWRITE_PNG_COMPRESSION, number % 9])
    assert (root / "0.png").read_bytes() != (root / "1.png").read_bytes()
    patients = ["a", "b", "c", "c", "d", "e", "f", "g", "h", "i", "k"]
    lines = [f"{number},{number}.png,{patient},1,0" for number, patient in enumerate(patients)]
    with caplog.at_level(logging.INFO, "shards"):
        summary = pack(of_table(root, lines)(), tmp_path / "out", PackOptions(sizes=SIZES))
    assert (summary.same_pixels, summary.same_pixels_of_patient) == (2, 2)
    counts = PackedDataset.open(tmp_path / "out").info["counts"]
    assert (counts["same_pixels"], counts["same_pixels_of_patient"]) == (2, 2)
    hashes = PackedDataset.open(tmp_path / "out").catalog.set_index("image_id")["pixels"]
    assert hashes["0"] == hashes["1"] and hashes["2"] == hashes["3"] and hashes["7"] != hashes["10"]
    assert hashes.nunique() == 8
    said = "one patient has 2 of 11 images (18.2 %); if that is not so, the column of patients is a wrong one"
    assert caplog.messages == [said]


def test_a_patient_of_a_twentieth_of_the_images_is_nothing_to_say(tmp_path, caplog):
    from shards.packing.job import checked_plan

    lines = [f"{number},{number}.png,p{number // 2},1,0" for number in range(40)]
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((40, 40), np.uint8))
    with caplog.at_level(logging.INFO, "shards"):
        checked_plan(of_table(tmp_path, lines)(), PackOptions(), PackLimits())
        assert caplog.messages == []
        checked_plan(of_table(tmp_path, [*lines[:-1], lines[-1].replace("p19", "p18")])(), PackOptions(), PackLimits())
    assert [message[:42] for message in caplog.messages] == ["one patient has 3 of 40 images (7.5 %); if"]


def test_sizes_come_and_go_and_the_id_stays_while_images_and_their_bytes_are_the_same(whole, out):
    shutil.copytree(whole / "pack", out)
    opened, another = PackedDataset.open(out), PackedDataset.open(out)
    shards = opened.arrow("shard")
    first = opened.id
    packed(whole / "release", out, (Size(32),))
    assert PackedDataset.open(out).id == first and verify(out).problems == ()
    # a training that began before goes on
    assert opened.arrow("shard").equals(shards) and [*opened.catalog.filter(like="offset_")][-1] == "offset_32"
    drop_sizes(out, ["64"])
    assert PackedDataset.open(out).id == first and verify(out).problems == ()
    packed(whole / "release", out, (Size(64),))  # decoded for the same: the same bytes
    assert PackedDataset.open(out).id == first
    drop_sizes(out, ["32"])
    packed(whole / "release", out, (Size(32, raw=True),))  # other bytes than were trained on
    assert PackedDataset.open(out).id != first and verify(out).problems == ()
    with pytest.raises(UserError, match="other images were packed while it was in use; begin again"):
        another.arrow("shard")
