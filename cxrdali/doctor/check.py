"""What one check found."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

PATIENCE = 120.0  # seconds


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, its state (ok, note: works but look, wrong), what was found, how to fix it."""

    name: str
    state: str
    found: str
    fix: str = ""


def ok(name: str, found: str) -> Check:
    return Check(name, "ok", found)


def note(name: str, found: str, fix: str = "") -> Check:
    return Check(name, "note", found, fix)


def wrong(name: str, found: str, fix: str) -> Check:
    return Check(name, "wrong", found, fix)


def bounded(name: str, look: Callable[[], Iterable[Check]], seconds: float = PATIENCE) -> list[Check]:
    """What `look` finds; where it raises, or does not answer in time (a GPU, a network disk), that is wrong."""
    found: list[Check] = []

    def run() -> None:
        try:
            found.extend(look())
        except Exception as error:  # of any library
            found.append(wrong(name, f"cannot be looked at ({first_line(error)})", "mend that, then look again"))

    thread = threading.Thread(target=run, daemon=True)  # one that hangs does not hold up the end
    thread.start()
    thread.join(seconds)
    late = [wrong(name, f"no answer in {seconds:g} s", "see dmesg, and nvidia-smi or the disk's server")]
    return found + late if thread.is_alive() else found


def dotted(numbers: tuple[int, int]) -> str:
    return ".".join(map(str, numbers))


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
