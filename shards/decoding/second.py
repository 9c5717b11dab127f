"""A second JPEG decoder, OpenCV's, for sound files that the first cannot read.

It is lenient: of damage it says a line on the process's standard error and hands out pixels. The line is caught.
"""

import contextlib
import os
import re
import threading
from collections.abc import Iterator

import cv2
import numpy as np

from shards.decoding.decoded import RejectedImage, check_memory, memory_errors
from shards.decoding.jpeg_frame import Frame

_STDERR = 2
_LINE = re.compile(  # libjpeg's warnings, of which jerror.h has twelve
    rb"(?:Corrupt JPEG data|Premature end of JPEG|Inconsistent progression|Invalid SOS parameters|Unknown Adobe color"
    rb"|Warning: unknown JFIF|Application transferred)[^\r\n]*\n"
)
_alone = threading.Lock()


def decode_odd(data: bytes, frame: Frame) -> np.ndarray:
    """uint8 [h, w]. Raises RejectedImage for any damage, MemoryError if that was missing."""
    with libjpeg_lines() as lines:
        try:
            with memory_errors():
                flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
                gray = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:
            gray = None
    if lines:
        raise RejectedImage(f"damaged JPEG: {lines[0]}")
    if gray is None or gray.shape != (frame.height, frame.width):
        check_memory(frame.num_bytes)
        raise RejectedImage("damaged JPEG: cannot be decoded")
    return gray


@contextlib.contextmanager
def libjpeg_lines() -> Iterator[list[str]]:
    """A list that holds, afterwards, what libjpeg said; what other threads wrote meanwhile is written then."""
    lines: list[str] = []
    with _alone, os.fdopen(os.memfd_create("stderr"), "w+b", buffering=0) as caught:
        kept = os.dup(_STDERR)
        try:
            os.dup2(caught.fileno(), _STDERR)
            yield lines
        finally:
            os.dup2(kept, _STDERR)
            os.close(kept)
            caught.seek(0)
            said = caught.read()
            lines += [line.decode("ascii", "replace").strip() for line in _LINE.findall(said)]
            if rest := _LINE.sub(b"", said):
                os.write(_STDERR, rest)
