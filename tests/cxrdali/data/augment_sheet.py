"""A picture of every augmentation at its own strengths, and of the presets, on one synthetic radiograph.

python -m tests.cxrdali.data.augment_sheet docs/augmentations.jpg
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from cxrdali.data.augment import AUGMENTATIONS, carry_out, decide, options_of
from cxrdali.data.augment.presets import PRESETS
from cxrdali.data.augment.written import read
from shards.synthetic.patient import sample_anatomy
from shards.synthetic.radiograph import draw

SIDE, SHOWN, COLUMNS = 320, 160, 6  # of the image that is augmented, and of a picture in the sheet, in pixels
TITLE, GAP, PAPER = 18, 8, 255


def augment_sheet() -> np.ndarray:
    """uint8 [height, width, 1]: a line for each preset, then each augmentation twice."""
    streams = [np.random.Generator(np.random.Philox(key=[purpose, 1])) for purpose in (20, 21)]
    image = draw((SIDE, SIDE), False, False, sample_anatomy(streams[0]), [], streams[1])
    cells = []
    for name in ("paper", "mild"):
        preset = PRESETS[name]
        made = _augmented(image, options_of(preset["flips"], preset["cutout"], preset["augment"]), COLUMNS)
        cells += [_cell(name, each) for each in made]
    for name in AUGMENTATIONS:
        if name not in ("flips", "cutout"):
            cells += [_cell(name, each) for each in _augmented(image, [read(f"{name}(p=1)")], 2)]
    cells += [np.full_like(cells[0], PAPER)] * (-len(cells) % COLUMNS)
    rows = [np.hstack(cells[start : start + COLUMNS]) for start in range(0, len(cells), COLUMNS)]
    return np.vstack(rows)[..., None]


def _augmented(image: np.ndarray, augment, count: int) -> np.ndarray:
    images = np.repeat(image[None, :, :, None], count, axis=0)
    out = np.empty_like(images)
    carry_out(augment, images, decide(augment, 3, 0, 0, count, SIDE), out)
    return out[..., 0]


def _cell(title: str, image: np.ndarray) -> np.ndarray:
    cell = np.full((TITLE + SHOWN + GAP, SHOWN + GAP), PAPER, np.uint8)
    cv2.putText(cell, title, (2, TITLE - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.42, 0, 1, cv2.LINE_AA)
    cell[TITLE : TITLE + SHOWN, :SHOWN] = cv2.resize(image, (SHOWN, SHOWN), interpolation=cv2.INTER_AREA)
    return cell


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cxrdali.data.augment_sheet", description=__doc__.splitlines()[0]
    )
    parser.add_argument("out", type=Path, help="JPEG to write")
    out = parser.parse_args().out
    out.write_bytes(simplejpeg.encode_jpeg(augment_sheet(), quality=80, colorspace="GRAY"))
    print(f"{out}: {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
