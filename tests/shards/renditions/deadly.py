"""Images that do to a decoder what their comment says: for processes of this test, and of others by `hooked`."""

import os
import signal
import time
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from tests.cli.cli import ROOT
from tests.releases import jpeg

_MARK = b"deadly "


def deadly(deed: str) -> bytes:
    """A sound JPEG whose comment says "signal NUMBER", "exit CODE", "sleep SECONDS", "raise WORD" or "once FILE"."""
    data, text = jpeg(np.full((90, 80), 128, np.uint8)), _MARK + deed.encode()
    return data[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + data[2:]


def install() -> None:
    """From now on this process and those that it forks do what the images say."""
    whole = simplejpeg.decode_jpeg

    def decode_jpeg(data, *arguments, **options):
        head = bytes(data[:300])
        if head[6:].startswith(_MARK):
            _do(*head[6 + len(_MARK) : 4 + int.from_bytes(head[4:6], "big")].decode().split(" ", 1))
        return whole(data, *arguments, **options)

    simplejpeg.decode_jpeg = decode_jpeg


def hooked(folder: Path) -> str:
    """A PYTHONPATH with which every Python does so."""
    (folder / "sitecustomize.py").write_text("from tests.shards.renditions import deadly\ndeadly.install()\n")
    return f"{folder}:{ROOT}"


def _do(deed: str, what: str) -> None:
    if deed == "signal":
        os.kill(os.getpid(), int(what))
    elif deed == "exit":
        os._exit(int(what))
    elif deed == "sleep":
        time.sleep(float(what))
    elif deed == "once" and not Path(what).exists():
        Path(what).touch()
        os.kill(os.getpid(), signal.SIGSEGV)
    elif deed == "raise":
        raise {
            "index": IndexError("list index\nout of range"),
            "memory": MemoryError(),
            "opencv": cv2.error(
                "OpenCV(4.12.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes"
            ),
        }[what]
