"""Whether an error says that the GPU's memory is full, in the words of whichever library ran out of it."""

import contextlib
import re
from collections.abc import Iterator

import torch

from shards.errors import UserError

OTHERS = "stop what else runs on the GPU (nvidia-smi lists it)"
NO_ROOM = f"the GPU has no room for the model; {OTHERS}"
SET_UP = f"the GPU is full before the first batch; {OTHERS}, or use a smaller --arch"

# cuDNN's search leaves out what does not fit, and says at its end that there is nothing (pytorch#108645). It says the
# same of a convolution that it cannot compute at all.
_NO_ALGORITHM = re.compile("(?i)unable to find an engine|unable to find a valid cudnn|no valid convolution algorithm")
_FULL = re.compile(
    r"(?i)cuda[^\n]*out[ _]of[ _]memory|cudaErrorMemoryAllocation"  # CUDA's runtime and driver, torch, Triton, NCCL
    r"|CU(BLAS|DNN|SOLVER)_STATUS_ALLOC_FAILED|_DEVICE_ALLOCATION_FAILED"  # cuDNN before and since 9
    r"|CUDA allocation failed|Can't allocate \d+ bytes on device"  # DALI
    r"|NVJPEG_STATUS_ALLOCATOR_FAILURE|Mixed operator[\s\S]*nvImageCodec failure: '#1?5'"
)


def is_full(error: BaseException) -> bool:
    """Whether it is raised by a full GPU. Host memory, and any other error of a GPU's libraries, is not."""
    said = isinstance(error, RuntimeError | MemoryError) and _FULL.search(str(error))  # C++'s bad_alloc: MemoryError
    return isinstance(error, torch.OutOfMemoryError) or bool(said) or finds_no_algorithm(error)


def finds_no_algorithm(error: BaseException) -> bool:
    """Whether cuDNN found no algorithm: of two reasons, a full GPU is the usual one."""
    return isinstance(error, RuntimeError) and bool(_NO_ALGORITHM.search(str(error)))


@contextlib.contextmanager
def told_if_full(words: str) -> Iterator[None]:
    """Raise a full GPU as a UserError with these words, and the library's own where it is not torch's allocator; let
    any other error pass."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_full(error):
            raise
        own = "" if isinstance(error, torch.OutOfMemoryError) else f" (the error was: {str(error).splitlines()[0]})"
        raise UserError(words + own) from error


def smaller_batch(batch: int) -> str:
    """What to do where `batch` images at a time do not fit, and --batch says how many."""
    return f"use a smaller --batch than {batch}" if batch > 1 else OTHERS
