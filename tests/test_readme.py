"""What README, CONTRIBUTING and docs/ show must be there and run, and figures must come from committed results."""

import ast
import importlib
import importlib.util
import json
import re
import shlex
from functools import lru_cache
from pathlib import Path

import click
import pytest

from tests import file_map

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/*.md"))))
OURS = ("shards", "cxrdali", "cli", "benchmarks", "tests")
NOT_OURS = {"--nthreads", "--local-directory", "--save"}  # of other programs that the pages explain


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
                    assert hasattr(module, alias.name), f"{page}: {node.module} has no {alias.name}"


@pytest.mark.parametrize("page", PAGES)
def test_every_module_that_a_page_runs_is_there(page):
    for name in re.findall(r"python -m ((?:benchmarks|tests|cli)[\w.]*)", text(page)):
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


def test_the_readme_is_short():
    assert text("README.md").count("\n") <= 130


def test_the_speed_of_the_readme_is_that_of_the_committed_results():
    from benchmarks.pages.readme import BEGIN, END, section

    assert text("README.md").split(BEGIN)[1].split(END)[0] == section()
    assert "images/s" in section()


def rates(name: str) -> dict:
    """Images per second by what was measured and size, of the newest warm rows."""
    rows = [json.loads(line) for line in text(f"benchmarks/results/{name}.jsonl").splitlines()]
    return {
        (row.get("baseline") or row["contender"], row.get("size")): row["images_per_second"]["median"]
        for row in rows
        if row.get("images_per_second") and row.get("cache", "warm") == "warm" and not row["environment"]["gpu"]
    }


def test_the_six_numbers_of_the_readme_are_those_of_the_committed_results():
    loading, packing = rates("loader"), rates("pack")
    ours, native = loading["JPEG", 224], loading["paper, native files, 2 workers", 224]
    packed = packing["whole packing, 2 jobs", None]
    stages = [json.loads(line) for line in text("benchmarks/results/stages.jsonl").splitlines()]
    (*_, saved) = (
        row["saved_share"]["median"] for row in stages if row.get("comparison") == "three stages" and "pairs" in row
    )
    claims = (
        f"{ours:,.0f} images/s", f"{ours / native:.0f} times", f"{ours / loading['decode only', 224]:.2f}",
        f"{loading['raw', 224]:,.0f} images/s", f"{packed:.0f} images/s", f"{100 * saved:.0f} %",
    )  # fmt: skip
    for claim in claims:
        assert f"**{claim}**" in text("README.md"), claim
    assert 0.9 < 377_110 / packed / 3600 < 1.1  # "about an hour"


def test_the_bytes_of_every_size_are_those_of_the_committed_results():
    rows = [json.loads(line) for line in text("benchmarks/results/loader.jsonl").splitlines()]
    stored = {
        (row.get("baseline") or row["contender"], row["size"]): row["stored_bytes_per_image"]
        for row in rows
        if row.get("stored_bytes_per_image") and row.get("cache", "warm") == "warm"
    }
    page = text("docs/packed-dataset.md")
    for size in (224, 320, 384, 512):
        cells = [
            cell
            for name in ("JPEG", "raw")
            for cell in (f"{stored[name, size]:,.0f}", f"{stored[name, size] * 377_110 / 1e9:.1f} GB")
        ]
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
