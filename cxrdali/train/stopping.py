"""A run that was asked to stop, by a signal."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from cxrdali.runtime.distributed import Ranks, StoppedTogether
from cxrdali.runtime.launcher import ASKING

HURRIED = (signal.SIGTERM, signal.SIGINT)


class Stopped(StoppedTogether):
    """One of the signals ASKING: the state was saved, the same command continues. `signal` is its number."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}; saved, the same command continues")
        self.signal = number


class Signals:
    """number: of the signal that asked the run to stop; 0 if none has."""

    def __init__(self):
        self.number = 0

    @contextlib.contextmanager
    def listening(self, ranks: Ranks) -> Iterator["Signals"]:
        """SIGTERM, Ctrl-C, a lost terminal (SIGHUP) and a cluster's warnings end the current step, save and stop. After
        any of them, SIGTERM and Ctrl-C stop at once; a shell that goes away sends SIGHUP more than once.

        Not with several ranks: a cluster signals all processes of a job, and the launcher, signalled too, does it
        again. It is the launcher that ends whoever takes too long.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {}

        def ask(number, frame):
            self.number = number
            for each in HURRIED if ranks.world == 1 else ():
                signal.signal(each, before[each])

        for number in ASKING:
            if number in HURRIED or signal.getsignal(number) != signal.SIG_IGN:  # nohup's is to stay ignored
                before[number] = signal.signal(number, ask)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
