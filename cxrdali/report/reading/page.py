"""What a run says of new images, as one self-contained page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import simplejpeg

from cxrdali.predict.reading import FindingReading, ImageReading, Reading
from cxrdali.report.explanation.pictures import EMPTY, STRONGEST, colours, overlay
from cxrdali.report.kit import page
from cxrdali.report.kit.pictures import resized
from cxrdali.report.kit.tables import Table

TEMPLATE = "reading/page.html.j2"
SHOWN = 10  # findings in sight, or as many as are called present; the others are folded away
SIDE = 512  # pixels of a picture, at most


def write_reading(out: Path, readings: Sequence[Reading], rejected: Mapping[str, str]) -> Path:
    """Write the page to `out`, and the readings beside it as .json; return `out`."""
    return page.write(out, TEMPLATE, page_data(readings, rejected))


def page_data(readings: Sequence[Reading], rejected: Mapping[str, str]) -> dict:
    """What the page shows. rejected: files that could not be read, and why."""
    first = readings[0]
    title = f"{first.name} read by {first.run}" if len(readings) == 1 and first.name else f"Read by {first.run}"
    names = [each.name or f"Image {number}" for number, each in enumerate(readings, 1)]
    parts = np.linspace(0, 1, 9)
    several = {"contents": [(f"image-{place}", name) for place, name in enumerate(names)]} if len(readings) > 1 else {}
    common = [words for words in first.not_checked if all(words in each.not_checked for each in readings)]
    return {
        "title": title,
        **several,
        "synthetic": first.synthetic,
        "scale": [(*rgb, STRONGEST * part) for part, rgb in zip(parts, 255 * colours(parts), strict=True)],
        "readings": [_reading(each, name, common) for each, name in zip(readings, names, strict=True)],
        "not_checked_in_all": common,
        "rejected": dict(rejected),
    }


def _reading(reading: Reading, name: str, common: Sequence[str]) -> dict:
    """common: what was not checked in any reading, which the page says once."""
    called = sum(bool(each.positive) for each in reading.findings)
    shown = max(SHOWN, called)
    tables = [_table(reading, reading.findings[:shown], "Findings")]
    if reading.findings[shown:]:
        tables.append(_table(reading, reading.findings[shown:], "Further findings"))
    return {
        **reading.as_json(),
        "name": name,
        "also_not_checked": [words for words in reading.not_checked if words not in common],
        "present": [each.finding for each in reading.findings if each.positive],
        "shows_heat": any(each.heats for each in reading.images),
        "tables": tables,
        "operating": next((each.operating for each in reading.findings if each.operating), None),
        "images": [{**each.as_json(), **_pictures(each)} for each in reading.images],
        "compared": [_compared(each) for each in reading.images if each.likeness],
    }


def _table(reading: Reading, findings: Sequence[FindingReading], caption: str) -> Table:
    columns = [("Finding", "text"), ("Probability", "chance")]
    if reading.thresholds:
        columns += [("Called", "text"), ("Threshold", "chance")]
    figures = any(each.operating for each in findings)
    if figures:
        columns += [("Sensitivity", "percent_interval"), ("Specificity", "percent_interval")]
        columns += [("Precision", "percent"), ("Images with it", "share")]
    rows = []
    for each in findings:
        row: list[object] = [each.finding, each.probability]
        if reading.thresholds:
            row += ["present" if each.positive else "absent", each.threshold]
        if figures and (found := each.operating):
            row += [found.sensitivity, found.specificity, found.precision, (found.positives, found.images)]
        rows.append(row)
    best = [(place, 2) for place, each in enumerate(findings) if each.positive]
    return Table(f"{caption} of {reading.name or 'the image'}", columns, rows, best=best)


def _pictures(image: ImageReading) -> dict:
    heats = [{"finding": name, "empty": None if heat.any() else EMPTY} for name, heat in image.heats.items()]
    return {
        "jpeg": _jpeg(image.pixels),
        "heats": [{**each, "jpeg": _jpeg(image.pixels, image.heats[each["finding"]])} for each in heats],
    }


def _jpeg(pixels: np.ndarray, heat: np.ndarray | None = None) -> bytes:
    """The image, or the same under its heat map."""
    gray = resized(pixels, SIDE)[:, :, None]
    if heat is None:
        return simplejpeg.encode_jpeg(np.ascontiguousarray(gray), quality=90, colorspace="GRAY")
    covered = overlay(np.repeat(gray, 3, axis=2), heat)
    return simplejpeg.encode_jpeg(np.ascontiguousarray(covered), quality=85, colorspace="RGB")


def _compared(image: ImageReading) -> Table:
    columns = [("Measure", "text"), ("Here", "text"), ("Usual from", "text"), ("to", "text"), ("", "text")]
    rows = [
        [each.words, *(_short(value) for value in (each.value, each.low, each.high)), "unusual" if each.unusual else ""]
        for each in image.likeness.measures
    ]
    return Table(f"{image.image_id or 'The image'} beside the validation images of the run", columns, rows)


def _short(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g}"
