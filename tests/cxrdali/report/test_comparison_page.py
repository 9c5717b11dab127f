"""The comparison as a page: what it says must be what `compare` found."""

import copy
import re

import pytest

from cxrdali.evaluate.compare import CompareOptions, compare, write
from cxrdali.report.comparison.page import comparison, write_comparison
from cxrdali.report.kit.numbers import probability, score, signed
from cxrdali.report.kit.page import render
from tests.cxrdali.comparable_runs import packed, write_run
from tests.cxrdali.report.pages import AWKWARD, Page, check_figures, check_numbers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    root = tmp_path_factory.mktemp("comparison")
    dataset = packed(root)
    runs = [
        write_run(root / "runs" / name, dataset, skill, seed=seed, loss=loss)
        for seed, (name, skill, loss) in enumerate(
            [("weak", 0.5, "bce"), ("strong", 2.0, "ldam"), ("like", 0.5, "bce")]
        )
    ]
    return compare(runs, dataset, CompareOptions(draws=60))


@pytest.fixture
def shown(tmp_path):
    def shown(result) -> Page:
        return Page(write_comparison(result, tmp_path / "page.html", "Three runs"))

    return shown


def part(result) -> str:
    """The comparison alone, as it is on a page of several."""
    return render("comparison/page.html.j2", {"title": "t", "result": result, "comparison": comparison(result)})


@pytest.fixture(scope="module")
def page(result, tmp_path_factory) -> Page:
    return Page(write_comparison(result, tmp_path_factory.mktemp("page") / "page.html", "Three runs"))


def test_nothing_is_fetched_and_ids_are_its_own(page):
    assert not [address for address in page.addresses if not address.startswith("#")]
    assert not {"script", "link", "iframe", "object", "img"} & set(page.tags)
    assert page.source.count("<svg") == page.source.count("<figure>") == check_figures(page) == 3
    ids = re.findall(r'\bid="([^"]+)"', page.source)
    assert len(ids) == len(set(ids))


def test_every_number_is_one_of_the_comparison_s_json(result, tmp_path):
    write(result, tmp_path / "page.json")
    assert check_numbers(Page(write_comparison(result, tmp_path / "page.html", "Three runs"))) > 100


def test_two_comparisons_on_a_page_keep_their_ids_apart(result):
    other = copy.deepcopy(result)
    other["runs"][1]["name"] = "other"
    for row in other["differences"]:
        row["run"] = "other" if row["run"] == "strong" else row["run"]
    for row in other["findings"]:
        row["AP"]["other"] = row["AP"].pop("strong")
        row["differences"]["other"] = row["differences"].pop("strong")
    for best in other["best"].values():
        for key in ("run", "second"):
            if best and best[key] == "strong":
                best[key] = "other"
    for row in other["settings"]:
        row["values"]["other"] = row["values"].pop("strong")
    parts = [part(result), part(other)]
    ids = re.findall(r'\bid="([^"]+)"', "".join(parts))
    assert len(ids) == len(set(ids))
    assert part(result) == parts[0], "equal numbers, equal bytes"


def test_scores_and_their_best(page, result):
    table = page.table("Scores on the validation images")
    titles = {
        "mAP": "mAP",
        "macro_F1": "Macro F1",
        "macro_ECE": "ECE",
        "mAP_head": "mAP, head",
        "mAP_tail": "mAP, tail",
    }
    for row in result["runs"]:
        for name, title in titles.items():
            assert table.loc[row["name"], title] == score(row[name])
    best = {name for caption, name, column in page.bold if caption.startswith("Scores") and column == 1}
    assert best == {"strong"} and f"is {score(mean(result, 'strong'))}, of strong" in page.text
    assert "The best mAP, the mean of the findings' average precision" in page.text
    for column, name in enumerate(("mAP", "macro_AUROC", "macro_F1", "macro_ECE", "macro_Brier"), 1):
        bold = {run for caption, run, place in page.bold if caption.startswith("Scores") and place == column}
        assert bold == ({result["best"][name]["run"]} if result["best"][name]["separable"] else set())
    assert "Without a positive validation image, so in no mean but those of ECE and Brier: Hernia." in page.text


def mean(result, run):
    return next(row["mAP"] for row in result["runs"] if row["name"] == run)


def test_nothing_is_the_best_where_the_second_may_be_as_good(result, shown):
    other = copy.deepcopy(result)
    other["best"]["mAP"] |= {"second": "like", "separable": False, "low": -0.01, "high": 0.1234, "difference": 0.05}
    page = shown(other)
    assert (
        f"{score(mean(result, 'strong'))} of strong, is not separable from the second, "
        f"{score(mean(result, 'like'))} of like (difference +0.050, −0.010 to +0.123)"
    ) in page.text
    assert "The best mAP" not in page.text and not {
        name for caption, name, column in page.bold if caption.startswith("Scores") and column == 1
    }
    other["best"]["mAP"] |= {"low": None, "high": None}
    assert "no interval says whether it differs from that of like by more than chance" in shown(other).text


def test_differences_stand_with_interval_and_both_p(page, result):
    table = page.table("Difference to weak")
    for row in result["differences"]:
        if row["metric"] == "mAP":
            low, high = signed(row["low"]), signed(row["high"])
            both = f"{signed(row['difference'])} p {probability(row['p'])} ({probability(row['p_holm'])})"
            assert table.loc[row["run"], "mAP"].replace("\xa0", " ") == f"{both}({low} to {high})"
    assert table.loc["strong", "mAP, tail"] == "–"
    assert "95 % intervals: 60 samples of the patients" in page.text
    made = result["comparisons"]
    assert f"comparisons were made: {made['means']} of means, {made['findings']} of findings" in page.text
    assert "They do not say how much another training of the same recipe, with another seed, would differ" in page.text
    alone = page.table("Difference in mAP to weak, without any one finding")
    row = next(row for row in result["differences"] if (row["run"], row["metric"]) == ("strong", "mAP"))
    one = row["without_one"]
    assert alone.loc["strong"].tolist() == [
        signed(row["difference"]), signed(one["low"]), one["low_without"], signed(one["high"]), one["high_without"],
    ]  # fmt: skip


@pytest.mark.parametrize(("adjusted", "bold"), [(0.049, True), (0.051, False)])
def test_bold_is_what_stays_when_p_is_adjusted(result, shown, adjusted, bold):
    other = copy.deepcopy(result)
    for row in other["differences"]:
        if row["p"] is not None:
            row |= {"p": 0.01, "p_holm": adjusted}
    page = shown(other)
    found = {name for caption, name, column in page.bold if caption.startswith("Difference to weak") and column == 1}
    assert found == ({"strong", "like"} if bold else set())
    assert "p 0.010 (0.0" in page.table("Difference to weak").loc["like", "mAP"].replace("\xa0", " ")


def test_a_finding_of_few_patients_has_no_interval_and_says_so(result, shown):
    other = copy.deepcopy(result)
    row = next(row for row in other["findings"] if row["finding"] == "Mass")
    row |= {"positive_patients": 9}
    for each in row["differences"].values():
        each |= {"difference": 0.1, "low": None, "high": None, "p": None, "p_holm": None}
    page = shown(other)
    table = page.table("Difference in average precision to weak")
    assert table.loc["Mass"].tolist() == ["+0.100 (too few for an interval)"] * 2
    assert page.table("Average precision").loc["Mass", "Patients"] == "9"
    assert "A finding that fewer than 10 patients have, or do not have, has neither interval nor p." in page.text


def test_every_finding_is_there_and_the_undefined_one_is_no_zero(page, result):
    table = page.table("Average precision")
    assert set(table.index) == {row["finding"] for row in result["findings"]}
    assert table.loc["Hernia", ["weak", "strong", "like"]].tolist() == ["–"] * 3
    for row in result["findings"]:
        assert table.loc[row["finding"], "strong"] == score(row["AP"]["strong"])
        assert table.loc[row["finding"], "Group"] == row["group"]
    assert page.table("Difference in average precision to weak").loc["Hernia"].tolist() == ["–", "–"]
    assert page.table("Findings by group").loc["Tail", "Findings"] == "Hernia"
    assert "Tail (1, 1 without AP)" not in page.text, "a group without any AP is not drawn"


def test_names_are_text_and_notes_are_shown(result, shown):
    other = copy.deepcopy(result)
    other["findings"][0]["finding"] = AWKWARD
    other["notes"] = [f"{AWKWARD}: 2 of 9 epochs are done"]
    page = shown(other)
    assert AWKWARD in page.table("Average precision").index and f"{AWKWARD}: 2 of 9 epochs" in page.text
    assert "b" not in page.tags


def test_settings_that_differ(page, result, shown):
    table = page.table("Differing settings")
    assert table.loc["loss"].tolist() == ["bce", "ldam", "bce"]
    assert table.loc["ldam_scale"].tolist() == ["–", "30.0", "–"]
    page = shown({**result, "settings": []})
    assert "All settings of these runs are the same." in page.text


def test_without_draws_no_interval_is_claimed(result, shown):
    other = copy.deepcopy(result)
    other["draws"] = 0
    by_finding = [each for row in other["findings"] for each in row["differences"].values()]
    for each in [*other["differences"], *by_finding]:
        each |= {"low": None, "high": None, "p": None, "p_holm": None}
    page = shown(other)
    assert "No intervals were asked for." in page.text and " p 0" not in page.text
    assert not [caption for caption, _, _ in page.bold if caption.startswith("Difference")]


def test_signs():
    assert [signed(value) for value in (0.0124, -0.0124, 0.0004, -0.0004)] == ["+0.012", "−0.012", "0.000", "0.000"]
