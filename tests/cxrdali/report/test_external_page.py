"""Pages of a run at home and away, and of the matrix: what they say is what was found."""

from dataclasses import replace

import numpy as np
import pytest

from cxrdali.evaluate.external import external
from cxrdali.evaluate.matrix import Cell, matrix
from cxrdali.evaluate.options import ExternalOptions
from cxrdali.predictions import read
from cxrdali.report.external.matrix import write_matrix
from cxrdali.report.external.page import write_external
from cxrdali.report.kit.numbers import interval, score, signed, small_interval
from tests.cxrdali.evaluate.hospitals import RUN, hospital
from tests.cxrdali.report.pages import AWKWARD, Page

OPTIONS = ExternalOptions(draws=50)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hospitals")
    return hospital(folder, "home", (0.3, 0.3, 0.3)), hospital(folder, "away", (0.1, 0.3, 0.3), seed=1)


def scores(side, name):
    return [side[f"{name}{end}"] for end in ("", "_low", "_high")]


def test_numbers_of_the_page_are_those_of_the_result(places, tmp_path):
    home, away = places
    labels = replace(away.labels, findings=("A", "see", "D"))
    split = away.labels.split.copy()
    split[:7] = None
    names = '{"see": "C"}'
    found = external(
        RUN, home, [replace(away, name=AWKWARD, labels=replace(labels, split=split))], replace(OPTIONS, findings=names)
    )
    page = Page(write_external(found, tmp_path / "page.html"))
    (one,) = found["away"]
    means, rows = one["means"], {row["finding"]: row for row in one["findings"]}
    assert AWKWARD in page.text and "<b>&" not in page.source
    for said in (
        "Left out, as the labels of " + AWKWARD + " do not know them: B.",
        "Taken as one finding: C: ",
        "7 images, not listed",
    ):
        assert said in page.text
    assert f"mAP is {score(means['home']['AP'])} at home" in page.text
    tables = [rows for name, rows in page.tables.items() if "means over" in name]
    by_title = {row[0]: row for table in tables for row in table}
    assert by_title["AUROC"][1:3] == [interval(scores(means[side], "AUROC")) for side in ("home", "away")]
    assert by_title["AP at home's prevalence"][1:3] == ["", interval(scores(means["away"], "AP_reweighted"))]
    assert by_title["ECE"][1:3] == [small_interval(scores(means[side], "ECE")) for side in ("home", "away")]
    assert by_title["Sensitivity"][4] == interval(scores(means["refitted"], "recall"))
    for column, side in ((3, "difference"), (5, "mended")):
        assert by_title["Sensitivity"][column].startswith(signed(means[side]["recall"]["difference"]))
    own = next(rows for name, rows in page.tables.items() if name.startswith("Specificity"))
    assert [row[0] for row in own[1:]] == ["A", "C"]
    assert own[2][2] == interval(scores(rows["C"]["away"], "specificity"))
    assert len(page.figures) == 2


def test_what_has_no_score_has_no_figure_and_a_p_of_zero_is_bold(places, tmp_path):
    found = external(RUN, *places[:1], places[1:], replace(OPTIONS, draws=20))
    (one,) = found["away"]
    for row in one["findings"]:
        row["home"]["AUROC"] = row["away"]["AUROC"] = None
        row["difference"]["AP"]["p_holm"] = 0.0
        row["difference"]["F1"]["p_holm"] = 0.9
    page = Page(write_external(found, tmp_path / "page.html"))
    assert len(page.figures) == 1
    bold = {(caption.split(";")[0], name, column) for caption, name, column in page.bold}
    assert {("AP", name, 3) for name in "ABC"} <= bold and not {("F1", name, 3) for name in "ABC"} & bold


def test_without_samples_no_interval_is_claimed(places, tmp_path):
    home, away = places
    page = Page(write_external(external(RUN, home, [away], replace(OPTIONS, draws=0)), tmp_path / "page.html"))
    assert "No intervals were asked for." in page.text and "Bars:" not in page.text


def test_the_matrix_s_heat_map_and_tables(places, tmp_path):
    cells = []
    for number, place in enumerate(places):
        for trained in ("home", "away", "both")[: 3 - number]:
            table = read(place.path)
            path = tmp_path / f"{trained}-{number}.parquet"
            noise = np.random.default_rng(len(cells)).normal(size=table.values.shape)
            replace(table, values=(table.values + noise).astype(np.float32)).write(path)
            cells.append(Cell(trained, replace(place, path=path)))
    found = matrix(cells, OPTIONS)
    page = Page(write_matrix(found, tmp_path / "page.html", "Everywhere"))
    scores_, differences, columns = page.tables.values()
    assert scores_[0] == ["Trained on", "home", "away"] and scores_[3][2] == "–"  # both was not judged away
    by = {(column["judged"], cell["trained"]): cell for column in found["columns"] for cell in column["cells"]}
    assert scores_[1][2] == interval(scores(by["away", "home"], "mAP"))
    assert differences[1][1] == "own" and differences[3][2] == "–"
    assert differences[2][1].startswith(signed(by["home", "away"]["difference"]["difference"]))
    assert columns[1][5] == "A, B, C" and columns[1][6] == "none"
    assert score(by["home", "both"]["mAP"]) in page.source
