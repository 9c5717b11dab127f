"""A Dask cluster of this machine for one run, which lets nobody else in.

Whoever reaches a scheduler runs code as its user, and other users of the machine reach loopback too. So all its
connections are TLS with a key that exists only in the memory of these processes.
"""

import logging
from typing import Any

from distributed import Nanny, Scheduler, SpecCluster, Worker
from distributed.security import Security

_HERE = "127.0.0.1"


class _Scheduler(Scheduler):
    def start_http_server(self, *arguments: Any, **options: Any) -> None:
        """Dask's listens even if the dashboard is off, on port 8787."""


class _Worker(Worker):
    def start_http_server(self, *arguments: Any, **options: Any) -> None:
        pass


def own_cluster(workers: int) -> SpecCluster:
    """So many worker processes of one thread. Raises ImportError without the package cryptography."""
    shared = {"host": _HERE, "protocol": "tls://", "security": Security.temporary()}
    worker = {
        "cls": Nanny,
        "options": {**shared, "nthreads": 1, "worker_class": _Worker, "silence_logs": logging.CRITICAL},
    }
    return SpecCluster(
        scheduler={"cls": _Scheduler, "options": {**shared, "port": 0, "dashboard": False}},
        workers=dict.fromkeys(range(workers), worker),
        security=shared["security"],
        silence_logs=logging.CRITICAL,
    )
