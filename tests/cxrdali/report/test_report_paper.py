"""The report of a folder of `cxrdali paper`: numbers worked by hand, half-finished folders, damaged files."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from cli.report import report
from cxrdali.data.augment import AugmentOptions, options_of
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.sampler import SAMPLERS
from cxrdali.data.splits import FoldOptions, rows_sha256, train_and_validation
from cxrdali.data.targets import targets
from cxrdali.report import published
from cxrdali.report.kit.numbers import gain
from cxrdali.report.kit.page import Figure
from cxrdali.report.published import is_its_data
from cxrdali.report.training.data import first_training_images
from cxrdali.report.training.lineage import is_line, lineage
from cxrdali.report.training.models import epochs
from cxrdali.report.training.page import SECTIONS, ReportOptions, write_report
from cxrdali.report.training.plots import branches
from cxrdali.report.training.runs import line_of
from cxrdali.report.training.sources import read_sources
from cxrdali.runs.oversampling import oversampled
from cxrdali.runs.settings import sampling_seed
from shards.errors import UserError
from shards.storage.sealed import sealed_json
from tests.cxrdali.paper_folder import Model, write_model, write_step, write_views
from tests.cxrdali.report.pages import AWKWARD, Page, check_numbers, section_html
from tests.cxrdali.report.test_report import LABELS, change, dataset  # noqa: F401 (a fixture)

pytestmark = pytest.mark.slow

FINDINGS = ("Pneumonia", "Hernia", AWKWARD, "Fibrosis")  # Fibrosis has no positive
POSITIVES = {"Pneumonia": 300, "Hernia": 20, AWKWARD: 10, "Fibrosis": 0}
MODELS = {
    "model0": Model("model0", 1, 224, 256, (0.10, 0.20, 0.15)),
    "model2": Model("model2", 2, 320, 128, (0.20, 0.25), "model0"),
    "model3": Model("model3", 2, 320, 128, (0.21, 0.26), "model0", 0.10, ("Hernia",), settings={"epochs": 2}),
    "model7": Model("model7", 3, 256, 48, (0.30, 0.28), "model3", 0.10, ("Hernia",)),
}
# AP by step: gains below half a thousandth, ties and losses among them
TEST_AP = {
    "model0": {"Pneumonia": 0.3000, "Hernia": 0.1000, AWKWARD: 0.5000, "Fibrosis": None},  # mean 0.3000
    "model2": {"Pneumonia": 0.2996, "Hernia": 0.1234, AWKWARD: 0.5000, "Fibrosis": None},  # 0.9230 / 3 = 0.3077
    "model3": {"Pneumonia": 0.2996, "Hernia": 0.1236, AWKWARD: 0.4994, "Fibrosis": None},  # 0.9226 / 3 = 0.3075
    "model3-views": {"Pneumonia": 0.3100, "Hernia": 0.1500, AWKWARD: 0.4994, "Fibrosis": None},  # 0.9594 / 3
    "ensemble-views": {"Pneumonia": 0.3096, "Hernia": 0.1504, AWKWARD: 0.5100, "Fibrosis": None},  # 0.9700 / 3
}
STEPS = ["Stage 1", "Stage 2", "Oversampling", "Postprocess", "Ensemble"]


def write_paper(root: Path, models=MODELS, test=TEST_AP) -> Path:
    for model in models.values():
        write_model(root / "runs", model, FINDINGS)
    for name, ap in test.items():
        write_step(root, name, "test", ap, POSITIVES)
    return root


@pytest.fixture(scope="module")
def paper(tmp_path_factory) -> Path:
    """All steps on test, three of them on dev; models 0, 2, 3 and 7; view rules; no submission."""
    root = write_paper(tmp_path_factory.mktemp("paper"))
    for name in ("model0", "model3", "model3-views"):
        write_step(root, name, "dev", TEST_AP[name], POSITIVES)
    write_views(
        root,
        frontal={"Pneumonia": 0.30, "Hernia": 0.20, AWKWARD: 0.5, "Fibrosis": None},
        lateral={"Pneumonia": 0.31, "Hernia": 0.15, AWKWARD: 0.5, "Fibrosis": 0.2},
    )
    steps = [{"name": "train <model0>", "status": "done", "seconds": 90}]
    (root / "paper.json").write_bytes(
        sealed_json({"scale": "demo", "models": [f"model{number}" for number in (0, 2, 3, 5, 7)], "steps": steps})
    )
    return root


@pytest.fixture(scope="module")
def page(paper) -> Page:
    return render(paper, paper)


@pytest.fixture(scope="module")
def real_page(paper, tmp_path_factory) -> Page:
    """The same of runs on as many images as the paper had."""
    root = shutil.copytree(paper, tmp_path_factory.mktemp("real") / "paper")
    for config in (root / "runs").glob("*/config.json"):
        with_images(config, 211_879, 52_970)
    return render(root)


def with_images(config: Path, train: int, val: int) -> None:
    content = json.loads(config.read_text())
    content["selection"] |= {"train_images": train, "val_images": val}
    config.write_bytes(sealed_json(content))


def render(root: Path, *folders: Path, synthetic: bool = False, **sources) -> Page:
    out = root / "page.html"
    return Page(write_report(out, folders or [root], options=ReportOptions("Paper", synthetic), **sources))


def read(*folders: Path):
    return read_sources(folders, None, (), ReportOptions("Paper"))


def test_values_and_gains_by_hand_and_none_marked_as_the_best(page):
    table = page.table("AP per finding and step, test split, 1,000 images")
    assert table.columns.tolist() == [*STEPS, "Positives"]
    assert table.index.tolist() == ["Mean over findings (mAP)", "Pneumonia", "Hernia", AWKWARD, "Fibrosis"]
    rows = {name: table.loc[name, STEPS].tolist() for name in table.index}
    assert rows["Hernia"] == ["0.100", "0.123 +0.023", "0.124 ±0.000", "0.150 +0.026", "0.150 ±0.000"]
    assert rows["Pneumonia"] == ["0.300", "0.300 ±0.000", "0.300 ±0.000", "0.310 +0.010", "0.310 ±0.000"]
    assert rows[AWKWARD] == ["0.500", "0.500 ±0.000", "0.499 −0.001", "0.499 ±0.000", "0.510 +0.011"]
    assert rows["Mean over findings (mAP)"] == ["0.300", "0.308 +0.008", "0.308 ±0.000", "0.320 +0.012", "0.323 +0.004"]
    assert rows["Fibrosis"] == ["–"] * 5
    best = {cell for cell in page.bold if not cell[0].startswith("Other than published")}
    assert not best, "no interval says of a finding's steps which is the best"
    assert table["Positives"].tolist() == ["", "300", "20", "10", "0"]
    assert "Without a positive image, so without AP and left out of mAP: Fibrosis." in page.text


def test_gains_as_people_read_them():
    assert [gain(value) for value in (0.0124, -0.0126, 0.0, 0.0002, None, float("nan"))] == [
        "+0.012", "−0.013", "±0.000", "±0.000", "–", "–",
    ]  # fmt: skip


def test_means_and_improved_findings_beside_the_papers_of_its_own_images(real_page):
    page = real_page
    table = page.table("mAP by step, test split, 1,000 images")
    assert table.index.tolist() == STEPS
    assert table["mAP"].tolist() == ["0.300", "0.308", "0.308", "0.320", "0.323"]
    assert table["Findings improved"].tolist() == ["–", "1 of 3", "1 of 3", "2 of 3", "2 of 3"]
    assert table["mAP, paper, MIMIC-CXR"].tolist() == ["0.291", "0.308", "0.307", "0.315", "0.330"]
    assert table["Gain, paper"].tolist() == ["–", "+0.017", "−0.001", "+0.008", "+0.015"]
    # the paper says so of its stage 2 on development
    assert page.table("mAP by step, development split").loc["Stage 2", "Improved, paper"] == "22 of 26"
    printed = page.table("AP per finding and step, test split: paper")
    assert printed.loc["Hernia", STEPS].tolist() == [
        "0.457", "0.487 +0.030", "0.481 −0.006", "0.481 ±0.000", "0.499 +0.018",
    ]  # fmt: skip
    assert len(printed) == 27 and AWKWARD not in printed.index


PUBLISHED = ("0.291", "0.330", "0.282", "0.305", "−0.161")  # means of steps, val mAP of models, Hernia's views


@pytest.mark.parametrize(
    ("train", "val", "synthetic", "together"),
    [
        (211_879, 52_970, False, True),
        (209_800, 52_960, False, True),  # a hundredth of them could not be packed
        (211_879, 52_970, True, False),
        (209_700, 52_970, False, False),
        (211_879, 26_000, False, False),
        (1_000, 250, False, False),
    ],
)
def test_no_row_and_no_column_has_a_number_of_the_paper_beside_one_of_other_images(
    paper, tmp_path, monkeypatch, train, val, synthetic, together
):
    root = shutil.copytree(paper, tmp_path / "paper")
    for config in (root / "runs").glob("*/config.json"):
        with_images(config, train, val)
    monkeypatch.setattr(Figure, "svg", lambda self: '<svg viewBox="0 0 900 9"></svg>')  # most of the time of a page
    page = render(root, synthetic=synthetic)
    mixed = {
        caption
        for caption, rows in page.tables.items()
        if "Settings" not in caption and "on other images" not in caption
        for row in rows
        if "paper" in " ".join(row) or set(PUBLISHED) & set(row)
    }
    assert bool(mixed) == together
    apart = {caption for caption in page.tables if "on other images" in caption}
    assert len(apart) == (0 if together else 4)
    if not together:
        assert page.table("The paper, on other images: mAP of its models").loc["model7"].tolist() == ["0.305", "0.304"]
        assert page.table("The paper, on other images: frontal against lateral").loc["Hernia", "Difference"] == "−0.161"
        means = page.table("The paper, on other images: AP per finding and step, test split").loc[
            "Mean over findings (mAP)"
        ]
        assert means.tolist() == ["0.291", "0.308 +0.017", "0.307 −0.001", "0.315 +0.008", "0.330 +0.015"]
        assert page.table("mAP by step, test split").columns.tolist() == [
            "mAP", "Gain", "Its interval", "p", "p, Holm", "Adjusted for all", "Findings improved", "Predictions",
        ]  # fmt: skip
    said = "on generated images" if synthetic else "the same recipe" if together else "Those are other images"
    assert said in page.text


def test_a_folder_of_generated_images_says_so_whoever_makes_its_page(tmp_path):
    write_paper(tmp_path, {}, {"model0": TEST_AP["model0"]})
    for synthetic in (True, False):
        (tmp_path / "paper.json").write_bytes(sealed_json({"models": ["model0"], "synthetic": synthetic}))
        assert ("Synthetic data." in render(tmp_path).text) == synthetic


def test_gains_of_the_paper_are_over_its_own_steps_where_the_study_has_fewer(tmp_path):
    write_paper(tmp_path, {"model0": MODELS["model0"]}, {name: TEST_AP[name] for name in ("model0", "model3-views")})
    with_images(tmp_path / "runs/model0/config.json", 211_879, 52_970)
    steps = [{"name": f"evaluate {name} test", "status": "done"} for name in ("model0", "model3-views")]
    (tmp_path / "paper.json").write_bytes(sealed_json({"models": ["model0"], "steps": steps}))
    table = render(tmp_path).table("mAP by step, test split")
    assert table.index.tolist() == ["Stage 1", "Postprocess"]
    assert table.loc["Postprocess", ["Gain", "Gain, paper"]].tolist() == ["+0.020", "+0.008"]


def test_other_labels_are_other_images_however_many(paper, tmp_path):
    root = shutil.copytree(paper, tmp_path / "paper")
    for config in (root / "runs").glob("*/config.json"):
        with_images(config, 211_879, 52_970)
        change(config, '"name": "cxr-lt-2023"', '"name": "cxr-lt-2024"')
        change(config, '"group": "study"', '"group": "study", "labels": "cxr-lt-2024"')
    assert not is_its_data(read(root).runs, synthetic=False)
    assert not is_its_data([], synthetic=False), "no run says what the evaluations are of"


def test_without_lateral_images_the_ensemble_is_a_step_after_oversampling(tmp_path):
    """`cxrdali paper` then makes no view rules, and its record names no such step."""
    scores = {name: TEST_AP[name] for name in ("model0", "model2", "model3")}
    root = write_paper(tmp_path, MODELS, {**scores, "ensemble": TEST_AP["ensemble-views"]})
    steps = [f"evaluate {name} test" for name in (*scores, "ensemble")]
    record = {"models": [*MODELS], "steps": [{"name": name, "status": "done", "seconds": 1} for name in steps]}
    (root / "paper.json").write_bytes(sealed_json(record))
    page = render(root)
    table = page.table("mAP by step, test split, 1,000 images")
    assert table.index.tolist() == ["Stage 1", "Stage 2", "Oversampling", "Ensemble"]
    assert table.loc["Ensemble"].tolist() == ["0.323", "+0.016", *"––––", "3 of 3", "ensemble"]
    by_finding = page.table("AP per finding and step, test split, 1,000")
    assert by_finding.loc["Hernia", "Ensemble"] == "0.150 +0.027"
    assert re.search(r"On the test split \(.*?\), ensemble reaches a mAP of 0\.323", page.text)
    assert "Without view rules, so the ensemble is the mean of its members alone." in page.text
    assert "No part of this study: Postprocess." in page.text and "Not evaluated on the test split" not in page.text
    assert "This study has no view rules: its validation images are not both frontal and lateral" in page.text


def test_an_ensemble_with_view_rules_is_the_step_where_both_are_there(tmp_path):
    write_paper(tmp_path, {}, {**TEST_AP, "ensemble": TEST_AP["model0"]})
    table = render(tmp_path).table("mAP by step, test split")
    assert table["Predictions"].tolist() == ["model0", "model2", "model3", "model3-views", "ensemble-views"]
    assert table.loc["Ensemble", "mAP"] == "0.323"


def test_a_step_whose_predecessor_is_missing_has_no_gain(page):
    table = page.table("AP per finding and step, development split, 1,000")
    assert table.columns.tolist() == ["Stage 1", "Oversampling", "Postprocess", "Positives"]
    assert table.loc["Hernia"].tolist() == ["0.100", "0.124", "0.150 +0.026", "20"]
    said = "Not evaluated on the development split: Stage 2 and Ensemble (model2.dev.json and ensemble-views.dev.json)."
    assert said in page.text


def test_models_beside_the_papers_and_what_differs(page, real_page):
    systems, reached = page.table("What each model is"), page.table("What each model reached")
    assert systems.loc["model0"].tolist() == ["1", "ImageNet", "224 px", "256", "0.001", "–", "3"]
    assert systems.loc["model7"].tolist() == ["3", "model3", "256 px", "48", "0.001", "0.10", "2"]
    assert reached.loc["model0"].tolist() == ["2", "0.200", "0.300"]
    reached = real_page.table("What each model reached")
    assert reached.loc["model0"].tolist() == ["2", "0.200", "0.282", "0.300", "0.298"]
    assert reached.loc["model7"].tolist() == ["1", "0.300", "0.305", "–", "0.304"]
    other = page.table("Other than published").reset_index().to_numpy().tolist()
    assert ["epochs", "30", "3", "differs", "model0"] in other
    assert ["epochs", "30", "2", "differs", "model2, model3, model7"] in other
    assert ["size", "512", "256", "differs", "model7"] in other
    assert (
        "(211,879 images to train, 52,970 to validate); these runs have 1,000 and 250, labels cxr-lt-2023" in page.text
    )


def test_what_was_given_beside_a_recipe_is_said(tmp_path):
    for name in ("model0", "model1"):
        model = Model(name, 1, 224, 256 if name == "model0" else 128, (0.1, 0.2), settings={"arch": "resnet10t"})
        write_model(tmp_path / "runs", model, FINDINGS)
    write_model(tmp_path / "runs", Model("mymodel", 1, 224, 256, (0.1,)), FINDINGS)
    page = render(tmp_path)
    other = page.table("Other than published").reset_index().to_numpy().tolist()
    assert ["arch", "tf_efficientnetv2_s.in21k_ft_in1k", "resnet10t", "differs", "all"] in other
    assert page.table("Where the numbers come from").loc["Overridden"].tolist()[:2] == ["arch resnet10t"] * 2
    assert "Not of the paper: mymodel." in page.text


def test_a_run_that_is_the_papers_differs_in_nothing(tmp_path):
    write_model(tmp_path, Model("model3", 2, 320, 128, (0.2,) * 30, "model0", 0.10, ("Hernia",)), FINDINGS)
    write_model(tmp_path, Model("model0", 1, 224, 256, (0.2,) * 30), FINDINGS)
    page = render(tmp_path)
    differing = page.table("Other than published").loc[lambda table: table.iloc[:, 2] == "differs"]
    assert differing.index.tolist() == ["flips", "cutout", "AP that chooses findings"], (
        "these configurations have the flips and cutout of plain training"
    )
    assert "very setting" not in page.text.replace("Every setting of the runs", ""), (
        "the paper does not say all of them"
    )


COMPARED = {  # pair: difference of TEST_AP's means (what a comparison's file says), low, high, p, and p by Holm
    ("model2", "model0"): (0.0230 / 3, 0.001, 0.014, 0.01, 0.04),
    ("model3", "model2"): (-0.0004 / 3, -0.002, 0.003, 0.71, 0.71),
    ("model3-views", "model3"): (0.0368 / 3, None, None, None, None),  # too few studies
    ("ensemble-views", "model3-views"): (0.5, 0.4, 0.6, 0.01, 0.03),  # of other predictions than were evaluated
}


def write_compared(root: Path, split: str, rows: dict) -> Path:
    keys = ("difference", "low", "high", "p", "p_holm")
    found = [{"run": run, "against": other, **dict(zip(keys, row, strict=True))} for (run, other), row in rows.items()]
    file = root / "comparisons" / f"{split}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(sealed_json({"draws": 1000, "level": 0.95, "differences": found}))
    return file


def test_a_gain_is_higher_or_lower_only_by_its_adjusted_p(paper, tmp_path):
    root = shutil.copytree(paper, tmp_path / "paper")
    write_compared(root, "test", COMPARED)
    page = render(root)
    table = page.table("mAP by step, test split, 1,000 images")
    assert table["Gain"].tolist() == ["–", "+0.008", "±0.000", "+0.012", "+0.004"]
    assert table["Its interval"].tolist() == ["–", "0.001 to 0.014", "−0.002 to 0.003", "–", "–"]
    assert table["p"].tolist() == ["–", "0.010", "0.71", "–", "–"]
    assert table["p, Holm"].tolist() == ["–", "0.040", "0.71", "–", "–"]
    assert table["Adjusted for all"].tolist() == ["–", "higher", "not separable", "–", "–"]
    assert '"p, Holm" is adjusted for the 4 comparisons on the test split.' in page.text
    assert page.table("mAP by step, development split")["Adjusted for all"].tolist() == ["–"] * 5
    assert check_numbers(page)
    change(root / "comparisons/test.json", '"level"', '"levels"')
    with pytest.raises(UserError, match="test.json: not what `cxrdali paper` writes"):
        render(root)


@pytest.mark.parametrize(
    ("ensemble", "row", "said"),
    [
        (0.318, (0.007, 0.002, 0.012, 0.01, 0.01), "0.318, less than its highest member, model6. By p, adjusted for "
         "all comparisons on this split, that is more than chance."),
        (0.318, (0.007, -0.002, 0.016, 0.11, 0.11), "0.318, less than its highest member, model6. By p, "
         "adjusted for all comparisons on this split, the two are not separable."),
        (0.318, None, "0.318, less than its highest member, model6. No p says whether by more than chance."),
        (0.340, (-0.015, -0.021, -0.009, 0.01, 0.01), "0.340, not less than any member; the highest is model6. By p, "
         "adjusted for all comparisons on this split, that is more than chance."),
    ],
)  # fmt: skip
def test_the_ensemble_stands_beside_its_best_member(tmp_path, monkeypatch, ensemble, row, said):
    means = {"model3": 0.301, "model6": 0.325, "model7": 0.310, "ensemble": ensemble}
    write_paper(tmp_path, {}, {name: {"Pneumonia": mean, "Fibrosis": None} for name, mean in means.items()})
    if row:
        write_compared(tmp_path, "test", {("model6", "ensemble"): row})
    monkeypatch.setattr(Figure, "svg", lambda self: '<svg viewBox="0 0 900 9"></svg>')
    page = render(tmp_path)
    table = page.table("The ensemble's members against it, test split")
    assert table.index.tolist() == ["model3", "model6", "model7"]
    verdict = "–" if row is None else "not separable" if row[1] * row[2] < 0 else "higher" if row[0] > 0 else "lower"
    assert table["Adjusted for all"].tolist() == ["–", verdict, "–"]
    assert table.loc["model7", "Less the ensemble's"] == gain(0.310 - ensemble)
    assert f"The ensemble without view rules has a mAP of {said}" in page.text


def test_generated_images_compare_with_nothing(paper):
    sources = read_sources([paper], None, (), ReportOptions("Paper", synthetic=True))
    (section,) = (each for each in SECTIONS if each.template == "training/models")
    said = section_html(section, sources)
    assert "These runs are on generated images, so nothing here compares with them, and they stand apart." in said


def test_runs_continue_after_the_run_that_they_start_from(paper, page):
    placed = lineage(read(paper).runs)
    assert [(each.run.name, each.before) for each in placed] == [
        ("model0", 0), ("model2", 3), ("model3", 3), ("model7", 5),
    ]  # fmt: skip
    assert [each.parent and each.parent.name for each in placed] == [None, "model0", "model0", "model3"]
    assert not is_line(placed) and is_line([placed[0], placed[2], placed[3]])
    table = page.table("Epochs on the axis")
    assert table["Epochs on the axis"].tolist() == ["1 to 3", "4 to 5", "4 to 5", "6 to 7"]
    assert table["Best at"].tolist() == ["2", "5", "5", "6"]
    figure = branches([line_of(each) for each in placed])
    bottom = figure.axes[2]
    drawn = {tuple(line.get_xdata()): list(line.get_ydata()) for line in bottom.lines if line.get_marker() != "*"}
    assert drawn[1, 2, 3] == [0.10, 0.20, 0.15] and drawn[6, 7] == [0.30, 0.28]
    assert drawn[3, 4] == [0.15, 0.21], "joined with model0's last epoch"
    dashed = {line.get_xdata()[0] for line in bottom.lines if line.get_linestyle() == "--"}
    assert dashed == {3.5, 5.5}
    stars = [line.get_xdata()[0] for line in bottom.lines if line.get_marker() == "*"]
    assert stars == [2, 5, 5, 6]


def test_a_run_is_joined_with_the_better_candidate_of_the_epoch_before(tmp_path):
    write_paper(tmp_path, {name: MODELS[name] for name in ("model0", "model3")}, {})
    file = tmp_path / "runs/model0/metrics.csv"
    pd.read_csv(file, dtype=str).assign(ema_mAP=["0.05", "0.1", "0.4"]).to_csv(file, index=False)
    before = line_of(lineage(read(tmp_path).runs)[1]).since
    assert before is not None and before["mAP"] == 0.4, "of the moving average, as model0's own curve has it"


def test_a_run_whose_start_is_not_there_is_drawn_from_epoch_1_and_said(tmp_path):
    write_paper(tmp_path, {name: MODELS[name] for name in ("model0", "model7")}, {})
    assert [each.before for each in lineage(read(tmp_path).runs)] == [0, 0]
    assert "Not among the runs: what model7 starts from model3. Drawn from epoch 1." in render(tmp_path).text
    config = tmp_path / "runs/model0/config.json"
    change(config, '"init": null', '"init": "elsewhere/model7"')
    change(tmp_path / "runs/model7/config.json", "/moved/runs/model3", "/moved/runs/model0")
    with pytest.raises(UserError, match="starts from .*, which starts from it"):
        render(tmp_path)


def test_frontal_against_lateral(page, real_page):
    assert page.table("Frontal against lateral").columns.tolist()[:5] == [
        "AP, frontal", "AP, lateral", "Difference", "Superior", "Positives, frontal",
    ]  # fmt: skip
    assert "Superior: 1 of 4 findings." in page.text
    page = real_page
    table = page.table("Frontal against lateral")
    assert table.loc["Hernia"].tolist() == ["0.200", "0.150", "+0.050", "yes", "−0.161", "299", "99"]
    assert table.loc["Pneumonia"].tolist() == ["0.300", "0.310", "−0.010", "no", "−0.009", "300", "100"]
    assert table.loc[AWKWARD].tolist() == ["0.500", "0.500", "±0.000", "no", "–", "298", "98"]
    assert table.loc["Fibrosis"].tolist() == ["–", "0.200", "–", "no", "+0.034", "297", "97"]
    assert table.loc["All images"].tolist() == [""] * 5 + ["700", "300"]
    # Hernia and Fibrosis are the other way round in the paper
    said = "Superior: 1 of 4 findings (paper: 19 of 26). The two agree on 1 of the 3 findings that both have."
    assert said in page.text


def test_seconds_per_epoch_and_stage(page):
    epochs = page.table("Time per epoch")
    # 60, 90, 60 s of training, 15 of validation
    assert epochs.loc["model0"].tolist() == ["3", "14", "60 s", "15 s", "75 s", "105 s (epoch 2)"]
    stages = page.table("Time per stage")
    assert stages.index.tolist() == ["Stage 1: model0", "Stage 2: 2 runs", "Stage 3: model7"]
    # 2 x (60 + 90) s of training, a tenth of it waiting, 4 x 15 of validation
    assert stages.loc["Stage 2: 2 runs"].tolist() == ["4.5 min", "30 s", "60 s", "6.0 min", "10.0 %"]
    assert page.table("Steps").loc["train <model0>"].tolist() == ["done", "90 s"]


def test_oversampling_is_said_once_for_runs_that_share_it(page):
    table = page.table("Oversampling")
    assert table.loc["model3, model7"].tolist() == [
        "AP under 0.10 in model2", "Hernia", "120 (12.0 %)", "1,120", "Fibrosis",
    ]  # fmt: skip
    theirs = re.search(r"Findings under 0.10 in the paper: ([^.]*)\.", page.text).group(1)
    assert set(re.split(", | and ", theirs)) >= {"Infiltration", "Lung Lesion", "Pneumoperitoneum", "Tortuous Aorta"}
    assert "under 0.15" not in page.text


def test_provenance_names_recipe_and_overrides(page):
    table = page.table("Where the numbers come from")
    assert table.loc["Recipe"].tolist() == ["model0", "model2", "model3", "model7"]
    assert table.loc["Overridden"].tolist() == ["–", "–", "epochs 2", "–"]


def test_every_evaluation_is_in_a_table_per_split(page):
    assert page.table("Metrics on the test split").index.tolist() == [
        "model0", "model2", "model3", "model3-views", "ensemble-views",
    ]  # fmt: skip
    table = page.table("Metrics on the development split")
    assert table.loc["model3-views"].tolist() == ["0.320", "0.800", "0.600", "0.320", "–", "1,000"]
    assert re.search(r"On the test split \(.*?\), ensemble-views reaches a mAP of 0\.323", page.text)


def test_what_a_half_finished_folder_lacks_is_said(page, tmp_path):
    assert "No run of model5 yet. No submission.zip yet." in page.text
    assert "model1" not in page.text, "paper.json does not plan it"
    write_paper(tmp_path, {"model0": MODELS["model0"]}, {})
    (tmp_path / "evaluations").mkdir()
    (tmp_path / "runs/model5").mkdir()
    half = render(tmp_path)
    assert "No run of model2, model3, model5, model6 and model7 yet." in half.text
    assert f"No run (no config.json), so left out: {tmp_path}/runs/model5." in half.text
    assert "No step has an evaluation yet" in half.text
    assert "No view rules were fitted yet" in half.text
    assert not [name for name in half.tables if name.startswith(("AP per finding and step", "Frontal", "Oversampling"))]


def test_models_that_a_folder_of_runs_lacks_are_named(tmp_path):
    write_paper(tmp_path, {name: MODELS[name] for name in ("model0", "model2")}, {})
    page = render(tmp_path)
    assert "No run of model3, model5, model6 and model7 was given." in page.text
    assert "submission" not in page.text and "step has an evaluation" not in page.text


def test_a_folder_before_its_first_run(tmp_path):
    (tmp_path / "paper.json").write_text("{}")
    page = render(tmp_path)
    assert "No run of model0, model2, model3" in page.text and "<svg" not in page.source


def test_a_submission_is_not_called_missing(paper, tmp_path):
    (tmp_path / "paper.json").write_text("{}")
    (tmp_path / "submission.zip").touch()
    assert "submission.zip" not in render(tmp_path).text


def test_steps_on_different_images_are_called_so(tmp_path):
    write_paper(tmp_path, {}, {"model0": TEST_AP["model0"]})
    write_step(tmp_path, "model2", "test", TEST_AP["model2"], POSITIVES)
    assert "evaluated on different images" not in render(tmp_path).text
    write_step(tmp_path, "model2", "test", TEST_AP["model2"], {**POSITIVES, "Hernia": 21})
    assert "evaluated on different images" in render(tmp_path).text


def test_names_of_recipes_stages_and_folders(tmp_path):
    write_model(tmp_path / "a", MODELS["model0"], FINDINGS)
    write_model(tmp_path / "a", MODELS["model2"], FINDINGS)
    write_model(tmp_path / "b", MODELS["model0"], FINDINGS)
    for place, name in enumerate(("plain", "again", "third")):
        folder = write_model(tmp_path / "c", Model(name, 2 if place else 1, 64, 32, (0.1,)), FINDINGS)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_bytes(sealed_json({**config, "recipe": None}))
    names = [run.name for run in read(tmp_path / "a", tmp_path / "b/model0", tmp_path / "c").runs]
    assert names == [
        f"model0 ({tmp_path}/a/model0)", "model2", f"model0 ({tmp_path}/b/model0)",
        "Stage 2 (again)", "Stage 1", "Stage 2 (third)",
    ]  # fmt: skip
    assert [run.name for run in read(tmp_path / "a", tmp_path / "a/model0").runs] == ["model0", "model2"]


def test_model10_comes_after_model2(tmp_path):
    for name in ("model10", "model2"):
        write_model(tmp_path, Model(name, 1, 64, 32, (0.1,)), FINDINGS)
    assert [run.name for run in read(tmp_path).runs] == ["model2", "model10"]


def test_every_number_of_a_table_stands_in_the_json_beside_the_page(page):
    assert check_numbers(page) > 300
    splits = page.numbers["sections"]["steps"]["data"]["splits"]
    rows = {row[0]: row for row in splits[0]["findings"]["rows"]}
    assert rows["Hernia"][5] == [0.1504, pytest.approx(0.0004)], "before rounding"


def test_finding_names_stay_text(page):
    assert AWKWARD in page.text and "train <model0>" in page.text
    assert not {"b", "model0", "script"} & set(page.tags)
    ids = re.findall(r'\bid="([^"]+)"', page.source)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("evaluations/model0.test.json", '"mAP"', '"map"', "not an evaluation"),
        ("evaluations/model0.test.json", '"AP": 0.1', '"AP": "x"', "all.findings[1].AP is 'x', not a number"),
        ("evaluations/model0.test.json", '"Hernia"', '"Pneumonia"', "a finding is duplicated"),
        (
            "evaluations/model0.test.json",
            '"split": "test"',
            '"split": "dev"',
            "holds an evaluation of 'dev', not 'test'",
        ),
        ("evaluations/model0.json", None, "{}", "not named NAME.SPLIT.json"),
        ("views.json", '"format": 1', '"format": 2', "format 2, this cxrdali"),
        ("views.json", '"superior": false', '"superior": "no"', "superior is 'no', not true or false"),
        ("views.json", '"frontal_ap": 0.3', '"frontal_ap": "0.3"', "frontal_ap is '0.3', not a number"),
        ("views.json", '"difference"', '"other"', "findings[0].difference is missing"),
        ("paper.json", None, "[]", "not what `cxrdali paper` writes"),
        ("paper.json", None, '{"steps": [{"name": "x"}]}', "steps[0].status is missing"),
        ("runs/model0/config.json", '"recipe": {', '"recipe": "model0", "was": {', "recipe is 'model0', not an object"),
        (
            "runs/model3/config.json",
            '"images_doubled": 120',
            '"images_doubled": "x"',
            "not a whole number",
        ),
    ],
)
def test_damaged_files_are_one_line_that_names_them(tmp_path, file, old, new, said):
    write_paper(tmp_path, {name: MODELS[name] for name in ("model0", "model3")}, {"model0": TEST_AP["model0"]})
    write_views(tmp_path, {"Pneumonia": 0.3}, {"Pneumonia": 0.31})
    if old is None:
        (tmp_path / file).write_text(new)
    else:
        assert old in (tmp_path / file).read_text()
        change(tmp_path / file, old, new)
    with pytest.raises(UserError, match=re.escape(said)) as error:
        render(tmp_path)
    assert str(tmp_path / file) in str(error.value) and "\n" not in str(error.value)


def test_a_folder_of_nothing_and_two_papers_are_errors(paper, tmp_path):
    with pytest.raises(UserError, match="no run .no config.json in it. and no folder of runs"):
        render(tmp_path)
    other = tmp_path / "other"
    write_paper(other, {}, {"model0": TEST_AP["model0"]})
    with pytest.raises(UserError, match=f"{other}: a second folder"):
        render(tmp_path, paper, other)


def test_the_command_writes_into_a_folder_of_runs_and_asks_where_otherwise(tmp_path):
    write_model(tmp_path / "runs", MODELS["model0"], FINDINGS)
    write_model(tmp_path / "runs", MODELS["model2"], FINDINGS)
    done = CliRunner().invoke(report, [str(tmp_path)])
    assert done.exit_code == 0 and (tmp_path / "report.html").exists()
    assert CliRunner().invoke(report, [str(tmp_path / "runs")]).exit_code == 0
    assert (tmp_path / "runs/report.html").exists()
    for folders in (["runs/model0"], ["runs/model0", "runs/model2"]):
        refused = CliRunner().invoke(report, [str(tmp_path / each) for each in folders])
        assert refused.exit_code == 2 and "--out FILE" in refused.output


def test_the_contact_sheet_has_the_doubled_images(dataset, tmp_path):  # noqa: F811
    labels = dataset.labels(LABELS)
    train, _ = train_and_validation(dataset, labels, FoldOptions())
    chosen = labels.findings[0]
    rows = oversampled(train, targets(labels), labels.findings, [chosen])
    assert len(rows) > len(train) + 10
    more = {"group": "subject", "labels": LABELS, "flips": "both", "cutout": "fixed"}
    model = Model("model3", 2, 64, 32, (0.1,), None, 0.1, (chosen,), settings=more)
    folder = write_model(tmp_path, model, labels.findings, dataset.id)
    config = json.loads((folder / "config.json").read_text())
    config["selection"]["train_sha256"] = rows_sha256(train)
    config["oversampling"]["epoch_images"] = len(rows)
    (folder / "config.json").write_bytes(sealed_json(config))
    doubled, _ = first_training_images(read(folder).runs[0], dataset)
    (folder / "config.json").write_bytes(sealed_json({**config, "oversampling": None}))
    plain, _ = first_training_images(read(folder).runs[0], dataset)
    assert not np.array_equal(doubled, plain)
    loader = Loader(
        dataset, rows, LoaderOptions(64, 12), seed=sampling_seed(0, stage=2), shuffle=True, augment=AugmentOptions(),
        drop_last=True,
    )  # fmt: skip
    assert np.array_equal(doubled, next(iter(loader)).images.numpy())
    config["oversampling"]["epoch_images"] += 1
    (folder / "config.json").write_bytes(sealed_json(config))
    with pytest.raises(UserError, match="config.json: an epoch had"):
        first_training_images(read(folder).runs[0], dataset)


@pytest.mark.parametrize(("order", "flips", "cutout"), [("global", "horizontal", "off"), ("windowed", "none", "off")])
def test_the_contact_sheet_has_the_first_draws_of_a_sampler(dataset, tmp_path, order, flips, cutout):  # noqa: F811
    labels = dataset.labels(LABELS)
    train, _ = train_and_validation(dataset, labels, FoldOptions())
    more = {"labels": LABELS, "group": "subject", "sampler": "class-balanced", "order": order, "flips": flips,
            "cutout": cutout, "seed": 3}  # fmt: skip
    model = Model("ld-crt", 2, 64, 32, (0.1, 0.2), settings=more)
    folder = write_model(tmp_path, model, labels.findings, dataset.id)
    config = json.loads((folder / "config.json").read_text())
    config["selection"]["train_sha256"] = rows_sha256(train)
    (folder / "config.json").write_bytes(sealed_json(config))
    images, said = first_training_images(read(folder).runs[0], dataset)
    seed = sampling_seed(3, stage=2)
    loader = Loader(
        dataset, train, LoaderOptions(64, 12, order=order), seed=seed, shuffle=True, drop_last=True,
        augment=options_of(flips, cutout), sampler=SAMPLERS["class-balanced"]().over(train, targets(labels), seed, 2),
    )  # fmt: skip
    assert np.array_equal(images, next(iter(loader)).images.numpy())
    assert (said == "none") == (flips == "none")


@pytest.mark.parametrize(
    ("scores", "changes", "words"),
    [
        ((0.1, 0.3, 0.2, 0.2), {"epochs": 9, "patience": 2}, "4, ended early"),
        ((0.1, 0.3, 0.2), {"epochs": 9, "patience": 2}, "3 of 9"),
        ((0.1, 0.3, 0.2), {"epochs": 9}, "3 of 9"),
        ((0.1, 0.3, 0.2), {"epochs": 3, "patience": 1}, "3"),
    ],
)
def test_epochs_of_a_run_that_ended_early(tmp_path, scores, changes, words):
    folder = write_model(tmp_path, Model("ld-bce", 1, 64, 32, scores, settings=changes), ["Edema"])
    assert epochs(read(folder).runs[0]) == words


def test_a_mean_of_weights_did_not_end_early(tmp_path):
    folder = write_model(tmp_path, Model("ld-bce", 1, 64, 32, (0.1,), settings={"epochs": 9, "patience": 2}), ["Edema"])
    run = read(folder).runs[0]
    assert epochs(replace(run, config={**run.config, "averaged": [{"run": "a"}, {"run": "b"}]})) == "mean of 2 weights"


def test_shares_stand_beside_the_papers_of_its_own_images(dataset, tmp_path, monkeypatch):  # noqa: F811
    out = write_report(tmp_path / "page.html", [], pack=dataset.root, options=ReportOptions("Shares"))
    counts, shares = Page(out).table("Images per finding and split"), Page(out).table("Share of a split's images")
    images = {name: int(counts.loc["All images", name]) for name in counts}
    finding = counts.index[1]
    for split in ("Train", "Dev", "Test"):
        share = float(shares.loc[finding, split].removesuffix(" %"))
        assert share == pytest.approx(100 * int(counts.loc[finding, split]) / images[split], abs=0.06)
    assert shares.columns.tolist() == ["Train", "Dev", "Test"], "on other images"
    train = images["Train"]
    monkeypatch.setattr(published, "TRAIN", train - 20)
    monkeypatch.setattr(published, "VAL", 20)
    shares = Page(write_report(out, [], pack=dataset.root, options=ReportOptions("Shares"))).table("Share of a split")
    assert shares.loc["Hernia", "Train, paper, MIMIC-CXR"] == "1.5 %"
    assert shares.loc["Cardiomegaly", "Validation, paper, MIMIC-CXR"] == "29.3 %"


def test_one_sheet_per_size_where_there_are_many_runs(dataset, tmp_path):  # noqa: F811
    labels = dataset.labels(LABELS)
    train, _ = train_and_validation(dataset, labels, FoldOptions())
    for name, size in {"model0": 48, "model2": 64, "model5": 64, "model6": 64}.items():
        model = Model(name, 2, size, 32, (0.1,), settings={"group": "subject", "labels": LABELS})
        folder = write_model(tmp_path / "runs", model, labels.findings, dataset.id)
        config = json.loads((folder / "config.json").read_text())
        config["selection"]["train_sha256"] = rows_sha256(train)
        (folder / "config.json").write_bytes(sealed_json(config))
    options = ReportOptions("Sheets", images=True)
    page = Page(write_report(tmp_path / "page.html", [tmp_path], pack=dataset.root, options=options))
    assert page.tags.count("img") == 2
    assert "model0, 48 px" in page.text and "model2, 64 px" in page.text and "model5, 64 px" not in page.text
