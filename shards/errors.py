"""The one exception for everything a user can get wrong.

Its message names the file, the value and how to fix it; the command line prints it in one line.
"""


class UserError(Exception):
    """A bad input, option or file. `str(error)` is one line a user can act on."""


class LostTouch(UserError):
    """Another process of this run ended or cannot be reached; that process reports the cause."""
