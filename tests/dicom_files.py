"""DICOM files, written element by element by pydicom, with pixels that are known: in every way of coding them that
there is an encoder for, and with lies in their headers."""

import io
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.image_files import blocks_jpeg, lossless_jpeg

XRAY = "1.2.840.10008.5.1.4.1.1.1.1"  # Digital X-Ray Image Storage - For Presentation
NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
ENCODED = (RLELossless, JPEGLSLossless, JPEG2000Lossless)  # by pydicom's plugins
BY_HAND = (JPEGLossless, JPEGLosslessSV1)
LOSSLESS = (*NATIVE, *ENCODED, *BY_HAND)


def dataset(pixels: np.ndarray, bits: int, syntax: str = ExplicitVRLittleEndian, **elements: Any) -> Dataset:
    """Of pixels [h, w] or [h, w, 3] of 8 or 16 bits, of which `bits` are stored. elements: others, by keyword; None
    leaves one out, which may be one that every image has."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = XRAY
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "1.2.3"
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    made.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    if pixels.ndim == 3:
        made.PlanarConfiguration = 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 8 * pixels.itemsize, bits, bits - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    words = pixels.itemsize == 2 or syntax == ImplicitVRLittleEndian
    made.add_new("PixelData", "OW" if words else "OB", pixels.astype(pixels.dtype.newbyteorder(order)).tobytes())
    for keyword, value in elements.items():
        if value is None:
            del made[keyword]
        else:
            setattr(made, keyword, value)
    return made


def written(made: Dataset) -> bytes:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, made, enforce_file_format=True)
    return buffer.getvalue()


def dicom(pixels: np.ndarray, bits: int = 12, syntax: str = ExplicitVRLittleEndian, **elements: Any) -> bytes:
    """A whole file, its pixels coded as `syntax` says, without loss."""
    if syntax in NATIVE:
        return written(dataset(pixels, bits, syntax, **elements))
    if syntax in BY_HAND:
        predictor = 6 if syntax == JPEGLossless else 1
        return framed(lossless_jpeg(pixels.astype(int), bits, predictor=predictor), pixels, bits, syntax, **elements)
    made = dataset(pixels, bits)
    made.compress(syntax, encoding_plugin="pyjpegls" if syntax == JPEGLSLossless else "pylibjpeg")
    return framed(
        next(pydicom.encaps.generate_frames(made.PixelData, number_of_frames=1)), pixels, bits, syntax, **elements
    )


def framed(frame: bytes, pixels: np.ndarray, bits: int, syntax: str, pieces: int = 1, **elements: Any) -> bytes:
    """A whole file around a compressed image that looks like `pixels`, in so many fragments."""
    made = dataset(pixels, bits, syntax, **elements)
    made.add_new("PixelData", "OB", encapsulate([frame], fragments_per_frame=pieces, has_bot=pieces > 1))
    made["PixelData"].is_undefined_length = True
    return written(made)


def extended(blocks: np.ndarray, **elements: Any) -> tuple[bytes, np.ndarray]:
    """A file with a lossy JPEG of 12 bits, of one gray per 8 x 8 block, and its pixels."""
    pixels = np.kron(blocks, np.ones((8, 8))).astype(np.uint16)
    return framed(blocks_jpeg(blocks, ((1, 1),), 0xC1, 12), pixels, 12, JPEGExtended12Bit, **elements), pixels


def without_preamble(data: bytes, meta: bool = True) -> bytes:
    """As old files are: from group 2 on, or without that too."""
    if meta:
        return data[132:]
    return data[144 + int.from_bytes(data[140:144], "little") :]
