"""Formulas in CSV files that people open: harmless there, and the same text where we read it again."""

import csv
import io

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrdali.runs.oversampling import read_ap
from shards.packing.publish import rejects_csv
from shards.storage.for_people import guarded, guarded_rows, unguarded

FORMULAS = ["=1+1", "+1", "-2", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''-1", "\uff1d1"]


@given(st.one_of(st.text(), st.text(st.sampled_from("'=+-@\t\ra"))))
def test_a_text_comes_back_and_never_starts_a_formula(text):
    written = guarded(text)
    assert unguarded(written) == text
    assert written[:1] not in ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_has_an_apostrophe_in_front(text):
    assert guarded(text) == f"'{text}"


@pytest.mark.parametrize("value", ["", "a", "a=1", "'", "'a", " =1", "1-2", -1, -0.5, None, True])
def test_numbers_and_other_texts_stay(value):
    assert guarded_rows([{"x": value}]) == [{"x": value}]
    assert not isinstance(value, str) or unguarded(value) == value


def test_rejects_and_scores_are_guarded_and_read_back(tmp_path):
    images = [text for text in FORMULAS if "\r" not in text]
    rows = pd.DataFrame({"image_id": images, "path": [f"{text}.png" for text in images]})
    data = rejects_csv(rows, [[row, "absent", None] for row in range(len(rows))])
    lines = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
    assert [line["id"] for line in lines] == [f"'{text}" for text in images]
    assert [line["path"] for line in lines] == [f"'{text}.png" for text in images]
    scores = pd.DataFrame(guarded_rows([{"finding": text, "AP": 0.5} for text in ["=1", "-x", "Edema"]]))
    scores.to_csv(tmp_path / "scores.csv", index=False)
    assert read_ap(tmp_path / "scores.csv") == {"=1": 0.5, "-x": 0.5, "Edema": 0.5}
