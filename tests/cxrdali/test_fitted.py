"""What was fitted to which images on the way to a table: kept in it, said beside scores, refused where it must be."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cxrdali.evaluate.compare import compare
from cxrdali.evaluate.evaluate import evaluate, write
from cxrdali.evaluate.options import CompareOptions, EvaluateOptions
from cxrdali.fitted import MOST, Fitted, here, in_words, joined, sketch
from cxrdali.postprocess import calibration, thresholds
from cxrdali.postprocess.ensemble import ensemble, fitted_weights, weights_by_map
from cxrdali.postprocess.options import FitOptions
from cxrdali.predictions import Predictions, Provenance, read
from cxrdali.runs import chosen
from cxrdali.runs.settings import settings_of
from shards.errors import UserError
from shards.storage.sidecar import beside
from tests.cxrdali.held_out import written
from tests.heard import heard

QUICK = EvaluateOptions(draws=0)
ALLOWED = EvaluateOptions(draws=0, allow_same_images=True)


@pytest.fixture
def labels(dataset):
    return dataset.labels("cxr-lt-2023")


def ids(*numbers):
    names = pd.Series(numbers).astype(str)
    return pd.DataFrame({"image_id": names, "study_id": "s" + names, "view": "frontal"})


# ---------------------------------------------------------------- which images


@pytest.mark.parametrize("count", [100, MOST, 3 * MOST])
def test_overlap_is_found_whole_in_part_or_not_at_all(count):
    entry = [Fitted(("thresholds",), sketch(ids(*range(count))), "val")]
    whole, half, none = (ids(*np.arange(start, start + count)) for start in (0, count // 2, count))
    assert here(entry, whole.sample(frac=1, random_state=0), "val").words == ("thresholds",)
    assert here(entry, whole.iloc[:50], None).words == ("thresholds",)  # a part of what it was fitted to
    assert here(entry, half, "val").words == ("thresholds (on a part of them)",)
    assert here(entry, none, "val").words == ()
    assert here(entry, ids(*range(2 * count)), "all").words == ("thresholds (on a part of them)",)


def test_of_an_older_version_the_split_decides_or_nobody_knows():
    images = ids(1, 2)
    assert here([Fitted(("calibration",), "", "val")], images, "val").words == ("calibration",)
    assert here([Fitted(("calibration",), "", "val")], images, "test").words == ()
    found = here([Fitted(("calibration",), "", "test")], images, "test")
    assert found.kept == ("calibration",)
    for entry, split in ((Fitted(("calibration",)), "test"), (Fitted(("calibration",), "", "val"), None)):
        assert here([entry], images, split).unknown == ("calibration",) and not here([entry], images, split).words


def test_one_entry_for_each_set_of_images():
    one, two = sketch(ids(1)), sketch(ids(2))
    entries = [Fitted(("a",), one, "val"), Fitted(("b",), two, "val"), Fitted(("c", "a"), one, "val")]
    assert joined(entries) == (Fitted(("a", "c"), one, "val"), Fitted(("b",), two, "val"))


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_table_keeps_what_was_fitted(tmp_path, suffix):
    about = Provenance("calibrated", "m", "val", seen=(), fitted=(Fitted(("calibration",), sketch(ids(1)), "val"),))
    table = Predictions(ids(1, 2), ("A",), np.ones((2, 1), dtype=np.float32), about)
    for content in (table, replace(table, provenance=replace(about, fitted=()))):
        content.write(tmp_path / f"t{suffix}")
        assert read(tmp_path / f"t{suffix}").provenance == content.provenance


def test_a_csv_stays_a_plain_table_and_without_the_file_beside_says_nothing(tmp_path):
    about = Provenance("logit", "m", "val", history=("calibrated: x",), calibrated=("calibrated: x",))
    path = tmp_path / "t.csv"
    Predictions(ids(1, 2), ("A",), np.ones((2, 1), dtype=np.float32), about).write(path)
    assert list(pd.read_csv(path)) == ["image_id", "study_id", "view", "A"] and len(pd.read_csv(path)) == 2
    stored = beside(path).read_text()
    beside(path).write_text(stored.replace('"val"', '"dev"'))
    with pytest.raises(UserError, match="t.csv.sha256: what it says of the table is damaged, or was changed; restore"):
        read(path)
    beside(path).write_text(stored.splitlines()[1] + "\n")  # as an older version wrote it
    assert read(path).provenance == Provenance()
    beside(path).unlink()
    assert read(path).fitted == (Fitted(("what was done to it before",)),)


@pytest.mark.parametrize(
    ("history", "split", "words"),
    [
        ((), "val", ["best epoch"]),
        ((), "test", []),
        (("calibrated: platt, fitted on v.parquet",), "test", ["calibration"]),
        (("view postprocess by v.parquet (1 superior): 3 images",), "test", ["view rules"]),
        (("mean probability of a, b by weights 0.5, 0.5 (fitted to the mAP of c, d)",), "test", ["ensemble weights"]),
    ],
)
def test_a_table_of_an_older_version_says_what_its_history_does(history, split, words):
    table = Predictions(ids(1), ("A",), np.ones((1, 1)), Provenance("logit", "m", split, history=history))
    assert [what for entry in table.fitted for what in entry.what] == words


# ---------------------------------------------------------------- what is said, and refused


def both(tmp_path, dataset, split, of):
    """Tables of two runs of one split."""
    for place, run in enumerate("ab"):
        written(tmp_path / f"{run}.{split}.parquet", dataset, split, of, seed=place, run=run)
    return [tmp_path / f"{run}.{split}.parquet" for run in "ab"]


def made(what, fitted_to, applied_to, dataset, labels, **allow):
    """The table `applied_to[0]` after something that was fitted to `fitted_to`, and thresholds (None: not `what`)."""
    options = FitOptions(folds=2)
    out = applied_to[0].with_name("made.parquet")
    if what == "thresholds":
        return applied_to[0], thresholds.fit(fitted_to[0], dataset, labels, "f1", options)
    if what == "calibration":
        calibration.apply(
            applied_to[0], calibration.fit(fitted_to[0], dataset, labels, "platt", options), **allow
        ).write(out)
    elif what == "weights by mAP":
        ensemble(applied_to, weights_by_map(fitted_to, dataset, labels, options), **allow).write(out)
    else:
        ensemble(applied_to, fitted_weights(fitted_to, dataset, labels, options=options), **allow).write(out)
    return out, None


WORDS = {"weights by mAP": "ensemble weights", "fitted weights": "ensemble weights"}


@pytest.mark.parametrize("what", ["thresholds", "calibration", "weights by mAP", "fitted weights"])
def test_on_test_it_is_refused_on_validation_it_is_said(tmp_path, dataset, labels, what):
    val, test = both(tmp_path, dataset, "val", "train"), both(tmp_path, dataset, "test", "test")
    words = WORDS.get(what, what)
    path, limits = made(what, val, test, dataset, labels)
    assert evaluate(path, dataset, labels, QUICK, limits)["fitted_here"] == []
    path, limits = made(what, val, val, dataset, labels)
    assert evaluate(path, dataset, labels, QUICK, limits)["fitted_here"] == ["best epoch", words]
    said = f"parquet: {words} fitted on these very images, which are there to be scored; .*--allow-same-images"
    with pytest.raises(UserError, match=said):
        evaluate(test[0], dataset, labels, QUICK, made(what, test, test, dataset, labels)[1])
    allow = {} if what == "thresholds" else {"allow_same_images": True}
    path, limits = made(what, test, test, dataset, labels, **allow)
    with pytest.raises(UserError, match=said):
        evaluate(path, dataset, labels, QUICK, limits)
    result = evaluate(path, dataset, labels, ALLOWED, limits)
    assert result["fitted_here"] == [words] and in_words(result) == words
    if limits is None:
        with pytest.raises(UserError, match=said):
            compare([path, test[1]], dataset, CompareOptions(draws=0, folds=2))
        rows = compare([path, test[1]], dataset, CompareOptions(draws=0, folds=2, allow_same_images=True))["runs"]
        assert [row["fitted_here"] for row in rows] == [[words], []]


def test_whatever_the_table_is_called_its_images_decide(tmp_path, dataset, labels):
    """Another run's table of the same images, one that does not say its split, a part of them, all splits at once."""
    (test, other), (val, _) = both(tmp_path, dataset, "test", "test"), both(tmp_path, dataset, "val", "train")
    whole = read(test)
    whole.write(tmp_path / "foreign.csv")
    beside(tmp_path / "foreign.csv").unlink()
    frontal = (whole.ids["view"] == "frontal").to_numpy()
    replace(whole, ids=whole.ids[frontal], values=whole.values[frontal]).write(tmp_path / "frontal.parquet")
    tables = [read(val), whole]
    everything = Predictions(
        pd.concat([each.ids for each in tables], ignore_index=True), whole.findings,
        np.concatenate([each.values for each in tables]), replace(whole.provenance, split="all", run="a"),
    )  # fmt: skip
    everything.write(tmp_path / "all.parquet")
    options = FitOptions(folds=2, allow_leak=True)
    for source in (test, tmp_path / "foreign.csv", tmp_path / "all.parquet"):
        limits = thresholds.fit(source, dataset, labels, "f1", options)
        assert limits.made_from["split"] == "test"
        for path in (test, other, tmp_path / "foreign.csv", tmp_path / "frontal.parquet"):
            with pytest.raises(UserError, match="thresholds fitted on these very images"):
                evaluate(path, dataset, labels, replace(QUICK, allow_other_run=True), limits)
    limits = thresholds.fit(test, dataset, labels, "f1", options)
    with pytest.raises(UserError, match="thresholds .on a part of them. fitted on these very images"):
        evaluate(tmp_path / "all.parquet", dataset, labels, QUICK, limits)


def test_weights_of_raw_tables_are_not_for_calibrated_ones(tmp_path, dataset, labels):
    val, test = both(tmp_path, dataset, "val", "train"), both(tmp_path, dataset, "test", "test")
    raw, tables = weights_by_map(val, dataset, labels), {}
    for members in (val, test):
        tables[members[0]] = []
        for path, source in zip(members, val, strict=True):
            rules = calibration.fit(source, dataset, labels, "platt", FitOptions(folds=2))
            tables[members[0]].append(path.with_suffix(".c.parquet"))
            calibration.apply(path, rules).write(tables[members[0]][-1])
    calibrated = weights_by_map(tables[val[0]], dataset, labels)
    ensemble(tables[test[0]], calibrated), ensemble(test, raw)
    with pytest.raises(UserError, match="a.test.c.parquet: its logits are calibrated: platt.*used to fit the ensemble"):
        ensemble(tables[test[0]], raw)
    with pytest.raises(UserError, match="a.test.parquet: its logits are not calibrated, those of the validation table"):
        ensemble(test, calibrated)
    with pytest.raises(UserError, match="b.test.c.parquet: its logits are calibrated"):
        ensemble([test[0], tables[test[0]][1]], raw)


def test_the_list_of_findings_that_a_run_oversamples_is_kept(tmp_path, dataset, labels):
    (test, _), (val, _) = both(tmp_path, dataset, "test", "test"), both(tmp_path, dataset, "val", "train")
    for path, split in ((val, "val"), (test, "test")):
        files = write(evaluate(path, dataset, labels, QUICK), tmp_path / split)
        assert json.loads(files[0].read_text())["hashes"] == sketch(read(path).ids)
        for file in files:
            lines: list[str] = []
            with heard(lines):
                (entry,) = chosen.before(settings_of(stage=1, oversample_from=str(file), oversample_below=0.5))
            assert entry == Fitted(("oversampling list",), sketch(read(path).ids), split)
            assert ("oversample by an evaluation of val" in "".join(lines)) == (split == "test")
