"""Which columns of any one table are what, and how its rows of one image are joined; for --help, so nothing heavy."""

import re
from dataclasses import dataclass

from shards.errors import UserError
from shards.words import choices

ALL_OTHERS = "all others"
JOINS = ("any", "majority", "mean")  # what the rows of one image say together (`shards.releases.join`); or a number
_OPTIONS = {"image_id": "--id-column", "findings": "--findings", "join_rows": "--join-rows"}


def check_join(how: str) -> None:
    """Raises UserError for what is no way to join rows."""
    if how not in JOINS and not re.fullmatch("[1-9][0-9]{0,3}", how, re.ASCII):
        raise UserError(f"join rows {how!r}: {choices(how, JOINS)}, or a number of rows")


@dataclass(frozen=True)
class Columns:
    """The columns of a table by name. `findings` is a comma-separated list (quoted as in a CSV), or "all others": every
    column that has a name and is not named here. `path` is not needed to read labels alone. `join_rows` (`check_join`):
    several rows may be of one image; without it they are refused."""

    image_id: str
    findings: str
    path: str | None = None
    subject: str | None = None
    study: str | None = None
    view: str | None = None
    split: str | None = None
    join_rows: str | None = None

    def __post_init__(self):
        if self.join_rows is not None:
            check_join(self.join_rows)

    def as_json(self) -> dict[str, str | None]:
        """By the name of the option that gives it."""
        return {_OPTIONS.get(name, f"--{name}-column"): value for name, value in vars(self).items()}

    def named(self) -> dict[str, str]:
        """Option -> column, without the findings."""
        given = self.as_json().items()
        others = ("--findings", "--join-rows")
        return {option: column for option, column in given if option not in others and column is not None}
