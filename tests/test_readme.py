"""What README, CONTRIBUTING and docs/ show must be there and run, and figures must come from committed results."""

import ast
import importlib
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import ttest_1samp

from benchmarks import results
from benchmarks.pages import published
from cxrdali.runtime.options import RuntimeSettings
from tests import file_map

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/*.md"))))
OURS = ("shards", "cxrdali", "cli", "benchmarks", "tests")
NOT_OURS = {
    "--nthreads",
    "--local-directory",
    "--save",
    "--signals-to-handle",
    "--squared-power",
}  # of other programs, benchmarks and an example


def text(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(page: str, *languages: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text(page), re.DOTALL | re.MULTILINE)
    return [code for language, code in found if language in languages]


def inline(page: str) -> list[str]:
    """Code in the running text, between backticks."""
    prose = re.sub(r"^```.*?^```$", "", text(page), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", prose)


def commands(page: str) -> list[str]:
    """Every `cxrdali ...` of a page, in blocks and in the text, without comments."""
    lines = [line for code in blocks(page, "sh", "bash", "") for line in code.replace("\\\n", " ").splitlines()]
    lines = [line.split(" #")[0].strip() for line in lines] + inline(page)
    return [line for line in lines if re.match(r"cxrdali [a-z]", line)]


@lru_cache
def options(name: str) -> frozenset[str] | None:
    """What a command takes; None if there is no such command."""
    from cli.main import cxrdali

    command = cxrdali.get_command(click.Context(cxrdali), name)
    if command is None:
        return None
    context = click.Context(command, info_name=name)
    return frozenset(each for one in command.get_params(context) for each in (*one.opts, *one.secondary_opts))


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_exists_with_its_options(page):
    for command in commands(page):
        words = shlex.split(command)
        known = options(words[1])
        assert known is not None, f"{page}: {command}: no such command"
        for word in words[2:]:
            if word.startswith("--"):
                assert word.split("=")[0] in known | {"--help"}, f"{page}: {word} is no option of {words[1]}"


@pytest.mark.parametrize("page", PAGES)
def test_every_option_that_the_text_names_is_some_command_s(page):
    from cli.main import cxrdali

    known = set().union(*(options(name) for name in cxrdali.list_commands(click.Context(cxrdali))))
    known |= {each for one in cxrdali.params for each in one.opts} | NOT_OURS
    for code in inline(page):
        if re.match(r"--[a-z]", code):
            assert re.split(r"[ =,]", code)[0] in known, f"{page}: no command has {code}"


@pytest.mark.parametrize("page", PAGES)
def test_what_the_python_of_a_page_imports_is_there(page):
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in OURS:
                module = importlib.import_module(node.module)
                for alias in node.names:
                    known = hasattr(module, alias.name) or importlib.util.find_spec(f"{node.module}.{alias.name}")
                    assert known, f"{page}: {node.module} has no {alias.name}"


@pytest.mark.parametrize("page", PAGES)
def test_every_module_that_a_page_runs_is_there(page):
    now = "\n".join(line for line in text(page).splitlines() if "commit " not in line)  # not of an earlier commit
    for name in re.findall(r"python -m ((?:benchmarks|tests|cli)[\w.]*)", now):
        assert importlib.util.find_spec(name), f"{page}: python -m {name}"


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_is_there(page):
    for code in inline(page):
        if re.match(rf"(docs|{'|'.join(OURS)})/[\w./-]+$", code):
            assert (ROOT / code).exists(), f"{page}: {code}"
        elif re.match(r"test_\w+\.py$", code):
            assert any(ROOT.glob(f"tests/**/{code}")), f"{page}: {code}"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text(page)):
        path, _, anchor = "".join(target).partition("#")
        if "://" in path:
            continue
        there = (ROOT / page).parent / path if path else ROOT / page
        assert there.exists(), f"{page}: {path}"
        assert not anchor or anchor in anchors(there), f"{page}: {path} has no heading #{anchor}"


def anchors(page: Path) -> set[str]:
    """Headings as GitHub makes addresses of them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_loop_of_the_readme_runs(dataset):
    """With small sizes, the code as printed gives batches."""
    (code,) = blocks("README.md", "python")
    code = code.replace('"data/packed"', repr(str(dataset.root))).replace("size=224, batch=256", "size=48, batch=16")
    code = code.replace("...", "seen.append((images.shape, len(rows)))")
    seen = []
    exec(compile(code, "README.md", "exec"), {"seen": seen})
    assert seen and set(seen) == {((16, 1, 48, 48), 16)}


def test_other_programs_read_a_size_as_shown(dataset):
    (code,) = blocks("docs/packed-dataset.md", "python")
    code = code.replace("data/packed/224", str(dataset.root / "48"))
    code = code.replace('sample["__key__"]', 'seen.append(sample["__key__"]), sample["__key__"]')
    seen = []
    exec(compile(code, "docs/packed-dataset.md", "exec"), {"seen": seen})
    assert len(seen) == len(dataset.catalog)


def test_the_recipe_of_the_training_page_is_one(tmp_path):
    from cxrdali.runs.recipes import find, load

    (code,) = [each for each in blocks("docs/training.md", "toml") if "[mine]" in each]
    (tmp_path / "mine.toml").write_text(code)
    settings, _ = find(load(tmp_path / "mine.toml"), "mine").resolve(tmp_path)
    assert (settings.data.size, settings.loss.name, settings.loss.drw_epoch) == (224, "ldam-drw", 5)


def test_the_readme_is_short():
    assert text("README.md").count("\n") <= 130


def test_the_speed_of_the_readme_is_that_of_the_committed_results():
    from benchmarks.pages.readme import BEGIN, END, section

    assert text("README.md").split(BEGIN)[1].split(END)[0] == section()
    assert "images/s" in section()


def measured(name: str) -> list[dict]:
    """Rows of the newest committed results without a GPU, those from a warm cache."""
    return [row for row in results.newest(name, gpu=False) if row.get("cache", "warm") == "warm"]


def stored_bytes(name: str, size: int) -> float:
    """Of an image, by the last committed row of this size: a run need not have all sizes."""
    rows = [row for row in results.committed("loader") if (row.get("baseline"), row.get("size")) == (name, size)]
    return rows[-1]["stored_bytes_per_image"]


def row_of(rows: list[dict], name: str, size: int | None = None) -> dict:
    """The row with images per second of what was measured."""
    called = [row for row in rows if row.get("images_per_second") and row.get("size") == size]
    return next(row for row in called if name in row.values())


def test_the_six_numbers_of_the_readme_are_those_of_the_committed_results():
    loading = measured("loader")
    names = (
        "JPEG", "raw", "DALI's decoder alone", "FFCV with our flips, gray arrays",
        "stage-training paper, native files, 2 workers",
    )  # fmt: skip
    ours, raw, decoded, arrays, native = (row_of(loading, name, 224)["images_per_second"]["median"] for name in names)
    packed = row_of(measured("pack"), "whole packing, 2 jobs")["images_per_second"]["median"]
    stages = next(row for row in measured("stages") if row.get("comparison") == "three stages" and "pairs" in row)
    claims = (
        f"{ours:,.0f} images/s", f"{ours / native:.0f} times", f"{ours / decoded:.2f} times", f"{raw:,.0f} images/s",
        f"{raw / arrays:.1f} times", f"{packed:.0f} images/s", f"{100 * stages['saved_share']['median']:.0f} %",
    )  # fmt: skip
    for claim in claims:
        assert f"**{claim}**" in text("README.md"), claim
    share = [f"{100 * stages['saved_share'][end]:.0f}" for end in ("low", "high")]
    low, high = ttest_1samp([pair["map_difference"] for pair in stages["pairs"]], 0).confidence_interval()
    assert low < 0 < high, "not separable"
    readme = " ".join(text("README.md").split())
    assert f"({share[0]} to {share[1]} % in {len(stages['pairs'])} pairs)" in readme
    said = f"mAP was {-stages['map_difference']['mean']:.3f} lower, not separable from no difference (95 % interval "
    assert f"{said}-{-low:.3f} to +{high:.3f}; {len(stages['pairs'])} seeds" in readme
    assert 0.9 < 377_110 / packed / 3600 < 1.1  # "about an hour"


def test_the_hours_and_gigabytes_of_the_readme_follow_from_published_and_committed_figures():
    page = text("README.md")
    for size, rate in ((224, 876), (320, 429), (512, 168)):
        assert round(published.images_per_second(size)) == rate == round(488.25 * 300**2 / size**2)
        hours = 211_879 * 30 / (488.25 * 300**2 / size**2) / 3600
        assert published.hours(published.images_per_second(size)) == pytest.approx(hours)
        (line,) = [line for line in page.splitlines() if line.startswith("cxrdali train") and f"{size} px" in line]
        assert line.endswith(f"; {hours:.1f} h")
    assert "timm's images/s of this network (by pixels 876, 429, 168) on an RTX 3090" in " ".join(page.split())
    stored = sum(stored_bytes("JPEG", size) for size in (224, 320, 384, 512))
    assert f"{stored * 377_110 / 1e9:.0f} GB" in page


def test_what_feeds_what_follows_from_the_published_rate():
    """Cores and MB/s of docs/machines.md from its own CPU milliseconds and bytes; and the other places with a rate."""
    page, rules = text("docs/machines.md"), " ".join(text("benchmarks/README.md").split())
    lines = re.findall(
        r"^\| (\d+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d,]+) \| (\d+) \| (\d+) \|$", page, re.MULTILINE
    )
    assert [line[0] for line in lines] == ["224", "320", "384", "512"]
    disks = []
    for size, rate, cpu, cores, stored, disk, raw in lines:
        found = published.images_per_second(int(size))
        disks.append(found * int(stored.replace(",", "")) / 1e6)
        assert (rate, cores, disk) == (f"{found:.0f}", f"{found * float(cpu) / 1000:.2f}", f"{disks[-1]:.0f}")
        assert raw == f"{found * (int(size) ** 2 + 128) / 1e6:.0f}"  # an .npy's header
    assert f"feeds {150 / max(disks):.0f} GPUs" in page and f"(118 MB/s) feeds {118 / max(disks):.0f}," in page
    assert "the default network on 876 and 168" in rules
    faster = published.RATE / published.WITHOUT_CHANNELS_LAST
    said = RuntimeSettings.__dataclass_fields__["channels_last"].metadata
    assert f"EfficientNetV2-S by {100 * (faster - 1):.0f} % on an RTX 3090" in str(said)


def test_the_bytes_of_every_size_are_those_of_the_committed_results():
    page = text("docs/packed-dataset.md")
    for size in (224, 320, 384, 512):
        stored = [stored_bytes(name, size) for name in ("JPEG", "raw")]
        cells = [cell for each in stored for cell in (f"{each:,.0f}", f"{each * 377_110 / 1e9:.1f} GB")]
        assert f"| {size} | {' | '.join(cells)} |" in page


def test_the_map_of_files_is_that_of_the_files():
    """If not: `python -m tests.file_map`."""
    page = text("docs/architecture.md")
    assert page.split(file_map.BEGIN)[1].split(file_map.END)[0] == file_map.section()


def test_the_way_of_a_row_is_counted_right():
    page = text("docs/architecture.md")
    steps = re.findall(r"^\| (\d+) \| (\*\*)?`", page, re.MULTILINE)
    assert [int(number) for number, _ in steps] == list(range(1, len(steps) + 1))
    assert f"{len(steps)} files carry the row; {sum(bool(bold) for _, bold in steps)} of them" in page


def test_the_citation_names_both_publications():
    page = text("CITATION.cff")
    assert "10.1109/ICCVW60793.2023.00287" in page and "2603.02294" in page


# ---------------------------------------------------------------- the examples of CONTRIBUTING


def example(word: str) -> str:
    (code,) = (code for code in blocks("CONTRIBUTING.md", "python") if word in code)
    return code


def made(word: str) -> dict:
    """What an example defines."""
    names = {"__name__": "example"}
    exec(compile(example(word), "CONTRIBUTING.md", "exec"), names)
    return names


def test_the_plugin_trains_a_run(pack_folder, tmp_path):
    (tmp_path / "mine.py").write_text(example("class Squared(Loss)"))
    (line,) = (line for line in commands("CONTRIBUTING.md") if "--plugins mine.py" in line)
    small = "--size 48 --batch 8 --epochs 1 --warmup-epochs 0 --arch test_byobnet --no-pretrained --device cpu"
    words = [*shlex.split(line)[1:], *small.split(), "--data", str(pack_folder), "--out", "run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "cli", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert settings["loss"] == {"name": "squared", "squared_power": 3.0}
    assert (settings["model"]["head"]["name"], settings["data"]["sampler"]["name"]) == ("dropout", "cube-root")


def test_the_augmentation_augments(dataset):
    from cxrdali.data import gpu
    from cxrdali.data.loader import Loader
    from cxrdali.data.options import LoaderOptions

    always = made("class Negative(Augmentation)")["Negative"](probability=1.0)
    rows, options = np.flatnonzero(dataset.packed)[:8], LoaderOptions(size=48, batch=8, device="cpu")
    (plain,) = (batch.images for batch in Loader(dataset, rows, options))
    (negative,) = (batch.images for batch in Loader(dataset, rows, options, augment=[always]))
    assert (negative == 255 - plain).all()
    decided = always.decide(0, 0, 0, 8, 48)
    assert (gpu.augmented(plain, [always], decided, plain.device) == 255 - plain).all()


def test_the_release_is_read(tmp_path):
    reader = made("READER = Reader(")["READER"]
    assert not reader.recognises(tmp_path)
    (tmp_path / "projections.csv").write_text("uid,filename,projection\n1,1_a.png,Frontal\n1,1_b.png,Lateral\n")
    assert reader.recognises(tmp_path)
    images = reader.read(tmp_path, ()).images
    assert images["view"].tolist() == ["frontal", "lateral"] and images["path"][1] == "images/1_b.png"


def test_the_command_counts(pack_folder, dataset):
    count = made("def count(data)")["count"]
    assert CliRunner().invoke(count, ["--data", str(pack_folder)]).output == f"{dataset.packed.sum():,} images\n"
