"""Two packs as one dataset: rows, ids, labels and bytes are those of each."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from shards.dataset.labels import Labels
from shards.dataset.mapped import MappedSize, StoredSize
from shards.dataset.packed import PackedDataset
from shards.dataset.synonyms import FindingsMap
from shards.dataset.union import Union, UnionOptions
from shards.errors import UserError


@pytest.fixture(scope="module")
def union(dataset, nih):
    return Union.of({"mimic": dataset, "nih": nih})


def test_one_pack_is_itself(dataset):
    assert Union.of({"mimic": dataset}) is Union.of({"out é\nmore": dataset}) is dataset
    (part,) = dataset.parts
    assert (part.dataset, part.start, part.stop) == (dataset, 0, 120)


def test_rows_are_the_packs_rows_and_ids_bear_their_names(union, dataset, nih):
    assert [(part.name, part.start, part.stop) for part in union.parts] == [("mimic", 0, 120), ("nih", 120, 160)]
    assert union.packed.tolist() == [True] * 160
    assert union.sizes == [48] and not union.synthetic and union.id not in (dataset.id, nih.id)
    for name in ("image_id", "study_id", "subject_id"):
        own = [*("mimic:" + dataset.catalog[name]), *("nih:" + nih.catalog[name])]
        assert union.arrow(name)[name].to_pylist() == own == union.catalog[name].tolist()
    assert union.of_rows(np.array([130, 0]), "pack", "view").values.tolist() == [
        ["nih", nih.catalog["view"][10]],
        ["mimic", dataset.catalog["view"][0]],
    ]
    assert union.has("pack") and union.has("pixels") and not union.has("other")
    pieces = pd.concat([piece.to_pandas() for piece in union.pieces("subject_id", "pack")])
    assert pieces["subject_id"].tolist() == union.catalog["subject_id"].tolist()


def test_labels_are_each_packs_own_and_unknown_where_a_release_does_not_know(union, dataset, nih):
    labels, own = union.labels(), (dataset.labels(), nih.labels())
    assert labels.findings[:5] == own[0].findings == ("Edema", "Hernia", "Mass", "No Finding", "Pneumonia")
    assert labels.findings[5:9] == ("Atelectasis", "Cardiomegaly", "Pleural Effusion", "Infiltration")
    assert len(labels.findings) == 15
    by_hand = np.full((160, 15), 8)
    by_hand[:120, :5] = own[0].values
    for place, finding in enumerate(own[1].findings):
        name = {"Effusion": "Pleural Effusion"}.get(finding, finding)
        by_hand[120:, labels.findings.index(name)] = own[1].values[:, place]
    assert labels.values.dtype == np.int8 and (labels.values == by_hand).all() and Labels.UNKNOWN == 8
    assert labels.split[:].tolist() == [*own[0].split[:], *own[1].split[:]]
    assert (labels.split == "test").tolist() == [*(own[0].split == "test"), *(own[1].split == "test")]
    assert labels.name == "mimic=cxr-lt-2023,nih=chestx-ray14" == union.label_names[0]
    for found, alone in zip(labels.apart(), own, strict=True):
        assert (found.name, found.findings, found.sha256) == (alone.name, alone.findings, alone.sha256)
        assert (found.values == alone.values).all() and (found.split[:] == alone.split[:]).all()


def test_label_releases_are_chosen_by_pack(union):
    assert union.labels("mimic=chexpert").name == "mimic=chexpert,nih=chestx-ray14"
    assert union.labels(union.labels().name).sha256 == union.labels().sha256
    with pytest.raises(
        UserError, match="no labels 'chexpert'; mimic has cxr-lt-2023, chexpert; nih has chestx-ray14: "
    ):
        union.labels("chexpert")
    with pytest.raises(UserError, match="no pack 'nhi'; did you mean nih?"):
        union.labels("nhi=chestx-ray14")
    with pytest.raises(UserError, match="no labels 'other'"):
        union.labels("nih=other")


def test_a_label_release_may_have_an_equals_sign_in_its_name(dataset, monkeypatch):
    own = {name: replace(dataset.labels(there), name=name) for name, there in (("v=1", "chexpert"), ("other", None))}
    monkeypatch.setattr(PackedDataset, "label_names", [*own])
    monkeypatch.setattr(PackedDataset, "labels", lambda self, name: own[name])
    union = Union.of({"a": dataset, "b": dataset})
    assert union.labels("v=1").name == union.label_names[0] == "v=1"
    assert union.labels("v=1").findings == own["v=1"].findings
    assert union.labels("b=v=1").name == "v=1" and union.labels("b=other").name == "a=v=1,b=other"


def test_a_map_changes_the_findings_and_the_hash(dataset, nih):
    names = FindingsMap.read('{"packs": {"nih": {"No Finding": "No Finding (nih)"}}}')
    labels = Union.of({"mimic": dataset, "nih": nih}, UnionOptions(names)).labels()
    assert "No Finding (nih)" in labels.findings and len(labels.findings) == 16
    assert labels.sha256 != Union.of({"mimic": dataset, "nih": nih}).labels().sha256


def test_same_patients_have_one_id(dataset):
    packs = {"a": dataset, "b": dataset}
    apart, joined = Union.of(packs), Union.of(packs, UnionOptions(same_patients=(("a", "b"),)))
    assert len(set(apart.catalog["subject_id"])) == 2 * len(set(joined.catalog["subject_id"]))
    assert set(joined.catalog["subject_id"]) == set("a:" + dataset.catalog["subject_id"])
    assert joined.catalog["image_id"].tolist() == apart.catalog["image_id"].tolist()


@pytest.mark.parametrize("group, words", [(("a", "c"), "'c': no such pack; there are a, b"), (("a", "a"), "twice")])
def test_same_patients_of_what_is_not_there(dataset, nih, group, words):
    with pytest.raises(UserError, match=words):
        Union.of({"a": dataset, "b": nih}, UnionOptions(same_patients=(group,)))


def test_a_name_that_ids_cannot_have_is_refused(dataset, nih):
    with pytest.raises(UserError, match="'a:b' cannot name one pack among others; .*--data NAME="):
        Union.of({"a:b": dataset, "nih": nih})


def test_stored_bytes_are_each_packs(union, dataset, nih):
    mapped = MappedSize(StoredSize.joined([part.dataset.stored(48) for part in union.parts]))
    for part in union.parts:
        own = MappedSize(part.dataset.stored(48))
        for row in range(part.start, part.stop):
            assert (mapped[row] == own[row - part.start]).all()
