"""The plan: which image goes to which row and shard under which key, decided without a pixel."""

import itertools

import numpy as np
import pandas as pd
import pytest
from webdataset.tariterators import base_plus_ext

from shards.dataset.key import sample_key
from shards.packing import plan as planning
from shards.packing.plan import shard_of_study


def plan(*arguments, **options) -> pd.DataFrame:
    return planning.plan(*arguments, **options).rows()


def made_images(subjects=25, seed=0):
    """Studies of 1 to 4 images, in no order; study ids repeat between subjects."""
    rng = np.random.default_rng(seed)
    rows = [
        {"image_id": f"i{subject}-{study}-{image}", "study_id": str(study), "subject_id": str(subject), "path": "p"}
        for subject in range(subjects)
        for study in range(1 + subject % 3)
        for image in range(rng.integers(1, 5))
    ]
    return pd.DataFrame(rows).sample(frac=1, random_state=seed, ignore_index=True)


def studies_in_order(rows):
    return rows[["subject_id", "study_id"]].drop_duplicates().apply(tuple, axis=1).tolist()


@pytest.mark.parametrize("shard_images", [1, 2, 5, 7, 1000])
def test_every_image_stands_in_one_row_and_rows_and_shards_have_no_gap(shard_images):
    images = made_images()
    rows = plan(images, shard_images, seed=0)
    assert sorted(rows["image_id"]) == sorted(images["image_id"])
    assert rows["row"].tolist() == list(range(len(images))) == rows.index.tolist()
    assert rows["shard"].is_monotonic_increasing
    assert sorted(rows["shard"].unique()) == list(range(rows["shard"].max() + 1))


@pytest.mark.parametrize("shard_images", [1, 3, 5, 11])
def test_a_study_stands_together_and_spans_no_shards(shard_images):
    rows = plan(made_images(), shard_images, seed=3)
    for _, study in rows.groupby(["subject_id", "study_id"]):
        assert study["row"].tolist() == list(range(study["row"].min(), study["row"].max() + 1))
        assert study["shard"].nunique() == 1


def test_a_shard_exceeds_its_size_only_for_a_study_that_is_larger():
    for _, shard in plan(made_images(), 3, seed=1).groupby("shard"):
        assert len(shard) <= 3 or len(shard[["subject_id", "study_id"]].drop_duplicates()) == 1


def greedy(counts, shard_images):
    """The shards as lists of study sizes: a reference that fills a list until the next study does not fit."""
    shards = []
    for count in counts:
        if shards and sum(shards[-1]) + count <= shard_images:
            shards[-1].append(count)
        else:
            shards.append([count])
    return [number for number, shard in enumerate(shards) for _ in shard]


def test_shards_equal_the_reference_for_every_small_case():
    for studies in range(6):
        for counts in itertools.product((1, 2, 3, 4), repeat=studies):
            for shard_images in (1, 2, 3, 4, 5, 9):
                found = shard_of_study(np.array(counts, dtype=np.int64), shard_images)
                assert found.tolist() == greedy(counts, shard_images), (counts, shard_images)


@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_the_input_does_not_matter(seed):
    images = made_images()
    shuffled = images.sample(frac=1, random_state=seed)
    pd.testing.assert_frame_equal(plan(shuffled, 5, seed=0), plan(images, 5, seed=0))


def test_the_seed_decides_the_order_of_the_studies():
    orders = {tuple(studies_in_order(plan(made_images(), 5, seed))) for seed in range(20)}
    assert len(orders) == 20


def test_studies_of_a_subject_are_mixed_among_the_others():
    """25 subjects, two thirds of them with several studies: sorted order would keep all of those together."""
    subjects = [subject for subject, _ in studies_in_order(plan(made_images(), 5, seed=0))]
    together = sum(one == other for one, other in itertools.pairwise(subjects))
    assert together < 8, subjects


def test_limit_keeps_the_first_whole_studies():
    whole = plan(made_images(), 5, seed=0)
    sizes = whole.groupby(["subject_id", "study_id"], sort=False).size().tolist()
    ends = [0, *itertools.accumulate(sizes)]
    for limit in range(1, len(whole) + 3):
        rows = plan(made_images(), 5, seed=0, limit=limit)
        expected = max(end for end in ends if end <= limit) or ends[1]
        pd.testing.assert_frame_equal(rows, whole.iloc[:expected])


@pytest.mark.parametrize(
    ("names", "key"),
    [
        (("10000032", "50414267", "02aa804e-bde0afdd"), "10000032/50414267/02aa804e-bde0afdd"),
        (("p.1", "1.2.840.5", "a.png"), "p%2E1/1%2E2%2E840%2E5/a%2Epng"),
        (("a/b", "..", " c d "), "a%2Fb/%2E%2E/%20c%20d%20"),
        (("%2E", "é", "\n"), "%252E/%C3%A9/%0A"),
    ],
)
def test_keys_escape_what_a_member_name_cannot_hold(names, key):
    assert sample_key(*names) == key


def test_webdataset_splits_every_key_where_we_do_and_no_two_names_share_one():
    parts = ["a", "a.b", "a/b", "a b", ".", "%2E", "a%2Eb", "ä", "-", "_~"]
    keys = {}
    for names in itertools.product(parts, repeat=3):
        key = sample_key(*names)
        assert base_plus_ext(f"{key}.jpg") == (key, "jpg")
        assert keys.setdefault(key, names) == names
        assert key.count("/") == 2 and key.isascii() and " " not in key


def test_some_rows_are_those_of_all_and_know_their_files():
    images = made_images().assign(path=lambda images: images["image_id"] + ".jpg").set_index(pd.RangeIndex(7, 127))
    whole = planning.plan(images, 5, seed=0)
    rows = whole.rows()
    assert len(whole) == len(rows) == len(images) and whole.shards == rows["shard"].max() + 1
    for start, stop in ((0, 1), (17, 40), (len(rows) - 2, len(rows))):
        pd.testing.assert_frame_equal(whole.rows(start, stop), rows.iloc[start:stop].reset_index(drop=True))
    assert [whole.path(row) for row in range(len(rows))] == rows["path"].tolist()
