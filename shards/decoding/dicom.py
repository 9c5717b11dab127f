"""A DICOM's pixels as the numbers that they hold, by a decoder for each way of coding them.

Which decoder reads what is fixed: the same file gives the same bytes wherever the same packages are installed. A
JPEG of 8 bits takes the way of a JPEG file, at its scales and with its checks.
"""

import struct
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import simplejpeg

from shards.decoding import jpeg
from shards.decoding.decoded import MOST_PARTS, Decoded, RejectedImage, check_memory, memory_errors, unsupported
from shards.decoding.dicom_header import (
    BIG_ENDIAN,
    EXPLICIT,
    NATIVE,
    UNDEFINED,
    Header,
    not_installed,
    read_header,
    values,
)
from shards.decoding.dicom_image import Image, read_image
from shards.decoding.dicom_levels import is_plain, read_levels
from shards.decoding.jpeg_frame import read_frame
from shards.decoding.second import libjpeg_lines
from shards.decoding.tags import tags_of

_JPEG, _JPEG_LS, _JPEG_2000 = (  # baseline, extended and lossless; with and without loss; and of high throughput
    tuple(f"1.2.840.10008.1.2.4.{each}" for each in numbers)
    for numbers in ((50, 51, 57, 70), (80, 81), (90, 91, 201, 202, 203))
)
_RLE = "1.2.840.10008.1.2.5"
_PLUGINS = {**dict.fromkeys(_JPEG_LS, "pyjpegls"), **dict.fromkeys((*_JPEG_2000, _RLE), "pylibjpeg")}
_ITEM, _END_OF_ITEMS = 0xE000FFFE, 0xE0DDFFFE


def decode(data: bytes, least: int) -> Decoded:
    """Decode a whole file.

    least: smallest height and width wanted, in pixels, of a JPEG that may be decoded at a smaller scale; 0: whole.
    Raises RejectedImage, or UserError where a package for it is not installed.
    """
    header = read_header(data)
    image = read_image(header)
    try:
        with memory_errors():
            numbers, image = _numbers(header, image, least)
            tags = tags_of(header.dataset)
            if image.coloured:
                return Decoded(numbers, image.rows, image.columns, converted=("RGB",), tags=tags)
            levels = read_levels(header, image, np.iinfo(numbers.dtype).max + 1)
    except (RejectedImage, MemoryError, KeyboardInterrupt, SystemExit):
        raise
    except ModuleNotFoundError as error:
        raise not_installed(error) from error
    except BaseException as error:  # of a library, which may quote the file; one in Rust panics beside Exception
        check_memory(4 * image.rows * image.columns * image.samples_per_pixel)
        raise RejectedImage(f"damaged DICOM: its pixels cannot be decoded ({type(error).__name__})") from None
    kinds = ("16-bit",) if image.bits_stored > 8 else ()
    return Decoded(numbers, image.rows, image.columns, converted=kinds, levels=levels, tags=tags)


def height_and_width(data: bytes) -> tuple[int, int]:
    """As its header says, in pixels. Raises RejectedImage."""
    image = read_image(read_header(data))
    return image.rows, image.columns


def _numbers(header: Header, image: Image, least: int) -> tuple[np.ndarray, Image]:
    """uint8 or uint16 [h, w], and the image with no more bits than it is coded in; gray, if it is in colours."""
    if header.syntax in NATIVE:
        return _by_pydicom(header, image, _native(header, image)), image
    if header.syntax not in (*_JPEG, *_PLUGINS):
        raise unsupported("a DICOM of another transfer syntax (a video, or a private or withdrawn one)")
    frame = _frame(header)
    if header.syntax in _JPEG:
        return _jpeg(frame, header, image, least)
    if header.syntax != _RLE:
        height, width, samples, bits = _coded_facts(frame, header.syntax)
        image = _checked(image, height, width, samples, bits)
    return _by_pydicom(header, image, frame), image


def _native(header: Header, image: Image) -> memoryview:
    if header.length == UNDEFINED:
        raise RejectedImage("damaged DICOM: its pixels are compressed, its header does not say how")
    value = memoryview(header.body)[header.place : header.place + header.length]
    if len(value) < header.length:
        raise RejectedImage(f"damaged DICOM: cut off, {len(value):,} bytes of pixels of {header.length:,}")
    sampled = 2 if image.photometric_interpretation == "YBR_FULL_422" else image.samples_per_pixel
    expected = image.rows * image.columns * sampled * image.bits_allocated // 8
    if header.length not in (expected, expected + expected % 2):
        raise RejectedImage(f"damaged DICOM: {header.length:,} bytes of pixels, its header says {expected:,}")
    return value


def _frame(header: Header) -> bytes:
    """The one compressed image: all fragments behind the table of offsets, which is not needed and may lie."""
    if header.length != UNDEFINED:
        raise RejectedImage("damaged DICOM: its pixels are not compressed, its header says they are")
    body, place = memoryview(header.body), header.place
    parts: list[memoryview] = []
    for _ in range(MOST_PARTS):
        if place + 8 > len(body):
            break
        tag, length = struct.unpack_from("<II", body, place)
        place += 8
        if tag == _END_OF_ITEMS:
            if parts and len(parts[0]) > 4:
                raise unsupported("a DICOM of several frames")
            if frame := b"".join(parts[1:]):
                return frame
            raise RejectedImage("damaged DICOM: fragments without pixels")
        if tag != _ITEM or place + length > len(body):
            break
        parts.append(body[place : place + length])
        place += length
    raise RejectedImage("damaged DICOM: cut off among the fragments of its pixels, or something else among them")


def _checked(image: Image, height: int, width: int, samples: int, bits: int) -> Image:
    """With no more bits than are coded. Raises RejectedImage if what is coded is another image."""
    if (height, width, samples) != (image.rows, image.columns, image.samples_per_pixel) or bits > image.bits_allocated:
        raise RejectedImage(
            f"damaged DICOM: its compressed image is {height} x {width}, {samples} values of {bits} bits; its header "
            f"says {image.rows} x {image.columns}, {image.samples_per_pixel} of {image.bits_allocated}"
        )
    return replace(image, bits_stored=min(image.bits_stored, bits))


def _coded_facts(frame: bytes, syntax: str) -> tuple[int, int, int, int]:
    """Height, width, values a pixel and their bits, of JPEG-LS or JPEG 2000."""
    if syntax in _JPEG_LS:
        found = read_frame(frame, of_dicom=True)
        return found.height, found.width, found.components, found.bits
    place = frame.find(b"\xff\x4f\xff\x51", 0, 4096) + 8  # behind boxes, in some files
    if place < 8 or len(frame) < place + 35:
        raise RejectedImage("damaged DICOM: its JPEG 2000 image has no header")
    right, low, left, top = struct.unpack_from(">IIII", frame, place)
    (components,) = struct.unpack_from(">H", frame, place + 32)
    return low - top, right - left, components, (frame[place + 34] & 127) + 1


def _jpeg(data: bytes, header: Header, image: Image, least: int) -> tuple[np.ndarray, Image]:
    frame = read_frame(data, of_dicom=True)
    plain = image.coloured or (is_plain(header.dataset, image) and not values(header.dataset, "PixelPaddingValue"))
    image = _checked(image, frame.height, frame.width, frame.components, frame.bits)
    if frame.bits < 8 or (frame.bits > 8 and image.coloured):
        raise unsupported(f"a DICOM with a JPEG of {frame.bits} bits, in colours or not")
    if frame.bits > 8:
        return _by_gdcm(data, header.syntax, image, frame.bits), image
    if image.coloured:  # what libjpeg takes it for, by its markers; of a lossless one it converts nothing
        coded = "RGB" if frame.lossless else simplejpeg.decode_jpeg_header(data)[2]
        if (coded == "RGB") != (image.photometric_interpretation == "RGB"):
            raise unsupported(f"a DICOM whose JPEG is marked as {coded}, which its header does not say")
    return jpeg.decode(data, least if plain else 0).gray, image


def _by_pydicom(header: Header, image: Image, coded: bytes | memoryview) -> np.ndarray:
    """uint8 or uint16 [h, w] with all bits that are there; colours as gray."""
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder

    plugin = _PLUGINS.get(header.syntax, "")
    decoder = get_decoder(header.syntax if plugin else EXPLICIT if header.little else BIG_ENDIAN)
    if plugin and plugin not in decoder.available_plugins:
        raise ModuleNotFoundError(name=plugin)
    source: Any = encapsulate([bytes(coded)], has_bot=False) if plugin else coded
    options: dict[str, Any] = {
        "index": 0,
        "number_of_frames": 1,
        "decoding_plugin": plugin,
        "pixel_keyword": "PixelData",
    }
    options |= {"pixel_vr": "OW" if header.words else "OB", "pixel_representation": 0}  # the sign is in its levels
    for correction in ("correct_unused_bits", "apply_j2k_sign_correction", "apply_jls_sign_correction"):
        options[correction] = False
    if not (plugin or image.coloured):
        options["view_only"] = True
    found, _ = decoder.as_array(source, **vars(image), **options)
    if image.coloured:
        return cv2.cvtColor(np.ascontiguousarray(found), cv2.COLOR_RGB2GRAY)
    return found.astype(found.dtype.newbyteorder("="), copy=False)


def _by_gdcm(data: bytes, syntax: str, image: Image, bits: int) -> np.ndarray:
    """uint16 [h, w] of a JPEG of more than 8 bits. pydicom does not let it read those of 12 bits that are lossy."""
    import gdcm

    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(data)
    fragments.AddFragment(fragment)
    pixels = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    pixels.SetValue(fragments.__ref__())
    coded = gdcm.Image()
    coded.SetNumberOfDimensions(2)
    coded.SetDimensions((image.columns, image.rows, 1))
    coded.SetDataElement(pixels)
    kind = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    coded.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    coded.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    coded.SetPixelFormat(gdcm.PixelFormat(1, 16, bits, bits - 1, 0))
    with libjpeg_lines() as lines:
        made = coded.GetBuffer()
    damage = [line for line in lines if not line.startswith("Invalid SOS")]  # which old writers got wrong
    if made is None or damage:
        raise RejectedImage(f"damaged DICOM: its JPEG cannot be decoded ({damage[0] if damage else 'gdcm'})")
    # bytes, which it hands out as if they were text
    return np.frombuffer(made.encode("utf-8", "surrogateescape"), "<u2").reshape(image.rows, image.columns)
