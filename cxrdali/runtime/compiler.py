"""What torch.compile needs, and what it says when it fails. Free of torch: `cxrdali doctor` asks, too."""

import contextlib
import os
import shutil
from collections.abc import Iterator

from shards.errors import UserError


def missing_compiler(device: str) -> tuple[str, str] | None:
    """What torch.compile lacks on `device` ("cpu", "cuda" or "cuda:N"), and how to get it; None if it is there: on the
    CPU a compiler of C++, for GPUs (Triton) one of C."""
    kind, usual, variable = ("C++", ("g++",), "CXX") if device == "cpu" else ("C", ("gcc", "clang"), "CC")
    named, first = os.environ.get(variable), usual[0]
    if any(shutil.which(name) for name in ((named,) if named else usual)):
        return None
    if named:
        return f"a {kind} compiler, and {variable}={named} is not there", f"unset {variable}, or install {named}"
    return f"a {kind} compiler ({first}), and there is none", f"install {first} (Debian: apt install {first})"


def check_compiler(device: str) -> None:
    """Raises UserError if torch.compile has no compiler for `device`."""
    if lacking := missing_compiler(device):
        raise UserError(f"--compile needs {lacking[0]}; {lacking[1]} or leave --compile out")


@contextlib.contextmanager
def compile_errors() -> Iterator[None]:
    """What torch.compile raises, pages of generated code, as a UserError of one line."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        inner = getattr(error, "inner_exception", error)  # what the backend said
        words = f"{type(inner).__name__}: {inner}".strip().splitlines()[0]
        raise UserError(f"--compile: torch cannot compile this model here ({words}); leave --compile out") from error
