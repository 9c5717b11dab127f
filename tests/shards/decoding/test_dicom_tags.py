"""The tags that are kept, as they are spelled out there, and no other."""

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit

from shards.decoding.decoded import RejectedImage
from shards.decoding.tags import Tags, age_in_years, read_tags
from shards.renditions.source import decode
from tests.dicom_files import dataset, dicom, framed, without_preamble, written
from tests.releases import jpeg

GRAY = np.tile(np.arange(64, dtype=np.uint8), (40, 1))
WHOLE = {
    "SOPInstanceUID": "1.2.840.1.3",
    "StudyInstanceUID": "1.2.840.1.2",
    "PatientID": " p10000032 ",
    "ViewPosition": "PA",
    "PatientSex": "F",
    "PatientAge": "045Y",
    "Manufacturer": "Carestream  Health ",
}
TAGS = Tags("1.2.840.1.3", "1.2.840.1.2", "p10000032", "PA", "F", "45", "Carestream Health")


def tags(**elements):
    return read_tags(dicom(GRAY, 8, **elements))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, None])
def test_all_of_them_from_bytes_from_a_file_and_beside_the_pixels(tmp_path, syntax):
    data = dicom(GRAY, 8, syntax, **WHOLE) if syntax else framed(jpeg(GRAY), GRAY, 8, JPEGBaseline8Bit, **WHOLE)
    (path := tmp_path / "a").write_bytes(data)
    assert read_tags(data) == read_tags(path) == decode(data, 32).tags == TAGS
    assert read_tags(without_preamble(data)) == TAGS


def test_all_are_unknown_where_they_are_absent_or_empty():
    assert tags() == Tags("1.2.3")
    assert tags(**dict.fromkeys(WHOLE, "")) == Tags()


@pytest.mark.parametrize(
    ("text", "years"),
    [
        *[("045Y", "45"), ("45Y", "45"), ("045", "45"), ("000Y", "0"), ("120Y", "120"), (" 007y ", "7")],
        *[("018M", "1.5"), ("18M", "1.5"), ("003D", "0.008214"), ("026W", "0.4983")],
        *[(text, "") for text in ("", "Y", "junk", "-05Y", "4.5Y", "121Y", "999Y", "045X", "1845Y", "45 Y", "75-80")],
    ],
)
def test_an_age_is_in_years_or_unknown(text, years):
    assert age_in_years(text) == years


def test_sex_is_f_or_m():
    found = {sex: tags(PatientSex=sex).sex for sex in ("F", "M", "f", "O", "U", "", "FEMALE")}
    assert found == {"F": "F", "M": "M", "f": "F", "O": "", "U": "", "": "", "FEMALE": ""}


@pytest.mark.parametrize(
    ("date", "year"),
    [("20140523", "2014"), ("19800101", "1980"), ("19010101", ""), ("21780506", ""), ("2014", ""), ("", "")],
)
def test_of_a_date_the_year_alone_is_kept_and_none_that_stands_for_none(date, year):
    assert tags(StudyDate=date).year == year


def test_the_model_is_kept_with_single_blanks():
    assert tags(ManufacturerModelName=" DigitalDiagnost  4 ").model == "DigitalDiagnost 4"


def code(value="", meaning=""):
    item = Dataset()
    item.CodeValue, item.CodeMeaning, item.CodingSchemeDesignator = value, meaning, "SRT"
    return [item]


@pytest.mark.parametrize(
    ("elements", "view"),
    [
        ({"ViewPosition": "LL", "SeriesDescription": "PA"}, "LL"),
        ({"ViewPosition": " ap "}, "ap"),
        ({"ViewPosition": " ", "ViewCodeSequence": code("R-10206"), "SeriesDescription": "PA"}, "AP"),
        ({"ViewCodeSequence": code("272479007")}, "PA"),
        ({"ViewCodeSequence": code("R-10236")}, "LL"),
        ({"ViewCodeSequence": code("R-10232")}, "RL"),
        ({"ViewCodeSequence": code("X-1", "postero-anterior")}, "PA"),
        ({"ViewCodeSequence": code("X-1", "left lateral")}, "LATERAL"),
        ({"ViewCodeSequence": code("X-1", "J. Doe"), "PatientOrientation": ["P", "F"]}, "LATERAL"),
        ({"PatientOrientation": ["AL", "F"], "SeriesDescription": "PA"}, "LATERAL"),
        ({"PatientOrientation": ["L", "F"], "SeriesDescription": "CHEST PA"}, "PA"),
        ({"PatientOrientation": ["L", "F"], "SeriesDescription": "CHEST"}, "FRONTAL"),
        ({"PatientOrientation": ["R", "F"]}, "FRONTAL"),
        ({"SeriesDescription": "CHEST LAT"}, "LATERAL"),
        ({"SeriesDescription": "PA view"}, "PA"),
        ({"SeriesDescription": "thorax a.p. bed"}, "AP"),
        ({"SeriesDescription": "CHEST_AP_PORTABLE"}, "AP"),
        ({"SeriesDescription": "Chest PA and lateral"}, ""),
        ({"SeriesDescription": "bilateral ribs"}, ""),
        ({"SeriesDescription": "left lateral decubitus"}, ""),
        ({"SeriesDescription": "PA oblique"}, ""),
        ({"SeriesDescription": "PAPAS, JOHN"}, ""),
        ({"SeriesDescription": "Doe lives at 1 Lateran Street"}, ""),
    ],
    ids=str,
)
def test_the_view_is_the_first_that_says_it_and_no_text(elements, view):
    assert tags(**elements).view_position == view


def test_what_cannot_be_read_is_unknown_and_says_nothing(capfd, caplog, recwarn):
    made = dataset(GRAY, 8, PatientID="p1")
    made.add_new("PatientSex", "CS", "F")
    data = written(made).replace(b"CS\x02\0F ", b"US\x02\0F ").replace(b"LO\x02\0p1", b"FD\x02\0p1")
    found = read_tags(data)
    assert found.subject_id == "" and capfd.readouterr() == ("", "") and not caplog.records and not recwarn.list


def test_only_the_beginning_of_a_large_file_is_read_unless_it_is_not_enough(tmp_path, monkeypatch):
    from shards.storage.disk import Disk

    asked, whole = [], Disk.read_bytes
    monkeypatch.setattr(
        Disk, "read_bytes", lambda self, start=0, stop=None: asked.append(stop) or whole(self, start, stop)
    )
    large = np.zeros((3000, 100), np.uint8)
    (path := tmp_path / "a.dcm").write_bytes(dicom(large, 8, **WHOLE))
    assert read_tags(path) == TAGS and asked == [1 << 16]
    icon = dataset(large, 8, **WHOLE)
    icon.add_new(0x00091010, "OB", bytes(200_000))
    path.write_bytes(written(icon))
    assert read_tags(path) == TAGS and asked == [1 << 16, 1 << 16, 1 << 22]


def test_what_is_no_dicom_is_rejected(tmp_path):
    for data, reason in ((jpeg(GRAY), "not a DICOM"), (b"text", "not a JPEG, PNG or DICOM image"), (b"", "all bytes")):
        (path := tmp_path / "a").write_bytes(data)
        for source in (data, path):
            with pytest.raises(RejectedImage, match=f"^{reason}"):
                read_tags(source)
    with pytest.raises(RejectedImage, match="^absent$"):
        read_tags(tmp_path / "b")
    with pytest.raises(RejectedImage, match="^unreadable: "):
        read_tags(tmp_path)
