"""How long a run waits for data between two steps.

On the CPU, for as long as the loop waits. A GPU has work queued while the loop waits; what counts there is for how long
it had no step to do (it idled, or copied and augmented the next batch), by events in its queue that are read once they
have happened: nothing waits for the GPU.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

MOST = 256  # gaps that are kept unread; the loop looks at its loss, and so waits for the GPU, far more often


@dataclass(frozen=True)
class Moment:
    """An event of the CPU, which has done by then what it was given. at: seconds."""

    at: float

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        """Nothing is left to wait for."""

    def elapsed_time(self, later: "Moment") -> float:
        return 1000 * (later.at - self.at)


class Waiting:
    """ask: a step's work is queued, the next batch is asked for; got: it is here, nothing of its step is queued; take:
    the seconds that are known by now and were not taken before.

    record: makes an event at the end of the device's queue, like torch.cuda.Event.
    """

    def __init__(self, record: Callable[[], Any]):
        self._record, self._asked, self._gaps = record, None, deque[tuple[Any, Any]]()

    def ask(self) -> None:
        self._asked = self._record()

    def got(self) -> None:
        self._gaps.append((self._asked, self._record()))
        if len(self._gaps) > MOST:
            self._gaps[0][1].synchronize()

    def take(self) -> float:
        milliseconds = 0.0
        while self._gaps and self._gaps[0][1].query():
            asked, got = self._gaps.popleft()
            milliseconds += asked.elapsed_time(got)
        return milliseconds / 1000


def waiting_of(device: str) -> Waiting:
    """What counts on `device`, "cpu" or "cuda:N"."""

    def record() -> torch.cuda.Event:
        return torch.cuda.current_stream(device).record_event(torch.cuda.Event(enable_timing=True))

    return Waiting((lambda: Moment(time.perf_counter())) if device == "cpu" else record)
