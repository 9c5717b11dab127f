"""Images that two packs share: planted copies are found, others are not."""

import numpy as np
import pandas as pd
import pytest

from cxrdali.evaluate.overlap import EXACT, NEAR, OverlapOptions, overlap
from shards.errors import UserError
from tests.cxrdali.two_packs import COPIES, two_packs
from tests.heard import heard


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    return two_packs(tmp_path_factory.mktemp("packs"))


@pytest.fixture(scope="module")
def found(packs):
    return overlap(*packs[:2], OverlapOptions())


def named(found):
    """Pairs as (image of home, image of away, kind)."""
    table = found.listed(("home", "away"))
    return set(zip(table["image_id_a"], table["image_id_b"], table["kind"], strict=True))


def planted(table):
    known = table[table["source"] != ""]
    kinds = np.where(known["how"] == "exact", EXACT, NEAR)
    return set(zip(known["source"], known["image"], kinds, strict=True))


def test_planted_copies_are_all_found_and_nothing_else(packs, found):
    assert named(found) == planted(packs[2])
    assert len(found.pairs) == 4 * (len(COPIES) + 1)
    assert (found.exact, found.near, found.why) == ("192 px", "192 px", "")


def test_pairs_say_how_alike_they_are(found):
    exact, near = (found.pairs[found.pairs["kind"] == kind] for kind in (EXACT, NEAR))
    assert exact[["distance", "correlation"]].isna().all(axis=None)
    assert near["correlation"].between(0.9, 1).all() and near["distance"].between(0, 72).all()


def test_either_pack_may_come_first(packs, found):
    other = overlap(packs[1], packs[0], OverlapOptions())
    assert {(b, a, kind) for a, b, kind in named(other)} == named(found)


def test_exact_copies_alone_need_no_image(packs, monkeypatch):
    monkeypatch.setattr("cxrdali.evaluate.overlap.Pictures", None)
    found = overlap(*packs[:2], OverlapOptions(near=False))
    assert named(found) == {pair for pair in planted(packs[2]) if pair[2] == EXACT}
    assert (found.exact, found.near) == ("192 px", None)


def test_packs_of_other_sizes_have_near_pairs_alone(packs, tmp_path):
    home, away, table = two_packs(tmp_path, each=1, size=144)
    found = overlap(home, away, OverlapOptions())
    assert {(a, b) for a, b, _ in named(found)} == {(a, b) for a, b, _ in planted(table)}
    assert (found.exact, found.near) == (None, "192 px and 144 px")
    assert "at 192 px" in found.why and "at 144 px" in found.why and "do not compare" in found.why


def test_one_pack_has_no_overlap_with_itself(packs):
    with pytest.raises(UserError, match="has the images of .*cxrdali inspect"):
        overlap(packs[0], packs[0])


def test_signatures_are_kept_and_made_again_when_they_are_damaged(packs, found, tmp_path):
    options, said = OverlapOptions(cache=tmp_path / "kept"), []
    assert named(overlap(*packs[:2], options)) == named(found)
    files = sorted((tmp_path / "kept").glob("*.npy"))
    assert len(files) == 2
    times = [file.stat().st_mtime_ns for file in files]
    assert named(overlap(*packs[:2], options)) == named(found)
    assert [file.stat().st_mtime_ns for file in files] == times
    data = bytearray(files[0].read_bytes())
    data[-3] ^= 1
    files[0].write_bytes(data)
    with heard(said):
        assert named(overlap(*packs[:2], options)) == named(found)
    assert any("is damaged, and made again" in line for line in said)
    assert files[0].read_bytes() != bytes(data)


def test_where_signatures_cannot_be_kept_they_are_not(packs, found, tmp_path):
    (tmp_path / "file").write_text("")
    said = []
    with heard(said):
        assert named(overlap(*packs[:2], OverlapOptions(cache=tmp_path / "file" / "kept"))) == named(found)
    assert any("are not kept" in line for line in said)


def test_listed_columns_are_those_of_a_list(found):
    columns = ["pack_a", "image_id_a", "pack_b", "image_id_b", "kind", "distance", "correlation"]
    table = found.listed(("one", "other"))
    assert list(table) == columns and set(table["pack_a"]) == {"one"} and set(table["pack_b"]) == {"other"}
    assert isinstance(table, pd.DataFrame) and not table[["image_id_a", "image_id_b"]].isna().any(axis=None)
