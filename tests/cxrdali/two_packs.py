"""Two packs of which the second has copies of images of the first, made anew in known ways."""

import random
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from shards.dataset.packed import PackedDataset
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.releases.columns import Columns
from shards.releases.open import open_release
from shards.releases.table import open_table
from shards.renditions.rendition import Size
from shards.synthetic.plan import SyntheticOptions
from shards.synthetic.release import write_release

SIDE = 192


def gray(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)


def recoded(image: np.ndarray, quality: int = 95) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


def letterboxed(image: np.ndarray) -> np.ndarray:
    """The image and half of it in black beside."""
    return cv2.copyMakeBorder(image, 0, 0, SIDE // 4, SIDE // 4, cv2.BORDER_CONSTANT, value=0)


COPIES = {
    "darker": lambda image: gray(image * 0.7),
    "brighter": lambda image: gray(image * 1.4),
    "gamma": lambda image: gray(255 * (image / 255) ** 1.8),
    "jpeg": lambda image: recoded(image, 50),
    "half": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "window": lambda image: gray((image.astype(float) - 30) * 255 / 190),
    "negative": lambda image: 255 - image,
    "letterbox": letterboxed,
    "crop": lambda image: image[4:-4, 4:-4],
    "all": lambda image: recoded(gray(image * 0.8)[2:, :-2], 60),
}


def write_away(home: Path, root: Path, each: int) -> pd.DataFrame:
    """Images under root/images and root/table.csv: of every way of COPIES and of plain copies `each`, 40 of strangers,
    one of single gray. Returns the table: image, path, source ("" or the image of `home`), how."""
    (root / "images").mkdir(parents=True)
    files = sorted((home / "files").rglob("*.jpg"))
    random.Random(0).shuffle(files)  # of many patients, in all splits
    write_release(root / "strangers", SyntheticOptions(studies=26, size=SIDE, seed=5))
    rows = []

    def add(how: str, source: str, data: bytes, suffix: str = "png") -> None:
        name = f"{how}-{len(rows)}"
        file = root / "images" / f"{name}.{suffix}"
        file.write_bytes(data)
        rows.append({"image": name, "path": file.name, "source": source, "how": how, "patient": f"p{len(rows)}"})

    for number, (how, made) in enumerate(COPIES.items()):
        for file in files[number * each : (number + 1) * each]:
            image = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
            add(how, file.stem, cv2.imencode(".png", made(image))[1].tobytes())
    for file in files[len(COPIES) * each :][:each]:
        add("exact", file.stem, file.read_bytes(), "jpg")
    for file in sorted((root / "strangers" / "files").rglob("*.jpg"))[:40]:
        add("stranger", "", file.read_bytes(), "jpg")
    add("black", "", cv2.imencode(".png", np.zeros((SIDE, SIDE), dtype=np.uint8))[1].tobytes())
    table = pd.DataFrame(rows)
    for finding, period in (("Edema", 2), ("Mass", 3)):
        table[finding] = (np.arange(len(table)) % period == 0).astype(int)
    table["split"] = np.where(np.arange(len(table)) % 4 == 3, "test", "train")
    table.to_csv(root / "table.csv", index=False)
    return table


def two_packs(root: Path, each: int = 4, size: int = SIDE) -> tuple[PackedDataset, PackedDataset, pd.DataFrame]:
    """home, away, and what the images of away are."""
    write_release(root / "home-release", SyntheticOptions(studies=60, size=SIDE, seed=3))
    table = write_away(root / "home-release", root / "away-release", each)
    pack(open_release(root / "home-release"), root / "home", PackOptions(sizes=(Size(SIDE),)))
    columns = Columns("image", "Edema,Mass", "path", "patient", split="split")
    release = open_table(root / "away-release" / "table.csv", columns, root / "away-release" / "images")
    pack(release, root / "away", PackOptions(sizes=(Size(size),)))
    return PackedDataset.open(root / "home"), PackedDataset.open(root / "away"), table
