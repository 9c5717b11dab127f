"""The README's tables and pictures: rows made by hand, and what the tables say of them."""

import json
import re

import cv2
import numpy as np
import pytest

from benchmarks.pages import coverage, families, plots, readme
from benchmarks.pages.page import TABLES, tables
from benchmarks.pages.readme import LOADERS, loading_lines
from benchmarks.results import newest

pytestmark = pytest.mark.slow

WHERE = {"date": "2026-01-01", "commit": "0123456789abcdef", "cpu": "a CPU", "cores": 2, "gpu": None, "command": "it"}


def rate(name: str, size: int, median: float, **more) -> dict:
    spread = {"median": median, "low": median, "high": median}
    row = {"contender": name}  # as older rows have it
    row |= {"size": size, "images_per_second": spread, "cpu_seconds_per_1000": 0.5}
    return {**row, **more, "environment": WHERE}


def ratio(ours: str, theirs: str, size: int, value: float, at_least: float | None = None) -> dict:
    met = None if at_least is None else value >= at_least
    return {
        "ours": ours, "theirs": theirs, "size": size, "ratio": value, "at_least": at_least, "met": met,
        "environment": WHERE,
    }  # fmt: skip


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty folder of results, and what appends rows to one of its files."""
    monkeypatch.setattr("benchmarks.results.RESULTS", tmp_path)

    def save(name: str, *rows: dict) -> None:
        with (tmp_path / f"{name}.jsonl").open("a") as file:
            file.writelines(json.dumps({"benchmark": name, **row}) + "\n" for row in rows)

    return save


def line(text: str, beginning: str) -> str:
    (found,) = [each for each in text.splitlines() if each.startswith(f"| {beginning}")]
    return found


def test_nothing_measured_is_said(results):
    assert readme.section() == "Not measured yet.\n"
    page = tables()
    target = line(page, "stages | three stages: wall-clock saved")
    assert target == "| stages | three stages: wall-clock saved |  | at least 0.42 | not measured | a GPU |"
    assert page.count("Not measured yet.") == 2 * len(TABLES)


def test_the_fastest_warm_row_counts_and_a_miss_stays_visible(results):
    """Rows as they are committed: some of their fields have older names."""
    lean = "best-effort DataLoader"
    results(
        "loader",
        rate("JPEG", 224, 1100.0), rate("JPEG", 224, 5000.0, cache="cold"), rate("JPEG", 512, 300.0),
        rate("raw", 224, 6000.0), rate("raw", 512, 2000.0),
        rate(f"{lean}, 2 workers", 224, 900.0), rate(f"{lean}, 4 workers", 224, 1000.0),
        rate(f"{lean}, 2 workers", 512, 250.0), rate("paper, native files, 2 workers", 512, 75.0),
        ratio("JPEG", f"{lean}, 4 workers", 224, 1.1, 1.2), ratio("raw", f"{lean}, 2 workers", 512, 8.0),
        rate("FFCV JPEG", 224, 0.0, images_per_second=None, not_measured="no FFCV"),
        {**ratio("JPEG", "FFCV JPEG", 224, 0.0, 2.8), "ratio": None, "met": None, "not_measured": "no FFCV"},
    )  # fmt: skip
    text = readme.section()
    assert text.splitlines()[:2] == ["| augmented images/s | 224 px | 512 px |", "|---|---:|---:|"]
    assert line(text, "**ours, JPEG renditions**") == "| **ours, JPEG renditions** | 1,100 | 300 |"
    assert line(text, lean) == f"| {lean} | 1,000 | 250 |"
    assert line(text, "FFCV JPEG, 3 channels") == "| FFCV JPEG, 3 channels | not measured | not measured |"
    assert line(text, "stage-training paper's loader, native files").endswith("| not measured | 75 |")
    assert text.splitlines()[-1] == (
        "a CPU, 2 cores, no GPU; medians of interleaved runs, synthetic images, warm cache; `it`, commit 012345678, "
        "`benchmarks/results/loader.jsonl`."
    )
    page = tables()
    missed = [each for each in page.splitlines() if "**missed**" in each]
    assert missed == [
        f"| loader | JPEG / {lean}, 4 workers, 224 px | 1.1 | at least 1.2 | **missed** | a CPU, 2 cores |"
    ]
    assert line(page, "loader | raw / ").split(" | ")[2:5] == ["8", "", ""]
    assert "FFCV JPEG: not measured (no FFCV)" in page
    assert line(page, "loader | JPEG / FFCV JPEG").split(" | ")[2:5] == ["no FFCV", "at least 2.8", "not measured"]
    assert line(page, "JPEG | 224 | 5,000").endswith("| cold |")
    shown = {each.label: dict(each.rates) for each in loading_lines(newest("loader", gpu=False))}
    assert shown[lean] == {224: 1000.0, 512: 250.0} and shown["ours, JPEG renditions"] == {224: 1100.0, 512: 300.0}


def test_a_gpus_rows_stand_beside_the_cpus(results):
    """The newest of each kind, whichever was saved last; a target that a GPU missed is shown."""
    gpu = WHERE | {"date": "2026-01-02", "gpu": "a GPU"}

    def step(value: float, where: dict) -> dict:
        return ratio("ours, loader", "ours, cached", 224, value, 0.98) | {"environment": where}

    fits = {"promise": "fits 24 GiB"}  # as older rows have it
    fits |= {"gib": 20.0, "at_most": 24, "met": True, "size": 224, "environment": gpu}
    waits = rate("ours, loader", 224, 900.0, waiting_share={"median": 0.004}, at_most=0.01, met=True)
    results("step", step(1.0, WHERE), step(0.97, gpu), fits, waits | {"environment": gpu})
    results("step", step(0.99, WHERE | {"date": "2026-01-03"}))
    page = tables()
    assert [each for each in page.splitlines() if each.startswith("| step | ours") or "fits" in each] == [
        "| step | ours, loader / ours, cached, 224 px | 0.99 | at least 0.98 | yes | a CPU, 2 cores |",
        "| step | ours, loader / ours, cached, 224 px | 0.97 | at least 0.98 | **missed** | a GPU |",
        "| step | fits 24 GiB, 224 px | 20 | at most 24 | yes | a GPU |",
        "| step | ours, loader: training that waits for data, 224 px | 0.004 | at most 0.01 | yes | a GPU |",
    ]
    assert "at every stage" not in line(page, "step | ours, loader: training")


def test_the_newest_row_of_a_family_and_its_reasons_are_in_the_table_of_networks(results):
    assert families.section() == "Not measured yet.\n"
    yes = dict.fromkeys(("trains", "saves", "predicts", "explains", "caches", "other_size"), True)
    row = {"family": "cait", "model": "cait_xxs24", "parameters": 11_760_000, "size": 64, "other": 96, "reasons": {}}
    where = {"environment": WHERE | {"versions": {"timm": "1.0"}}}
    older = row | yes | {"family": "beit", "trains": False, "reasons": {"trains": "FAULT"}}
    newer = row | yes | {"family": "beit", "caches": False, "other": 0, "reasons": {"caches": "it sees a map"}}
    results("families", row | yes | where, older | where, newer | where)
    text = families.section()
    assert line(text, "beit | `") == "| beit | `cait_xxs24` | 11.8 | 64 | yes | yes | yes | no | no |"
    assert line(text, "cait") == "| cait | `cait_xxs24` | 11.8 | 64 | yes | yes | yes | yes | 96 |"
    assert line(text, "beit | k") == "| beit | keeps features | it sees a map |" and "FAULT" not in text
    assert (
        "\n2 families of timm 1.0, a CPU, 2 cores, no GPU; commits 012345678, `benchmarks/results/families.jsonl`."
        in text
    )


def test_names_in_the_picture_stand_apart():
    places = [0.5, 0.50, 0.51, 0.2, 0.9]
    moved = plots.spread_out(places, 0.04)
    ordered = sorted(moved)
    assert np.diff(ordered).min() > 0.039
    assert np.argsort(moved).tolist() == np.argsort(places, kind="stable").tolist()
    assert moved[3:] == [0.2, 0.9]


def test_the_picture_of_loading_draws_every_loader(tmp_path):
    """Ours in their colour, which reaches further down the faster they get; a lone size is drawn too."""
    lines = [plots.Line(label, kind, {224: 1000.0, 512: 100.0}) for _, label, kind in LOADERS]
    plots.loading(lines, "a CPU", tmp_path / "loading.svg")
    drawing = (tmp_path / "loading.svg").read_text()
    assert drawing.count('<g id="line2d') > 2 * len(lines)
    said = ("numbers: images/s at 512 px", "a CPU", "side of the images, pixels", "augmented images/s, logarithmic")
    assert all(words in drawing for words in (*said, "this project", "other loaders", "ceilings"))
    assert "<title>How fast augmented images arrive" in drawing
    plots.loading([plots.Line("ours", "ours", {224: 1000.0})], "a CPU", tmp_path / "one.png")
    blue = [int(plots.STYLES["ours"]["color"][place : place + 2], 16) for place in (5, 3, 1)]
    assert (cv2.imread(str(tmp_path / "one.png")) == blue).all(axis=2).any()


def test_the_committed_page_and_section_are_of_the_committed_results():
    for path, new in ((readme.PAGE, tables()), (readme.README, readme.section())):
        assert path.read_text() == readme.written(path.read_text(), new)
    for path, new, name in (
        (readme.ARCHITECTURES, families.section(), "families"),
        (readme.STATISTICS, coverage.section(), "coverage"),
    ):
        assert path.read_text() == readme.written(path.read_text(), new, name)
    assert readme.LOADING.exists()


@pytest.mark.parametrize("path", sorted(readme.LOADING.parent.glob("*.svg")), ids=lambda path: path.name)
def test_every_committed_picture_says_what_it_shows(path):
    drawing = path.read_text()
    assert re.search(r"<title>[^<]{40,}</title>", drawing) and not re.search("paper, on real", drawing)
    assert {"effects.svg": "difference of mAP", "effects-losses.svg": "difference of mAP", "loading.svg": "images/s"}[
        path.name
    ] in drawing


def test_what_stands_outside_of_the_markers_stays():
    text = f"# Head\n{readme.BEGIN}old\n{readme.END}tail\n"
    assert readme.written(text, "new\n") == f"# Head\n{readme.BEGIN}new\n{readme.END}tail\n"
