"""What the numbers in a DICOM's pixels mean: sign, modality LUT, VOI LUT or window, padding, palette.

All of it concerns each pixel alone, so it is worked out once for every number that there may be, and no image in
between is made. Bits of a number that are not the value (overlays in old files) do not count.
"""

import cv2
import numpy as np

from shards.decoding.decoded import Levels, RejectedImage
from shards.decoding.dicom_header import Elements, Header, pydicom
from shards.decoding.dicom_image import Image

_WHITE = 255.0


def is_plain(elements: Elements, image: Image) -> bool:
    """Whether the numbers are 8-bit gray values as those of a JPEG: neighbours may be averaged, no window is due."""
    plain = (image.bits, image.signed, image.shift, image.palette) == (8, False, 0, False)
    return plain and not elements.items("ModalityLUTSequence") and _rescale(elements)[0] > 0


def read_levels(header: Header, image: Image, numbers: int) -> Levels:
    """numbers: how many there are, 256 or 65,536. Raises RejectedImage if the file does not say soundly."""
    elements = header.elements
    stored = np.arange(numbers) >> image.shift & 2**image.bits - 1
    if image.signed:
        stored -= (stored >> image.bits - 1) * 2**image.bits
    if image.palette:
        return Levels(_of_palette(elements, stored), (0.0, _WHITE))
    values = _after_modality(elements, stored)
    own = _of_voi(elements, values)
    plain = is_plain(elements, image)
    return Levels(
        values=stored.astype(np.float64) if plain else values,
        ends=(0.0, _WHITE) if plain else None,
        own=own,
        padding=_padding(elements, image, stored),
        inverted=image.inverted,
    )


def _of_palette(elements: Elements, stored: np.ndarray) -> np.ndarray:
    """The gray of each colour, 0 to 255, as of a PNG's palette."""
    if not elements.little:
        raise RejectedImage("not supported: a big-endian DICOM with a palette; convert it to a PNG first")
    pydicom()
    from pydicom.pixels import apply_color_lut

    entries, first, _ = elements.shorts("RedPaletteColorLookupTableDescriptor")
    known = stored.clip(0, first + (entries or 2**16) - 1)  # those beyond are the last
    colours = np.ascontiguousarray(apply_color_lut(known, elements.dataset)[None, :, :3])
    gray = cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)[0]
    return gray.astype(np.float64) * (_WHITE / np.iinfo(gray.dtype).max)


def _rescale(elements: Elements) -> tuple[float, float]:
    slope, intercept = elements.real("RescaleSlope"), elements.real("RescaleIntercept")
    if slope == 0:
        raise RejectedImage("damaged DICOM: a rescale slope of zero")
    return 1.0 if slope is None else slope, intercept or 0.0


def _after_modality(elements: Elements, stored: np.ndarray) -> np.ndarray:
    if tables := elements.items("ModalityLUTSequence"):
        return _looked_up(tables[0], stored.astype(np.float64))[0]
    slope, intercept = _rescale(elements)
    return stored * slope + intercept


def _of_voi(elements: Elements, values: np.ndarray) -> np.ndarray | None:
    """0 to 1 by the file's VOI LUT, else by its window, the first of several; None if it has none that can be used."""
    try:
        if tables := elements.items("VOILUTSequence"):
            shades, most = _looked_up(tables[0], values)
            return shades / most
        centre, width = elements.real("WindowCenter"), elements.real("WindowWidth")
    except RejectedImage:
        return None
    function = elements.text("VOILUTFunction").upper() or "LINEAR"
    if centre is None or width is None or width < (1 if function == "LINEAR" else 1e-6):
        return None
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR":  # PS3.3 C.11.2.1.2: of whole numbers, both ends within
        centre, width = centre - 0.5, width - 1
    elif function != "LINEAR_EXACT":
        return None
    if not width:
        return (values > centre).astype(np.float64)
    return ((values - centre) / width + 0.5).clip(0, 1)


def _looked_up(table: Elements, values: np.ndarray) -> tuple[np.ndarray, float]:
    """A lookup table's entry for each of the values, and the largest that an entry may be."""
    described, data = table.shorts("LUTDescriptor"), table.raw("LUTData")
    if len(described) != 3 or not 8 <= described[2] <= 16:
        raise RejectedImage("damaged DICOM: a lookup table without a sound descriptor")
    entries, bits = described[0] or 2**16, described[2]
    first = table.shorts("LUTDescriptor", signed=bool(values.min() < 0))[1]
    wide = len(data) >= 2 * entries
    if len(data) < entries or not wide and bits > 8:
        raise RejectedImage("damaged DICOM: a lookup table of fewer entries than its descriptor says")
    shades = np.frombuffer(data, f"{'<' if table.little else '>'}u2" if wide else "u1", entries)
    places = (values - first).clip(0, entries - 1).astype(np.int64)
    return shades[places].clip(0, 2**bits - 1).astype(np.float64), 2.0**bits - 1


def _padding(elements: Elements, image: Image, stored: np.ndarray) -> np.ndarray | None:
    said = [elements.shorts(each, image.signed)[:1] for each in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if not said[0]:
        return None
    ends = [*said[0], *said[1]]
    found = (stored >= min(ends)) & (stored <= max(ends))
    return found if found.any() else None
