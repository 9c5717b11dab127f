"""Packing DICOMs: the files of a table, of which no name, date or text gets anywhere."""

import gzip
import tarfile

import numpy as np
import pandas as pd
import pyarrow.parquet
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from shards.dataset.packed import PackedDataset
from tests.cli.cli import run
from tests.dicom_files import dataset, dicom, framed, written
from tests.releases import jpeg, smooth_image

MARK, NUMBER = "QXZJVW", 111111  # the mark stands where this number is to be, too
KEPT = {"SOPInstanceUID", "StudyInstanceUID", "PatientID", "ViewPosition", "PatientSex", "PatientAge", "Manufacturer"}
OF_THE_IMAGE = {"SpecificCharacterSet", "SOPClassUID", "PhotometricInterpretation", "NumberOfFrames"}
OF_THE_IMAGE |= {"RescaleSlope", "RescaleIntercept"}
# of all kinds of text, dates and times; what is no text cannot hold a name
TEXTS = {"AE", "CS", "DS", "IS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT", "DA", "DT", "TM", "AS", "UI"}


def gray(seed, height=70, width=60):
    return smooth_image(np.random.default_rng(seed), height, width)


def marked(made, nested=True):
    """With the mark in every element of text that the standard has, but those that are kept or make the image."""
    from pydicom.datadict import DicomDictionary  # its public table

    for tag, (kind, _, _, _, keyword) in DicomDictionary.items():
        group = tag >> 16
        if kind in TEXTS and keyword and keyword not in KEPT | OF_THE_IMAGE and 8 <= group < 0x7FE0 and tag not in made:
            value = NUMBER if kind in ("DS", "IS") else MARK
            made.add(pydicom.DataElement(tag, kind, value, validation_mode=pydicom.config.IGNORE))
    made.add_new(0x00090010, "LO", MARK)
    made.add_new(0x00091001, "UN", MARK.encode())
    if nested:
        made.ReferencedPatientSequence = [marked(Dataset(), nested=False)]
        made.ModalityLUTSequence = []
    return made


def full_of_marks(made):
    return written(marked(made)).replace(str(NUMBER).encode(), MARK.encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sound files, files with a word where a number should be, and a table."""
    root = tmp_path_factory.mktemp("dicoms")
    plain = [full_of_marks(dataset(gray(i), 8)) for i in range(3)]
    deep = full_of_marks(dataset(gray(3).astype(np.uint16) * 16, 12))
    age = full_of_marks(dataset(gray(4), 8, PatientAge=MARK, PatientSex=MARK))
    broken = plain[0].replace(b"\x28\0\x10\0US\2\0", b"\x28\0\x10\0LO\2\0")
    kind = full_of_marks(dataset(gray(6), 8, PixelData=None, SOPClassUID="1.2.3.4"))
    files = {
        **{f"p{i}.dcm": data for i, data in enumerate(plain)},
        "deep": deep,
        "age.DCM": age,
        "broken.dcm": broken,
        "cut.dcm": plain[1][:-100],
        "frames.dcm": full_of_marks(dataset(gray(5), 8, NumberOfFrames=3)),
        "none.dcm": full_of_marks(dataset(gray(6), 8, PixelData=None)),
        "kind.dcm": kind.replace(b"1.2.3.4\0", MARK.encode() + b"\x0c\x0c"),
        "slope.dcm": full_of_marks(dataset(gray(6), 8, RescaleSlope=NUMBER, RescaleIntercept=0)),
        "photometric.dcm": full_of_marks(dataset(gray(6), 8, PhotometricInterpretation=MARK)),
    }
    for name, data in files.items():
        assert MARK.encode() in data
        (root / name).write_bytes(data)
    rows = [{"file": name, "key": f"k{i}", "patient": f"s{i}", "A": i % 2} for i, name in enumerate(files)]
    pd.DataFrame(rows).to_csv(root / "t.csv", index=False)
    return root


GIVEN = ("--table", "t.csv", "--path-column", "file", "--id-column", "key", "--subject-column", "patient")
SMALL = ("--sizes", "32:raw,48", "--findings", "A", "--max-reject-fraction", "0.9")


def searched(out):
    """All that a folder holds, as it is and unpacked."""
    for path in out.rglob("*"):
        if not path.is_file():
            continue
        yield path.name.encode() + path.read_bytes()
        if path.suffix == ".tar":
            with tarfile.open(path) as tar:
                yield from (tar.extractfile(member).read() for member in tar)
        elif path.suffix == ".parquet":
            table = pyarrow.parquet.read_table(path)
            yield str(table.to_pylist()).encode() + str(table.schema.metadata).encode()
        elif path.suffix == ".gz":
            yield gzip.decompress(path.read_bytes())


def test_no_name_date_or_text_of_a_tag_gets_anywhere(folder, tmp_path):
    for more in (("--dry-run",), ("--window", "dicom")):
        done = run("shard", "--source", folder, *GIVEN, *SMALL, *more, "--out", tmp_path / "out", cwd=folder)
        assert done.returncode == 0, done.stderr
        assert MARK not in done.stdout + done.stderr
    assert not any(MARK.encode() in data for data in searched(tmp_path / "out"))
    rejects = pd.read_csv(tmp_path / "out" / "rejects.csv").set_index("path")["reason"]
    assert sorted(rejects.index) == [
        "broken.dcm",
        "cut.dcm",
        "frames.dcm",
        "kind.dcm",
        "none.dcm",
        "photometric.dcm",
        "slope.dcm",
    ]
    assert PackedDataset.open(tmp_path / "out").info["counts"]["packed"] == 5


def test_dicoms_pack_beside_other_files_by_one_job_or_two(tmp_path):
    files = {
        "a.jpg": jpeg(gray(0)),
        "b": dicom(gray(1), 8),
        "c.dcm": dicom(gray(2).astype(np.uint16) * 16, 12, RLELossless, PhotometricInterpretation="MONOCHROME1"),
        "d.dicom": framed(jpeg(gray(3)), gray(3), 8, JPEGBaseline8Bit),
        "e.dcm": dicom(gray(4).astype(np.uint16) * 16, 12, JPEG2000Lossless),
    }
    (root := tmp_path / "release").mkdir()
    for name, data in files.items():
        (root / name).write_bytes(data)
    rows = [{"file": name, "key": name[0], "patient": f"s{name[0]}", "A": 1} for name in files]
    pd.DataFrame(rows).to_csv(root / "t.csv", index=False)
    given = ("--sizes", "32:raw", "--findings", "A", "--shard-images", "2")
    contents = []
    for jobs in (1, 2):
        out = tmp_path / f"out{jobs}"
        done = run("shard", "--source", ".", *GIVEN, *given, "--jobs", jobs, "--out", out, cwd=root)
        assert done.returncode == 0, done.stderr
        assert "5 of 5 images packed" in done.stdout
        contents.append({path.name: path.read_bytes() for path in sorted((out / "32").iterdir())})
    assert contents[0] == contents[1]
    assert PackedDataset.open(tmp_path / "out1").info["counts"]["converted"] == {"16-bit": 2, "MONOCHROME1": 1}
