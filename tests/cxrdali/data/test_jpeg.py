"""JPEGs decoded into the output batch: pixels beside DALI's, OpenCV's and Pillow's; damaged ones are named."""

import io
import shutil
import threading

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from cxrdali.data import jpeg
from cxrdali.data.augment import AugmentOptions, decide, in_order
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.pipeline import load
from shards.dataset.mapped import Alike
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from tests.cxrdali.data.test_loader import JPEG, training
from tests.cxrdali.reference import augmented

SIDE, GUARD = 40, 77
RNG = np.random.default_rng(0)
SMOOTH = cv2.resize(RNG.integers(0, 256, (9, 9), dtype=np.uint8), (SIDE, SIDE))
IMAGE = np.clip(SMOOTH + RNG.normal(0, 12, (SIDE, SIDE)), 0, 255).astype(np.uint8)
COLOUR = np.dstack([IMAGE, IMAGE.T, IMAGE[::-1]])


class Stored:
    """Bytes of JPEGs by row, as a mapped size gives them."""

    def __init__(self, *encoded):
        self.encoded = encoded

    def slices(self, rows):
        return [np.frombuffer(self.encoded[row], dtype=np.uint8) for row in rows]


def every(out):
    """All places of a batch, as `MappedSize` groups them."""
    return Alike(out.shape[1], False, np.arange(len(out)))


def pillow(pixels, mode=None, **options):
    file = io.BytesIO()
    Image.fromarray(pixels, mode).save(file, "JPEG", **options)
    return file.getvalue()


def opencv(*flags):
    return cv2.imencode(".jpg", IMAGE, list(flags))[1].tobytes()


def with_frame(data, precision=8, height=SIDE, width=SIDE):
    """The bytes with another SOF0: bits a sample, and the size that the file says it has."""
    place = data.index(b"\xff\xc0") + 4
    size = precision.to_bytes(1, "big") + height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return data[:place] + size + data[place + 5 :]


WHOLE = {
    **{f"quality {quality}": pillow(IMAGE, quality=quality) for quality in (1, 30, 85, 90, 95, 100)},
    "as packed": simplejpeg.encode_jpeg(IMAGE[..., None], 95, "GRAY"),
    "own tables": pillow(IMAGE, optimize=True),
    "progressive": pillow(IMAGE, progressive=True),
    "restart markers": opencv(cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
    "bytes after the end": pillow(IMAGE) + b"abc",
}
BROKEN = {
    "empty": (b"", "subsampling"),
    "no JPEG": (bytes(500), "Not a JPEG|subsampling"),
    "half a file": (pillow(IMAGE)[:700], "Premature end"),
    "no end": (pillow(IMAGE)[:-2], "Premature end"),
    "a zeroed scan": (pillow(IMAGE)[:700] + bytes(len(pillow(IMAGE)) - 700), "Corrupt|Premature|extraneous"),
    "smaller": (pillow(IMAGE[:20, :20].copy()), "20 x 20 pixels"),
    "as many pixels": (pillow(IMAGE.reshape(20, 80)), "20 x 80 pixels"),
    "larger": (pillow(np.vstack([IMAGE, IMAGE[:1]])), "41 x 40 pixels"),
    "says 65,500": (with_frame(pillow(IMAGE), height=65500, width=65500), "65500 x 65500 pixels"),
    "says 12 bits": (with_frame(pillow(IMAGE), precision=12), "precision 12"),
    "colour": (pillow(COLOUR), "40 x 40 pixels, YCbCr"),
    "CMYK": (pillow(np.dstack([COLOUR, IMAGE]), "CMYK"), "CMYK|YCCK"),
}


def dali(encoded):
    """What the loader's decoder of before, and of a resize or a GPU, makes of them: uint8 [n, S, S]."""
    pipeline_def, fn, types = load()

    @pipeline_def(batch_size=len(encoded), num_threads=1, device_id=None)
    def decoded():
        arrays = [np.frombuffer(each, dtype=np.uint8) for each in encoded]
        given = fn.external_source(source=lambda: arrays, dtype=types.UINT8, batch=True)
        return fn.decoders.image(given, output_type=types.GRAY)

    pipeline = decoded()
    pipeline.build()
    return np.array(pipeline.run()[0].as_tensor())[..., 0]


def test_pixels_are_dalis_opencvs_and_pillows():
    out = np.zeros((len(WHOLE), SIDE, SIDE), dtype=np.uint8)
    jpeg.fill(Stored(*WHOLE.values()), np.arange(len(WHOLE)), (), {}, out, every(out))
    assert (out == dali(list(WHOLE.values()))).all()
    for pixels, data in zip(out, WHOLE.values(), strict=True):
        assert (pixels == np.asarray(Image.open(io.BytesIO(data)))).all()
        assert (pixels == cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)).all()


@pytest.mark.parametrize("cutout", ["fixed", "published", "random"])
def test_augmented_where_they_lie_and_nowhere_else(cutout):
    room = np.full((34, SIDE, SIDE), GUARD, dtype=np.uint8)
    options = AugmentOptions(cutout=cutout, side=0.3)
    made = decide(options, 3, 1, 0, 32, SIDE)
    out, rows = room[1:-1], np.zeros(32, dtype=int)
    jpeg.fill(Stored(WHOLE["as packed"]), rows, in_order(options), made, out, every(out))
    image = simplejpeg.decode_jpeg(WHOLE["as packed"], "GRAY")[:, :, 0]
    for place in range(32):
        assert (room[1 + place] == augmented(image, made, place)).all()
    assert (room[[0, -1]] == GUARD).all()


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_whole_rendition_is_refused_and_writes_nothing_beside_its_place(name):
    data, fault = BROKEN[name]
    room = np.full((3, SIDE, SIDE), GUARD, dtype=np.uint8)
    with pytest.raises(jpeg.DamagedImage) as caught:
        jpeg.fill(Stored(WHOLE["as packed"], data), np.array([1]), (), {}, room[1:2], every(room[1:2]))
    assert caught.value.row == 1 and any(word in caught.value.fault for word in fault.split("|")), caught.value.fault
    assert (room[[0, 2]] == GUARD).all()


def test_any_byte_may_be_another_and_nothing_is_written_beside_the_place():
    """Headers above all: their sizes, tables and lengths."""
    whole = WHOLE["as packed"]
    for place in [*range(2, 340), *RNG.integers(340, len(whole), 200).tolist()]:
        data = bytearray(whole)
        data[place] = RNG.integers(256)
        room = np.full((3, SIDE, SIDE), GUARD, dtype=np.uint8)
        jpeg.decode_into(room[1, :, :, None], np.frombuffer(bytes(data), dtype=np.uint8))
        assert (room[[0, 2]] == GUARD).all(), place


def test_the_loader_names_the_sample_ends_its_threads_and_goes_on_when_it_is_mended(pack_folder, tmp_path):
    shutil.copytree(pack_folder, tmp_path / "pack")
    dataset = PackedDataset.open(tmp_path / "pack")
    stored, row = dataset.stored(JPEG), 50
    path = stored.paths[stored.shard[row]]
    last = int(stored.offset[row] + stored.length[row] - 1)
    with path.open("r+b") as file:  # only the last byte of the end marker, which DALI does not miss
        file.seek(last)
        file.write(b"\0")
        file.flush()
        loader = Loader(dataset, np.arange(120), LoaderOptions(JPEG, 16))
        before = {*threading.enumerate()}
        with pytest.raises(UserError) as caught:
            list(loader)
        file.seek(last)
        file.write(b"\xd9")
    assert f"{path}: sample {dataset.key(row)!r} is damaged (Premature end of JPEG file); run" in str(caught.value)
    assert not [each for each in {*threading.enumerate()} - before if each.name.startswith("cxrdali batch")]
    assert sum(len(batch.rows) for batch in loader) == 120


def test_dali_is_for_resizes_only(dataset, monkeypatch):
    def refuse(*_):
        raise AssertionError("DALI")

    monkeypatch.setattr("cxrdali.data.loader.Lane", refuse)
    assert len(list(training(dataset))) == 7
    with pytest.raises(AssertionError, match="DALI"):
        list(Loader(dataset, np.arange(20), LoaderOptions(JPEG - 8, 10)))


def test_where_dali_fails_for_a_resize_the_sample_is_named_too(pack_folder, tmp_path):
    shutil.copytree(pack_folder, tmp_path / "pack")
    dataset = PackedDataset.open(tmp_path / "pack")
    stored, row = dataset.stored(JPEG), 50
    with stored.paths[stored.shard[row]].open("r+b") as file:
        file.seek(stored.offset[row])
        file.write(bytes(int(stored.length[row])))
    with pytest.raises(UserError, match=rf"sample '{dataset.key(row)}' is damaged \(.*JPEG.*\); run"):
        list(Loader(dataset, np.arange(120), LoaderOptions(JPEG - 8, 16)))
