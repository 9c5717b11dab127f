import pytest

from shards.words import choices, counted, near


@pytest.mark.parametrize(
    "count, noun, said",
    [
        (1, "image", "1 image"), (0, "image", "0 images"), (1200, "epoch", "1,200 epochs"), (2, "study", "2 studies"),
        (1, "study", "1 study"), (3, "batch", "3 batches"), (2, "process", "2 processes"), (2, "day", "2 days"),
        (2, "knot", "2 knots"),
    ],
)  # fmt: skip
def test_nouns_are_counted(count, noun, said):
    assert counted(count, noun) == said


@pytest.mark.parametrize(
    "name, nearest",
    [("trian", "train"), ("PREDICT", "predict"), ("eval", "evaluate"), ("retrain_head", "retrain-head")],
)
def test_the_nearest_name_comes_first(name, nearest):
    assert near(name, ["train", "predict", "evaluate", "retrain-head", "report"])[0] == nearest


def test_a_name_like_none_gets_the_list_alone():
    assert near("xyz", ["train", "predict"]) == near("", ["train"]) == []
    assert choices("zzz", ["bce", "asl"]) == "choose one of bce, asl"
    assert choices("als", ["bce", "asl"], "there are") == "did you mean asl? there are bce, asl"
