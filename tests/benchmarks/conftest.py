"""Worker processes of loaders fork from a server that has imported what they need: once, not in each."""

import multiprocessing

import pytest

from benchmarks.peers.served import PRELOAD


@pytest.fixture(autouse=True, scope="session")
def preloaded():
    multiprocessing.set_forkserver_preload(PRELOAD)
