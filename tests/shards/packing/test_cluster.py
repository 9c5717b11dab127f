"""Packing on a Dask cluster: a real scheduler and real worker processes on loopback."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from shards.errors import UserError
from shards.packing import cluster as clusters
from shards.packing.cluster import Dask
from shards.packing.cluster_worker import Question, what_is_wrong
from shards.packing.job import PackJob
from shards.packing.options import PackLimits
from shards.packing.pack import pack, pack_job
from shards.releases.open import open_release
from shards.storage.remote import place
from tests.cli.cli import ROOT, call, command, environment, run
from tests.releases import contents, write_release
from tests.shards.large import GIVEN, OPTIONS, SHARDS

pytest.importorskip("distributed")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("time_limit")]


SLOW = """
import time
from shards.packing import make_shard
from shards.renditions import rendition

def slowly(*arguments):
    time.sleep({seconds})
    return rendition.renditions(*arguments)

make_shard.renditions = slowly
"""


class Processes:
    """A scheduler and workers; whatever is left of them at the end is killed."""

    def __init__(self, folder):
        self.folder, self.started = folder / "cluster", []  # not where the packer is
        self.folder.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"

    def start(self, command, *arguments, before=(), **variables):
        log = self.folder / f"{command}-{len(self.started)}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*before, sys.executable, "-m", "dask", command, *map(str, arguments)],
                cwd=self.folder,
                env=environment(**variables),
                start_new_session=True,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.started.append(process)
        return process

    def scheduler(self):
        port = self.address.rpartition(":")[2]
        return self.start("scheduler", *("--host", "127.0.0.1", "--port", port, "--no-dashboard"))

    def worker(self, name, *options, **more):
        given = (self.address, "--no-nanny", "--nthreads", "1", "--name", name, "--no-dashboard", *options)
        return self.start("worker", *given, **more)

    def slow_worker(self, name, seconds):
        """One that takes so long for an image more than it needs: its shards are long in hand."""
        (self.folder / "slow.py").write_text(SLOW.format(seconds=seconds))
        return self.worker(name, "--preload", "slow.py")

    def end(self):
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


@pytest.fixture
def cluster(tmp_path):
    processes = Processes(tmp_path)
    yield processes
    processes.end()


def wait_for(what, seconds=60):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def pack_on(cluster, source, out, **limits):
    return pack_job(PackJob(open_release(source), out, OPTIONS, PackLimits(**limits)), Dask(cluster.address))


def attempts(out):
    return {path.name for path in (out / ".packing" / "tmp").glob("*/*.*") if path.is_dir()}


def made(out):
    return len(list((out / ".packing" / "records").glob("[0-9]*.json")))


def test_a_worker_killed_with_a_shard_in_hand_costs_nothing_and_changes_no_byte(cluster, source, unbroken, tmp_path):
    from distributed import Client

    out = tmp_path / "pack"
    cluster.scheduler()
    doomed = cluster.slow_worker("doomed", 0.02)
    cluster.slow_worker("other", 0.02)
    with Client(cluster.address, timeout=20, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=30)
        log = tmp_path / "packer.log"
        with log.open("wb") as file:
            packer = subprocess.Popen(
                command("shard", "--source", source, "--out", "pack", *GIVEN, "--engine", "dask")
                + ["--scheduler", cluster.address],
                **{"cwd": tmp_path, "env": environment(), "stdout": file, "stderr": subprocess.STDOUT},
            )
        cluster.started.append(packer)
        wait_for(lambda: made(out) >= 6)
        while True:  # until it is stopped with a shard in hand: its folder stays while the other goes on
            doomed.send_signal(signal.SIGSTOP)
            in_hand, more = attempts(out), made(out) + 2
            wait_for(lambda more=more: made(out) >= more)
            if in_hand & attempts(out):
                break
            doomed.send_signal(signal.SIGCONT)
        assert made(out) < SHARDS - 2
        doomed.send_signal(signal.SIGKILL)
        assert packer.wait(60) == 0, log.read_text()
    assert contents(out) == unbroken
    assert f"{SHARDS} shards per size" in log.read_text()


def during(out, shards, act):
    """Do something when so many shards are made, while the test itself packs."""
    when(lambda: made(out) >= shards, act)


def when(happens, act):
    threading.Thread(target=lambda: (wait_for(happens), act()), daemon=True).start()


def stop_at_work(worker, out):
    """Stop the only worker with a shard in hand, of which it has had the time to tell: Dask takes one that is stopped
    between two shards for lost after five minutes. A shard must take it several times 0.03 s."""
    while True:
        before = attempts(out)
        time.sleep(0.03)
        worker.send_signal(signal.SIGSTOP)
        if before & attempts(out):
            return
        worker.send_signal(signal.SIGCONT)


def after(process, act):
    """Do something when a process has ended."""
    process.wait(60)
    act()


def refused(*arguments, **limits):
    with pytest.raises(UserError) as caught:
        pack_on(*arguments, **limits)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_a_scheduler_the_workers_are_of_a_cluster_of_this_machine(source, unbroken, tmp_path):
    done = call(
        "shard", "--source", source, "--out", tmp_path / "pack", *GIVEN, "--engine", "dask", "--jobs", 2, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "workers: 2 of a Dask cluster that lasts as long as this run" in done.stdout
    assert contents(tmp_path / "pack") == unbroken


# ---------------------------------------------------------------- nobody there


def test_a_scheduler_that_does_not_answer_is_one_line_soon(cluster, source, tmp_path, monkeypatch):
    assert clusters.CONNECT <= 25  # so that a user waits less than 30 s
    monkeypatch.setattr(clusters, "CONNECT", 2.0)
    said = refused(cluster, source, tmp_path / "pack")
    assert said.startswith(f"--scheduler {cluster.address}: no Dask scheduler answers there within 2 s")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection, says nothing
        cluster.address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        assert "no Dask scheduler answers there" in refused(cluster, source, tmp_path / "pack")
        assert time.monotonic() - started < 10
    cluster.address = "carrier://pigeon"
    assert "--scheduler carrier://pigeon: no Dask scheduler" in refused(cluster, source, tmp_path / "pack")


def test_a_scheduler_without_workers_is_one_line(cluster, source, tmp_path, monkeypatch):
    monkeypatch.setattr(clusters, "WORKERS", 1.0)
    cluster.scheduler()
    assert f"has no worker after 1 s; start some (dask worker {cluster.address})" in refused(
        cluster, source, tmp_path / "pack"
    )


def test_an_engine_that_is_not_installed_names_its_extra(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    done = call("shard", "--source", source, "--out", tmp_path / "pack", *GIVEN, "--engine", "dask", cwd=tmp_path)
    assert done.returncode == 1
    assert "--engine dask: Dask is not installed; pip install 'cxrdali[dask]'" in done.stderr


def test_options_that_do_not_go_together(source, tmp_path):
    wrong = call("shard", "--source", source, "--scheduler", "tcp://one:8786", cwd=tmp_path)
    assert (wrong.returncode, "--scheduler needs --engine dask" in wrong.stderr) == (2, True)
    wrong = call(*("shard", "--engine", "dask", "--scheduler", "tcp://one:8786", "--jobs", 2), cwd=tmp_path)
    assert (wrong.returncode, "--scheduler takes no --jobs" in wrong.stderr) == (2, True)


# ---------------------------------------------------------------- workers that are not fit


def test_a_worker_that_does_not_share_a_path_is_named_before_any_work(cluster, source, tmp_path):
    hide = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"')
    if subprocess.run([*hide, source, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    out = tmp_path / "shared" / "pack"
    out.mkdir(parents=True)
    cluster.scheduler()
    blind = cluster.worker("blind", before=(*hide, source))
    said = refused(cluster, source, out)
    assert said.startswith("Dask worker tcp://127.0.0.1:")
    assert f"does not see {source}/files/" in said and "give --source and --out in folders that all" in said
    os.killpg(blind.pid, signal.SIGKILL)
    blind.wait(10)
    cluster.worker("blind", before=(*hide, out.parent))
    said = refused(cluster, source, out)
    assert f"does not see {out}, or not what this machine has just written there" in said
    assert made(out) == 0


def test_a_worker_that_is_frozen_before_the_start_is_named_soon(cluster, source, tmp_path, monkeypatch):
    from distributed import Client

    monkeypatch.setattr(clusters, "WORKERS", 4.0)
    cluster.scheduler()
    cluster.worker("good")
    frozen = cluster.worker("frozen")
    with Client(cluster.address, timeout=20, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=30)
        names = {known["name"]: address for address, known in client.scheduler_info()["workers"].items()}
    frozen.send_signal(signal.SIGSTOP)
    assert refused(cluster, source, tmp_path / "pack") == (
        f"Dask worker {names['frozen']} does not answer within 4 s; end it, then give the same command again"
    )


def test_what_a_worker_must_have_in_common(tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"four")
    token = tmp_path / "out" / ".packing" / "tmp" / "run" / "token"
    token.parent.mkdir(parents=True)
    token.write_text("right")
    seen = ((str(tmp_path), 0), (str(tmp_path / "1.jpg"), 4), (str(tmp_path / "absent.jpg"), None))

    def asked(token_text="right", more=(), **versions):
        return Question("topic", (str(token), token_text), (*seen, *more), clusters.versions() | versions)

    assert what_is_wrong(asked()) is None
    assert "has OpenCV" in what_is_wrong(asked(OpenCV="1.0")) and "this machine 1.0" in what_is_wrong(
        asked(OpenCV="1.0")
    )
    assert f"does not see {tmp_path / 'out'}, or not what" in what_is_wrong(asked("other"))
    more = [(str(tmp_path / "2.jpg"), 9)]
    assert f"does not see {tmp_path / '2.jpg'} (absent, here 9 bytes)" in what_is_wrong(asked(more=more))
    more = [(str(tmp_path / "1.jpg"), 9)]
    assert f"sees another {tmp_path / '1.jpg'} (4 bytes, here 9 bytes)" in what_is_wrong(asked(more=more))


def test_a_worker_with_another_version_is_refused_before_and_after_the_start(cluster, source, tmp_path):
    old = tmp_path / "old" / "simplejpeg-0.0.1.dist-info"
    old.mkdir(parents=True)
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: simplejpeg\nVersion: 0.0.1\n")
    bare = tmp_path / "bare" / "shards"
    bare.mkdir(parents=True)
    (bare / "__init__.py").touch()
    cluster.scheduler()
    one = cluster.worker("old", PYTHONPATH=f"{old.parent}:{ROOT}")
    assert "has simplejpeg 0.0.1, this machine " in refused(cluster, source, tmp_path / "pack")
    assert made(tmp_path / "pack") == 0
    one.kill()
    one.wait(10)
    two = cluster.worker("bare", PYTHONPATH=str(bare.parent))
    # which import fails depends on how this cxrdali is installed
    said = refused(cluster, source, tmp_path / "pack")
    assert re.search(r"has no cxrdali, or another version \((ModuleNotFound|Import)Error", said), said
    two.kill()
    two.wait(10)
    good = cluster.slow_worker("good", 0.02)
    during(tmp_path / "pack", 3, lambda: good.send_signal(signal.SIGSTOP))
    during(tmp_path / "pack", 3, lambda: cluster.worker("late", PYTHONPATH=f"{old.parent}:{ROOT}"))
    assert "has simplejpeg 0.0.1, this machine " in refused(cluster, source, tmp_path / "pack")


# ---------------------------------------------------------------- trouble on the way


def test_a_worker_that_stalls_is_named_with_its_image_and_the_same_command_continues(
    cluster, source, unbroken, tmp_path, monkeypatch
):
    monkeypatch.setattr(clusters, "LOST", 0.5)
    cluster.scheduler()
    stopped, out = cluster.slow_worker("stopped", 0.05), tmp_path / "pack"
    during(out, 5, lambda: stop_at_work(stopped, out))
    said = refused(cluster, source, out, stall=1.0)
    assert said.startswith(f"{source}/files/") and "the Dask worker tcp://127.0.0.1:" in said
    assert "has finished no image of shard" in said and "end it if it hangs, then give the same command again" in said
    assert 5 <= made(out) < SHARDS, said
    stopped.kill()
    cluster.worker("other")
    assert pack_on(cluster, source, out).images_this_run < 120
    assert contents(out) == unbroken


def test_no_worker_left_is_one_line(cluster, source, tmp_path, monkeypatch):
    monkeypatch.setattr(clusters, "LOST", 0.5)
    cluster.scheduler()
    only = cluster.slow_worker("only", 0.02)
    during(tmp_path / "pack", 5, only.kill)
    said = refused(cluster, source, tmp_path / "pack", stall=1.0)
    assert said.startswith(f"--scheduler {cluster.address}: has no worker left; start some")


def test_a_scheduler_that_dies_is_one_line(cluster, source, tmp_path):
    scheduler = cluster.scheduler()
    cluster.slow_worker("only", 0.02)
    during(tmp_path / "pack", 5, scheduler.kill)
    given = ("--source", source, "--out", tmp_path / "pack", *GIVEN, "--engine", "dask", "--scheduler", cluster.address)
    done = run("shard", *given, cwd=tmp_path)  # a process of its own: Dask logs to its stderr
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    line = done.stderr.splitlines()[-1]
    assert f"the Dask scheduler {cluster.address} is gone, or frozen; start it and its workers" in line


def test_a_scheduler_that_freezes_is_one_line_too(cluster, source, tmp_path, monkeypatch):
    monkeypatch.setattr(clusters, "CONNECT", 3.0)
    scheduler = cluster.scheduler()
    cluster.slow_worker("only", 0.02)
    during(tmp_path / "pack", 3, lambda: scheduler.send_signal(signal.SIGSTOP))
    said = refused(cluster, source, tmp_path / "pack")
    assert f"the Dask scheduler {cluster.address} is gone, or frozen; start it and its workers" in said


# ---------------------------------------------------------------- other machines, other disks


def test_a_release_that_a_worker_sees_under_another_real_path_is_packed_all_the_same(
    cluster, source, unbroken, tmp_path
):
    """As behind an automounter. Its images are not links that leave the release."""
    mount = 'mount --bind "$1" /mnt && mount -t tmpfs none "${0%/*}" && ln -s /mnt "$0" && shift && exec "$@"'
    elsewhere = ("unshare", "-rm", "sh", "-c", mount, source, shutil.copytree(source, tmp_path / "disk"))
    if subprocess.run([*elsewhere, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    cluster.scheduler()
    cluster.worker("elsewhere", before=elsewhere)
    assert pack_on(cluster, source, tmp_path / "pack").rejected == {}
    assert contents(tmp_path / "pack") == unbroken


def test_a_dataset_in_a_bucket_is_the_local_one_and_a_killed_worker_leaves_nothing(cluster, s3, tmp_path):
    write_release(tmp_path / "release", subjects=4)
    pack(open_release(tmp_path / "release"), tmp_path / "pack", OPTIONS)
    source, out = place(s3.upload(tmp_path / "release", "release")), place(f"{s3.address}/pack")
    scratch = tmp_path / "scratch"
    places = {name: str(scratch) for name in ("TMPDIR", "DASK_TEMPORARY_DIRECTORY")}
    cluster.scheduler()
    denied = cluster.worker("denied", **{**s3.environment, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""})
    assert re.match(r"Dask worker tcp://\S+: s3://\S+: access denied; check", refused(cluster, source, out))
    denied.kill()
    denied.wait(10)
    scratch.mkdir()
    doomed = cluster.worker("doomed", **s3.environment, **places)
    when(lambda: any(scratch.rglob("*.tar")), doomed.kill)
    successor = threading.Thread(
        target=after, args=(doomed, lambda: cluster.worker("next", **s3.environment, **places))
    )
    successor.start()
    assert pack_on(cluster, source, out).rejected == {}
    successor.join()
    assert list(scratch.rglob("*.tar")) == []
    store, prefix = s3.filesystem(), f"{s3.bucket}/pack/"
    found = {name.removeprefix(prefix): store.cat_file(name) for name in store.find(prefix)}
    assert found == contents(tmp_path / "pack")
