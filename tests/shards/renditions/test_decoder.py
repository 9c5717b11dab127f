"""Images that kill or delay a decoder, and memory that is short: real signals, real processes, real limits."""

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import simplejpeg
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from shards.errors import UserError
from shards.packing.estimate import estimate
from shards.packing.make_shard import packed_image
from shards.packing.options import PackLimits, PackOptions
from shards.packing.pack import pack
from shards.packing.verify import verify
from shards.releases.open import open_release
from shards.renditions.decoder import Decoder
from shards.renditions.options import Size
from shards.renditions.source import RejectedImage
from tests.cli.cli import ROOT, command, environment, run
from tests.dicom_files import dicom
from tests.releases import contents, write_release
from tests.shards.renditions import deadly

OPTIONS = PackOptions(sizes=(Size(32), Size(40, raw=True)), shard_images=4)
GIVEN = ("--sizes", "32,40:raw", "--shard-images", 4, "--max-reject-fraction", 0.5)
IMAGES = 15
DEEDS = {  # what an image does, and the reason for which it is rejected
    "signal 11": "the decoder died: signal 11 (SIGSEGV)",
    "signal 6": "the decoder died: signal 6 (SIGABRT)",
    "exit 3": "the decoder died: exit code 3",
    "raise index": "the decoder failed: IndexError: list index out of range",
}


@pytest.fixture
def bad_decoder(monkeypatch):
    monkeypatch.setattr(simplejpeg, "decode_jpeg", simplejpeg.decode_jpeg)  # and back
    deadly.install()


@pytest.fixture
def root(tmp_path):
    """A release of 15 images in several shards."""
    write_release(tmp_path / "release", subjects=4)
    return tmp_path / "release"


def spoil(root, deeds):
    """Make every third image do something else; returns the reason by path."""
    paths = open_release(root).images["path"].tolist()[::3]
    for path, deed in zip(paths, deeds, strict=False):
        (root / path).write_bytes(deadly.deadly(deed))
    return dict(zip(paths, deeds.values(), strict=False))


def rejected(out):
    table = pd.read_csv(out / "rejects.csv")
    return dict(zip(table["path"], table["reason"], strict=True))


def decoded(path, stall=10.0):
    with Decoder(partial(packed_image, OPTIONS), stall) as decode:
        return decode(path, None, None, False)


@pytest.fixture
def image(tmp_path, bad_decoder):
    """Writes an image that does a deed."""

    def make(deed):
        (tmp_path / "image.jpg").write_bytes(deadly.deadly(deed))
        return tmp_path / "image.jpg"

    return make


# ---------------------------------------------------------------- the image's fault


@pytest.mark.parametrize("name", ["SEGV", "BUS", "ABRT", "FPE", "ILL"])
def test_a_decoder_that_dies_of_its_own_fault_rejects_the_image(image, name):
    number = signal.Signals[f"SIG{name}"].value
    with pytest.raises(RejectedImage, match=rf"^the decoder died: signal {number} \(SIG{name}\)$"):
        decoded(image(f"signal {number}"))


def test_an_image_whose_decoder_died_by_chance_is_packed_at_the_second_try(image, tmp_path):
    images, facts = decoded(image(f"once {tmp_path / 'died'}"))
    assert (tmp_path / "died").exists() and len(images) == 2
    _, others = decoded(image("sleep 0"))
    assert facts == {"height": 90, "width": 80, "converted": None, "pixels": others["pixels"]}


def test_an_image_that_takes_too_long_is_rejected_after_two_tries_and_the_worker_stays_alive(image):
    beats, began = [], time.monotonic()
    with Decoder(partial(packed_image, OPTIONS), 0.7, lambda: beats.append(1)) as decode:
        with pytest.raises(RejectedImage, match=r"^decoding takes too long: more than 0\.7 s$"):
            decode(image("sleep 30"), None, None, False)
        assert len(beats) == 2 and 1.4 <= time.monotonic() - began < 10
        assert len(decode(image("sleep 0.6"), None, None, False)[0]) == 2  # the next one is decoded


def test_small_and_large_files_are_decoded_in_any_order_under_a_limit_on_file_sizes(image):
    path, before = image("sleep 0"), resource.getrlimit(resource.RLIMIT_FSIZE)
    whole = path.read_bytes()
    large = path.with_name("large.jpg")  # a comment of 9 MB in parts
    large.write_bytes(whole[:2] + 140 * (b"\xff\xfe\xff\xff" + bytes(65533)) + whole[2:])
    with Decoder(partial(packed_image, OPTIONS), 10.0) as decode:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            made = [decode(each, None, None, False) for each in (path, large, path, large)]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert made == 4 * [made[0]] and len(made[0][0]) == 2


def test_a_stopped_decoder_is_replaced(image, tmp_path):
    before = children(os.getpid())
    with Decoder(partial(packed_image, OPTIONS), 1.0) as decode:
        path = image("sleep 0")
        decode(path, None, None, False)
        os.kill(int(children(os.getpid())[-1]), signal.SIGSTOP)
        assert len(decode(path, None, None, False)[0]) == 2
    assert children(os.getpid()) == before


def children(process):
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [pid for pid in found if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_dry_run_names_what_would_be_rejected(root, bad_decoder):
    spoil(root, DEEDS)
    found = estimate(open_release(root), OPTIONS)
    assert found.rejected == {"the decoder died": 3, "the decoder failed": 1} and found.sampled == IMAGES


def test_a_rerun_tries_a_rejected_image_again_only_when_it_has_changed(root, bad_decoder):
    whole = {path: (root / path).read_bytes() for path in open_release(root).images["path"]}
    reasons = spoil(root, {**DEEDS, "sleep 30": "decoding takes too long: more than 1 s"})
    out, limits = root.parent / "pack", partial(PackLimits, stall=1.0)
    with pytest.raises(UserError, match=r"5 of 15 images .* 3 the decoder died, 1 .*\.packing/rejects.csv"):
        pack(open_release(root), out, OPTIONS, limits=limits())
    assert rejected(out / ".packing") == reasons
    began = time.monotonic()
    with pytest.raises(UserError, match="5 of 15 images"):
        pack(open_release(root), out, OPTIONS, limits=limits())
    assert time.monotonic() - began < 2  # nobody waited for the slow one again
    for path in reasons:
        (root / path).write_bytes(whole[path])
    summary = pack(open_release(root), out, OPTIONS)
    assert (summary.packed, summary.rejected, verify(out, deep=True).problems) == (IMAGES, {}, ())


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_deaths_change_no_other_byte_and_survive_a_kill(root, tmp_path, jobs):
    reasons, out = spoil(root, DEEDS), tmp_path / "pack"
    plain = shutil.copytree(root, tmp_path / "plain")
    for path in reasons:
        (plain / path).write_bytes(b"")
    pack(open_release(plain), tmp_path / "wanted", OPTIONS, limits=PackLimits(max_reject_fraction=0.5))
    given = ("shard", "--source", root, "--out", out, *GIVEN, "--jobs", jobs)
    hook = {"PYTHONPATH": deadly.hooked(tmp_path)}
    packer = subprocess.Popen(command(*given), env=environment(**hook), stderr=subprocess.DEVNULL)
    while not any((out / ".packing" / "records").glob("[0-9]*.json")) and packer.poll() is None:
        time.sleep(0.01)
    packer.kill()
    assert packer.wait() == -signal.SIGKILL
    done = run(*given, cwd=tmp_path, **hook)
    assert done.returncode == 0 and "3 rejected: the decoder died\n" in done.stdout, done.stderr
    assert "Segmentation fault" not in done.stderr and "Traceback" not in done.stderr
    assert rejected(out) == reasons
    found, wanted = contents(out), contents(tmp_path / "wanted")
    different = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    assert sorted(different) == ["dataset.json", "rejects.csv"]  # the reasons


# ---------------------------------------------------------------- the machine's fault


@pytest.mark.parametrize("deed", ["signal 9", "signal 15", "raise memory", "raise opencv"])
def test_what_may_be_the_machines_fault_ends_the_run_and_names_the_image(root, bad_decoder, deed):
    (path,) = spoil(root, {deed: ""})
    with pytest.raises(UserError) as caught:
        pack(open_release(root), root.parent / "pack", OPTIONS)
    assert re.fullmatch(
        rf"{root / path}: cannot be decoded \(.*(SIG|emory).*\), which may be a lack of memory and not the image's "
        r"fault; give the same command again with more memory \(ulimit -v, .*\) or fewer --jobs",
        str(caught.value),
    )
    (root / path).write_bytes(deadly.deadly("sleep 0"))
    assert pack(open_release(root), root.parent / "pack", OPTIONS).packed == IMAGES


SHORT = """
import resource
import sys
from pathlib import Path
from tests.shards.renditions.test_decoder import decoded, RejectedImage, UserError

size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
for room in range(0, 401, 80):
    resource.setrlimit(resource.RLIMIT_AS, (size + (room << 20), resource.RLIM_INFINITY))
    try:
        decoded(Path(sys.argv[1]))
        print("packed")
    except UserError as error:
        print("ended" if "a lack of memory" in str(error) else error)
    except RejectedImage as error:
        print("rejected", error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["png", "jpg", "dcm", "rle"])
def test_sound_images_are_not_rejected_when_memory_is_short(tmp_path, kind):
    """20 megapixels as 16-bit RGB, as progressive JPEG and as DICOM, with room for ever more of them."""
    value = np.repeat(np.repeat(np.linspace(0, 65535, 4000).astype(np.uint16)[:, None, None], 5000, 1), 3, 2)
    path = tmp_path / f"large.{kind}"
    if kind == "png":
        cv2.imwrite(path, value, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    elif kind == "jpg":
        cv2.imwrite(path, (value >> 8).astype(np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    else:
        path.write_bytes(dicom(value[:, :, 0], 16, RLELossless if kind == "rle" else ExplicitVRLittleEndian))
    given = [sys.executable, "-c", SHORT, path]
    done = subprocess.run(given, env=environment(OMP_NUM_THREADS="1"), cwd=ROOT, capture_output=True, text=True)
    said = done.stdout.splitlines()
    assert set(said) == {"packed", "ended"} and said[0] == "ended" and said[-1] == "packed", done
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(RejectedImage, match="damaged"):
        decoded(path)
