"""Scores of groups on the pages of an evaluation and of a comparison: what they say must be what was found."""

import copy

import numpy as np
import pandas as pd
import pytest

from cxrdali.evaluate.compare import CompareOptions, compare
from cxrdali.evaluate.evaluate import evaluate, write
from cxrdali.evaluate.options import EvaluateOptions
from cxrdali.postprocess.thresholds import read_or_fixed
from cxrdali.report.comparison.page import write_comparison
from cxrdali.report.kit.numbers import interval, probability, signed
from cxrdali.report.training.page import write_report
from cxrdali.report.training.sources import ReportOptions
from shards.errors import UserError
from shards.storage.sealed import sealed_json
from tests.cxrdali.comparable_runs import packed, write_run
from tests.cxrdali.held_out import written
from tests.cxrdali.report.pages import AWKWARD, Page, check_figures

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("groups") / "p.parquet"
    written(path, dataset, kind="logit")
    labels = dataset.labels("cxr-lt-2023")
    options = EvaluateOptions(draws=40, by=("view", "sex", "view*view_position"), min_group=8, allow_same_images=True)
    return evaluate(path, dataset, labels, options, read_or_fixed("0.5", labels.findings))


def page_of(found, folder):
    path, _ = write(found, folder / "e.metrics")
    return Page(write_report(folder / "page.html", [], evaluations=[path], options=ReportOptions("Groups")))


def table_of(page, caption):
    """The one whose caption is this and no more."""
    head, *rows = page.tables[caption]
    return pd.DataFrame(rows, columns=head).set_index(head[0])


@pytest.fixture(scope="module")
def page(found, tmp_path_factory):
    return page_of(found, tmp_path_factory.mktemp("page"))


def test_every_group_is_in_its_table(found, page):
    for part in found["groups_by"]["dimensions"]:
        table = table_of(page, f"By {part['by']}")
        assert table.index.tolist() == [row["group"] for row in part["groups"]]
        for row in part["groups"]:
            shown = table.loc[row["group"]]
            assert shown["Images"] == f"{row['images']}" and shown["Patients"] == f"{row['patients']}"
            if row["too_small"]:
                assert shown["Findings"] == "too small" and shown["mAP"] == "–"
                continue
            assert shown["AUROC"] == interval([row[f"macro_AUROC{end}"] for end in ("", "_low", "_high")])
            assert shown["Underdiagnosis"].startswith(f"{row['underdiagnosis']:.3f}")
    assert any(row["too_small"] for part in found["groups_by"]["dimensions"] for row in part["groups"])


def test_gaps_the_worst_and_what_they_do_not_say(found, page):
    block, below = found["groups_by"], ", bold where the adjusted p is below 0.05"
    view = block["dimensions"][0]
    gaps = page.table(f"By view: the group less all other images{below}")
    for row in view["groups"]:
        gap = row["gaps"]["macro_AUROC"]
        if gap["p"] is not None:
            both = f"{signed(gap['difference'])} p {probability(gap['p'])} ({probability(gap['p_holm'])})"
            assert gaps.loc[row["group"], "AUROC"].replace("\xa0", " ").startswith(both)
    worst = page.table(f"The group that is furthest behind all other images{below}")
    for row in block["worst"]["means"]:
        assert row["group"] in worst["Group"].tolist()
    assert f"{block['comparisons']['means']} of means" in page.text
    assert "sex: not measured: no sex is known of these images; attach it (cxrdali subjects PACK" in page.text
    assert "AP rises with how frequent findings are in a group" in page.text
    assert "whose No Finding is 0, the share that is called No Finding" in page.text
    check_figures(page)


def test_names_are_text_and_a_block_that_is_not_one_is_refused(found, tmp_path):
    result = copy.deepcopy(found)
    result["groups_by"]["dimensions"][0]["groups"][0]["group"] = AWKWARD
    assert AWKWARD in table_of(page_of(result, tmp_path), "By view").index
    del result["groups_by"]["dimensions"][0]["groups"][0]["gaps"]
    (tmp_path / "e.metrics.json").write_bytes(sealed_json(result))
    with pytest.raises(UserError, match="groups_by.dimensions.*gaps is missing"):
        write_report(tmp_path / "p.html", [], evaluations=[tmp_path / "e.metrics.json"], options=ReportOptions("t"))


def test_a_comparison_shows_the_gaps_of_every_run(tmp_path):
    dataset = packed(tmp_path)
    runs = [write_run(tmp_path / "runs" / name, dataset, skill, seed)
            for seed, (name, skill) in enumerate([("weak", 0.5), ("strong", 2.0)])]  # fmt: skip
    result = compare(runs, dataset, CompareOptions(draws=40, by=("view", "race")))
    page = Page(write_comparison(result, tmp_path / "page.html", "Two"))
    caption = "AUROC: each group less all other images, and the difference of these gaps to weak"
    table = page.table(f"{caption}, bold where the adjusted p is below 0.05")
    rows = [row for row in result["groups_by"]["rows"] if row["metric"] == "macro_AUROC"]
    assert table["Group"].tolist() == [row["group"] for row in rows]
    for shown, row in zip(table.itertuples(), rows, strict=True):
        assert shown[2].startswith(signed(row["runs"]["weak"]["difference"]))
        assert shown[4].startswith(signed(row["differences"]["strong"]["difference"]))
    assert "race: not measured" in page.text and np.isfinite(rows[0]["runs"]["weak"]["difference"])
