"""Whether a run was trained on what it is to be judged on, in another pack."""

import numpy as np
import pytest

from cxrdali.data.splits import train_and_validation
from cxrdali.evaluate.overlap import OverlapOptions
from cxrdali.evaluate.strangers import NOT_CHECKED, strangers
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import settings_of
from cxrdali.train.trainer import train
from shards.errors import UserError
from tests.cxrdali.two_packs import two_packs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A run on home, home, away, and bool [rows of away]: copies of its training images, exact and near."""
    root = tmp_path_factory.mktemp("packs")
    home, away, table = two_packs(root)
    given = {"stage": 1, "size": 192, "batch": 16, "epochs": 1, "arch": "test_byobnet", "pretrained": False}
    settings = settings_of(**given, device="cpu", folds=3)
    train(settings, home, root / "run")
    train_rows, _ = train_and_validation(home, home.labels(), settings.data)
    trained = set(home.of_rows(train_rows, "image_id")["image_id"])
    table = table.set_index("image").loc[away.catalog["image_id"]]
    copied, exact = table["source"].isin(trained).to_numpy(), (table["how"] == "exact").to_numpy()
    assert (copied & exact).any() and (copied & ~exact).any() and not copied.all()
    return Run.open(root / "run"), home, away, copied & exact, copied & ~exact


def test_exact_copies_are_counted_and_near_ones_with_the_pack_at_hand(judged):
    run, home, away, exact, near = judged
    rows = np.flatnonzero(away.packed)
    found = strangers(run, away, rows, True)
    assert (found.images, found.exact, found.near) == (len(rows), exact.sum(), NOT_CHECKED)
    assert any("near copies are only found with the packs" in each for each in found.why)
    found = strangers(run, away, rows, True, {"home": home}, OverlapOptions())
    assert (found.exact, found.near, found.why) == (exact.sum(), near.sum(), ())
    assert found.as_json() == {"images": len(rows), "exact": exact.sum(), "near": near.sum(), "why": []}
    some = np.flatnonzero(near)[:3]
    assert strangers(run, away, some, True, {"home": home}, OverlapOptions()).near == 3


def test_judging_on_them_is_refused_unless_allowed(judged):
    run, home, away, exact, near = judged
    with pytest.raises(UserError, match=r"exact copies: \d+, near copies: not checked.*--exclude.*--allow-overlap"):
        strangers(run, away, np.flatnonzero(away.packed), False)
    with pytest.raises(UserError, match=r"exact copies: 0, near copies: 2, .*cxrdali overlap .*home .*away"):
        strangers(run, away, np.flatnonzero(near)[:2], False, {"home": home}, OverlapOptions())
    several, own = {"a": home, "b b": home}, r"overlap .*home .*away --out "
    listed = rf"{own}overlap-a.csv` and .*{own}'overlap-b b.csv'`, then .*--exclude 'overlap-a.csv,overlap-b b.csv'"
    with pytest.raises(UserError, match=listed):
        strangers(run, away, np.flatnonzero(near)[:2], False, several, OverlapOptions())
    clean = np.flatnonzero(away.packed & ~exact & ~near)
    assert strangers(run, away, clean, False, {"home": home}, OverlapOptions()).known == 0


def test_what_cannot_be_compared_is_not_said_to_be_none(judged, dataset):
    run, home, _, _, _ = judged
    found = strangers(run, dataset, np.flatnonzero(dataset.packed), False)
    assert (found.exact, found.near) == (NOT_CHECKED, NOT_CHECKED) and len(found.why) == 2
    assert "exact copies: not checked, near copies: not checked" in found.words
