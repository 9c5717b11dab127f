"""New images have the very pixels that packing stores and the loader hands on, and hostile ones harm nobody."""

import dataclasses
import threading

import cv2
import numpy as np
import pandas as pd
import pytest
import simplejpeg

from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.predict.rendering import Recipe, Rendering, without_suffix
from shards.decoding.decoded import RejectedImage
from shards.errors import UserError
from shards.renditions.options import RenditionOptions, Size
from shards.renditions.rendition import encoders
from shards.renditions.source import MOST_FILE_BYTES
from tests.cxrdali.predict.new_images import packed, png, run_on, write_images
from tests.heard import heard
from tests.releases import jpeg, smooth_image
from tests.shards.renditions import deadly

SIZES = (Size(48), Size(64, raw=True), Size(96))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("new") / "images"
    write_images(root)
    return root


@pytest.fixture(scope="module")
def packs(folder, tmp_path_factory):
    """By fit and window."""
    made = {}

    def pack(fit, window):
        if (fit, window) not in made:
            out = tmp_path_factory.mktemp("packs") / f"{fit}-{window}"
            made[fit, window] = packed(folder, out, sizes=SIZES, fit=fit, window=window, quality=90)
        return made[fit, window]

    return pack


def loaded(dataset, size):
    """What the loader gives of every image: uint8 [S, S] by id."""
    rows = np.flatnonzero(dataset.packed)
    ids = dataset.of_rows(rows, "image_id")["image_id"].tolist()
    batches = Loader(dataset, rows, LoaderOptions(size, 4))
    return dict(zip(ids, np.concatenate([images.numpy()[:, 0].copy() for images, _ in batches]), strict=True))


def rendered(run, folder, names, threads=2):
    with Rendering.of(run, threads=threads) as rendering:
        return {made.image_id: made for made in rendering.render_each([folder / name for name in names], 3)}


# stored sizes and those that are resized from a larger stored one: 40 of the JPEG of 48, 60 of the raw 64, 80 of 96
@pytest.mark.parametrize(
    ("fit", "window", "size"),
    [
        *(("squash", "percentile", size) for size in (48, 64, 96, 40, 60, 80)),
        *(("pad", "minmax", size) for size in (48, 64, 80)),
        *(("crop", "percentile", size) for size in (96, 60)),
    ],
)
def test_the_pixels_are_those_of_the_packed_image_bit_for_bit(packs, folder, fit, window, size):
    dataset = packs(fit, window)
    expected = loaded(dataset, size)
    made = rendered(run_on(dataset, size), folder, sorted(path.name for path in folder.iterdir()))
    assert len(expected) == len(made) == 12
    for image, pixels in expected.items():
        assert made[image].pixels.shape == (size, size) and made[image].pixels.dtype == np.uint8
        assert (made[image].pixels == pixels).all(), image
    rows = dataset.catalog.set_index("image_id").fillna({"converted": ""})
    for image, found in made.items():
        assert (found.height, found.width) == tuple(rows.loc[image, ["height", "width"]]), image
        assert ", ".join(found.converted) == (rows.loc[image, "converted"]), image


def test_the_window_full_and_what_it_rejects(packs, folder):
    dataset = packs("squash", "full")
    expected = loaded(dataset, 64)
    assert "twelve" not in expected and "sixteen" in expected
    with Rendering.of(run_on(dataset, 64)) as rendering:
        assert (rendering.render(folder / "sixteen.png").pixels == expected["sixteen"]).all()
        with pytest.raises(RejectedImage, match="nearly black under --window full"):
            rendering.render(folder / "twelve.png")


def test_pixels_by_hand(folder, tmp_path):
    """Squashed by OpenCV's area, and through a JPEG of the pack's quality where the pack stores JPEGs."""
    gray = smooth_image(np.random.default_rng(1), 200, 150)
    (tmp_path / "a.png").write_bytes(png(gray))
    expected = cv2.resize(gray, (48, 48), interpolation=cv2.INTER_AREA)
    with Rendering([Recipe(RenditionOptions((Size(48, raw=True),)), 48, 48)]) as rendering:
        assert np.abs(rendering.render(tmp_path / "a.png").pixels.astype(int) - expected).max() == 0
    through = simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(expected[:, :, None], 70, "GRAY"), "GRAY")[:, :, 0]
    with Rendering([Recipe(RenditionOptions((Size(48),), quality=70), 48, 48)]) as rendering:
        assert (rendering.render(tmp_path / "a.png").pixels == through).all() and (through != expected).any()


def test_bytes_are_rendered_as_their_file(packs, folder):
    with Rendering.of(run_on(packs("squash", "percentile"), 48)) as rendering:
        for name in ("gray.jpg", "twelve.png"):
            there, here = rendering.render(folder / name), rendering.render(name, (folder / name).read_bytes())
            assert (there.pixels == here.pixels).all() and here.name == name and here.image_id == there.image_id
        nameless = rendering.render("upload", (folder / "gray.jpg").read_bytes())
        assert (nameless.pixels == rendering.render(folder / "gray.jpg").pixels).all()
        for data, reason in ((b"", "empty file"), (b"\xff\xd8\xff" + b"\0" * 99, "JPEG"), (b"%PDF-1.7", "a PDF")):
            with pytest.raises(RejectedImage, match=reason):
                rendering.render("x.jpg", data)
        with pytest.raises(RejectedImage, match="larger than 256 MB"):
            rendering.render("x.png", bytes(MOST_FILE_BYTES + 1))


def test_two_runs_of_other_packs_see_an_image_each_in_its_own_way(packs, folder):
    runs = [run_on(packs("squash", "percentile"), 48), run_on(packs("pad", "minmax"), 60)]
    with Rendering.of(*runs, runs[0]) as rendering:
        each = rendering.render(folder / "narrow.jpg").each
    assert [image.shape for image in each] == [(48, 48), (60, 60), (48, 48)] and each[0] is each[2]
    for run, dataset, image in zip(runs, (packs("squash", "percentile"), packs("pad", "minmax")), each, strict=False):
        assert (loaded(dataset, run.settings.data.size)["narrow"] == image).all()


def test_images_are_rejected_for_the_reasons_of_packing(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    whole = jpeg(smooth_image(np.random.default_rng(2), 120, 100))
    bad = {
        "cut.jpg": whole[: len(whole) // 2], "empty.png": b"", "text.jpg": b"<html>",
        "small.jpg": jpeg(np.zeros((9, 9), np.uint8)),
        "named.png": whole, "good.jpg": whole,
    }  # fmt: skip
    for name, data in bad.items():
        (folder / name).write_bytes(data)
    dataset = packed(folder, tmp_path / "out", sizes=(Size(48),))
    table = pd.read_csv(dataset.root / "rejects.csv")
    expected = dict(zip(table["path"], table["reason"], strict=True))
    assert len(expected) == 5
    names = [*sorted(bad), "gone.jpg"]
    with Rendering.of(run_on(dataset, 48), threads=2) as rendering:
        made = dict(zip(names, rendering.render_each([folder / name for name in names], 9), strict=True))
    found = {name: str(each) for name, each in made.items() if isinstance(each, RejectedImage)}
    assert found == {**expected, "gone.jpg": "absent"}


def test_a_file_that_kills_its_decoder_is_rejected_and_the_next_is_rendered(packs, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(simplejpeg, "decode_jpeg", simplejpeg.decode_jpeg)  # and back
    deadly.install()
    for deed in ("signal 11", "sleep 60"):
        (tmp_path / f"{deed}.jpg").write_bytes(deadly.deadly(deed))
    run = run_on(packs("squash", "percentile"), 48)
    with Rendering.of(run, stall=0.5) as rendering:
        before = rendering.render(folder / "gray.jpg").pixels
        with pytest.raises(RejectedImage, match="SIGSEGV"):
            rendering.render("x.jpg", deadly.deadly("signal 11"))
        with pytest.raises(RejectedImage, match="too long"):
            rendering.render(tmp_path / "sleep 60.jpg")
        assert (rendering.render(folder / "gray.jpg").pixels == before).all()


def test_threads_that_come_and_go_may_render(packs, folder):
    """A process ends with the thread that forked it: those of the rendering stay."""
    found = []
    with Rendering.of(run_on(packs("squash", "percentile"), 40), threads=2) as rendering:
        for _ in range(2):
            threads = [
                threading.Thread(target=lambda name: found.append(rendering.render(folder / name)), args=(name,))
                for name in ("gray.jpg", "large.jpg", "twelve.png")
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    expected = loaded(packs("squash", "percentile"), 40)
    assert len(found) == 6 and all((each.pixels == expected[each.image_id]).all() for each in found)


@pytest.mark.parametrize("left_out", ["packed", "size", "decoded_for", "window"])
def test_a_run_that_does_not_say_how_its_images_were_packed_is_refused(packs, left_out):
    run = run_on(packs("squash", "percentile"), 48)
    known = {**run.config["dataset"], "packed": dict(run.config["dataset"]["packed"])}
    (known["packed"] if left_out in ("decoded_for", "window") else known).pop(left_out)
    older = dataclasses.replace(run, config={**run.config, "dataset": known})
    with pytest.raises(UserError, match=r"runs/a: does not say how its images were packed .*cxrdali shard.*--data"):
        Rendering.of(older)


def test_other_versions_of_the_encoders_are_said(packs):
    run = run_on(packs("squash", "percentile"), 48)
    said: list[str] = []
    with heard(said):
        Recipe.of(run)
    assert not said
    known = run.config["dataset"]
    known = {**known, "packed": {**known["packed"], "opencv": "4.0.0"}}
    with heard(said):
        Recipe.of(dataclasses.replace(run, config={**run.config, "dataset": known}))
    (line,) = said
    assert "packed by opencv 4.0.0 (here " + encoders()["opencv"] in line


def test_names_without_the_suffix_of_an_image():
    names = {"a.jpg": "a", "b.JPEG": "b", "c.d.dcm": "c.d", "1.2.840.10008": "1.2.840.10008", "e.v2": "e.v2", "f": "f"}
    assert {name: without_suffix(name) for name in names} == names


def test_a_dicom_says_what_it_is_of_and_that_it_is_a_negative(packs, folder):
    with Rendering.of(run_on(packs("squash", "percentile"), 64)) as rendering:
        found, twin = rendering.render(folder / "negative.dcm"), rendering.render(folder / "deep.dcm")
        assert "MONOCHROME1" in found.converted and (found.tags.study_id, found.tags.view_position) == ("1.2.3", "PA")
        assert np.abs(found.pixels.astype(int) + twin.pixels - 255).max() <= 1
        assert rendering.render(folder / "gray.jpg").tags is None
