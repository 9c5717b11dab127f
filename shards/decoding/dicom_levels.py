"""What the numbers in a DICOM's pixels mean: sign, modality LUT, VOI LUT or window, padding.

All of it concerns each pixel alone, so it is worked out once for every number that there may be, and no image in
between is made. Bits of a number that are not the value (overlays in old files) do not count.
"""

from typing import Any

import numpy as np

from shards.decoding.decoded import Levels, RejectedImage
from shards.decoding.dicom_header import Header, number, values
from shards.decoding.dicom_image import Image


def is_plain(dataset: Any, image: Image) -> bool:
    """Whether the numbers are 8-bit gray values as those of a JPEG: neighbours may be averaged, no window is due."""
    plain = (image.bits_stored, image.signed, image.shift) == (8, False, 0)
    return plain and not values(dataset, "ModalityLUTSequence") and number(dataset, "RescaleSlope", 1) > 0


def read_levels(header: Header, image: Image, numbers: int) -> Levels:
    """numbers: how many there are, 256 or 65,536. Raises RejectedImage if the file does not say soundly."""
    stored = np.arange(numbers) >> image.shift & 2**image.bits_stored - 1
    if image.signed:
        stored -= (stored >> image.bits_stored - 1) * 2**image.bits_stored
    meant = _after_modality(header, stored)
    own, padding = _of_voi(header, meant), _padding(header.dataset, image, stored)
    inverted = image.photometric_interpretation == "MONOCHROME1"
    if is_plain(header.dataset, image):
        return Levels(stored.astype(np.float64), (0.0, 255.0), own, padding, inverted)
    return Levels(meant, None, own, padding, inverted)


def _after_modality(header: Header, stored: np.ndarray) -> np.ndarray:
    if tables := values(header.dataset, "ModalityLUTSequence"):
        return _looked_up(header, tables[0], stored)[0]
    if not (slope := number(header.dataset, "RescaleSlope", 1)):
        raise RejectedImage("damaged DICOM: a rescale slope of zero")
    return stored * float(slope) + float(number(header.dataset, "RescaleIntercept", 0))


def _of_voi(header: Header, meant: np.ndarray) -> np.ndarray | None:
    """0 to 1 by the file's VOI LUT, else by its window, the first of several; None if it has none that can be used."""
    from pydicom.pixels.processing import apply_windowing

    try:
        if tables := values(header.dataset, "VOILUTSequence"):
            shades, most = _looked_up(header, tables[0], meant)
            return shades / most
        if not values(header.dataset, "WindowCenter"):
            return None
        with np.errstate(all="ignore"):
            shown = apply_windowing(np.append(meant, (-1e30, 1e30)), header.dataset)  # behind them black and white
            own = (shown[:-2] - shown[-2]) / (shown[-1] - shown[-2])
        return own if np.isfinite(own).all() else None
    except MemoryError:
        raise
    except Exception:  # of pydicom, about a window that cannot be read or that says nothing
        return None


def _looked_up(header: Header, table: Any, meant: np.ndarray) -> tuple[np.ndarray, int]:
    """A lookup table's entries for `meant`, and the largest that may be. pydicom's wraps where entries have 8 bits."""
    entries, first, bits = values(table, "LUTDescriptor")
    data, entries = table.LUTData, entries or 2**16
    if isinstance(data, bytes):
        kind = f"{'<' if header.little else '>'}u2" if len(data) >= 2 * entries else "u1"
        data = np.frombuffer(data, kind)
    if len(data) < entries:
        raise RejectedImage("damaged DICOM: a lookup table of fewer entries than its descriptor says")
    if first >= 2**15 and meant.min() < 0:
        first -= 2**16
    places = (meant - first).clip(0, entries - 1).astype(np.int64)
    return np.asarray(data, np.float64)[places], 2**bits - 1


def _padding(dataset: Any, image: Image, stored: np.ndarray) -> np.ndarray | None:
    if not values(dataset, "PixelPaddingValue"):
        return None
    value = number(dataset, "PixelPaddingValue")
    ends = [value, number(dataset, "PixelPaddingRangeLimit", value)]
    if image.signed:  # some files have it without its sign
        ends = [each - 2**16 if each >= 2**15 else each for each in ends]
    found = (stored >= min(ends)) & (stored <= max(ends))
    return found if found.any() else None
