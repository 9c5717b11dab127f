"""The contact sheet: three normal pictures and one example of every finding, so that a stranger sees the patterns.

python -m tests.shards.contact_sheet docs/synthetic.jpg
"""

import argparse
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from shards.synthetic.facts import FREQUENCIES
from shards.synthetic.patient import sample_anatomy, sample_sign
from shards.synthetic.radiograph import draw, exposed

SIDE = 512  # the pictures are drawn at this side and cropped from it, pixels
CELL, GAP, TITLE = 232, 10, 18  # of a cell, in pixels of the sheet: picture, space between cells, line of text
COLUMNS = 7
SMALLEST = 72  # side of the smallest crop, pixels of the drawn picture
SEEN = 0.3  # a ring goes around what differs by at least this share of the largest difference
# Findings of small structures over a large area: the ring and the crops show where most of it is.
SCATTERED = (
    "Calcification of the Aorta",
    "Fibrosis",
    "Fracture",
    "Pleural Other",
    "Pneumomediastinum",
    "Pneumothorax",
    "Support Devices",
)
DETAIL = 110  # side of their crops, pixels of the drawn picture
PAPER, INK, RING = 255, 0, (255, 200, 0)
QUALITY = 80


def contact_sheet() -> np.ndarray:
    """uint8 RGB (height, width, 3). Equal for equal versions of the drawing code."""
    views = (("normal, PA", False, False), ("normal, AP (portable)", False, True), ("normal, lateral", True, False))
    cells = [_normal(*view) for view in views]
    cells += [_example(finding) for finding in FREQUENCIES if finding != "No Finding"]
    blank = np.full_like(cells[0], PAPER)
    cells += [blank] * (-len(cells) % COLUMNS)
    rows = [np.hstack(cells[start : start + COLUMNS]) for start in range(0, len(cells), COLUMNS)]
    return np.vstack(rows)


def _normal(title: str, lateral: bool, portable: bool) -> np.ndarray:
    picture = draw((SIDE, SIDE), lateral, portable, sample_anatomy(_stream(20, 1)), [], _stream(21, 1))
    return _cell(title, _rgb(_shrunk(picture, CELL)), None)


def _example(finding: str) -> np.ndarray:
    """The usual strength of a finding from the front, ringed, and the same place without and with it."""
    number = list(FREQUENCIES).index(finding)
    sign = replace(sample_sign(finding, _stream(22, number)), strength=1.2)
    anatomy, key = sample_anatomy(_stream(23, number)), (24, number)
    shape = (SIDE, SIDE)
    change = np.subtract(*(exposed(shape, False, False, anatomy, signs, _stream(*key))[0] for signs in ([sign], [])))
    with_it, without = (draw(shape, False, False, anatomy, signs, _stream(*key)) for signs in ([sign], []))
    x, y, side = (_densest if finding in SCATTERED else _around)(np.abs(change))
    panel = _rgb(_shrunk(with_it, CELL))
    scale = CELL / SIDE
    centre = (round((x + side / 2) * scale), round((y + side / 2) * scale))
    cv2.circle(panel, centre, round(0.5 * side * scale), RING, 1, cv2.LINE_AA)
    half = CELL // 2
    crops = [_rgb(_shrunk(picture[y : y + side, x : x + side], half)) for picture in (without, with_it)]
    pair = np.hstack(crops)
    pair[:, half] = PAPER
    return _cell(finding, panel, pair)


def _around(change: np.ndarray) -> tuple[int, int, int]:
    """Left, top and side of the square around what changed most, inside the picture; |change| float32 (SIDE, SIDE)."""
    smooth = cv2.GaussianBlur(change, (0, 0), 2)
    rows, columns = np.nonzero(smooth > SEEN * smooth.max())
    top, bottom, left, right = rows.min(), rows.max(), columns.min(), columns.max()
    side = int(min(SIDE, max(SMALLEST, 1.3 * max(bottom - top, right - left))))
    x = int(np.clip((left + right - side) // 2, 0, SIDE - side))
    y = int(np.clip((top + bottom - side) // 2, 0, SIDE - side))
    return x, y, side


def _densest(change: np.ndarray) -> tuple[int, int, int]:
    """As `_around`, for the square of side DETAIL around the place where change is densest."""
    density = cv2.GaussianBlur(change**2, (0, 0), DETAIL / 5, borderType=cv2.BORDER_CONSTANT)
    y, x = np.array(np.unravel_index(density.argmax(), change.shape)).clip(DETAIL // 2, SIDE - DETAIL // 2)
    return int(x) - DETAIL // 2, int(y) - DETAIL // 2, DETAIL


def _shrunk(picture: np.ndarray, side: int) -> np.ndarray:
    method = cv2.INTER_AREA if len(picture) > side else cv2.INTER_CUBIC
    return cv2.resize(picture, (side, side), interpolation=method)


def _rgb(picture: np.ndarray) -> np.ndarray:
    return np.repeat(picture[:, :, None], 3, axis=2)


def _cell(title: str, panel: np.ndarray, pair: np.ndarray | None) -> np.ndarray:
    """A line of text, the picture, and under it the crops without and with the finding."""
    cell = np.full((TITLE + CELL + CELL // 2 + 4 + GAP, CELL + GAP, 3), PAPER, np.uint8)
    cv2.putText(cell, title, (2, TITLE - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (INK,) * 3, 1, cv2.LINE_AA)
    cell[TITLE : TITLE + CELL, :CELL] = panel
    if pair is not None:
        top = TITLE + CELL + 3
        cell[top : top + CELL // 2, :CELL] = pair
        for text, x in (("without", 3), ("with", CELL // 2 + 4)):
            place = (x, top + CELL // 2 - 4)
            cv2.putText(cell, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.34, (0, 0, 0), 3, cv2.LINE_AA)
            cv2.putText(cell, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.34, RING, 1, cv2.LINE_AA)
    return cell


def _stream(purpose: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[purpose, number]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.shards.contact_sheet", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="JPEG to write")
    out = parser.parse_args().out
    out.write_bytes(simplejpeg.encode_jpeg(contact_sheet(), quality=QUALITY, colorsubsampling="420"))
    print(f"{out}: {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
