"""What an installation brings: for CUDA 13 or 12, and for the demo or the tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
FILES = ("setup.cfg", "setup.py", "pyproject.toml", "README.md", "LICENSE", "Makefile", "shards/__init__.py")
SCRIPT = "import sys; from setuptools import build_meta; build_meta.prepare_metadata_for_build_wheel(sys.argv[1])"


@pytest.fixture
def source(tmp_path):
    """What pip reads of the repository."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def built(source, cuda: str | None) -> subprocess.CompletedProcess:
    variables = {name: value for name, value in os.environ.items() if name not in ("CXRDALI_CUDA", "PYTHONPATH")}
    (source / "built").mkdir(exist_ok=True)
    variables |= {} if cuda is None else {"CXRDALI_CUDA": cuda}
    return subprocess.run([sys.executable, "-c", SCRIPT, "built"], cwd=source, env=variables, capture_output=True,
                          text=True)  # fmt: skip


def needed(source, cuda: str | None) -> dict[str, str]:
    """{name: versions} of what is installed without extras."""
    done = built(source, cuda)
    assert done.returncode == 0, done.stderr
    (file,) = source.glob("built/*.dist-info/METADATA")
    lines = [line.partition(": ")[2] for line in file.read_text().splitlines() if line.startswith("Requires-Dist: ")]
    found = [Requirement(line) for line in lines]
    return {each.name: str(each.specifier) for each in found if each.marker is None}


def test_one_variable_chooses_torch_and_dali_for_cuda_12(source):
    usual = needed(source, None)
    assert usual["nvidia-dali-cuda130"] == "<3,>=2.0" and usual["torch"] == ">=2.6"
    assert needed(source, "13") == usual
    other = needed(source, "12")
    changed = {name for name in usual.keys() | other.keys() if usual.get(name) != other.get(name)}
    assert changed == {"nvidia-dali-cuda130", "nvidia-dali-cuda120", "torch", "torchvision"}
    assert "nvidia-dali-cuda130" not in other and other["nvidia-dali-cuda120"] == usual["nvidia-dali-cuda130"]
    assert (other["torch"], other["torchvision"]) == ("<2.11,>=2.6", "<0.26,>=0.21")


def test_another_cuda_and_changed_requirements_are_refused(source):
    refused = built(source, "11")
    assert refused.returncode != 0 and "CXRDALI_CUDA=11: 12 or 13, as the driver has" in refused.stderr
    text = (source / "setup.cfg").read_text()
    (source / "setup.cfg").write_text(text.replace("torch>=2.6\n", "torch>=2.7\n"))
    refused = built(source, "12")
    assert refused.returncode != 0 and "setup.cfg does not need torch>=2.6; correct setup.py" in refused.stderr


def test_the_demo_does_not_install_what_only_tests_need(source):
    def lines(target):
        return subprocess.run(["make", "-n", target], cwd=source, capture_output=True, text=True, check=True).stdout

    assert "pip install --progress-bar off -e .\n" in lines("demo") and "[test]" not in lines("demo")
    assert "-e '.[test]'" in lines("test-fast")
