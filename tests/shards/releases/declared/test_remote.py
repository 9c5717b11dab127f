"""A declared release and a folder of images in a bucket are read as they are on the disk."""

import pytest

from shards.releases.open import open_release
from shards.storage.remote import place
from tests.shards.releases.declared import test_chexpert
from tests.shards.releases.declared.layout import labels_of, packed, write_images
from tests.shards.releases.declared.own import PLAIN, write

pytestmark = pytest.mark.slow

DECLARATION = (
    PLAIN.replace('path = "file"', 'search = "{image_id}.*"')
    + '\n[[labels]]\nname = "l"\nfindings = ["Edema"]\nblank = "negative"\n'
)


def test_a_declared_release_in_a_bucket(s3, tmp_path):
    release = write(tmp_path, DECLARATION, t__csv="id,Edema\na,1\nb,\nc,-1")
    write_images(release, "x/a.png", "y/b.png", "c.png")
    name = str(tmp_path / "mine.toml")
    near, far = open_release(release, (), name), open_release(place(s3.upload(release, "r")), (), name)
    assert near.images.equals(far.images) and labels_of(near) == labels_of(far)
    assert labels_of(near) == {"a": ("train", "1"), "b": ("train", "0"), "c": ("train", "?")}
    pixels = [packed(each, tmp_path / str(number))[1] for number, each in enumerate((near, far))]
    assert {image: values.tobytes() for image, values in pixels[0].items()} == {
        image: values.tobytes() for image, values in pixels[1].items()
    }


def test_a_folder_of_images_in_a_bucket(s3, tmp_path):
    write_images(tmp_path / "films", "x/a.png", "b.png")
    far = open_release(place(s3.upload(tmp_path / "films", "f")))
    assert far.name == "folder" and far.images["path"].tolist() == ["b.png", "x/a.png"]


def test_a_shipped_release_in_a_bucket_is_recognised(s3, tmp_path):
    root = tmp_path / "release"
    test_chexpert.write(root)
    far = open_release(place(s3.upload(root, "c")))
    assert far.name == "chexpert" and labels_of(far) == test_chexpert.LABELS
