import numpy as np
import pytest

from cxrdali.metrics.longtail import GROUPS, groups
from shards.errors import UserError


def test_worked_by_hand():
    # of 1,000 images: 10 % is 100 and belongs to the head, 1 % is 10 and belongs to the medium ones
    counts = np.array([1000, 101, 100, 99, 11, 10, 9, 0])
    assert groups(counts, 1000) == ["head"] * 3 + ["medium"] * 3 + ["tail"] * 2
    assert groups([], 7) == []
    assert set(groups(counts, 1000)) == set(GROUPS)


@pytest.mark.parametrize("images", [30, 70, 110, 290, 570, 3_000, 264_890])
def test_exactly_a_tenth_is_head_and_exactly_a_hundredth_is_not_tail(images):
    assert groups([images // 10, images // 10 - 1], images)[0] == "head"
    assert groups([images // 10 - 1], images) == ["medium"]
    assert groups([images, images - 1], 100 * images) == ["medium", "tail"]


@pytest.mark.parametrize("bad", [-1, 11])
def test_counts_that_cannot_be(bad):
    with pytest.raises(UserError, match=f"^{bad} images with a finding of 10 training images: must be 0 to 10$"):
        groups([3, bad], 10)
    with pytest.raises(UserError, match="^0 training images: there must be one"):
        groups([0], 0)
