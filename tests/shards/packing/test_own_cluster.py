"""Who may talk to a Dask cluster: to ours nobody else, to another's over TLS if it wants that."""

import ssl
from pathlib import Path

import dask
import pytest

from shards.packing.cluster import Dask
from shards.packing.job import PackJob
from shards.packing.pack import pack_job
from shards.releases.open import open_release
from tests.cli.cli import call
from tests.heard import heard
from tests.releases import contents
from tests.shards.large import GIVEN, OPTIONS
from tests.shards.packing.test_cluster import Processes

psutil = pytest.importorskip("psutil")
distributed = pytest.importorskip("distributed")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("time_limit")]


@pytest.fixture
def cluster(tmp_path):
    processes = Processes(tmp_path)
    yield processes
    processes.end()


def listening():
    """Addresses on which this process and its children listen."""
    here = psutil.Process()
    sockets = [each for one in (here, *here.children(recursive=True)) for each in one.net_connections()]
    return {tuple(each.laddr) for each in sockets if each.status == psutil.CONN_LISTEN}


def test_a_stranger_is_refused_at_every_door_of_our_cluster():
    from distributed.security import Security

    from shards.packing.own_cluster import own_cluster

    before = listening()
    with own_cluster(2) as ours, distributed.Client(ours, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        assert client.submit(sum, (1, 2)).result(30) == 3
        doors = listening() - before
        assert len(doors) == 1 + 2 * 2  # the scheduler, each worker and its nanny: no dashboard
        assert {host for host, _ in doors} == {"127.0.0.1"}
        for host, port in doors:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                ask_over_tls(host, port)
        for stranger in (Security(), Security.temporary()):
            with pytest.raises((TypeError, OSError)):
                distributed.Client(ours.scheduler_address, security=stranger, timeout=3, set_as_default=False)
        with pytest.raises(OSError):
            plain = ours.scheduler_address.replace("tls://", "tcp://")
            distributed.Client(plain, timeout=3, set_as_default=False)


def ask_over_tls(host, port):
    """As somebody without the certificate, who does not care about theirs."""
    import socket

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((host, port), timeout=10) as plain, context.wrap_socket(plain) as door:
        door.sendall(bytes(8))
        door.recv(1)  # only now, under TLS 1.3, does a client hear that its certificate is missed


def test_without_cryptography_the_extra_is_named(source, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cryptography", None)
    done = call("shard", "--source", source, "--out", tmp_path / "pack", *GIVEN, "--engine", "dask", cwd=tmp_path)
    assert done.returncode == 1 and "cryptography" in done.stderr and "pip install 'cxrdali[dask]'" in done.stderr


def test_a_scheduler_over_tls_is_used_through_dasks_configuration(cluster, source, unbroken, tmp_path):
    from distributed.security import Security

    made, given = Security.temporary(), []
    for option, pem in (("ca-file", made.tls_ca_file), ("cert", made.tls_client_cert), ("key", made.tls_client_key)):
        (cluster.folder / option).write_text(pem)
        given += [f"--tls-{option}", cluster.folder / option]
    cluster.address = cluster.address.replace("tcp://", "tls://")
    port = cluster.address.rpartition(":")[2]
    cluster.start("scheduler", *("--host", "127.0.0.1", "--port", port, "--no-dashboard", "--protocol", "tls", *given))
    cluster.worker("one", *given)
    options = {"ca-file": "ca-file", "client.cert": "cert", "client.key": "key"}
    given = {f"distributed.comm.tls.{name}": str(cluster.folder / file) for name, file in options.items()}
    with dask.config.set(given):
        assert heard_of(cluster, source, tmp_path / "pack") == []
    assert contents(tmp_path / "pack") == unbroken


def test_a_scheduler_without_tls_is_used_with_a_warning(cluster, source, unbroken, tmp_path):
    cluster.scheduler()
    cluster.worker("one")
    (said,) = heard_of(cluster, source, tmp_path / "pack")
    assert said.startswith(f"--scheduler {cluster.address}: whoever reaches it runs code as you; use it in a closed")
    assert "tls://" in said and contents(tmp_path / "pack") == unbroken


def heard_of(cluster, source, out: Path) -> list[str]:
    """What packing on the cluster says."""
    lines: list[str] = []
    with heard(lines):
        pack_job(PackJob(open_release(source), out, OPTIONS), Dask(cluster.address))
    return [line for line in lines if "--scheduler" in line]
