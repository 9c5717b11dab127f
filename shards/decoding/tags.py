"""The few tags of a DICOM that are kept. The list is closed: no name, date or free text leaves a file."""

import contextlib
import re
from dataclasses import dataclass

from shards.decoding.decoded import RejectedImage
from shards.decoding.dicom_header import Elements, Header, read_header
from shards.decoding.magic import image_kind
from shards.storage.location import Location
from shards.storage.places import storage_of

MOST_YEARS = 120
_BEGINNINGS = (1 << 16, 1 << 22)  # bytes: nearly every header ends in the first; icons and overlays may stand in it
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
    view: re.compile(rf"(?<![A-Z])(?:{words})(?![A-Z])")
    for view, words in {
        "PA": r"P\.?A\.?|POSTERO[- ]?ANTERIOR",
        "AP": r"A\.?P\.?|ANTERO[- ]?POSTERIOR",
        "LATERAL": r"LAT|LATERAL|LL|RL",
    }.items()
}
_NO_PLAIN_VIEW = re.compile(r"DECUB|OBL")


@dataclass(frozen=True)
class Tags:
    """Of one image, each "" where it is unknown.

    image_id: SOPInstanceUID; study_id: StudyInstanceUID; subject_id: PatientID; view_position: ViewPosition as it is
    written, else PA, AP, LL, RL, LATERAL or FRONTAL by other tags; sex: F or M; age: in years, such as 45 or 0.25;
    manufacturer: as it is written.
    """

    image_id: str = ""
    study_id: str = ""
    subject_id: str = ""
    view_position: str = ""
    sex: str = ""
    age: str = ""
    manufacturer: str = ""


def read_tags(source: bytes | Location) -> Tags:
    """Of a DICOM's header, without reading its pixels. source: the bytes of a file, or where it is.

    Raises RejectedImage if it is absent, unreadable or no DICOM, UserError if a store fails or refuses.
    """
    if isinstance(source, bytes):
        return tags_of(_header(source).elements)
    try:
        for stop in _BEGINNINGS[:-1]:
            data = storage_of(source).read_bytes(0, stop)
            if len(data) < stop:
                return tags_of(_header(data).elements)
            with contextlib.suppress(RejectedImage):  # of what is cut off here
                if (header := _header(data)).place:
                    return tags_of(header.elements)
        return tags_of(_header(storage_of(source).read_bytes(0, _BEGINNINGS[-1])).elements)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RejectedImage("absent") from error
    except OSError as error:
        raise RejectedImage(f"unreadable: {error.strerror}") from error


def _header(data: bytes) -> Header:
    if image_kind(data) != "DICOM":
        raise RejectedImage("not a DICOM: an image of another kind")
    return read_header(data, _BEGINNINGS[-1])


def tags_of(elements: Elements) -> Tags:
    """Of a header that was read."""
    sex = elements.text("PatientSex").upper()
    return Tags(
        image_id=elements.text("SOPInstanceUID"),
        study_id=elements.text("StudyInstanceUID"),
        subject_id=elements.text("PatientID"),
        view_position=_view_position(elements),
        sex=sex if sex in ("F", "M") else "",
        age=age_in_years(elements.text("PatientAge")),
        manufacturer=" ".join(elements.text("Manufacturer").split()),
    )


def age_in_years(text: str) -> str:
    """Of 045Y, 018M, 006W, 003D or 045; "" for anything else, and for more than MOST_YEARS."""
    found = _AGE.fullmatch(text.strip().upper())
    years = int(found[1]) / _A_YEAR[found[2]] if found else MOST_YEARS + 1
    return f"{years:.4g}" if years <= MOST_YEARS else ""


def _view_position(elements: Elements) -> str:
    if said := elements.text("ViewPosition"):
        return said
    for code in _items(elements, "ViewCodeSequence"):
        if view := _VIEW_CODES.get(code.text("CodeValue")) or _view_in(code.text("CodeMeaning")):
            return view
    rows = elements.text("PatientOrientation").upper()[:1]  # to which side of the patient the rows run
    if rows in ("A", "P"):
        return "LATERAL"
    view = _view_in(elements.text("SeriesDescription"))
    return view if rows not in ("L", "R") or view in ("PA", "AP") else "FRONTAL"


def _items(elements: Elements, keyword: str) -> list[Elements]:
    try:
        return elements.items(keyword)
    except RejectedImage:
        return []


def _view_in(text: str) -> str:
    """The one view that a description names; "" for none, for several, and for a patient who lies on the side."""
    text = text.upper()
    found = [view for view, words in _VIEW_WORDS.items() if words.search(text)]
    return found[0] if len(found) == 1 and not _NO_PLAIN_VIEW.search(text) else ""
