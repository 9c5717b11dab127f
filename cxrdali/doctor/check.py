"""What one check found."""

from dataclasses import dataclass

STATES = ("ok", "note", "wrong")


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, its state (ok, note: works but look, wrong), what was found, how to fix it."""

    name: str
    state: str
    found: str
    fix: str = ""

    def __post_init__(self):
        assert self.state in STATES, self.state
        assert self.fix or self.state != "wrong", f"{self.name}: wrong, and nothing says how to fix it"


def dotted(numbers: tuple[int, int]) -> str:
    return ".".join(map(str, numbers))


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
