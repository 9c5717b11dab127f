"""Renditions: what is decoded, how it is fitted, and which files are rejected."""

import io

import cv2
import numpy as np
import pytest
import simplejpeg

from shards.errors import UserError
from shards.packing.options import PackOptions
from shards.renditions import area
from shards.renditions.options import Size
from shards.renditions.rendition import encode, renditions, resize, resized
from shards.renditions.source import decode
from tests.releases import jpeg, smooth_image


def radiograph(height, width):
    """Broad shapes with fine structure over them, as a radiograph has."""
    rng = np.random.default_rng(0)
    broad = smooth_image(rng, height, width) * 0.7 + 40
    fine = cv2.GaussianBlur(rng.normal(0, 1, (height, width)).astype(np.float32), (0, 0), 3)
    return np.clip(broad + fine / fine.std() * 6, 0, 255).astype(np.uint8)


def opencv(data, side):
    """The plain way: full decode, then one area resize."""
    gray = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    return cv2.resize(gray, (side, side), interpolation=cv2.INTER_AREA)


def mean_difference(one, other):
    return np.abs(one.astype(int) - other).mean()


@pytest.mark.parametrize("shape", [(3056, 2544), (2539, 2705)], ids=str)
def test_squash_is_a_full_decode_and_an_area_resize(shape):
    """The two ways average in the DCT and in the pixels: at 224 px they are 0.2 to 0.8 of 255 gray levels apart,
    where an unfiltered resize would be 2.5; at 512 px 0.6 to 1.5."""
    data = jpeg(radiograph(*shape))
    found = decode(data, 512)
    assert (found.height, found.width) == shape and max(found.gray.shape) < 1000
    for side, bound in ((224, 1.0), (512, 1.7)):
        assert mean_difference(resize(found.gray, side, "squash"), opencv(data, side)) < bound


def test_without_a_scaled_decode_squash_is_exactly_opencv():
    data = jpeg(radiograph(300, 260))
    assert np.array_equal(resize(decode(data, 250).gray, 250, "squash"), opencv(data, 250))


SHAPES = [(764, 636), (512, 700), (1000, 513), (763, 636), (1024, 1024), (600, 896), (513, 640), (1537, 5)]


@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_area_resizes_are_opencvs_to_the_byte_together_and_alone(shape, fit):
    """Several bands of rows, whole fractions on one side and on both, and what is enlarged on a side."""
    gray = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)  # noise shows a tap that is off by one
    sides = (224, 322, 384, 512, 300, 37)
    together = resized(gray, sides, fit)
    edge, longer = min(shape), max(shape)
    top, left = ((each - edge) // 2 for each in shape)
    part = gray[top : top + edge, left : left + edge] if fit == "crop" else gray
    for side in sides:
        height, width = (max(1, round(each * (side / longer))) for each in shape) if fit == "pad" else (side, side)
        shrinks = height <= part.shape[0] and width <= part.shape[1]
        expected = np.zeros((side, side), np.uint8)
        top, left = (side - height) // 2, (side - width) // 2
        expected[top : top + height, left : left + width] = cv2.resize(
            part, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        )
        assert np.array_equal(together[side], expected), side
        assert np.array_equal(resize(gray, side, fit), expected), side


def test_without_scipys_product_opencv_shrinks_to_the_same_bytes(monkeypatch):
    gray = np.random.default_rng(0).integers(0, 256, (764, 636), dtype=np.uint8)
    fast = resized(gray, (224, 512), "squash")
    monkeypatch.setattr("shards.renditions.area.add_product", None)
    slow = resized(gray, (224, 512), "squash")
    assert all(np.array_equal(fast[side], slow[side]) for side in fast)


def test_scipys_product_is_found():
    """Else packing goes on, at a third of the speed of shrinking."""
    assert area.add_product is not None


def test_a_large_image_is_decoded_at_reduced_scale_but_never_below_the_target():
    data = jpeg(smooth_image(np.random.default_rng(0), 1500, 1200))
    for least in (48, 150, 151, 224, 320, 512, 700, 1199, 1200):
        found = decode(data, least)
        assert (found.height, found.width) == (1500, 1200)
        assert min(found.gray.shape) >= least
        assert found.gray.shape[0] < 1500 or least > 1200 * 7 / 8
    assert decode(data, 150).gray.shape == (188, 150)
    assert decode(data, 2000).gray.shape == (1500, 1200)


LEFT_BRIGHT = np.repeat(np.array([[200] * 100 + [50] * 100], np.uint8), 100, axis=0)  # 100 high, 200 wide


def test_squash_keeps_every_column():
    image = resize(LEFT_BRIGHT, 50, "squash")
    assert np.array_equal(image, np.repeat([[200] * 25 + [50] * 25], 50, axis=0))


def test_pad_centres_the_whole_image_on_black():
    image = resize(LEFT_BRIGHT, 50, "pad")
    assert (image[:12] == 0).all() and (image[37:] == 0).all()
    assert np.array_equal(image[12:37], np.repeat([[200] * 25 + [50] * 25], 25, axis=0))
    turned = resize(np.ascontiguousarray(LEFT_BRIGHT.T), 50, "pad")
    assert np.array_equal(turned, image.T)


def test_crop_keeps_the_centre_square():
    marked = LEFT_BRIGHT.copy()
    marked[:, :50] = marked[:, 150:] = 0  # everything outside the centre square
    image = resize(marked, 50, "crop")
    assert np.array_equal(image, np.repeat([[200] * 25 + [50] * 25], 50, axis=0))


@pytest.mark.parametrize("fit", ["squash", "pad", "crop"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (1, 400), (33, 47), (64, 64), (65, 64), (500, 20)])
def test_every_shape_fits_every_way(shape, fit):
    image = resize(np.full(shape, 90, np.uint8), 64, fit)
    assert (image.shape, image.dtype) == ((64, 64), np.uint8)
    assert set(np.unique(image)) <= {0, 90} and (image == 90).any()
    assert fit == "pad" or (image == 90).all()


def test_a_small_image_is_enlarged_smoothly_not_in_blocks():
    ramp = np.repeat(np.arange(0, 160, 10, dtype=np.uint8)[None], 16, axis=0)
    image = resize(ramp, 64, "squash")
    assert np.abs(np.diff(image[0].astype(int))).max() <= 3


def test_an_image_of_the_right_size_is_left_alone():
    gray = radiograph(64, 64)
    for fit in ("squash", "pad", "crop"):
        assert np.array_equal(resize(gray, 64, fit), gray)


def test_raw_keeps_every_pixel_and_jpeg_keeps_them_nearly():
    image = radiograph(64, 64)
    assert np.array_equal(np.load(io.BytesIO(encode(image, Size(64, raw=True), 95))), image)
    lossy = simplejpeg.decode_jpeg(encode(image, Size(64), 95), "GRAY")
    assert lossy.shape == (64, 64, 1) and 0 < mean_difference(lossy[:, :, 0], image) < 1
    assert len(encode(image, Size(64), 50)) < len(encode(image, Size(64), 95))


def test_all_sizes_come_from_one_file_in_the_order_asked():
    data = jpeg(radiograph(300, 200))
    images, found = renditions(data, "a.jpg", PackOptions((Size(96), Size(32, raw=True), Size(64))))
    assert (found.height, found.width, found.converted) == (300, 200, ())
    assert simplejpeg.decode_jpeg_header(images[0])[:2] == (96, 96)
    assert np.load(io.BytesIO(images[1])).shape == (32, 32)
    assert simplejpeg.decode_jpeg_header(images[2])[:2] == (64, 64)
    assert mean_difference(np.load(io.BytesIO(images[1])), opencv(data, 32)) < 1


def test_a_size_alone_has_the_same_bytes_when_it_is_decoded_for_the_largest():
    data = jpeg(radiograph(700, 600))
    (_, together), _ = renditions(data, "a.jpg", PackOptions((Size(400), Size(64))))
    (alone,), _ = renditions(data, "a.jpg", PackOptions((Size(64),)), decoded_for=400)
    assert alone == together != renditions(data, "a.jpg", PackOptions((Size(64),)))[0][0]


# ---------------------------------------------------------------- sizes


def test_sizes_are_parsed_with_their_encoding():
    assert Size.parse("224") == Size.parse(" 224:jpeg ") == Size(224)
    assert Size.parse("224:raw") == Size(224, raw=True)
    assert (Size(224).extension, Size(224, raw=True).extension) == ("jpg", "npy")
    assert Size(224).folder == Size(224, raw=True).folder == "224"


@pytest.mark.parametrize("text", ["", "big", "224:png", "-224", "224.5", "224x224", "²"])
def test_what_is_no_size_is_named_with_the_way_to_write_one(text):
    with pytest.raises(UserError, match="224:raw,320,512") as error:
        Size.parse(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize("pixels", [0, 31, 4097])
def test_a_size_out_of_range_names_the_range(pixels):
    with pytest.raises(UserError, match=f"size {pixels}: .*32 to 4096 pixels"):
        Size(pixels)
