"""Packing from and into a bucket of a real S3 server, and from a web server: the same bytes, after kills too."""

import functools
import http.server
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import pytest

from shards.errors import UserError
from shards.packing import make_shard as making
from shards.packing.estimate import estimate
from shards.packing.options import PackLimits, PackOptions
from shards.packing.pack import pack
from shards.releases.open import open_release
from shards.releases.table import Columns, open_table
from shards.renditions.rendition import Size
from shards.storage.places import storage_of
from shards.storage.remote import place
from tests.faults import processes
from tests.releases import contents, write_release
from tests.s3 import SECRET, Link, lead

pytestmark = pytest.mark.usefixtures("time_limit")
OPTIONS = PackOptions(sizes=(Size(32), Size(48, raw=True)), shard_images=8)
ARGUMENTS = ("--sizes", "32,48:raw", "--shard-images", "8")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("source") / "release"
    write_release(root, subjects=9)
    return root


@pytest.fixture(scope="module")
def local(source, tmp_path_factory):
    """The bytes of the dataset that is packed from this disk to this disk."""
    out = tmp_path_factory.mktemp("local") / "pack"
    pack(open_release(source), out, OPTIONS)
    return contents(out)


@pytest.fixture
def release(s3, source):
    return s3.upload(source, "release")


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """The folder of temporary files of this process and those that it starts."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    tempfile.tempdir = None


def stored(s3, name: str) -> dict[str, bytes]:
    """Every object below a folder of the bucket."""
    store, folder = s3.filesystem(), f"{s3.bucket}/{name}/"
    return {path.removeprefix(folder): store.cat_file(path) for path in store.find(folder)}


def packed(release: str, out: str, options: PackOptions = OPTIONS, jobs: int = 1, **limits):
    found = open_release(place(release))
    return pack(found, place(out), options, jobs, limits=PackLimits(**limits))


def refused(action) -> str:
    with pytest.raises(UserError) as error:
        action()
    assert "\n" not in str(error.value) and SECRET not in str(error.value)
    return str(error.value)


def leftovers(folder) -> list[str]:
    return [path.name for path in folder.glob("cxrdali-*")]


def test_a_pack_from_bucket_to_bucket_is_the_local_one_in_every_object(s3, release, local, scratch):
    summary = packed(release, f"{s3.address}/pack")
    assert stored(s3, "pack") == local  # nothing of .packing is left, either
    assert summary.images_this_run == summary.packed == summary.planned
    assert leftovers(scratch) == []
    again = packed(release, f"{s3.address}/pack")
    assert again.already_finished and again.images_this_run == 0
    assert stored(s3, "pack") == local


def test_only_the_source_or_only_the_target_may_be_remote(s3, release, source, local, tmp_path):
    pack(open_release(place(release)), tmp_path / "pack", OPTIONS)
    assert contents(tmp_path / "pack") == local
    pack(open_release(source), place(f"{s3.address}/pack"), OPTIONS)
    assert stored(s3, "pack") == local


def test_the_source_is_not_listed_and_an_image_is_one_request(s3, release, source, monkeypatch, tmp_path):
    """Only the folder of the tables is looked into: listing 377,110 images would take minutes."""
    import s3fs

    asked, real = [], s3fs.S3FileSystem._call_s3  # noqa: SLF001  every request goes through it

    async def watched(self, method, *args, **more):
        asked.append((method, more.get("Key") or more.get("Prefix")))
        return await real(self, method, *args, **more)

    async def listed(self, path, *args, real=s3fs.S3FileSystem._lsdir, **more):  # noqa: SLF001
        asked.append(("list", path))
        return await real(self, path, *args, **more)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", watched)
    monkeypatch.setattr(s3fs.S3FileSystem, "_lsdir", listed)
    pack(open_release(place(release)), tmp_path / "pack", OPTIONS)
    assert {path for method, path in asked if method == "list"} == {f"{s3.bucket}/release"}
    images = sorted(f"release/{path.relative_to(source).as_posix()}" for path in source.rglob("*.jpg"))
    of_images = [(method, key) for method, key in asked if str(key).endswith(".jpg")]
    assert sorted(key for method, key in of_images if method == "get_object") == images
    assert len(of_images) <= len(images) + 1  # before packing one image may be looked at


class WebServer(http.server.ThreadingHTTPServer):
    """A folder as web pages; `refused` are the ends of names that it answers with 403."""

    def __init__(self, folder):
        self.refused = "nothing"
        super().__init__(("127.0.0.1", 0), functools.partial(Pages, directory=folder))
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server_port}"


class Pages(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.path.endswith(self.server.refused):
            self.send_error(403)
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def web(source):
    with WebServer(source) as server:
        yield server
        server.shutdown()


def test_a_web_server_is_read_and_not_written(web, local, tmp_path):
    pack(open_release(place(web.address)), tmp_path / "pack", OPTIONS)
    assert contents(tmp_path / "pack") == local
    said = refused(lambda: packed(web.address, "https://server/pack"))
    assert said == "https://server/pack: https:// is only read; give --out a folder, or one of s3://, gs://"


def test_a_web_server_that_refuses_an_image_ends_the_run(web, source, tmp_path):
    name = next(source.rglob("*.jpg")).relative_to(source).as_posix()
    found, web.refused = open_release(place(web.address)), name
    said = refused(lambda: pack(found, tmp_path / "pack", OPTIONS))
    assert said.startswith(f"{web.address}/{name}: ") and "403" in said and "the same command continues" in said
    web.refused = ".csv.gz"
    assert "403" in refused(lambda: open_release(place(web.address)))


def test_a_table_and_its_images_may_be_in_a_bucket(s3, source, release, tmp_path):
    images = open_release(source).images
    columns = Columns("image_id", "A", path="path", subject="subject_id", study="study_id")
    images.assign(A="1").to_csv(tmp_path / "mine.csv", index=False)
    images.assign(A="1").to_parquet(tmp_path / "mine.parquet", index=False)
    for name in ("mine.csv", "mine.parquet"):
        s3.filesystem().put_file(str(tmp_path / name), f"{s3.bucket}/{name}")
        near = open_table(tmp_path / name, columns, source)
        pack(near, tmp_path / "near" / name, OPTIONS)
        far = open_table(place(f"{s3.address}/{name}"), columns, place(release))
        pack(far, place(f"{s3.address}/packs/{name}"), OPTIONS)
        assert stored(s3, f"packs/{name}") == contents(tmp_path / "near" / name)


def test_label_releases_in_a_folder_below_are_found_as_on_a_disk(s3, source, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(source, moved, ignore=shutil.ignore_patterns("files", "cxr-lt-2023"))
    shutil.copytree(source / "cxr-lt-2023", moved / "1.1.0" / "cxr-lt-2023")
    near = [table.name for table in open_release(moved).labels]
    far = [table.name for table in open_release(place(s3.upload(moved, "moved"))).labels]
    assert near == far and "cxr-lt-2023" in far


def test_published_hashes_are_checked_in_a_bucket(s3, source, release, tmp_path):
    from shards.storage.files import sha256_file

    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    lines = [f"{sha256_file(path)}  {path.relative_to(source).as_posix()}\n" for path in files]
    wrong = next(place for place, path in enumerate(files) if path.suffix == ".jpg")
    lines[wrong] = f"{'0' * 64}{lines[wrong][64:]}"
    s3.filesystem().pipe_file(f"{s3.bucket}/release/SHA256SUMS.txt", "".join(lines).encode())
    options = PackOptions(OPTIONS.sizes, shard_images=8, check_hashes=True)
    summary = packed(release, f"{s3.address}/pack", options, max_reject_fraction=0.1)
    assert summary.rejected == {"sha256 differs from SHA256SUMS.txt": 1}


def test_an_estimate_from_a_bucket_writes_nothing(s3, release, scratch):
    before = s3.filesystem().find(s3.bucket)
    assert estimate(open_release(place(release)), OPTIONS).images == len(open_release(place(release)).images)
    assert s3.filesystem().find(s3.bucket) == before and leftovers(scratch) == []


def test_an_absent_image_is_a_reject_and_is_read_when_it_has_come(s3, source, release, local):
    name = next(source.rglob("*.jpg")).relative_to(source).as_posix()
    store, key = s3.filesystem(), f"{s3.bucket}/release/{name}"
    data = store.cat_file(key)
    store.rm_file(key)
    said = refused(lambda: packed(release, f"{s3.address}/pack", max_reject_fraction=0))
    assert "1 of" in said and "1 absent" in said and f"{s3.address}/pack/.packing/rejects.csv" in said
    store.pipe_file(key, data)
    summary = packed(release, f"{s3.address}/pack")
    assert 0 < summary.images_this_run <= OPTIONS.shard_images  # its shard alone
    assert stored(s3, "pack") == local


def test_a_damaged_image_that_was_replaced_is_read_again(s3, source, release, local):
    name = next(source.rglob("*.jpg")).relative_to(source).as_posix()
    store, key = s3.filesystem(), f"{s3.bucket}/release/{name}"
    data = store.cat_file(key)
    store.pipe_file(key, data[: len(data) // 2])
    assert "damaged JPEG" in refused(lambda: packed(release, f"{s3.address}/pack", max_reject_fraction=0))
    store.pipe_file(key, data)
    assert packed(release, f"{s3.address}/pack").rejected == {}
    assert stored(s3, "pack") == local


def test_a_store_that_fails_ends_the_run_and_rejects_nothing(s3, release, local, monkeypatch, scratch):
    """After some images no byte comes any more: no image is at fault, and the same command continues."""
    import s3fs

    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # the libraries' own attempts would go on for a minute or two
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    with Link(s3.host, s3.port) as link:
        lead(monkeypatch, link.environment())
        found = open_release(place(release))
        link.dead_after = link.bytes + 60_000
        said = refused(lambda: pack(found, place(f"{s3.address}/pack"), OPTIONS))
        assert said.startswith(f"{s3.address}/") and "the same command continues" in said
    lead(monkeypatch, s3.environment)
    records = [json.loads(data) for name, data in stored(s3, "pack").items() if "/records/" in name]
    assert records and all(record["rejects"] == [] for record in records)
    assert "dataset.json" not in stored(s3, "pack") and leftovers(scratch) == []
    packed(release, f"{s3.address}/pack")
    assert stored(s3, "pack") == local


def test_a_connection_cut_within_an_image_is_tried_again(s3, release, local, monkeypatch):
    with Link(s3.host, s3.port) as link:
        lead(monkeypatch, link.environment())
        found = open_release(place(release))
        link.after, link.cut = 900, 1  # connections are kept: the next one is cut, in the body of its first answer
        lead(monkeypatch, link.environment())
        assert pack(found, place(f"{s3.address}/pack"), OPTIONS).rejected == {}
        assert link.cut == 0
    lead(monkeypatch, s3.environment)
    assert stored(s3, "pack") == local


def test_denied_access_and_a_missing_bucket_name_the_way_out(s3, source, release):
    with s3.checking_credentials():
        assert "access denied; check the credentials" in refused(lambda: open_release(place(release)))
        said = refused(lambda: pack(open_release(source), place(f"{s3.address}/pack"), OPTIONS))
        assert "access denied" in said and "AWS_PROFILE" in said
    said = refused(lambda: pack(open_release(source), place("s3://no-such-bucket/pack"), OPTIONS))
    assert "check the bucket" in said
    assert "no such folder" in refused(lambda: open_release(place("s3://no-such-bucket/release")))


def test_nobody_there_is_said(s3, monkeypatch):
    lead(monkeypatch, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"})
    assert "check the connection" in refused(lambda: open_release(place("s3://bucket/release")))


def test_other_options_and_strangers_are_refused(s3, source, release):
    packed(release, f"{s3.address}/pack")
    other = PackOptions(OPTIONS.sizes, quality=90, shard_images=8)
    assert "another option 'quality'" in refused(lambda: packed(release, f"{s3.address}/pack", other))
    assert "holds" in refused(lambda: pack(open_release(source), place(s3.address), OPTIONS))
    assert "lies in the release" in refused(lambda: packed(release, f"{release}/pack"))


def test_a_shard_that_is_missing_in_a_finished_dataset_is_named(s3, release):
    packed(release, f"{s3.address}/pack")
    s3.filesystem().rm_file(f"{s3.bucket}/pack/32/000001.tar")
    said = refused(lambda: packed(release, f"{s3.address}/pack"))
    assert f"{s3.address}/pack/32/000001.tar: is missing" in said


def test_a_finished_dataset_in_a_bucket_is_not_changed(s3, source, release, local):
    from shards.packing.change import drop_sizes

    packed(release, f"{s3.address}/pack")
    more = PackOptions((Size(40),), shard_images=8)
    said = refused(lambda: packed(release, f"{s3.address}/pack", more))
    assert "size 40 is to be added, but a dataset in a bucket is not changed; copy it here" in said
    assert "copy it here" in refused(lambda: drop_sizes(place(f"{s3.address}/pack"), ["32"]))
    assert stored(s3, "pack") == local
    first = next(source.rglob("*.jpg")).relative_to(source).as_posix()
    s3.filesystem().pipe_file(f"{s3.bucket}/release/{first}", b"")
    packed(release, f"{s3.address}/lacking", max_reject_fraction=1.0)
    assert packed(release, f"{s3.address}/lacking", max_reject_fraction=1.0).rejected == {"empty file": 1}
    s3.filesystem().pipe_file(f"{s3.bucket}/release/{first}", (source / first).read_bytes())
    said = refused(lambda: packed(release, f"{s3.address}/lacking", max_reject_fraction=1.0))
    assert "or may be read another time: 1, but a dataset in a bucket is not changed" in said


def test_a_rejected_link_is_no_reason_to_refuse_the_same_command_for_a_bucket(s3, source, tmp_path):
    root = shutil.copytree(source, tmp_path / "release")
    image = next(root.rglob("*.jpg"))
    image.rename(tmp_path / "elsewhere.jpg")
    image.symlink_to(tmp_path / "elsewhere.jpg")
    for _ in range(2):
        found = pack(open_release(root), place(f"{s3.address}/links"), OPTIONS, limits=PackLimits(1.0))
        assert found.rejected == {"outside the release, without --allow-links": 1}
    assert found.already_finished


def test_a_large_shard_goes_in_parts_and_tells_that_it_moves(s3, tmp_path, monkeypatch):
    from shards.storage import remote

    monkeypatch.setattr(remote, "UPLOAD_PART", 5 * 2**20)  # the least that S3 takes
    data = os.urandom(12 * 2**20)
    (tmp_path / "x.tar").write_bytes(data)
    moves = []
    remote.Bucket(place(f"{s3.address}/x.tar")).publish(tmp_path / "x.tar", lambda: moves.append(1))
    assert s3.filesystem().cat_file(f"{s3.bucket}/x.tar") == data and len(moves) == 3


def test_a_folder_for_temporary_files_that_others_planted_is_refused(s3, release, scratch, tmp_path):
    """Its name can be foreseen, and everybody may write beside it."""
    work = storage_of(place(f"{s3.address}/planted")).work_folder("")
    assert work.parent == scratch
    work.mkdir()
    work.chmod(0o777)
    words = f"{work}: belongs to another user, or others may write to it; set TMPDIR to a folder of yours"
    assert refused(lambda: packed(release, f"{s3.address}/planted")) == words
    work.rmdir()
    (tmp_path / "mine").mkdir(0o700)
    work.symlink_to(tmp_path / "mine")
    assert refused(lambda: packed(release, f"{s3.address}/planted")) == words
    assert not any((tmp_path / "mine").iterdir())


def test_a_full_disk_of_temporary_files_names_tmpdir(s3, release, scratch, monkeypatch):
    import errno

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(making, "ShardWriter", full)
    said = refused(lambda: packed(release, f"{s3.address}/pack"))
    assert "make room" in said and "TMPDIR" in said and str(scratch) in said
    assert leftovers(scratch) == []


def test_a_kill_at_any_moment_leaves_what_the_same_command_finishes(s3, release, local, tmp_path, scratch):
    """The process group is killed after some records; what it left on this machine goes with the next run."""
    out, log = f"{s3.address}/pack", tmp_path / "log.txt"
    killed = 0
    for records in (1, 3):
        with log.open("wb") as file:
            process = subprocess.Popen(
                processes.command("shard", "--source", release, "--out", out, *ARGUMENTS, "--jobs", "2"),
                cwd=processes.ROOT, env=processes.environment(), start_new_session=True,
                stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
        end = time.monotonic() + 60
        while process.poll() is None and sum("/records/" in name for name in s3.filesystem().find(s3.bucket)) < records:
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.01)
        killed += process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        assert f"{s3.bucket}/pack/dataset.json" not in s3.filesystem().find(s3.bucket), "it was done before the kill"
    assert killed == 2 and leftovers(scratch) != []
    summary = packed(release, out)
    assert 0 < summary.images_this_run < summary.planned
    assert stored(s3, "pack") == local and leftovers(scratch) == []


def on_two_machines(folder, *arguments) -> list[tuple[int, str]]:
    """Exit code and output of two packers at once that know nothing of each other's lock: they differ by TMPDIR."""
    running = []
    for number, own in enumerate(arguments):
        (folder / str(number)).mkdir()
        running.append(
            subprocess.Popen(
                processes.command("shard", *own, *ARGUMENTS, "--jobs", "1"),
                cwd=processes.ROOT,
                env={**processes.environment(), "TMPDIR": str(folder / str(number))},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    said = [process.communicate(timeout=60)[0] for process in running]
    return [(process.returncode, words) for process, words in zip(running, said, strict=True)]


def test_two_packers_make_the_same_bytes(s3, release, local, tmp_path):
    given = ("--source", release, "--out", f"{s3.address}/pack")
    ended = on_two_machines(tmp_path, given, given)
    assert any(code == 0 for code, _ in ended), ended
    assert packed(release, f"{s3.address}/pack").already_finished
    assert stored(s3, "pack") == local


def test_parts_on_two_machines_then_a_plain_run_publish_the_local_dataset(s3, release, local, tmp_path):
    out = f"{s3.address}/pack"
    given = ("--source", release, "--out", out, "--part")
    ended = on_two_machines(tmp_path, (*given, "1/2"), (*given, "2/2"))
    assert [code for code, _ in ended] == [0, 0], ended
    assert "dataset.json" not in stored(s3, "pack")
    summary = packed(release, out)
    assert (summary.images_this_run, summary.packed) == (0, summary.planned)
    assert stored(s3, "pack") == local


def test_the_command_line_packs_from_bucket_to_bucket_and_says_no_secret(s3, release, local):
    result = subprocess.run(
        processes.command("shard", "--source", release, "--out", f"{s3.address}/pack", *ARGUMENTS, "--jobs", "2"),
        cwd=processes.ROOT, env=processes.environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert stored(s3, "pack") == local
    everything = result.stdout + result.stderr + repr(stored(s3, "pack"))
    assert SECRET not in everything and s3.environment["AWS_ACCESS_KEY_ID"] not in everything


def test_verify_and_label_send_to_a_copy(s3, source, release):
    from shards.packing.attach import attach
    from shards.packing.verify import verify

    out = place(f"{s3.address}/pack")
    packed(release, str(out))
    assert "copy the dataset here" in refused(lambda: verify(out))
    assert "copy it here, attach them" in refused(lambda: attach(out, [source / "cxr-lt-2023"]))
