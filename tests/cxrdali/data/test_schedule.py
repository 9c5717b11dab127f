"""The text of a schedule of sizes, and what settings make of it."""

import pytest

from cxrdali.data.schedule import Segment, at, epochs_left, segments, with_batches
from cxrdali.runs.settings import TrainSettings, settings_of
from shards.errors import UserError

TEXT = "224x10@256,320x10@128,512x5@48"


def test_segments_follow_one_another():
    found = segments(" 224x10 , 320x10@128,512x5@48")
    assert found == (Segment(224, 10, None), Segment(320, 10, 128, 10), Segment(512, 5, 48, 20))
    assert [each.end for each in found] == [10, 20, 25]
    assert [at(found, epoch).size for epoch in (0, 9, 10, 19, 20, 24, 25)] == [224, 224, 320, 320, 512, 512, 512]


@pytest.mark.parametrize(
    "text", ["", "224", "224x", "x10", "224*10", "224x10,", "224x0", "0x10", "224x10@0", "224x10@", "224x1.5", "224X10"]
)
def test_another_form_is_refused(text):
    with pytest.raises(UserError, match="is not SIZExEPOCHS or SIZExEPOCHS@BATCH"):
        settings_of(stage=1, schedule=text)


@pytest.mark.parametrize("text", ["320x1,224x1", "224x1,224x1"])
def test_sizes_grow(text):
    with pytest.raises(UserError, match="schedule .*: 224 px after (320|224) px; give every size once, from small to"):
        settings_of(stage=1, schedule=text)


def test_size_batch_and_epochs_are_the_schedule_s():
    made = settings_of(stage=1, schedule=TEXT)
    assert (made.data.size, made.optimizer.batch, made.optimizer.epochs) == (512, 48, 25)
    assert made.data.schedule == TEXT and TrainSettings.from_json(made.as_json()) == made
    assert made.steps(1000) == (3,) * 10 + (7,) * 10 + (20,) * 5
    assert made.changed(limit_batches=4).steps(1000) == (3,) * 10 + (4,) * 15
    first = made.at(made.segments[0])
    assert (first.data.size, first.optimizer.batch, first.optimizer.epochs) == (224, 256, 25)
    assert first.segments == made.segments and made.at(made.segments[-1]) == made


@pytest.mark.parametrize(
    "text, given, full",
    [
        ("224x1,320x1,512x1", {}, "224x1@256,320x1@128,512x1@48"),  # those of the stages
        ("224x1,320x1,512x1", {"batch": 64}, "224x1@64,320x1@64,512x1@64"),
        ("48x1@32,64x1", {"batch": 16}, "48x1@32,64x1@16"),
        ("48x1@32,64x1@8", {}, "48x1@32,64x1@8"),
    ],
)
def test_every_size_has_a_batch(text, given, full):
    made = settings_of(stage=1, schedule=text, **given)
    assert made.data.schedule == full and made.optimizer.batch == made.segments[-1].batch


def test_a_plain_run_is_one_segment():
    made = settings_of(stage=2)
    assert made.segments == (Segment(320, 30, 128),) and made.at(made.segments[0]) is made


@pytest.mark.parametrize(
    "given, message",
    [
        ({"epochs": 30}, "its epochs add up to 25, epochs is 30; give --epochs 25, or leave it out"),
        ({"size": 224}, "size 224: the schedule ends with 512x5@48; leave size out, or give --size 512"),
        ({"batch": 256}, "batch 256: the schedule ends with 512x5@48; leave batch out, or give --batch 48"),
        ({"micro_batch": 24}, "micro-batch 24: must divide the batch of 224x10@256 in the schedule; or give auto"),
        (
            {"grow_from": 0.5},
            "grow-from 0.5: dropout, drop-path, mixup and cutmix are 0, so nothing grows",
        ),
        ({"schedule": "48x1,64x1@8"}, "48 px has no usual batch; give its own, as 48x1@64, or --batch for all"),
        ({"schedule": None, "grow_from": 0.5}, "grow-from 0.5: one size has nothing to grow with; give --schedule too"),
        ({"grow_from": 1.5}, "grow-from 1.5: 0 to 1"),
        ({"loss": "ldam-drw", "drw_epoch": 25}, "re-weighting would begin after the last of 25 epochs"),
    ],
)
def test_what_does_not_go_together_is_said(given, message):
    with pytest.raises(UserError, match=message):
        settings_of({"schedule": TEXT, **given}, stage=1)


def test_regularisation_grows_by_equal_steps():
    made = settings_of(stage=1, schedule=TEXT, dropout=0.4, grow_from=0.25)
    assert [made.at(each).model.dropout for each in made.segments] == pytest.approx([0.1, 0.25, 0.4])
    assert [made.at(each).model.dropout for each in made.changed(grow_from=1.0).segments[:1]] == pytest.approx([0.1])
    mixed = settings_of(stage=1, schedule=TEXT, drop_path=0.2, mixup=0.2, grow_from=0.0)
    found = [(made.model.drop_path, made.data.mixup) for made in map(mixed.at, mixed.segments)]
    assert found == [pytest.approx(each) for each in ((0.0, 0.0), (0.1, 0.1), (0.2, 0.2))]
    one = settings_of(stage=1, schedule="64x3@8", dropout=0.4, grow_from=0.25)
    assert one.at(one.segments[0]).model.dropout == 0.4


def test_what_is_left_is_counted_in_pixels():
    every = segments("32x2@8,64x3@8")
    assert epochs_left(every, 0, every[0]) == 2 + 3 * 4
    assert epochs_left(every, 1, every[0]) == 1 + 3 * 4
    assert epochs_left(every, 2, every[0]) == 3 * 4 and epochs_left(every, 2, every[1]) == 3
    assert epochs_left(every, 5, every[1]) == 0


def test_with_batches_keeps_what_is_there():
    assert with_batches(TEXT.replace(",", " , "), 7, {}) == TEXT
