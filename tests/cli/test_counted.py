"""Nouns are counted rightly where there is one of something: 1 epoch, 1 shard, 1 image."""

import re

import pytest

from tests.cli.cli import done

NOUNS = (
    "images|epochs|shards|studies|steps|findings|subjects|samples|problems|files|threads|rows|folds|parts|passes|runs|"
    "processes|jobs|batches|knots|columns|patients|models|tables|heat maps|(?:lateral|training|validation) images"
)
WRONG = re.compile(rf"(?<![\d.,/])1 (?:{NOUNS})\b(?!/s)")
SMALL = ("--size", 48, "--batch", 8, "--epochs", 1, "--warmup-epochs", 0, "--no-pretrained", "--device", "cpu")


def test_the_rule_finds_what_it_is_for():
    assert all(map(WRONG.search, ("1 epochs of 7", "in 1 shards per", "says 1 studies", "(1 threads)")))
    assert not any(map(WRONG.search, ("11 epochs", "2.1 images", "1 epoch", "1 images/s", "0/1 images", "1,001 rows")))


@pytest.mark.slow
def test_what_commands_and_pages_say_of_one(tmp_path, release_folder, pack_folder):
    data, run, table = ("--data", pack_folder), "runs/stage1", "runs/stage1/val_predictions.parquet"
    few = ("shard", "--source", release_folder, "--sizes", 48, "--jobs", 1, "--limit")
    train = ("train", "--stage", 1, *SMALL, "--arch", "test_efficientnet", *data, "--threads", 1)
    said = [
        done(tmp_path, *words).stdout
        for words in (
            (*few, 1, "--out", "one", "--dry-run"), (*few, 1, "--out", "one"), (*few, 1, "--out", "one"),
            ("verify", "one"), ("inspect", "one", "--html", "one.html"), (*train, "--dry-run"),
            (*train, "--limit-batches", 1),
            ("predict", "--run", run, "--split", "test", "--device", "cpu", "--out", "t.parquet", *data),
            ("evaluate", "t.parquet", "--draws", 0, *data), ("evaluate", table, "--draws", 0, *data),
            ("thresholds", "--fit", "t.parquet", "--out", "f.json", *data),
            ("calibrate", "--fit", "t.parquet", "--method", "isotonic", "--out", "c.json", *data),
            ("report", run, "--out", "r.html", "--evaluation", "t.metrics.json", *data),
            ("postprocess", "t.parquet", "--fit", "t.parquet", "--out", "v.parquet", "--allow-same-images",
             *data),
        )
    ]  # fmt: skip
    pages = [re.sub(r"<[^>]*>", " ", path.read_text()) for path in tmp_path.glob("*.html")]
    assert len(pages) == 3 and "1 epoch of 1 step" in "".join(said) and "1 shard per size" in "".join(said)
    assert [found.group() for text in (*said, *pages) for found in WRONG.finditer(text)] == []
