"""cxrdali subjects and evaluate --by, as a user calls them."""

import shutil

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from cli.evaluate import evaluate
from cli.inspect import inspect
from cli.subjects import subjects
from shards.dataset.packed import PackedDataset
from shards.dataset.people import known_people
from shards.storage.sealed import read_json
from tests.cxrdali.held_out import written
from tests.releases import write_nih

pytestmark = pytest.mark.slow


def call(command, *arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture
def copy(pack_folder, tmp_path):
    return shutil.copytree(pack_folder, tmp_path / "pack")


def test_people_are_attached_and_their_groups_scored(copy, tmp_path):
    written(tmp_path / "p.parquet", PackedDataset.open(copy), kind="logit")
    asked = (tmp_path / "p.parquet", "--data", copy, "--by", "sex,view", "--draws", 20, "--min-group", 5)
    before = call(evaluate, *asked)
    assert before.exit_code == 0, before.output
    assert "sex: not measured: no sex is known of these images; attach it (`cxrdali subjects PACK" in before.output
    patients = PackedDataset.open(copy).catalog["subject_id"].unique()
    pd.DataFrame({"subject_id": patients, "sex": np.where(np.arange(len(patients)) % 2, "F", "M")}).to_csv(
        tmp_path / "people.csv", index=False
    )
    result = call(subjects, copy, "--subjects", tmp_path / "people.csv")
    assert result.exit_code == 0, result.output
    count = len(PackedDataset.open(copy).packed)
    assert "people people: attached" in result.output and f"{count} of {count} images  from people" in result.output
    assert f"sex of {count} (from people) images" in call(inspect, copy).output
    after = call(evaluate, *asked, "--thresholds", 0.5)
    assert after.exit_code == 0, after.output
    assert "by sex" in after.output and "furthest behind its rest, AUROC" in after.output
    block = read_json(tmp_path / "p.metrics.json")["groups_by"]
    assert [row["group"] for row in block["dimensions"][0]["groups"]] == ["F", "M"] and not block["missing"]
    table = pd.read_csv(tmp_path / "p.metrics.groups.csv")
    assert set(table["by"]) == {"sex", "view"}
    small = call(evaluate, *asked[:-1], 10**6)
    assert small.exit_code == 0, small.output
    lines = [line.split() for line in small.output.splitlines()]
    assert all(any(line[:1] == [name] and line[-3:-1] == ["too", "small"] for line in lines) for name in "FM")
    assert "removed" in call(subjects, copy, "--remove", "people").output
    assert "nobody is known" in call(subjects, copy).output


def test_a_release_s_own_tables_are_taken_later(tmp_path):
    """Of a dataset that was packed before its sex and age were read."""
    from shards.packing.options import PackOptions
    from shards.packing.pack import pack
    from shards.releases.open import open_release
    from shards.renditions.options import Size

    write_nih(tmp_path / "nih")
    release = open_release(tmp_path / "nih")
    assert release.images["sex"].tolist() == ["M"] * 20 and release.images["age"].tolist() == ["58"] * 20
    release.images.drop(columns=["sex", "age"], inplace=True)
    pack(release, tmp_path / "pack", PackOptions(sizes=(Size(32),)))
    assert known_people(PackedDataset.open(tmp_path / "pack")) == []
    result = call(subjects, tmp_path / "pack", "--source", tmp_path / "nih")
    assert result.exit_code == 0 and "people chestx-ray14: attached" in result.output, result.output
    assert known_people(PackedDataset.open(tmp_path / "pack")) == [
        ("sex", 20, "chestx-ray14"),
        ("age", 20, "chestx-ray14"),
    ]


def test_options_that_do_not_go_together(copy, tmp_path):
    for given, words in (
        (("--admissions", "a.csv"), "give --subjects FILE too"),
        (("--release", "chexpert"), "give --source DIR too"),
        (("--name", "x"), "give --subjects FILE or --source DIR too"),
        (("--subjects", "a.csv", "--source", tmp_path), "give one after the other"),
    ):
        (tmp_path / "a.csv").write_text("x\n")
        result = CliRunner().invoke(subjects, [str(copy), *map(str, given)])
        assert result.exit_code == 2 and words in result.output
