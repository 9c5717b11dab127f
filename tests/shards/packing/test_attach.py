"""Labels attached to a packed dataset: joined by image, no shard touched, safe against kills."""

import json
import multiprocessing
import shutil
import signal

import numpy as np
import pandas as pd
import pytest

from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.attach import attach, detach
from shards.packing.verify import verify
from shards.releases.open import open_release
from shards.storage.files import sha256_file
from tests.dying import dies_before
from tests.heard import heard
from tests.releases import contents

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(release_folder, tmp_path):
    """CXR-LT 2024 with findings and splits of its own: the 2023 train split, split anew by subject, and a stranger."""
    images = open_release(release_folder).images
    table = pd.DataFrame({"dicom_id": images["image_id"], "subject_id": images["subject_id"]})
    table["Scoliosis"] = (np.arange(len(table)) % 7 == 0).astype(int)
    table["split"] = np.where(table["subject_id"].str[-1].astype(int) < 7, "train", "test")
    table.loc[len(table)] = ["elsewhere", "10999999", 1, "train"]
    out = tmp_path / "cxr-lt-2024"
    out.mkdir()
    table.iloc[::-1].to_csv(out / "labels.csv", index=False)
    return out


@pytest.fixture
def copy(pack_folder, tmp_path):
    return shutil.copytree(pack_folder, tmp_path / "pack")


def test_attached_labels_are_joined_by_image_and_touch_nothing_else(copy, folder):
    before, old = contents(copy), PackedDataset.open(copy)
    ((table, new),) = attach(copy, [folder])
    assert (table.name, table.elsewhere, new) == ("cxr-lt-2024-all", 1, True)
    dataset = PackedDataset.open(copy)
    assert dataset.id == old.id and dataset.label_names == [*old.label_names, "cxr-lt-2024-all"]
    found = dataset.labels("cxr-lt-2024-all")
    given = pd.read_csv(folder / "labels.csv", dtype=str).set_index("dicom_id").loc[dataset.catalog["image_id"]]
    assert found.findings == ("Scoliosis",)
    assert found.values[:, 0].tolist() == given["Scoliosis"].astype(int).tolist()
    assert found.split[:].tolist() == given["split"].tolist()
    after = contents(copy)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"dataset.json", "labels/cxr-lt-2024-all.parquet"}
    assert verify(copy).problems == ()


def test_attaching_again_does_nothing_and_other_content_is_refused(copy, folder):
    attach(copy, [folder])
    before = contents(copy)
    ((_, new),) = attach(copy, [folder])
    assert not new and contents(copy) == before
    table = (folder / "labels.csv").read_text().replace(",1,", ",0,", 1)
    (folder / "labels.csv").write_text(table)
    with pytest.raises(
        UserError, match="'cxr-lt-2024-all' are attached with other content; remove them first: cxrdali"
    ):
        attach(copy, [folder])
    assert contents(copy) == before
    detach(copy, "cxr-lt-2024-all")
    attach(copy, [folder])
    assert verify(copy).problems == ()


def test_removing_gives_the_old_dataset_back_and_names_what_there_is(copy, folder):
    before = contents(copy)
    attach(copy, [folder])
    detach(copy, "cxr-lt-2024-all")
    assert contents(copy) == before
    with pytest.raises(UserError, match="no labels 'x' to remove; attached are chexpert, cxr-lt-2023"):
        detach(copy, "x")
    with heard([]) as lines:
        detach(copy, "cxr-lt-2023")
    assert (
        "labels chexpert: are the default now, also when cxr-lt-2023 is attached again; choose by --labels cxr-lt-2023"
    ) in lines
    assert PackedDataset.open(copy).labels().name == "chexpert"
    detach(copy, "chexpert")
    with pytest.raises(UserError, match=f"no label release is attached; attach one: cxrdali label {copy} --labels DIR"):
        PackedDataset.open(copy).labels()
    attach(copy, [folder])
    assert PackedDataset.open(copy).labels().name == "cxr-lt-2024-all"


def test_bad_labels_change_nothing(copy, folder, tmp_path):
    before = contents(copy)
    (tmp_path / "empty").mkdir()
    table = pd.read_csv(folder / "labels.csv", dtype=str)
    for change, message in (
        (lambda: None, ""),
        (lambda: table.assign(dicom_id="x" + table["dicom_id"]), "none of its 121 images is in the release"),
        (lambda: table.assign(split=["train", "test"] * 60 + ["train"]), "subjects in more than one split of labels"),
    ):
        other = change()
        if other is None:
            with pytest.raises(UserError, match="empty: no label table; give a folder that holds train.csv"):
                attach(copy, [tmp_path / "empty"])
            continue
        other.to_csv(folder / "labels.csv", index=False)
        with pytest.raises(UserError, match=message):
            attach(copy, [folder])
        assert contents(copy) == before
    attach(copy, [folder], allow_subject_overlap=True)


def test_a_file_that_the_description_does_not_list_is_not_labels(copy):
    shutil.copy(copy / "labels" / "chexpert.parquet", copy / "labels" / "stray.parquet")
    dataset = PackedDataset.open(copy)
    assert "stray" not in dataset.label_names
    with pytest.raises(UserError, match="no labels 'stray'"):
        dataset.labels("stray")
    assert verify(copy).problems == (f"{copy / 'labels' / 'stray.parquet'}: not in dataset.json",)


def _killed_at(step, call, root, folder):
    """Attach, or remove, and die before the `step`-th rename, flush or removal."""
    dies_before(step, ("rename", "replace", "fsync", "unlink", "rmdir", "mkdir", "open"))
    if call == "attach":
        attach(root, [folder])
    else:
        detach(root, "cxr-lt-2023")


@pytest.mark.parametrize("call", ["attach", "detach"])
def test_a_kill_at_any_step_leaves_the_old_labels_or_the_new(pack_folder, folder, tmp_path, call):
    context = multiprocessing.get_context("fork")
    old = set(PackedDataset.open(pack_folder).label_names)
    new = old | {"cxr-lt-2024-all"} if call == "attach" else old - {"cxr-lt-2023"}
    seen = []
    for step in range(1, 100):
        root = shutil.copytree(pack_folder, tmp_path / f"pack{step}")
        child = context.Process(target=_killed_at, args=(step, call, root, folder))
        child.start()
        child.join(60)
        dataset = PackedDataset.open(root)
        names = set(dataset.label_names)
        assert names in (old, new)
        for name in names:
            dataset.labels(name)
        seen.append(names == new)
        attach(root, [folder])  # the next call clears up
        assert verify(root).problems == ()
        shutil.rmtree(root)
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
    assert seen == sorted(seen) and not seen[0] and seen[-1] and len(seen) > 8


def test_the_description_stays_sealed_and_lists_the_hash(copy, folder):
    attach(copy, [folder])
    info = json.loads((copy / "dataset.json").read_bytes())
    assert info["labels"]["cxr-lt-2024-all"] == sha256_file(copy / "labels" / "cxr-lt-2024-all.parquet")
