"""FFCV as a baseline: the protocol with a stand-in for the worker, and the real one's pixels where CXRDALI_FFCV names
an interpreter that has FFCV."""

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from benchmarks.loading import ffcv
from benchmarks.loading.ffcv import AUGMENTS, MODES, Ffcv, FfcvOptions, why_not
from shards.errors import UserError

pytestmark = pytest.mark.slow

SIZE = 32
INTERPRETER = os.environ.get("CXRDALI_FFCV")
STAND_IN = """
import json, sys
opened = json.loads(input())
assert sorted(opened) == ["augment", "batch", "beton", "files", "mode", "size", "threads"], sorted(opened)
open(opened["beton"], "w").close()
print(json.dumps({"stored_bytes": 7 * len(opened["files"])}), flush=True)
for line in sys.stdin:
    images = json.loads(line)["images"]
    if images > 100:
        raise RuntimeError(f"no {images} images\\n\\n")
    print(json.dumps({"images": images}), flush=True)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """Ten gray JPEGs; where an image is nearly flat, so are its errors small."""
    folder = tmp_path_factory.mktemp("jpeg")
    ramp = np.add.outer(np.arange(SIZE), 3 * np.arange(SIZE))  # no two of its flips are alike
    paths = [folder / f"{row}.jpg" for row in range(10)]
    for row, path in enumerate(paths):
        cv2.imwrite(str(path), (80 + ramp + 4 * row).clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95])
    return paths


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    worker = tmp_path / "worker.py"
    worker.write_text(STAND_IN)
    monkeypatch.setattr(ffcv, "WORKER", worker)


def workers() -> list[psutil.Process]:
    """The stand-ins that live."""
    living = [each for each in psutil.Process().children() if each.status() != psutil.STATUS_ZOMBIE]
    return [each for each in living if "worker.py" in " ".join(each.cmdline())]


def test_a_run_gives_what_was_asked_for(stand_in, files, tmp_path):
    with Ffcv(Path(sys.executable), files, tmp_path, FfcvOptions(SIZE, 4, "raw", 2)) as baseline:
        run = baseline(8)
        assert (run(), run(), baseline(100)()) == (8, 8, 100)
        assert baseline.stored_bytes == 70
        assert baseline.file.parent == tmp_path and baseline.file.exists()
        (process,) = workers()
    assert not process.is_running()
    assert not baseline.file.exists()


def test_a_failing_worker_is_shown_with_its_last_line(stand_in, files, tmp_path):
    baseline = Ffcv(Path(sys.executable), files, tmp_path, FfcvOptions(SIZE, 4, "jpeg", 2))
    with pytest.raises(UserError, match=rf"FFCV in {sys.executable} failed: RuntimeError: no 101 images"):
        baseline(101)()
    assert not workers()


def test_why_not(tmp_path):
    missing = tmp_path / "python"
    assert why_not(missing) == (
        f"{missing} does not start: No such file or directory; name the interpreter of an environment that has FFCV"
    )
    assert why_not(None) == "no interpreter with FFCV was given"
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'No module named ffcv' >&2\nexit 1\n")
    broken.chmod(0o755)
    assert why_not(broken) == f"{broken}: No module named ffcv"


def test_what_ffcv_cannot_be_given(files, tmp_path):
    text = tmp_path / "0.jpg"
    text.write_text("text")
    for given, size, mode, augment, message in (
        (files, SIZE, "png", None, "FFCV's mode 'png': choose one of jpeg, raw, gray"),
        (files, SIZE, "raw", "all", "FFCV's augmentation 'all': choose one of shipped, in place, None"),
        (files, 64, "raw", None, f"{files[0]}: 32 x 32 pixels; FFCV is given files of 64 x 64"),
        ([text], SIZE, "raw", None, f"{text}: no JPEG that FFCV can be given"),
        ([tmp_path / "1.jpg"], SIZE, "raw", None, f"{tmp_path / '1.jpg'}: no JPEG that FFCV can be given"),
    ):
        with pytest.raises(UserError) as raised:
            Ffcv(Path(sys.executable), given, tmp_path, FfcvOptions(size, 4, mode, 2, augment))
        assert str(raised.value).startswith(message)
    with pytest.raises(UserError, match="does not start: No such file"):
        Ffcv(tmp_path / "python", files, tmp_path, FfcvOptions(SIZE, 4, "raw", 2))


@pytest.mark.skipif(INTERPRETER is None, reason="CXRDALI_FFCV names no interpreter that has FFCV")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("augment", AUGMENTS)
def test_ffcv_gives_the_files_pixels(mode, augment, files, tmp_path):
    """Each file as often as asked; without augmentation OpenCV's pixels, else a flip of them with squares of one pixel
    (5 % of 32) cut out."""
    passes = 40
    with Ffcv(Path(INTERPRETER), files, tmp_path, FfcvOptions(SIZE, 8, mode, 2, augment)) as baseline:
        assert baseline(16)() == 16
        baseline.save(passes * len(files), tmp_path / "pass.npz")
    found = np.load(tmp_path / "pass.npz")
    rows, images = found["rows"], found["images"]
    assert np.bincount(rows).tolist() == [passes] * len(files)
    assert images.dtype == np.uint8
    channels = () if mode == "gray" else (3,)
    assert images.shape == (passes * len(files), SIZE, SIZE, *channels)
    if channels:
        assert (images == images[..., :1]).all()
        images = images[..., 0]
    stored = np.stack([cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in files])[rows].astype(int)
    tolerance = 2 if mode == "jpeg" else 0  # FFCV decodes with the fast transform
    if augment is None:
        assert abs(images - stored).max() <= tolerance
        return
    flips = np.stack([stored, stored[:, :, ::-1], stored[:, ::-1], stored[:, ::-1, ::-1]])
    other = abs(images - flips) > tolerance  # [4, N, S, S]
    which = other.sum(axis=(2, 3)).argmin(axis=0)
    other = other[which, np.arange(len(images))]
    assert (images[other] == 0).all()
    cut = other.sum(axis=(1, 2))
    assert cut.max() <= 5
    assert 0.4 < (cut > 0).mean() < 0.6
    assert (abs(np.bincount(which, minlength=4) / len(images) - 0.25) < 0.1).all()
