import subprocess
import sys

import pytest

LEAN = ("cxrdali.order", "cxrdali.augment", "cxrdali.inspect", "cxrdali.inspect.write")


@pytest.mark.parametrize("module", [*LEAN, "shards.plan", "shards.pack", "shards.label", "cli.main"])
def test_planning_packing_and_looking_import_neither_torch_nor_dali(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'nvidia.dali') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_packing_worker_imports_no_pandas():
    """It would take longer to load than 20 images take to pack."""
    code = "import sys, shards.make_shard; print([m for m in ('pandas', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
