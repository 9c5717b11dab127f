"""The few tags of a DICOM that are kept. The list is closed: no name, date or free text leaves a file."""

import contextlib
import re
from dataclasses import dataclass
from typing import Any

from shards.decoding.decoded import RejectedImage
from shards.decoding.dicom_header import Header, read_header, text, values
from shards.decoding.magic import image_kind
from shards.storage.location import Location
from shards.storage.places import storage_of

MOST_YEARS = 120
FIRST_YEAR, LAST_YEAR = 1980, 2100  # of digital radiographs
_BEGINNING, _LONGEST = 1 << 16, 1 << 22  # bytes: few headers are longer than the first, by icons or overlays
_AGE = re.compile(r"(\d{1,3})([DWMY]?)")
_A_YEAR = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0, "": 1.0}
# SNOMED, as SRT and SCT have them; what others mean is read from their meaning
_VIEW_CODES = {
    **dict.fromkeys(("R-10206", "399348003"), "AP"),
    **dict.fromkeys(("R-10214", "272479007"), "PA"),
    **dict.fromkeys(("R-10236", "399173006"), "LL"),
    **dict.fromkeys(("R-10232", "399198007"), "RL"),
    **dict.fromkeys(("R-102CD", "399067008"), "LATERAL"),
    **dict.fromkeys(("R-10202", "399033003"), "FRONTAL"),
}
_VIEW_WORDS = {
    "PA": re.compile(r"(?<![A-Z])(?:P\.?A\.?|POSTERO[- ]?ANTERIOR)(?![A-Z])"),
    "AP": re.compile(r"(?<![A-Z])(?:A\.?P\.?|ANTERO[- ]?POSTERIOR)(?![A-Z])"),
    "LATERAL": re.compile(r"(?<![A-Z])(?:LAT|LATERAL|LL|RL)(?![A-Z])"),
}
_NO_PLAIN_VIEW = re.compile(r"DECUB|OBL")


@dataclass(frozen=True)
class Tags:
    """Of one image, each "" where it is unknown.

    image_id: SOPInstanceUID; study_id: StudyInstanceUID; subject_id: PatientID; view_position: ViewPosition as it is
    written, else PA, AP, LL, RL, LATERAL or FRONTAL by other tags; sex: F or M; age: in years, such as 45 or 0.25;
    manufacturer, model: as they are written; year: of the study, from FIRST_YEAR on, as earlier ones stand for none.
    """

    image_id: str = ""
    study_id: str = ""
    subject_id: str = ""
    view_position: str = ""
    sex: str = ""
    age: str = ""
    manufacturer: str = ""
    model: str = ""
    year: str = ""


def read_tags(source: bytes | Location) -> Tags:
    """Of a DICOM's header, without reading its pixels. source: the bytes of a file, or where it is.

    Raises RejectedImage if it is absent, unreadable or no DICOM, UserError if a store fails or refuses.
    """
    try:
        data = source if isinstance(source, bytes) else storage_of(source).read_bytes(0, _BEGINNING)
        with contextlib.suppress(RejectedImage):  # of what is cut off here
            if (header := _header(data)).place:
                return tags_of(header.dataset)
        if not isinstance(source, bytes) and len(data) == _BEGINNING:
            data = storage_of(source).read_bytes(0, _LONGEST)
        return tags_of(_header(data).dataset)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RejectedImage("absent") from error
    except OSError as error:
        raise RejectedImage(f"unreadable: {error.strerror}") from error


def _header(data: bytes) -> Header:
    if image_kind(data) != "DICOM":
        raise RejectedImage("not a DICOM: an image of another kind")
    return read_header(data, _LONGEST)


def tags_of(dataset: Any) -> Tags:
    """Of a header that was read."""
    sex = text(dataset, "PatientSex").upper()
    return Tags(
        image_id=text(dataset, "SOPInstanceUID"),
        study_id=text(dataset, "StudyInstanceUID"),
        subject_id=text(dataset, "PatientID"),
        view_position=_view_position(dataset),
        sex=sex if sex in ("F", "M") else "",
        age=age_in_years(text(dataset, "PatientAge")),
        manufacturer=" ".join(text(dataset, "Manufacturer").split()),
        model=" ".join(text(dataset, "ManufacturerModelName").split()),
        year=_year(text(dataset, "StudyDate")),
    )


def age_in_years(text: str) -> str:
    """Of 045Y, 018M, 006W, 003D or 045; "" for anything else, and for more than MOST_YEARS."""
    found = _AGE.fullmatch(text.strip().upper())
    years = int(found[1]) / _A_YEAR[found[2]] if found else MOST_YEARS + 1
    return f"{years:.4g}" if years <= MOST_YEARS else ""


def _year(date: str) -> str:
    """The year alone; "" of one before FIRST_YEAR, as of the 19010101 of files without names, and of a shifted one."""
    found = re.fullmatch(r"([0-9]{4})[0-9]{4}", date)
    return found[1] if found and FIRST_YEAR <= int(found[1]) <= LAST_YEAR else ""


def _view_position(dataset: Any) -> str:
    if said := text(dataset, "ViewPosition"):
        return said
    with contextlib.suppress(RejectedImage):
        for code in values(dataset, "ViewCodeSequence"):
            if view := _VIEW_CODES.get(text(code, "CodeValue")) or _view_in(text(code, "CodeMeaning")):
                return view
    rows = text(dataset, "PatientOrientation").upper()[:1]  # to which side of the patient the rows run
    if rows in ("A", "P"):
        return "LATERAL"
    view = _view_in(text(dataset, "SeriesDescription"))
    return view if rows not in ("L", "R") or view in ("PA", "AP") else "FRONTAL"


def _view_in(words: str) -> str:
    """The one view that a description names; "" for none, for several, and for a patient who lies on the side."""
    found = [view for view, each in _VIEW_WORDS.items() if each.search(words.upper())]
    return found[0] if len(found) == 1 and not _NO_PLAIN_VIEW.search(words.upper()) else ""
