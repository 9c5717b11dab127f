"""What the README shows must run, and its figures must come from committed files."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("cxrdali ")]


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_readme_has_options_that_exist(command):
    words = command.split()
    text = subprocess.run(
        [sys.executable, "-m", "cli", words[1], "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for word in words[2:]:
        if word.startswith("--"):
            assert re.search(rf"{word}\b", text), f"{word} is no option of {words[1]}"


def test_the_training_loop_of_the_readme_runs(dataset, tmp_path, monkeypatch):
    """With small sizes, the code as printed hands over batches."""
    code = next(block for block in blocks("python") if "Loader(" in block)
    code = code.replace('"data/packed"', repr(str(dataset.root))).replace("size=224, batch=256", "size=48, batch=16")
    code = code.replace("range(30)", "range(2)").replace("...", "seen.append((images.shape, len(rows)))")
    seen = []
    exec(compile(code, "README.md", "exec"), {"seen": seen})
    assert seen and set(seen) == {((16, 1, 48, 48), 16)} and len(seen) % 2 == 0


def test_the_webdataset_lines_of_the_readme_run(dataset):
    code = next(block for block in blocks("python") if "webdataset" in block)
    code = code.replace("data/packed/224", str(dataset.root / "48"))
    code = code.replace('sample["__key__"]', 'seen.append(sample["__key__"]), sample["__key__"]')
    seen = []
    exec(compile(code, "README.md", "exec"), {"seen": seen})
    assert len(seen) == len(dataset.catalog)


def test_every_file_that_the_readme_names_is_there():
    table = README[README.index("## The folders") :].split("## What is not here yet")[0]
    for row in re.findall(r"^\| (.*?) \|", table, re.MULTILINE)[2:]:
        names = re.findall(r"`([^`]+)`", row)
        folder = names[0].split("/")[0]
        for name in names:
            path = ROOT / name if "/" in name else ROOT / folder / name
            assert path.exists(), path


def test_the_figures_on_speed_are_those_of_the_committed_results():
    from benchmarks.pages.readme import BEGIN, END, section

    assert README.split(BEGIN)[1].split(END)[0] == section()
    assert "images/s" in section()
