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
from shards.decoding.dicom_header import BIG_ENDIAN, DEFLATED, UNDEFINED, Header, pydicom, read_header
from shards.decoding.dicom_image import Image, read_image
from shards.decoding.dicom_levels import is_plain, read_levels
from shards.decoding.jpeg_frame import read_frame
from shards.decoding.tags import tags_of
from shards.errors import UserError

_EXPLICIT, _JPEG_LOSSLESS = "1.2.840.10008.1.2.1", ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_NATIVE = ("", "1.2.840.10008.1.2", _EXPLICIT, BIG_ENDIAN, DEFLATED)
_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", *_JPEG_LOSSLESS)
_JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
_JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203))  # and its high throughput
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
            return _decode(header, image, least)
    except (RejectedImage, MemoryError, UserError):
        raise
    except Exception as error:  # of a library, which may quote the file
        check_memory(4 * image.height * image.width * image.samples)
        raise RejectedImage(f"damaged DICOM: its pixels cannot be decoded ({type(error).__name__})") from None


def height_and_width(data: bytes) -> tuple[int, int]:
    """As its header says, in pixels. Raises RejectedImage."""
    image = read_image(read_header(data))
    return image.height, image.width


def _decode(header: Header, image: Image, least: int) -> Decoded:
    if header.syntax in _NATIVE:
        numbers = _native(header, image)
    elif header.syntax in (*_JPEG, *_PLUGINS):
        frame = _frame(header)
        if header.syntax in _JPEG:
            padded = header.elements.raw("PixelPaddingValue") != b""
            plain = image.samples == 3 or (is_plain(header.elements, image) and not padded)
            numbers, image = _jpeg(frame, header, image, least if plain else 0)
        else:
            image = _checked_code(frame, header, image)
            numbers = _by_plugin(header.syntax, _PLUGINS[header.syntax], frame, header, image)
    else:
        raise unsupported("a DICOM of another transfer syntax (a video, or a private or withdrawn one)")
    tags = tags_of(header.elements)
    if image.samples == 3:
        return Decoded(numbers, image.height, image.width, converted=("RGB",), tags=tags)
    levels = read_levels(header, image, 256 if numbers.dtype == np.uint8 else 65536)
    said = {"RGB": image.palette, "16-bit": image.bits > 8}
    kinds = tuple(word for word, true in said.items() if true)
    return Decoded(numbers, image.height, image.width, converted=kinds, levels=levels, tags=tags)


# ---------------------------------------------------------------- not compressed


def _native(header: Header, image: Image) -> np.ndarray:
    """uint8 or uint16 [h, w], a view of the file where that can be."""
    if header.length == UNDEFINED:
        raise RejectedImage("damaged DICOM: its pixels are compressed, its header does not say how")
    value = memoryview(header.body)[header.place : header.place + header.length]
    if len(value) < header.length:
        raise RejectedImage(f"damaged DICOM: cut off, {len(value):,} bytes of pixels of {header.length:,}")
    sampled = 2 if image.colours == "YBR_FULL_422" else image.samples
    expected = image.height * image.width * sampled * image.allocated // 8
    if header.length not in (expected, expected + expected % 2):
        raise RejectedImage(f"damaged DICOM: {header.length:,} bytes of pixels, its header says {expected:,}")
    if image.samples == 3:
        return _by_plugin(header.syntax if header.syntax == BIG_ENDIAN else _EXPLICIT, "", value, header, image)
    shape = image.height, image.width
    if image.allocated == 16:
        numbers = np.frombuffer(value, "<u2" if header.elements.little else ">u2", image.height * image.width)
        return numbers.astype(np.uint16, copy=False).reshape(shape)
    numbers = np.frombuffer(value, np.uint8)
    if not header.elements.little and header.words:
        numbers = numbers.view(">u2").astype("<u2").view(np.uint8)
    return numbers[: image.height * image.width].reshape(shape)


# ---------------------------------------------------------------- compressed


def _frame(header: Header) -> bytes:
    """The one compressed image: all fragments behind the table of offsets, which is not needed and may lie."""
    if header.length != UNDEFINED:
        raise RejectedImage("damaged DICOM: its pixels are not compressed, its header says they are")
    body, place, parts = memoryview(header.body), header.place, []
    for _ in range(MOST_PARTS):
        if place + 8 > len(body):
            break
        tag, length = struct.unpack_from("<II", body, place)
        place += 8
        if tag == _END_OF_ITEMS:
            return _joined(parts)
        if tag != _ITEM:
            raise RejectedImage("damaged DICOM: something else among the fragments of its pixels")
        if place + length > len(body):
            break
        parts.append(body[place : place + length])
        place += length
    raise RejectedImage("damaged DICOM: cut off among the fragments of its pixels")


def _joined(parts: list[memoryview]) -> bytes:
    offsets, *fragments = parts or [memoryview(b"")]
    if len(offsets) > 4:
        raise unsupported("a DICOM of several frames")
    frame = b"".join(fragments)
    if not frame:
        raise RejectedImage("damaged DICOM: fragments without pixels")
    return frame


def _check_shape(image: Image, height: int, width: int, samples: int) -> None:
    if (height, width, samples) != (image.height, image.width, image.samples):
        raise RejectedImage(
            f"damaged DICOM: its compressed image has {height} x {width} pixels in {samples} components, its header "
            f"says {image.height} x {image.width} in {image.samples}"
        )


def _jpeg(data: bytes, header: Header, image: Image, least: int) -> tuple[np.ndarray, Image]:
    """uint8 or uint16 [h, w], and the image with as many bits as the JPEG has."""
    frame = read_frame(data, of_dicom=True)
    _check_shape(image, frame.height, frame.width, frame.components)
    if frame.jpeg_ls:
        raise RejectedImage("damaged DICOM: a JPEG-LS image, its header says JPEG")
    if not 8 <= frame.bits <= image.allocated or (image.samples == 3 and frame.bits > 8):
        raise unsupported(f"a DICOM with a JPEG of {frame.bits} bits, allocated {image.allocated}, in colours or not")
    image = replace(image, bits=min(image.bits, frame.bits))
    if frame.bits > 8:
        return _by_gdcm(data, header.syntax, image, frame.bits), image
    if image.samples == 3:  # what libjpeg takes it for, by its markers; of a lossless one it converts nothing
        coded = "RGB" if frame.lossless else simplejpeg.decode_jpeg_header(data)[2]
        if (coded == "RGB") != (image.colours == "RGB"):
            raise unsupported(f"a DICOM whose JPEG is marked as {coded}, which its header does not say")
    return jpeg.decode(data, least).gray, image


def _checked_code(data: bytes, header: Header, image: Image) -> Image:
    """The image with as many bits as its JPEG-LS or JPEG 2000 has. Raises RejectedImage if that is another image."""
    if header.syntax == _RLE:
        return image
    if header.syntax in _JPEG_LS:
        frame = read_frame(data, of_dicom=True)
        shape, bits = (frame.height, frame.width, frame.components), frame.bits
    else:
        place = data.find(b"\xff\x4f\xff\x51", 0, 4096)  # behind boxes, in some files
        if place < 0 or len(data) < place + 43:
            raise RejectedImage("damaged DICOM: its JPEG 2000 image has no header")
        right, low, left, top = struct.unpack_from(">IIII", data, place + 8)
        (components,) = struct.unpack_from(">H", data, place + 40)
        shape, bits = (low - top, right - left, components), (data[place + 42] & 127) + 1
    _check_shape(image, *shape)
    if bits > image.allocated:
        raise RejectedImage(f"damaged DICOM: its compressed image has {bits} bits, its header says {image.allocated}")
    return replace(image, bits=min(image.bits, bits))


def _by_plugin(syntax: str, plugin: str, data: Any, header: Header, image: Image) -> np.ndarray:
    """By one of pydicom's: gray as uint8 or uint16 [h, w] with all bits that are there, colours as uint8 gray."""
    pydicom()
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder

    decoder = get_decoder(syntax)
    if plugin and plugin not in decoder.available_plugins:
        raise UserError(f"a DICOM is read by {plugin}, which is not installed: pip install 'cxrdali[dicom]'")
    options: dict[str, Any] = {
        "rows": image.height,
        "columns": image.width,
        "samples_per_pixel": image.samples,
        "photometric_interpretation": image.colours,
        "bits_allocated": image.allocated,
        "bits_stored": image.bits,
        "pixel_representation": int(image.signed),
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
        "pixel_vr": "OW" if header.words else "OB",
        "decoding_plugin": plugin,
        "index": 0,
    }
    coded = encapsulate([data], has_bot=False) if plugin else bytes(data)
    if image.samples == 3:
        colours, _ = decoder.as_array(coded, planar_configuration=int(image.planar), **options)
        return cv2.cvtColor(np.ascontiguousarray(colours), cv2.COLOR_RGB2GRAY)
    made, facts = decoder.as_buffer(coded, **options)
    return np.frombuffer(made, f"<u{int(facts['bits_allocated']) // 8}").reshape(image.height, image.width)


def _by_gdcm(data: bytes, syntax: str, image: Image, bits: int) -> np.ndarray:
    """uint16 [h, w] of a JPEG of more than 8 bits. pydicom does not let it read those of 12 bits that are lossy."""
    try:
        import gdcm
    except ImportError as error:
        raise UserError("a DICOM is read by gdcm, which is not installed: pip install 'cxrdali[dicom]'") from error
    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(data)
    fragments.AddFragment(fragment)
    pixels = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    pixels.SetValue(fragments.__ref__())
    coded = gdcm.Image()
    coded.SetNumberOfDimensions(2)
    coded.SetDimensions((image.width, image.height, 1))
    coded.SetDataElement(pixels)
    kind = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    coded.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    coded.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    coded.SetPixelFormat(gdcm.PixelFormat(1, 16, bits, bits - 1, 0))
    decode = gdcm.ImageChangeTransferSyntax()  # which says whether it could; Image.GetBuffer hands out old memory
    decode.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.ExplicitVRLittleEndian))
    decode.SetInput(coded)
    if not decode.Change():
        raise RejectedImage("damaged DICOM: its JPEG cannot be decoded")
    made = decode.GetOutput().GetBuffer().encode("utf-8", "surrogateescape")  # bytes, which it takes for text
    return np.frombuffer(made, "<u2").reshape(image.height, image.width)
