"""Properties over generated input: the same examples in every run, and nothing written into the repository.

`python -m tests.fuzz.fuzz` runs the same checks over random bytes for as long as wanted.
"""

import os
import random
import tempfile
from pathlib import Path

os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(Path(tempfile.gettempdir()) / "cxrdali-hypothesis"))

from hypothesis import HealthCheck, settings  # noqa: E402

settings.register_profile(
    "cxrdali",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
settings.load_profile("cxrdali")


def damaged(data: bytes, seed: int) -> bytes:
    """One to four random changes: a bit or byte, a piece removed, doubled, blanked, inserted, or the end lost."""
    rng, out = random.Random(seed), bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        to = at + rng.choice((1, 1, 2, 8, 64, 512))
        kind = rng.randrange(8)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = rng.randrange(256)
        elif kind == 2:
            del out[at:to]
        elif kind == 3:
            out[at:at] = out[at:to]
        elif kind == 4:
            out[at:to] = bytes(len(out[at:to]))
        elif kind == 5:
            out[at:at] = rng.choice(
                (b'"', b",", b"\n", b"\r", b" ", b"\0", b"-", b"1e9", "\u0663\u00b2".encode(), b"\xff")
            )
        elif kind == 6:
            out[at:at] = rng.randbytes(rng.randint(1, 4))
        elif rng.random() < 0.3:
            del out[at:]
    return bytes(out)


def one_line(error: Exception, path: Path) -> None:
    """A message that names the file and fits a line."""
    assert str(path) in str(error) and len(str(error).splitlines()) == 1, str(error)
