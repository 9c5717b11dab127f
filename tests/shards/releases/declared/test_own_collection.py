"""The declaration of a small collection in docs/releases.md reads what the page says."""

import re
from pathlib import Path

import pytest

from shards.errors import UserError
from shards.releases.open import open_release
from tests.shards.releases.declared.layout import images_of, labels_of, numbers_of, packed, write_images, write_text

PAGE = Path(__file__).parents[4] / "docs" / "releases.md"
TABLE = """
    patientid,offset,sex,age,finding,view,imagename
    ANON173,3,F,61,COVID-19,PA,CR.1.jpg
    ANON173,5,F,61,Pneumonia/Viral/COVID-19,AP Supine,CR.2.png
    ANON2,,M,,No finding,L,3.jpg
    ANON3,,,,,PA,4.jpg
    ANON4,,,,todo,PA,5.jpg
"""


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "clinic"
    write_text(root / "metadata.csv", TABLE)
    write_images(root / "images", "CR.1.jpg", "CR.2.png", "3.jpg", "4.jpg", "5.jpg")
    return root


@pytest.fixture
def own(tmp_path):
    page = PAGE.read_text()
    (text,) = (
        code for code in re.findall(r"^```toml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE) if '"clinic"' in code
    )
    (tmp_path / "clinic.toml").write_text(text)
    return str(tmp_path / "clinic.toml")


def test_images_are_those_of_the_table(root, own):
    release = open_release(root, name=own)
    assert release.name == "clinic"
    assert images_of(release, "path", "subject_id", "view", "view_position", "sex", "age") == {
        "CR.1": ("images/CR.1.jpg", "ANON173", "frontal", "PA", "F", "61"),
        "CR.2": ("images/CR.2.png", "ANON173", "frontal", "AP Supine", "F", "61"),
        "3": ("images/3.jpg", "ANON2", "lateral", "L", "M", ""),
        "4": ("images/4.jpg", "ANON3", "frontal", "PA", "", ""),
        "5": ("images/5.jpg", "ANON4", "frontal", "PA", "", ""),
    }


def test_texts_are_findings(root, own):
    release = open_release(root, name=own)
    assert release.labels[0].findings == ("COVID-19", "Pneumonia", "No finding")
    assert labels_of(release) == {
        "CR.1": ("train", "100"),
        "CR.2": ("train", "110"),
        "3": ("train", "001"),
        "4": ("train", "..."),
    }


def test_pixels_are_those_of_the_files(root, own, tmp_path):
    _, pixels = packed(open_release(root, name=own), tmp_path / "pack")
    assert numbers_of(pixels) == {"CR.1": 0, "CR.2": 1, "3": 2, "4": 3, "5": 4}


def test_a_text_that_is_not_declared_is_named(root, own):
    write_text(root / "metadata.csv", TABLE.replace("No finding", "Lung cancer"))
    with pytest.raises(UserError, match=r"metadata\.csv: .*'Lung cancer' is not declared.*line 4"):
        open_release(root, name=own)
