"""Where a run is served, and within which limits. Nothing heavy is imported: the command's --help reads it."""

from dataclasses import dataclass

from cxrdali.setting import Legal, above, check, setting

LOCAL = ("127.0.0.1", "::1", "localhost")
MOST_MB = 256  # no larger file is decoded (`shards.renditions.source`)


@dataclass(frozen=True)
class ServeOptions:
    """The address, and what an upload may take of time and memory."""

    port: int = setting(
        8000, "Port; 0 takes a free one.", Legal(lambda port: 0 <= port <= 65535, "a number from 0 to 65535")
    )
    host: str = setting(
        LOCAL[0], "Address to listen on. Another one than this machine's own is open to others: no login, no TLS."
    )
    max_mb: int = setting(MOST_MB, "Largest upload, in MB.", above(0, at_most=MOST_MB))
    seconds: float = setting(30.0, "Seconds in which a request must come, an upload too, and then be read.", above(0))

    def __post_init__(self):
        check(self)

    @property
    def most_bytes(self) -> int:
        return self.max_mb * 1_000_000
