"""`benchmarks.gpu` without a GPU: what a section does to the others, what is said of it, and the page of its facts."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.gpu import loading, training, work
from benchmarks.gpu.facts import say, told
from benchmarks.gpu.sections import NAMES, SECTIONS, Section, measured
from benchmarks.options import Stage
from benchmarks.pages import gpu, readme
from benchmarks.training import fed
from tests.benchmarks.test_benchmarks import ROOT

pytestmark = pytest.mark.slow

HERE, ITSELF = "tests.benchmarks.test_gpu_suite", "the section itself"


# ---------------------------------------------------------------- sections as a process runs them


def crashes(_) -> None:
    say("before", True)
    os.abort()


def hangs(work) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    say("started", child=child.pid)
    time.sleep(600)


def fails(_) -> None:
    say("large", value=2.0, at_most=1.0)
    say("small", value=2.0, at_least=1.0)
    say("unknown", value=None, at_most=1.0)
    with told("a part: first"):
        raise ValueError("no such\nthing")
    print("a library's own words")
    say("after", True)
    raise RuntimeError("the end")


def never(_) -> None:
    raise AssertionError("needs a GPU")


def test_a_section_that_crashes_hangs_or_fails_takes_no_other_with_it(capsys):
    given = [Section(HERE, "crashes", 60, False), Section(HERE, "fails", 60, False), Section(HERE, "never", 60)]
    given += [Section(HERE, "hangs", 15, False), Section(HERE, "crashes", 60, False)]
    rows = list(measured(given, 200, on_gpu=False))
    first, second = ([row for row in rows[at:] if row["section"] == "crashes"][:2] for at in (0, 3))
    assert first == second, "the last one ran as the first one did"
    assert first[0] == {"section": "crashes", "fact": "before", "ok": True, "values": {}}
    assert first[1]["fact"] == ITSELF and first[1]["ok"] is False
    assert first[1]["values"]["error"] == "its process ended with -6"
    failed = {row["fact"]: row for row in rows if row["section"] == "fails"}
    assert [row["ok"] for row in failed.values()] == [False, True, None, False, True, False, None]
    assert failed["a part: first"]["values"]["error"] == "ValueError: no such / thing"
    assert failed[ITSELF]["values"]["error"] == "RuntimeError: the end" and failed["seconds"]["values"]["value"] < 60
    (alone,) = [row for row in rows if row["section"] == "never"]
    assert (alone["ok"], alone["values"]) == (None, {"not_measured": "needs a GPU"})
    started, ended = [row for row in rows if row["section"] == "hangs"]
    assert ended["ok"] is False and ended["values"]["error"] == "it took more than 15 s"
    child = started["values"]["child"]
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    said = capsys.readouterr().out
    assert "never: 0 true, 0 not, 1 without a verdict; not measured: needs a GPU\n" in said
    assert "  a part: first: error ValueError: no such / thing" in said


def test_without_time_left_a_section_is_left_out():
    (row,) = measured([Section(HERE, "never", 60, False)], 5, on_gpu=True)
    assert (row["ok"], row["values"]) == (None, {"not_measured": "no time was left"})


def test_one_command_writes_facts_and_their_page(tmp_path):
    """`gpu.sh` finds this Python; the section that makes data runs before any other; a second run is appended."""
    command = [ROOT / "benchmarks" / "gpu.sh", "pixels", "ranks", "--out", "found.jsonl", "--save", tmp_path / "saved"]
    environment = os.environ | {"PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(row["section"] for row in rows)) == ["data", "pixels", "ranks"]
    assert {row["benchmark"] for row in rows} == {"gpu"} and not any(row["ok"] is False for row in rows)
    assert {row["environment"]["command"].partition(" pixels")[0] for row in rows} == {"python -m benchmarks.gpu"}
    assert sum(row["ok"] is True for row in rows if row["fact"].startswith("pixels: ")) == 12
    assert (tmp_path / "saved" / "gpu.jsonl").read_text() == (tmp_path / "found.jsonl").read_text()
    page = (tmp_path / "found.md").read_text()
    assert "| pixels | pixels | 12 of 12 | all as on the CPU | yes |" in page
    assert "| ranks | the section itself |  | not_measured needs a GPU |" in page
    done = subprocess.run([*command[:1], "pixel"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("section 'pixel': choose from data, environment, pixels,")


# ---------------------------------------------------------------- steps on the CPU


@pytest.fixture
def on_stand_in(tmp_path, monkeypatch, capsys):
    """Runs a section that needs a GPU on the CPU with small stages; returns its facts by name."""
    small = (Stage(64, 8), Stage(64, 4), Stage(224, 4))
    for module, name, value in (
        (work, "EFFICIENTNET", work.TINY), (training, "STAGES", small), (loading, "STAGES", small),
        (training, "PRECISE", small[0]), (training, "NETWORKS", (work.TINY,)),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    made = work.Work(tmp_path)
    made.make()

    def run(section) -> dict[str, dict]:
        section(made)
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]  # no log's
        return {row["fact"]: row for row in map(json.loads, lines)}

    return run


def test_idle_time_is_what_lies_between_two_steps():
    def slow():
        while True:
            time.sleep(0.004)
            yield work.black(Stage(8, 2))

    found = fed.trained(lambda batch: time.sleep(0.012), slow(), 10, "cpu")
    assert found.waited_share == pytest.approx(0.25, abs=0.08) and found.asking == pytest.approx(4, rel=0.5)
    assert found.rate == pytest.approx(2 / 0.016, rel=0.2)
    kept = iter(lambda: work.black(Stage(8, 2)), None)
    assert fed.trained(lambda batch: time.sleep(0.012), kept, 10, "cpu").waited_share < 0.05


def test_what_needs_a_gpu_runs_as_far_as_a_cpu_goes(on_stand_in):
    """The savings are those of the rates, by hand."""
    found = on_stand_in(training.stages)
    rates = [found[f"images/s of the loader / cached: {size} px"]["values"]["real"] for size in (64, 224)]
    assert len(found) == 3 * 2 + 1, "the two small stages have one name"
    saved = found["saved by three equal stages"]["values"]["value"]
    assert 0 < saved < 1 - (1 / rates[0] + 1 / rates[1]) / (3 / rates[1]) + 0.3
    hours = found["a stage of MIMIC-CXR-JPG, hours: 224 px"]["values"]["value"]
    assert hours == pytest.approx(211_879 * 30 / rates[1] / 3600)
    feeding = on_stand_in(loading.feeding)
    prefix = "milliseconds of the training thread for a batch: "
    assert {f"{prefix}cached", f"{prefix}cpu, DLPack", f"{prefix}raw, pinned"} <= feeding.keys()
    assert all(row["ok"] is None for name, row in feeding.items() if "a copy" not in name)
    precise = on_stand_in(training.precision)
    plain = precise[f"images/s by precision: {work.TINY}, fp32"]["values"]
    assert plain["logits_off"] == 0 and plain["value"] > 0 and plain["logits_sd"] > 0
    half = precise[f"images/s by precision: {work.TINY}, bf16"]["values"]
    assert 0 < half["logits_off"] < plain["logits_sd"]


# ---------------------------------------------------------------- the page


def row(section: str, fact: str, ok: bool | None, gpu: str | None = "a GPU", day: int = 1, **values) -> dict:
    where = {
        "date": f"2026-01-0{day}",
        "commit": "0123456789",
        "cpu": "a CPU",
        "cores": 16,
        "gpu": gpu,
        "command": "it",
    }
    return {"section": section, "fact": fact, "ok": ok, "values": values, "environment": where}


def save(path: Path, *rows: dict) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(each) + "\n" for each in rows)


def test_the_page_shows_what_is_true_what_is_not_and_what_was_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.results.RESULTS", tmp_path)
    nothing = gpu.section()
    assert nothing.endswith("\nNot measured yet: no GPU was at hand.\n") and nothing.count("| not measured |") == len(
        gpu.AIMS
    )
    path = tmp_path / "gpu.jsonl"
    save(path, row("pixels", "pixels: cpu", False, gpu=None, day=3))  # on a CPU: not of this page
    assert gpu.section() == nothing
    save(path, row("stages", "GPU idle: 224 px", True, value=0.5), row("pixels", "pixels: gone", False))
    save(
        path,
        row("pixels", "pixels: cpu", True, day=2, worst=0), row("pixels", "pixels: mixed", False, day=2, worst=9),
        row("stages", "GPU idle: 224 px", True, day=2, value=0.0042, at_most=0.01),
        row("stages", "GPU idle: 320 px", True, day=2, value=0.01, at_most=0.01),
        row("supply", ITSELF, None, day=2, not_measured="no time was left"),
        row("full", ITSELF, False, day=2, error="its process ended with -11", stderr="a | b\nc"),
        row("predicting", "predicted, images/s", None, day=2, value=2345.6),
        row("ranks", "a shared step: plain", True, day=2), row("compiled", "a shared step: of another", False, day=2),
    )  # fmt: skip
    page = gpu.section()
    for line in (
        "| pixels | pixels | 1 of 2 | all as on the CPU | **missed** |",
        "| stages | GPU idle | 224 px 0.0042; 320 px 0.01 | at most 0.01 of the time | yes |",
        "| supply | supply, share of linear |  | at least 0.8 | not measured |",
        "| full | a full GPU is known |  | all | **failed** |",
        "| predicting | predicted, images/s | 2,346 |  |  |",
        "| ranks | a shared step | 1 of 1 | all | yes |",
        "| pixels | pixels: mixed | **no** | worst 9 |",
        "| supply | the section itself |  | not_measured no time was left |",
        "| full | the section itself | **no** | error its process ended with -11; stderr a / b c |",
        "a CPU, 16 cores, a GPU; `it`, commit 012345678, `benchmarks/results/gpu.jsonl`.",
    ):
        assert f"{line}\n" in page, line
    assert "gone" not in page and "0.5" not in page, "each section's newest run alone"


def test_the_committed_page_is_that_of_the_committed_rows():
    text = readme.GPU.read_text()
    assert readme.written(text, gpu.section(), "gpu") == text
    assert all(f"`{name}`" in text for name in NAMES)
    facts = {fact for _, fact, _ in gpu.AIMS}
    code = "".join(path.read_text() for path in (ROOT / "benchmarks" / "gpu").glob("*.py"))
    assert [fact for fact in facts if fact not in code] == [], "an aim whose fact no section says"
    assert {name for name, _, _ in gpu.AIMS} <= set(NAMES) and sum(each.most for each in SECTIONS) > 0
