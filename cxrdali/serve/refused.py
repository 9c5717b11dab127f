"""A request that is not answered with a reading: its status, and why, in words for who sent it."""


class Refused(Exception):
    """Raised while a request is handled.

    Args:
        status: HTTP status code.
        reason: One sentence, without anything of the upload's name.
        close: Whether the connection is closed, because more of the request may come.
        retry: After how many seconds to come again; None: that would not help.
    """

    def __init__(self, status: int, reason: str, *, close: bool = False, retry: int | None = None):
        super().__init__(reason)
        self.status, self.reason = status, reason
        self.headers = ({"connection": "close"} if close else {}) | ({"retry-after": str(retry)} if retry else {})
