import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["cxrdali.order", "cxrdali.augment", "shards.plan", "shards.pack", "cli.main"])
def test_planning_and_packing_import_neither_torch_nor_dali(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'nvidia.dali') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
