"""What packing is measured against: decode in full, shrink by area to each size, encode."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

SIZES = (224, 320, 384, 512)
QUALITY = 95


def with_simplejpeg(path: Path) -> list[bytes]:
    """One JPEG per size from the full-scale picture, with the libraries that packing uses."""
    gray = simplejpeg.decode_jpeg(path.read_bytes(), "GRAY")[:, :, 0]
    return [simplejpeg.encode_jpeg(_shrink(gray, size)[:, :, None], QUALITY, "GRAY") for size in SIZES]


def with_opencv(path: Path) -> list[bytes]:
    """One JPEG per size from the full-scale picture, with OpenCV alone."""
    gray = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    wanted = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    return [cv2.imencode(".jpg", _shrink(gray, size), wanted)[1].tobytes() for size in SIZES]


def chunk(files: Sequence[Path]) -> int:
    """A worker's task: what is made is thrown away, not written. Returns the number of files."""
    cv2.setNumThreads(1)  # the workers are the parallelism
    return len([with_simplejpeg(path) for path in files])


def _shrink(gray: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(gray, (size, size), interpolation=cv2.INTER_AREA)
