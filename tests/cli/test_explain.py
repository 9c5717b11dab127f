"""`cxrdali explain` as a user types it."""

import re

import pytest

from tests.cli.cli import call


@pytest.fixture(scope="module")
def trained(pack_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained")
    result = call("train", "--stage", "1", "--size", "48", "--batch", "8", "--epochs", "1", "--arch", "test_byobnet",
                  "--no-pretrained", "--device", "cpu", "--data", pack_folder, "--out", "run", cwd=folder)  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder


def explain(folder, pack, *more):
    # at 48 px the last map of this network is one place
    return call("explain", "--run", "run", "--data", pack, "--layer", "stages.2", *more, cwd=folder)


def test_a_page_is_written_to_a_file_or_into_a_folder(trained, pack_folder):
    result = explain(trained, pack_folder, "--images", 1, "--out", "page.html")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0].startswith("run: best epoch 1 of 1, validation mAP ")
    assert result.stdout.splitlines()[1] == "12 heat maps of 4 findings at 48 px, layer stages.2, fp32 on cpu"
    assert result.stdout.splitlines()[2] == "no positive image in val, so not shown: Hernia"
    assert re.fullmatch(r"page.html: 4 findings, 0\.\d MB", result.stdout.splitlines()[3])
    text = (trained / "page.html").read_text()
    assert text.count("<img ") == 12 and "Contains medical images." in text

    result = explain(trained, pack_folder, "--findings", "Edema, Mass", "--synthetic", "--out", "some/maps")
    assert result.returncode == 0, result.stderr
    text = (trained / "some/maps/explain.html").read_text()
    assert "Synthetic data." in text and re.findall(r"<h2>(.*)</h2>", text) == ["Edema", "Mass"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--out", "nowhere/page.html"], "nowhere: no such folder; make it, or give another --out"),
        (["--out", "x.html", "--images", "0"], "images 0: at least 1"),
        (["--out", "x.html", "--findings", "Gout"], "finding 'Gout': run was not trained on it; it has Edema, Hernia"),
        (["--out", "x.html", "--layer", "head.fc"], "layer 'head.fc': its output is no map"),
        (["--out", "x.html", "--run", "other"], "other: no run (no config.json in it)"),
    ],
)
def test_a_mistake_is_one_line(trained, pack_folder, more, message):
    result = explain(trained, pack_folder, *more)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"error: {message}"), result.stderr
    assert not (trained / "x.html").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--out", "x.html", "--findings", ""], "--findings '': names with commas between them"),
        (["--out", "x.html", "--findings", "Edema,"], "--findings 'Edema,': names with commas between them"),
        (["--out", "x.pdf"], "--out x.pdf: the page is a .html, or a folder"),
    ],
)
def test_wrong_usage_leaves_nothing(trained, pack_folder, more, message):
    result = explain(trained, pack_folder, *more)
    assert result.returncode == 2 and f"Error: {message}" in result.stderr, result.stderr
    assert not (trained / "x.html").exists() and not (trained / "x.pdf").exists()
