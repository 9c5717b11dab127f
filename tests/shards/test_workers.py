"""The watch over workers that have not begun: those in a shard are in tests/faults/test_packing.py."""

import multiprocessing
import time

import pytest

from shards.errors import UserError
from shards.workers import Watch


def test_workers_that_never_begin_a_shard_are_ended(tmp_path):
    child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    child.start()
    with (
        pytest.raises(UserError, match="no worker has begun a shard for 1 s, and all were ended"),
        Watch(tmp_path, images=10, stall=1, image_of=str),
    ):
        child.join(20)
        assert child.exitcode == -9
        raise UserError("a worker process was killed")
