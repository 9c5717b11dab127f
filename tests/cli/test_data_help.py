"""--help of the commands on data answers at once, as it imports nothing heavy."""

import resource
import subprocess
import sys

import pytest

from tests.cli.cli import ROOT

HEAVY = {"torch", "torchvision", "timm", "sklearn", "pandas", "pyarrow", "cv2"}
SCRIPT = """
import sys
from cli.main import cxrdali

cxrdali({arguments!r}, standalone_mode=False)
print(*sorted({heavy!r} & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize("command", ["shard", "label", "verify", "synth"])
def test_help_imports_nothing_heavy_and_takes_less_than_a_second(command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    script = SCRIPT.format(arguments=[command, "--help"], heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "Usage: " in done.stdout and done.stderr.strip() == ""
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
