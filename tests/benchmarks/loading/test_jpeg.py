"""The benchmark of encodings: its figures against Pillow's, and its rows."""

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks.loading import jpeg

pytestmark = pytest.mark.slow
RNG = np.random.default_rng(0)


def test_differences_are_those_between_the_image_and_what_another_decoder_sees():
    images = RNG.integers(0, 256, (2, 16, 24, 1), dtype=np.uint8)
    encoded = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image[:, :, 0]).save(file, "JPEG", quality=60)
        encoded.append(file.getvalue())
    seen = np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in encoded])
    apart = np.abs(seen.astype(float) - images[..., 0])
    found = jpeg.difference(images, encoded)
    assert found["psnr_db"] == pytest.approx(20 * np.log10(255 / np.sqrt((apart**2).mean())))
    assert found["mean_difference"] == pytest.approx(apart.mean()) and found["largest_difference"] == apart.max() > 0


def test_encodings_are_gray_and_an_images_own_tables_change_no_pixel():
    image = np.clip(np.add.outer(np.arange(40), np.arange(40)) * 3 + RNG.integers(0, 30, (40, 40)), 0, 255)
    encoded = {name: encode(image.astype(np.uint8)[..., None]) for name, encode in jpeg.encodings().items()}
    decoded = {name: np.asarray(Image.open(io.BytesIO(data))) for name, data in encoded.items()}
    assert {pixels.shape for pixels in decoded.values()} == {(40, 40)}  # one component
    for quality in jpeg.QUALITIES:
        exact, own = f"{quality}, exact DCT", f"{quality}, exact DCT, own Huffman tables"
        assert (decoded[exact] == decoded[own]).all() and len(encoded[own]) < len(encoded[exact])


def test_rows_of_a_small_release(tmp_path, monkeypatch, capsys):
    sizes = (32, 48)
    arguments = ["--sizes", ",".join(map(str, sizes)), "--images", "8", "--rounds", "2", "--save", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["jpeg", *arguments])
    jpeg.main()
    rows = [json.loads(line) for line in (tmp_path / "jpeg.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 9 and {row["size"] for row in rows} == set(sizes)
    for row in rows:
        assert (
            row["benchmark"] == "jpeg" and row["data"] == "synthetic" and row["images"] == row["different_images"] > 0
        )
        assert len(row["runs"]) == 2 and row["images_per_second"]["low"] > 0
    bytes_of = {(row["size"], row["baseline"]): row["bytes_per_image"] for row in rows}
    assert all(bytes_of[size, "95, as packed"] > bytes_of[size, "85, as packed"] for size in sizes)
    assert "95, exact DCT, own Huffman tables" in capsys.readouterr().out
