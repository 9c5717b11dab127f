"""A run that was asked to stop."""

import signal

from cxrdali.runtime.distributed import StoppedTogether


class Stopped(StoppedTogether):
    """SIGTERM or Ctrl-C: the state was saved, the same command continues. `signal` is its number."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}; saved, the same command continues")
        self.signal = number
