"""A process of a test that is killed outright, at a moment that is counted in calls."""

import itertools
import os
import signal
from collections.abc import Iterable


def dies_before(step: int, calls: Iterable[str]) -> None:
    """This process, a child, ends by SIGKILL before the `step`-th call, from 1, of these functions of `os`."""
    count = itertools.count(1)

    def dying(real):
        def call(*arguments, **options):
            if next(count) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    for name in calls:
        setattr(os, name, dying(getattr(os, name)))
