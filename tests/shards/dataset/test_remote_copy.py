"""A packed dataset in a bucket: what is copied, what is not, and what goes wrong on the way."""

import functools
import http.server
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import s3fs

from shards.dataset import remote_copy as mirroring
from shards.dataset.cache import Cache, claim, part_of
from shards.dataset.description import dataset_identity, seal
from shards.dataset.mapped import MappedSize
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.storage.files import json_bytes, sha256_bytes
from shards.storage.remote import place
from tests.s3 import SECRET, Link, forget_connections, lead

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("time_limit")]
PROCESSES = multiprocessing.get_context("forkserver")


@pytest.fixture
def link(s3, monkeypatch):
    """A link to the bucket's server that this process takes."""
    with Link(s3.host, s3.port) as between:
        lead(monkeypatch, between.environment())
        yield between


def opened(address: str, folder: Path) -> PackedDataset:
    return PackedDataset.open(place(address), Cache(folder / "cache"))


def copy_size(address: str, folder: Path, pixels: int = 48) -> PackedDataset:
    """Have every shard of a size copied, one after the other."""
    dataset = opened(address, folder)
    stored = dataset.stored(pixels)
    for shard in stored.paths:
        stored.open(shard).close()
    return dataset


def refused(action) -> str:
    with pytest.raises(UserError) as error:
        action()
    assert "\n" not in str(error.value) and SECRET not in str(error.value)
    return str(error.value)


def names(folder: Path) -> set[str]:
    """Everything in the cache but its mark."""
    return {path.name for path in folder.rglob("*") if path.is_file() and path.name != ".source"}


# ---------------------------------------------------------------- what is copied


def test_a_dataset_in_a_bucket_is_the_one_that_was_put_there(address, dataset, tmp_path):
    remote = opened(address, tmp_path)
    assert (str(remote.root), remote.id, remote.sizes) == (address, dataset.id, dataset.sizes)
    assert remote.catalog.equals(dataset.catalog) and remote.label_names == dataset.label_names
    for name in dataset.label_names:
        ours, theirs = remote.labels(name), dataset.labels(name)
        assert ours.sha256 == theirs.sha256 and np.array_equal(ours.values, theirs.values)
    for pixels in dataset.sizes:
        ours, theirs = MappedSize(remote.stored(pixels)), MappedSize(dataset.stored(pixels))
        for row in range(0, len(dataset.catalog), 7):
            shard = int(ours.stored.shard[row])
            assert ours.is_mapped(shard) or ours.fetch(shard)
            assert ours[row].tobytes() == theirs[row].tobytes()


def test_only_what_is_needed_is_copied_and_only_once(address, link, dataset, tmp_path):
    remote = opened(address, tmp_path)
    assert names(remote.folder) == {"dataset.json"}
    remote.labels()
    stored = remote.stored(48)
    stored.open(3).close()
    assert names(remote.folder) == {"dataset.json", "catalog.parquet", "cxr-lt-2023.parquet", "000003.tar"}
    assert (remote.folder / "48/000003.tar").read_bytes() == (dataset.root / "48/000003.tar").read_bytes()
    before, description = link.bytes, len((dataset.root / "dataset.json").read_bytes())
    again = opened(address, tmp_path)
    again.labels()
    again.stored(48).open(3).close()
    assert description < link.bytes - before < description + 10_000  # what the store says beside it included
    said = again.mirror.outlook(48, again.info["sizes"]["48"]["shards"])
    to_come = "0.000359 GB are copied when they are needed"
    assert said == f"{address}: 1 of 8 shards of 48 px are in {again.folder}; {to_come}"


def test_a_size_that_was_not_put_into_the_bucket_is_not_offered(s3, pack_folder, tmp_path):
    part = shutil.copytree(pack_folder, tmp_path / "part", ignore=shutil.ignore_patterns("48", "64"))
    remote = opened(s3.upload(part, "part"), tmp_path)
    assert remote.sizes == [56]
    assert "size 48 is not stored here; stored are 56" in refused(lambda: remote.stored(48))


def test_labels_that_were_attached_since_are_there_at_the_next_opening(own_address, s3, pack_folder, tmp_path):
    before = opened(own_address, tmp_path)
    before.labels("chexpert")
    copy = shutil.copytree(pack_folder, tmp_path / "copy")
    table = pd.read_parquet(copy / "labels/chexpert.parquet")
    table.loc[0, "Edema"] = 1 - table["Edema"].fillna(0)[0]
    table.to_parquet(copy / "labels/chexpert.parquet")
    info = json.loads((copy / "dataset.json").read_bytes())
    info["labels"]["chexpert"] = sha256_bytes((copy / "labels/chexpert.parquet").read_bytes())
    (copy / "dataset.json").write_bytes(json_bytes(seal(info)))
    s3.upload(copy, "pack")
    after = opened(own_address, tmp_path)
    assert after.folder == before.folder
    assert after.labels("chexpert").values[0].tolist() != before.labels("cxr-lt-2023").values[0].tolist()
    assert after.labels("chexpert").sha256 == info["labels"]["chexpert"]


def test_another_dataset_at_the_same_address_has_copies_of_its_own(own_address, s3, dataset, tmp_path):
    before = copy_size(own_address, tmp_path)
    other = {**dataset.info, "sizes": {"56": dataset.info["sizes"]["56"]}}
    other["id"] = dataset_identity(other)
    s3.filesystem().pipe_file(f"{s3.bucket}/pack/dataset.json", json_bytes(seal(other)))
    after = opened(own_address, tmp_path)
    assert after.folder != before.folder and after.sizes == [56]
    assert (before.folder / "48/000000.tar").exists()


def test_a_web_server_will_do(own_address, s3, dataset, tmp_path):
    url = f"{s3.url}/pack"
    assert "the store does not answer as it should (ClientResponseError: 403" in refused(lambda: opened(url, tmp_path))
    s3.filesystem().chmod(f"{s3.bucket}/pack", "public-read", recursive=True)
    remote = copy_size(url, tmp_path)
    assert remote.sizes == dataset.sizes and remote.labels().sha256 == dataset.labels().sha256
    for path in dataset.stored(48).paths.values():
        assert (remote.folder / "48" / path.name).read_bytes() == path.read_bytes()


def test_a_whole_copy_is_a_packed_dataset(address, tmp_path):
    """What still works without a connection."""
    remote = copy_size(address, tmp_path)
    remote.labels()
    local = PackedDataset.open(remote.folder)
    assert local.id == remote.id and local.sizes == [48] and local.labels().sha256 == remote.labels().sha256


# ---------------------------------------------------------------- a bucket that is not as it was


@pytest.mark.parametrize("change", ["a bit", "shorter", "missing"])
def test_a_shard_that_changed_is_named_and_has_no_copy(own_address, s3, dataset, tmp_path, change):
    files, path = s3.filesystem(), f"{s3.bucket}/pack/48/000002.tar"
    data = bytearray(files.cat_file(path))
    data[1000] ^= 1
    files.rm_file(path)
    if change != "missing":
        files.pipe_file(path, bytes(data[:-512] if change == "shorter" else data))
    message = refused(lambda: copy_size(own_address, tmp_path))
    words = {
        "a bit": "its sha256 is not the one in dataset.json",
        "shorter": f"ends at byte {len(data) - 512}, dataset.json says {len(data)}",
        "missing": "not there; check the bucket and the name",
    }
    assert message.startswith(f"{own_address}/48/000002.tar: {words[change]}")
    assert {"000000.tar", "000001.tar"} == {name for name in names(tmp_path / "cache") if name.endswith(".tar")}
    files.put_file(str(dataset.root / "48/000002.tar"), path)
    copied = copy_size(own_address, tmp_path).folder / "48/000002.tar"
    assert copied.read_bytes() == (dataset.root / "48/000002.tar").read_bytes()


def test_a_shard_that_ends_where_a_piece_begins_is_named(own_address, s3, tmp_path, monkeypatch):
    """The store then refuses the next piece, which libraries word as a bad connection."""
    monkeypatch.setattr(mirroring, "PIECE", 2**13)
    files, path = s3.filesystem(), f"{s3.bucket}/pack/48/000002.tar"
    data = files.cat_file(path)
    files.pipe_file(path, data[: 2**14])
    message = refused(lambda: copy_size(own_address, tmp_path))
    assert message.startswith(
        f"{own_address}/48/000002.tar: ends at byte {2**14}, dataset.json says {len(data)}; copy it there again"
    )


@pytest.mark.parametrize("name", ["catalog.parquet", "labels/cxr-lt-2023.parquet"])
def test_a_table_that_changed_is_named(own_address, s3, tmp_path, name):
    s3.filesystem().pipe_file(f"{s3.bucket}/pack/{name}", b"PAR1 another PAR1")
    remote = opened(own_address, tmp_path)
    message = refused(lambda: remote.catalog if name == "catalog.parquet" else remote.labels())
    assert message.startswith(f"{own_address}/{name}: its sha256 is not the one in dataset.json")
    assert names(remote.folder) - {".catalog.parquet.0.part", ".cxr-lt-2023.parquet.0.part"} == {"dataset.json"}


def test_a_copy_that_was_damaged_is_made_again_or_named(address, tmp_path):
    remote = copy_size(address, tmp_path)
    (remote.folder / "catalog.parquet").write_bytes(b"PAR1 damaged PAR1")
    assert len(opened(address, tmp_path).catalog) == 120
    path = remote.folder / "48/000003.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:-512])
    message = refused(lambda: copy_size(address, tmp_path))
    assert message == f"{path}: has {len(whole) - 512} bytes, not {len(whole)}; delete it, and it is copied again"
    path.unlink()
    copy_size(address, tmp_path)


def test_a_description_whose_id_leads_elsewhere_is_refused(own_address, s3, dataset, tmp_path):
    s3.filesystem().pipe_file(f"{s3.bucket}/pack/dataset.json", json_bytes(seal({**dataset.info, "id": "../../home"})))
    assert "its id is not the hash of its catalog and shards" in refused(lambda: opened(own_address, tmp_path))
    assert not (tmp_path / "cache").exists()


# ---------------------------------------------------------------- no way to the bucket


def test_a_bucket_that_is_missing_denied_or_out_of_reach(address, s3, tmp_path, monkeypatch):
    message = refused(lambda: opened(f"{s3.address}-other/pack", tmp_path))
    assert message == f"{s3.address}-other/pack/dataset.json: not there; check the bucket and the name"
    with s3.checking_credentials():
        assert "/dataset.json: access denied; check the credentials (AWS_" in refused(lambda: opened(address, tmp_path))
    remote = opened(address, tmp_path)
    with Link(s3.host, s3.port) as closed:
        pass
    lead(monkeypatch, closed.environment() | {"AWS_MAX_ATTEMPTS": "1"})
    message = refused(lambda: opened(address, tmp_path))
    assert "the store does not answer as it should (EndpointConnectionError" in message
    assert message.endswith(f"what was copied before is in {remote.folder}")


def test_access_that_ends_in_between_is_named_with_the_shard(address, s3, tmp_path):
    remote = opened(address, tmp_path)
    stored = remote.stored(48)
    with s3.checking_credentials():
        forget_connections()
        assert f"{address}/48/000000.tar: access denied" in refused(lambda: stored.open(0))


def test_a_connection_that_is_cut_is_tried_again_by_the_library(address, link, dataset, tmp_path):
    remote = opened(address, tmp_path)
    stored = remote.stored(48)
    forget_connections()
    link.cut, link.after = 2, 20_000
    stored.open(0).close()
    assert link.cut == 0
    assert stored.paths[0].read_bytes() == (dataset.root / "48/000000.tar").read_bytes()


def test_a_connection_that_is_always_cut_is_an_error_and_the_copy_goes_on_later(
    address, link, dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(mirroring, "PIECE", 2**13)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    stored = opened(address, tmp_path).stored(48)
    link.dead_after = link.bytes + 30_000
    message = refused(lambda: stored.open(0))
    assert message.startswith(f"{address}/48/000000.tar: the store does not answer as it should (")
    (part,) = stored.paths[0].parent.iterdir()
    begun = part.stat().st_size
    assert begun >= 2**13 and begun % 2**13 == 0
    link.dead_after, before = None, link.bytes
    stored.open(0).close()
    whole = (dataset.root / "48/000000.tar").read_bytes()
    assert stored.paths[0].read_bytes() == whole and list(stored.paths[0].parent.iterdir()) == [stored.paths[0]]
    assert link.bytes - before < len(whole) - begun + 10_000


def test_a_beginning_that_is_wrong_is_copied_again(address, dataset, tmp_path):
    stored = opened(address, tmp_path).stored(48)
    stored.paths[0].parent.mkdir()
    size = stored.described[0]["bytes"]
    stored.paths[0].with_name(f".000000.tar.{size}.part").write_bytes(bytes(8192))
    stored.open(0).close()
    assert stored.paths[0].read_bytes() == (dataset.root / "48/000000.tar").read_bytes()


def test_a_server_without_ranges_is_named(pack_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(mirroring, "PIECE", 2**13)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=pack_folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        message = refused(lambda: copy_size(f"http://127.0.0.1:{server.server_port}", tmp_path))
        server.shutdown()
    assert "/48/000000.tar: its server does not give parts of a file (HTTP ranges); use another server" in message


# ---------------------------------------------------------------- several processes


def child(function, *arguments):
    """A process that calls a function; it is led to the store as this one is now."""
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    process = PROCESSES.Process(target=in_environment, args=(environment, function, *arguments), daemon=True)
    process.start()
    return process


def in_environment(environment: dict, function, *arguments) -> None:
    os.environ.update(environment)
    function(*arguments)


def ended(process) -> int:
    process.join(60)
    process.kill()  # no effect on one that has ended
    assert process.exitcode is not None, "nothing happened for a minute"
    return process.exitcode


def test_two_processes_share_a_cache_and_copy_each_shard_once(address, s3, dataset, tmp_path, monkeypatch):
    total = sum(path.stat().st_size for path in dataset.stored(48).paths.values())
    opened(address, tmp_path).catalog  # noqa: B018
    with Link(s3.host, s3.port, rate=total / 1.5) as slow:  # long enough for both to want the same
        lead(monkeypatch, slow.environment())
        both = [child(copy_size, address, tmp_path) for _ in range(2)]
        assert [ended(process) for process in both] == [0, 0]
        assert total < slow.bytes < total + 70_000  # each asks for dataset.json, and the store has words of its own
    for number, path in dataset.stored(48).paths.items():
        assert (tmp_path / "cache" / dataset.id / "48" / path.name).read_bytes() == path.read_bytes(), number


def test_a_copy_of_another_process_that_gets_no_further_is_an_error(address, tmp_path, monkeypatch):
    monkeypatch.setattr(mirroring, "PATIENCE", 0.3)
    remote = opened(address, tmp_path)
    stored = remote.stored(48)
    stored.paths[0].parent.mkdir()
    with claim(stored.paths[0], stored.described[0]["bytes"]):
        message = refused(lambda: stored.open(0))
    assert message.startswith(f"{stored.paths[0]}: another process copies it and has got no further for 0.005 minutes")
    stored.open(0).close()


def test_what_does_not_fit_on_the_disk_is_refused_before_it_is_copied(address, dataset, tmp_path):
    """A disk of its own, of 300 kB: the eight shards of 48 px are 51,200 bytes each."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no right to mount a small disk")
    try:
        remote = opened(address, disk)
        stored, free = remote.stored(48), shutil.disk_usage(disk).free
        shards = [stored.described[shard] for shard in sorted(stored.described)]
        message = refused(lambda: remote.mirror.check_room(48, shards))
        assert message == (
            f"{remote.folder}: {sum(shard['bytes'] for shard in shards):,} bytes of the 48 px shards are still to be "
            f"copied, but {free:,} bytes are free on its disk; give a --cache on a larger disk, or remove copies of "
            "sizes that are no longer used"
        )
        remote.mirror.check_room(48, shards[:2])
        stored.open(0).close()
        left = f"{sum(shard['bytes'] for shard in shards[1:]):,} bytes of the 48 px shards are still to be copied"
        assert left in refused(lambda: remote.mirror.check_room(48, shards))  # what is there is not needed again
    finally:
        subprocess.run(["umount", disk], check=True)


def test_what_is_here_takes_no_more_room(address, tmp_path, monkeypatch):
    remote = opened(address, tmp_path)
    stored = remote.stored(48)
    shards, num_bytes = list(stored.described.values()), sum(shard["bytes"] for shard in stored.described.values())
    for shard in list(stored.paths)[:3]:
        stored.open(shard).close()
        num_bytes -= stored.described[shard]["bytes"]
    part = part_of(stored.paths[3], stored.described[3]["bytes"])
    part.write_bytes(bytes(1000))
    for free, enough in ((num_bytes - 1000, True), (num_bytes - 1001, False)):
        usage = shutil.disk_usage(tmp_path)._replace(free=free)
        monkeypatch.setattr(mirroring.shutil, "disk_usage", lambda folder, usage=usage: usage)
        if enough:
            remote.mirror.check_room(48, shards)
        else:
            said = refused(lambda: remote.mirror.check_room(48, shards))
            assert f"{num_bytes - 1000:,} bytes of" in said and f"but {free:,} bytes are free" in said


def test_after_a_kill_the_copy_goes_on_and_no_wrong_file_has_a_right_name(address, s3, dataset, tmp_path, monkeypatch):
    total = sum(path.stat().st_size for path in dataset.stored(48).paths.values())
    folder = tmp_path / "cache" / dataset.id / "48"
    with Link(s3.host, s3.port, rate=total / 3) as slow:
        lead(monkeypatch, slow.environment())
        process, begun = child(copy_in_pieces, address, tmp_path), 0
        deadline = time.monotonic() + 30
        while True:
            assert time.monotonic() < deadline, "no part of a third shard for 30 s"
            time.sleep(0.01)
            os.kill(process.pid, signal.SIGSTOP)
            begun = sum(part.stat().st_size for part in folder.glob(".*.part"))
            if len(list(folder.glob("0*.tar"))) >= 2 and begun:
                break
            os.kill(process.pid, signal.SIGCONT)
        process.kill()
        assert ended(process) == -9
    parts = list(folder.glob(".*.part"))
    assert len(parts) == 1
    for path in folder.glob("0*.tar"):
        assert path.read_bytes() == (dataset.root / "48" / path.name).read_bytes()
    with Link(s3.host, s3.port) as fast:
        lead(monkeypatch, fast.environment())
        copy_in_pieces(address, tmp_path)
    assert not list(folder.glob(".*"))
    for path in dataset.stored(48).paths.values():
        assert (folder / path.name).read_bytes() == path.read_bytes()


def copy_in_pieces(address: str, folder: Path) -> None:
    mirroring.PIECE = 2**13
    copy_size(address, folder)


def test_a_full_disk_is_an_error_that_says_how_to_fix_it(address, tmp_path):
    opened(address, tmp_path).catalog  # noqa: B018
    assert ended(child(copy_to_a_full_disk, address, tmp_path)) == 0, "the child says what was not as it should"


def copy_to_a_full_disk(address: str, folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
    message = refused(lambda: copy_size(address, folder))
    assert "/48/000000.tar: cannot be written (File too large); make room; the same command continues" in message
    assert message.endswith("; --cache puts it elsewhere")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    copy_size(address, folder)
