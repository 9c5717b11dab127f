"""People attached to a packed dataset: read as its columns, safe against kills, in no shard and no name."""

import multiprocessing
import os
import shutil
import signal

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from shards.dataset.packed import PackedDataset
from shards.dataset.people import known_people
from shards.errors import UserError
from shards.packing.attach import attach_subjects, detach_subjects
from shards.packing.verify import verify
from shards.releases.subjects import read_subjects
from tests.releases import contents

pytestmark = pytest.mark.slow


@pytest.fixture
def copy(pack_folder, tmp_path):
    return shutil.copytree(pack_folder, tmp_path / "pack")


def table_of(copy, tmp_path, text=None, name="patients.csv"):
    """Each patient's sex and race by hand; the first patient is not in it."""
    images = PackedDataset.open(copy).catalog[["image_id", "subject_id"]]
    patients = sorted(images["subject_id"].unique())[1:]
    rows = [f"{each},{'FM'[int(each) % 2]},{'White' if int(each) % 3 else 'ASIAN'},20{int(each) % 10:02d}"
            for each in patients]  # fmt: skip
    (tmp_path / name).write_text(text or "subject_id,sex,race,year\n" + "\n".join(rows) + "\n")
    return read_subjects(tmp_path / name, images)


def test_what_is_attached_is_read_as_columns_and_touches_nothing_else(copy, tmp_path):
    before, old = contents(copy), PackedDataset.open(copy)
    assert not old.has("sex") and known_people(old) == []
    new, _ = attach_subjects(copy, "people", table_of(copy, tmp_path))
    assert new
    dataset = PackedDataset.open(copy)
    assert dataset.id == old.id and dataset.has("sex") and dataset.has("year") and not dataset.has("age")
    rows = np.array([7, 0, 3])
    found = dataset.of_rows(rows, "subject_id", "race", "sex", "year")
    assert list(found) == ["subject_id", "race", "sex", "year"] and found.index.tolist() == rows.tolist()
    first = sorted(old.catalog["subject_id"].unique())[0]
    everyone = dataset.of_rows(np.arange(len(dataset.packed)), "subject_id", "sex", "race", "year")
    for row in everyone.itertuples():
        if row.subject_id == first:
            assert pd.isna(row.sex) and pd.isna(row.race) and pd.isna(row.year)
        else:
            subject = int(row.subject_id)
            assert row.sex == "FM"[subject % 2] and row.race == ("White" if subject % 3 else "Asian")
            assert row.year == 2000 + subject % 10
    lacking = (old.catalog["subject_id"] == first).sum()
    assert known_people(dataset)[0] == ("sex", len(dataset.packed) - lacking, "people")
    kept = dataset.catalog  # also once the catalog is in memory
    assert "sex" not in kept and dataset.of_rows(rows, "sex")["sex"].tolist() == found["sex"].tolist()
    assert next(dataset.pieces("sex")).num_rows == len(dataset.packed)
    after = contents(copy)
    assert {name for name in after if after[name] != before.get(name)} == {"dataset.json", "subjects/people.parquet"}
    assert pq.read_schema(copy / "subjects" / "people.parquet").names == ["row", "sex", "race", "year"]
    assert verify(copy).problems == ()


def test_other_content_and_columns_that_are_there_are_refused(copy, tmp_path):
    table = table_of(copy, tmp_path)
    attach_subjects(copy, "people", table)
    before = contents(copy)
    assert attach_subjects(copy, "people", table) == (False, ()) and contents(copy) == before
    subject = PackedDataset.open(copy).catalog["subject_id"].iloc[0]
    other = table_of(copy, tmp_path, f"subject_id,sex,age\n{subject},F,50\n")
    with pytest.raises(UserError, match="'people' are attached with other content; remove them first: cxrdali subj"):
        attach_subjects(copy, "people", other)
    with pytest.raises(UserError, match="sex are attached already, by 'people'; remove that first"):
        attach_subjects(copy, "more", other)
    with pytest.raises(UserError, match="people 'people' and 'People' differ in upper and lower case"):
        attach_subjects(copy, "People", table_of(copy, tmp_path, f"subject_id,age\n{subject},50\n"))
    assert contents(copy) == before
    attach_subjects(copy, "more", table_of(copy, tmp_path, f"subject_id,age\n{subject},50\n"))
    assert [each[2] for each in known_people(PackedDataset.open(copy))] == ["people", "more", "people", "people"]
    detach_subjects(copy, "people")
    dataset = PackedDataset.open(copy)
    assert not dataset.has("sex") and dataset.has("age") and not (copy / "subjects" / "people.parquet").exists()
    with pytest.raises(UserError, match="no people 'people' to remove; attached are more"):
        detach_subjects(copy, "people")


def test_removing_gives_the_old_dataset_back(copy, tmp_path):
    before = contents(copy)
    attach_subjects(copy, "people", table_of(copy, tmp_path))
    detach_subjects(copy, "people")
    assert contents(copy) == before and not (copy / "subjects").exists()


def test_what_says_nothing_is_refused(copy, tmp_path):
    subject = PackedDataset.open(copy).catalog["subject_id"].iloc[0]
    before = contents(copy)
    with pytest.raises(UserError, match="says nothing that is understood"):
        attach_subjects(copy, "people", table_of(copy, tmp_path, f"subject_id,sex\n{subject},?\n"))
    assert contents(copy) == before


def test_damage_is_found(copy, tmp_path):
    attach_subjects(copy, "people", table_of(copy, tmp_path))
    file = copy / "subjects" / "people.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    (copy / "subjects" / "strange.parquet").write_bytes(b"")
    problems = "\n".join(verify(copy).problems)
    assert "people.parquet: its sha256 differs" in problems and "strange.parquet: not in dataset.json" in problems
    with pytest.raises(UserError, match="its hash is not the one in dataset.json"):
        PackedDataset.open(copy).of_rows(np.array([0]), "sex")
    file.unlink()
    assert "people.parquet: missing" in "\n".join(verify(copy).problems)


def _killed(copy, table, at):
    """Attach, and be killed at the given write."""
    from shards.packing import attach as module

    left = [at]

    def dying(path, data):
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        write(path, data)

    write, module.write_bytes = module.write_bytes, dying
    describe = module.write_description

    def described(root, info):
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        describe(root, info)

    module.write_description = described
    attach_subjects(copy, "people", table)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_kill_leaves_the_old_dataset_and_the_next_call_ends_it(copy, tmp_path, at):
    table, before = table_of(copy, tmp_path), contents(copy)
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(copy, table, at))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert known_people(PackedDataset.open(copy)) == []
    assert attach_subjects(copy, "people", table)[0]
    detach_subjects(copy, "people")
    assert contents(copy) == before
