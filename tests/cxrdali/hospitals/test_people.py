"""Sex and age of the hospitals' patients, packed or attached later, are those that were drawn."""

import shutil
from dataclasses import replace

import pytest

from tests.cli.cli import done

pytestmark = pytest.mark.slow


def people(place):
    """Sex and age by image, as the pack says."""
    dataset = type(place.dataset).open(place.pack)
    table = dataset.arrow("image_id", "sex", "age").to_pandas().set_index("image_id")
    return {image: (row["sex"], float(row["age"])) for image, row in table.iterrows()}


@pytest.mark.parametrize("name", ["clinic", "coast"])
def test_people_of_the_tables_are_packed(hospitals, name):
    place = hospitals[name]
    assert people(place) == {image: (study.sex, study.age) for image, study in place.studies.items()}


def test_people_of_mimic_iv_are_attached_with_their_age_at_the_study(hospitals, tmp_path):
    place = hospitals["university"]
    place = replace(place, pack=shutil.copytree(place.pack, tmp_path / "university"))
    tables = ["--subjects", place.release / "patients.csv.gz"]
    tables += ["--metadata", place.release / "mimic-cxr-2.0.0-metadata.csv.gz"]
    done(tmp_path, "subjects", place.pack, *tables)
    assert people(place) == {image: (study.sex, study.age) for image, study in place.studies.items()}
