"""Small DICOM files, as the releases ship them: 12 bits uncompressed, or 8 bits in a JPEG frame."""

from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

from tests.releases import jpeg
from tests.shards.releases.declared.layout import SIDE, picture


def write_dicom(path: Path, number: int, bits: int = 12, inverted: bool = False, **tags: str) -> Path:
    """A file of `picture(number)`, of which a MONOCHROME1 one shows the inverse; of 8 bits it is in a JPEG frame.

    tags: more of its header by keyword, as PatientID. It has a name, which must be read by nobody.
    """
    file = Dataset()
    file.SOPClassUID, file.SOPInstanceUID = ComputedRadiographyImageStorage, generate_uid()
    file.Modality, file.PatientName = "CR", "Never^Shown"
    for keyword, value in tags.items():
        setattr(file, keyword, value)
    file.Rows = file.Columns = SIDE
    file.SamplesPerPixel, file.PixelRepresentation = 1, 0
    file.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit = 8 if bits == 8 else 16, bits, bits - 1
    pixels = picture(number, bits)
    file.PixelData = encapsulate([jpeg(pixels, 95)]) if bits == 8 else pixels.tobytes()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = JPEGBaseline8Bit if bits == 8 else ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, file, enforce_file_format=True)
    return path
