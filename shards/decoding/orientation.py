"""How a camera was held: EXIF orientation, which viewers follow and decoders ignore.

1 is upright, 3 upside down, 2 and 4 are their mirror images; 5 to 8 lie on their side: height and width change places.
"""

import re

import numpy as np

_TAG = 0x0112
_NUM_BYTES = {1: 1, 3: 2, 4: 4}  # of the TIFF types BYTE, SHORT and LONG
_XMP = re.compile(rb"""tiff:Orientation\s*(?:=\s*["']|>)\s*([1-8])\b""")


def orientation_of(exif: bytes, xmp: bytes) -> int:
    """1 to 8; XMP counts where the EXIF data has none, as in Pillow. What cannot be read is 1: stored upright."""
    found = _in_exif(exif.removeprefix(b"Exif\0\0"))
    if found is None and (said := _XMP.search(xmp)):
        found = int(said[1])
    return found if found is not None and 1 <= found <= 8 else 1


def _in_exif(tiff: bytes) -> int | None:
    """The entry of the first directory."""
    little = tiff[:4] == b"II*\0"
    if not little and tiff[:4] != b"MM\0*":
        return None

    def number(place: int, num_bytes: int) -> int:
        return int.from_bytes(tiff[place : place + num_bytes], "little" if little else "big")

    start = number(4, 4)
    for entry in range(start + 2, min(start + 2 + 12 * number(start, 2), len(tiff) - 11), 12):
        if number(entry, 2) == _TAG:
            return number(entry + 8, _NUM_BYTES.get(number(entry + 2, 2), 0))
    return None


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """[h, w] as it is to be looked at: [w, h] for 5 to 8."""
    if orientation >= 5:
        image = image.T
    down, across = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(image[:: -1 if down else 1, :: -1 if across else 1])
