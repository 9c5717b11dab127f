"""What all pages are made of: numbers as text, data as JSON, and names that are never markup."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cxrdali.predict.explain import Example, Explanation, Shown
from cxrdali.report.explanation.page import write_gallery
from cxrdali.report.kit.numbers import FORMATS, NOTHING, written
from cxrdali.report.kit.page import Figure, check_numbers_file, plain, render
from cxrdali.report.kit.plots import ap_intervals
from cxrdali.report.kit.tables import Table
from shards.errors import UserError
from tests.cxrdali.report.pages import AWKWARD, Page

HOSTILE = f"{AWKWARD}' `--x` {{{{ 7 * 7 }}}} {{% raw %}} </style><script>alert(1)</script>"


def section(data: dict, template: str) -> str:
    return render(
        "training/section.html.j2", {"name": "s", "section": {"title": HOSTILE, "template": template, "data": data}}
    )


def test_a_value_is_written_by_its_column_and_a_word_stays_a_word():
    assert [written(value, kind) for value, kind in ((1234, "count"), ("no image", "count"), (None, "score"))] == [
        "1,234", "no image", NOTHING,
    ]  # fmt: skip
    cells = {
        "small": (0.00412, "0.0041"), "interval": ((0.4, 0.35, 0.45), "0.400 (0.350 to 0.450)"),
        "before_after": ((0.2, 0.1), "0.2000 → 0.1000"), "share": ((120, 1000), "120 (12.0 %)"),
        "with_gain": ((0.4, -0.01), "0.400 −0.010"), "whole": (0.004, "<1"), "storage": (4.2e6, "4.2 MB"),
        "setting": ([], "none"), "text": ({"a": [1, 2]}, "a 1, 2"), "pixels": (64, "64 px"),
        "difference": (
            {"difference": 0.1, "low": -0.1, "high": 0.3, "p": 0.0004, "p_holm": 0.5},
            "+0.100 p <0.001 (0.50) (−0.100 to +0.300)",
        ),
        "small_interval": ((0.0412, 0.0012, 0.05), "0.0412 (0.0012 to 0.0500)"),
    }  # fmt: skip
    assert {kind: written(value, kind) for kind, (value, _) in cells.items()} == {
        kind: text for kind, (_, text) in cells.items()
    }
    assert cells.keys() <= FORMATS.keys()


def test_data_as_json_has_its_numbers_before_rounding_and_no_picture():
    frame = pd.DataFrame({"finding": ["Edema"], "AP": [0.123456], "AP_low": [np.nan]})
    data = {"figure": Figure("f", ap_intervals, (frame,)), "jpeg": b"\xff", "n": np.int64(3), "nan": np.float32("nan")}
    assert json.loads(json.dumps(plain(data))) == {
        "figure": {"table": {"finding": ["Edema"], "AP": [0.123456], "AP_low": [None]}}, "n": 3, "nan": None,
    }  # fmt: skip


def test_text_from_files_is_text_in_every_place(tmp_path):
    table = Table(HOSTILE, [("", "text"), (HOSTILE, "text")], [(HOSTILE, HOSTILE)], best=[(0, 1)])
    source = section({"origins": table, "settings": table}, "training/provenance")
    source += section({"missing": f"{HOSTILE} and an odd ` too"}, "training/provenance")
    (tmp_path / "page.html").write_text(source)
    page = Page(tmp_path / "page.html")
    assert not {"b", "script", "style", "x"} & set(page.tags)
    assert page.tables == {HOSTILE: [["", HOSTILE], [HOSTILE, HOSTILE]]}
    assert f"{HOSTILE} and an odd ` too" in page.text and "49" not in page.text


def test_commands_in_backticks_are_code():
    said = section({"missing": "give it with `--data`, or <not>"}, "training/provenance")
    assert "give it with <code>--data</code>, or &lt;not&gt;" in said


def test_the_gallery_s_numbers_are_beside_it_without_the_pictures(tmp_path):
    rows = {name: [f"{name}0"] for name in ("image_id", "study_id", "view", "view_position")}
    example = Example(0, -1.960102, 2, np.zeros((8, 8), np.uint8), np.ones((2, 2), np.float32))
    shown = Shown(AWKWARD, 1, 5, True, (example,), (), ())
    dataset = SimpleNamespace(catalog=pd.DataFrame(rows))
    page = Page(
        write_gallery(tmp_path / "page.html", Explanation("r", dataset, "l", "val", 8, "grad-cam", "x", (shown,), ()))
    )
    (finding,) = page.numbers["findings"]
    assert (finding["finding"], finding["positives"], finding["images"]) == (AWKWARD, 1, 5)
    assert finding["best"][0]["probability"] == pytest.approx(0.123456, abs=1e-6) and finding["best"][0]["rank"] == 2
    assert "12.3 %, rank 2 of 5, view0, view_position0" in page.text and "jpeg" not in finding["best"][0]


def test_only_a_page_s_own_numbers_are_replaced(tmp_path):
    out = tmp_path / "page.html"
    check_numbers_file(out)
    for content in ('{"page": "training"}', '{"run": 1}', "[]", "no JSON", '"page"'):
        out.with_suffix(".json").write_text(content)
        if "training" in content:
            check_numbers_file(out)
            continue
        with pytest.raises(UserError, match=r"page\.json: is not of a page"):
            check_numbers_file(out)
