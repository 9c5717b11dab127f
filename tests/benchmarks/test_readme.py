"""The README's tables and pictures: rows made by hand, and what the tables say of them."""

import json

import cv2
import numpy as np
import pytest

from benchmarks.pages import plots, readme
from benchmarks.pages.markdown import rows_of
from benchmarks.pages.readme import LOADERS, loading_lines

WHERE = {"date": "2026-01-01", "commit": "0123456789abcdef", "cpu": "a CPU", "cores": 2, "gpu": None, "command": "it"}


def rate(contender: str, size: int, median: float, **more) -> dict:
    spread = {"median": median, "low": median, "high": median}
    row = {"contender": contender, "size": size, "images_per_second": spread, "cpu_seconds_per_1000": 0.5}
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
    text = readme.section()
    assert "**Loading.** Not measured yet." in text and "**Packing.** Not measured yet." in text
    stages = line(text, "three equal stages, each larger: saved")
    assert stages == "| three equal stages, each larger: saved | not measured | not measured | 42% |"
    page = readme.page()
    promised = line(page, "stages | three stages: wall-clock saved")
    assert promised == "| stages | three stages: wall-clock saved |  | at least 0.42 | not measured | a GPU |"
    assert page.count("Not measured yet.") == 6


def test_the_fastest_warm_row_counts_and_a_miss_stays_visible(results):
    lean = "best-effort DataLoader"
    results(
        "loader",
        rate("JPEG", 224, 1100.0), rate("JPEG", 224, 5000.0, cache="cold"), rate("JPEG", 512, 300.0),
        rate("raw", 224, 6000.0), rate("raw", 512, 2000.0),
        rate(f"{lean}, 2 workers", 224, 900.0), rate(f"{lean}, 4 workers", 224, 1000.0),
        rate(f"{lean}, 2 workers", 512, 250.0),
        ratio("JPEG", f"{lean}, 4 workers", 224, 1.1, 1.2), ratio("JPEG", f"{lean}, 2 workers", 512, 1.2, 1.1),
        ratio("raw", f"{lean}, 4 workers", 224, 6.0, 5), ratio("raw", f"{lean}, 2 workers", 512, 8.0, 5),
        ratio("JPEG", "decode only", 224, 0.9),
        rate("FFCV JPEG", 224, 0.0, images_per_second=None, not_measured="no FFCV"),
        {**ratio("JPEG", "FFCV JPEG", 224, 0.0, 2.8), "ratio": None, "met": None, "not_measured": "no FFCV"},
    )  # fmt: skip
    text = readme.section()
    assert line(text, "**ours, JPEG renditions**").startswith(
        "| **ours, JPEG renditions** | 1,100 | 300 | 0.50 / 0.50 |"
    )
    expected = "JPEG 1.10 / 1.20 (1.2 / 1.1, **missed** at 224); raw 6.0 / 8.0 (5)"
    assert line(text, lean) == f"| {lean} | 1,000 | 250 | 0.50 / 0.50 | {expected} |"
    assert line(text, "FFCV JPEG, 3 channels") == (
        "| FFCV JPEG, 3 channels | not measured | not measured | not measured | JPEG not measured (2.8) |"
    )
    assert line(text, "*decode only").endswith("| JPEG 0.90 |")
    assert (
        "a CPU, 2 cores, no GPU; medians" in text
        and "`it`, commit 012345678, `benchmarks/results/loader.jsonl`" in text
    )
    page = readme.page()
    missed = [each for each in page.splitlines() if "**missed**" in each]
    assert missed == [
        f"| loader | JPEG / {lean}, 4 workers, 224 px | 1.1 | at least 1.2 | **missed** | a CPU, 2 cores |"
    ]
    assert "not measured: no FFCV" in line(page, "FFCV JPEG")
    assert line(page, "loader | JPEG / FFCV JPEG").split(" | ")[2:5] == ["no FFCV", "at least 2.8", "not measured"]
    assert line(page, "JPEG | 224 | 5,000").endswith("| cold |")
    shown = {each.label: dict(each.rates) for each in loading_lines(rows_of("loader", gpu=False))}
    assert shown[lean] == {224: 1000.0, 512: 250.0} and shown["ours, JPEG renditions"] == {224: 1100.0, 512: 300.0}


def test_a_gpus_rows_stand_beside_the_cpus(results):
    """The newest of each kind, whichever was saved last; a promise that a GPU missed is said."""

    def stages(sizes: tuple[int, ...], saved: float, where: dict, met: bool | None = None) -> list[dict]:
        arms = [
            {"comparison": "figure 2", "arm": name, "stages": [{"size": size} for size in sides]}
            for name, sides in (("small", sizes), ("large", sizes[-1:] * 2))
        ]
        spread = {"median": saved, "low": saved, "high": saved, "sd": None}
        found = {"comparison": "figure 2", "cheap": "small", "dear": "large", "pairs": [{}], "saved_share": spread}
        return [{**row, "environment": where} for row in (*arms, {**found, "met": met, "at_least": None})]

    gpu = WHERE | {"date": "2026-01-02", "gpu": "a GPU"}
    results("stages", *stages((64, 96), 0.5, WHERE), *stages((224, 320), 0.20, gpu, met=False))
    results("stages", *stages((64, 96), 0.25, WHERE | {"date": "2026-01-03"}))
    step = ratio("ours, loader", "ours, cached", 224, 0.97, 0.98), ratio("ours, cached", "timm, cached", 224, 0.5, 0.98)
    promise = {"promise": "fits", "gib": 20.0, "ratio": None, "at_most": 24, "met": True, "size": 224}
    results("step", *({**row, "environment": gpu} for row in (*step, promise)))
    found = {gpu: {name: rows_of(name, gpu) for name in ("stages", "step")} for gpu in (False, True)}
    text = readme._training(found[False], found[True])
    saved = line(text, "Figure 2, small images and then large ones: saved")
    assert saved.endswith("saved | 25% (by pixels 28%) | 20% (by pixels 26%), **missed** | 22% |")
    assert line(text, "step:").endswith("| not measured | 0.970 at 224 **missed** | 0.98 |")


def test_of_many_loaders_beside_a_step_the_page_names_the_one_that_waits_least(results):
    gpu = WHERE | {"gpu": "a GPU"}
    rows = [
        {
            "beside": f"{feed}, 1 thread", "feed": feed, "threads": 1, "size": 224, "waiting_share": {"median": share},
            "at_most": 0.01, "met": share <= 0.01, "environment": gpu,
        }
        for feed, share in (("mixed", 0.2), ("cpu", 0.004), ("raw", 0.006))
    ]  # fmt: skip
    supply = [{**rate("cpu, 1 thread", 224, 4000.0), "feed": "cpu", "threads": 1, "environment": gpu}]
    rule = {"rule": "a GPU", "feed": "cpu", "demanded": 1500.0, "threads_needed": 1, "cores_busy": 0.19, "size": 224}
    rule |= {"environment": gpu}
    results("demand", *supply, *rows, rule)
    page = readme.page()
    assert [each for each in page.splitlines() if each.startswith("| demand")] == [
        "| demand | cpu, 1 thread: training that waits for data, 224 px | 0.004 | at most 0.01 | yes | a GPU |"
    ]
    assert line(page, "224 px, cpu") == "| 224 px, cpu | 4,000 | a GPU, 1,500: 1, 0.19 cores | 0.4% |"


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
    assert (tmp_path / "loading.svg").read_text().count('<g id="line2d') > 2 * len(lines)
    plots.loading([plots.Line("ours", "ours", {224: 1000.0})], "a CPU", tmp_path / "one.png")
    blue = [int(plots.STYLES["ours"]["color"][place : place + 2], 16) for place in (5, 3, 1)]
    assert (cv2.imread(str(tmp_path / "one.png")) == blue).all(axis=2).any()


def test_the_committed_page_and_section_are_of_the_committed_results():
    assert readme.PAGE.read_text() == readme.page()
    assert readme.README.read_text().split(readme.BEGIN)[1].split(readme.END)[0] == readme.section()
    assert readme.LOADING.exists() and readme.STAGES.exists()
