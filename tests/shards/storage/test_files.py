"""The lock of a folder whose earlier holder removes it when it has finished."""

import fcntl
from unittest import mock

import pytest

from shards.errors import UserError
from shards.storage.files import only_one


def test_a_lock_that_was_removed_while_it_was_taken_is_taken_anew(tmp_path):
    """Else a third process would hold a lock of the same name, and two would write."""
    lock, real, calls = tmp_path / "work" / "lock", fcntl.flock, []
    lock.parent.mkdir()

    def finished_meanwhile(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            lock.unlink()
            lock.parent.rmdir()
        real(*arguments)

    with mock.patch("fcntl.flock", finished_meanwhile), only_one(lock, "packing into it"):
        assert len(calls) == 2 and lock.exists()
        with (
            pytest.raises(UserError, match="another process is packing into it; wait for it or stop it"),
            only_one(lock, "packing into it"),
        ):
            pass
