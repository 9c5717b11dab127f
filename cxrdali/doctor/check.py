"""What one check found."""

from dataclasses import dataclass


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


def dotted(numbers: tuple[int, int]) -> str:
    return ".".join(map(str, numbers))


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
