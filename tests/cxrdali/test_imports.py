import subprocess
import sys

import pytest

LEAN = ("cxrdali.data.order", "cxrdali.data.augment", "cxrdali.report.dataset", "cxrdali.report.dataset.page")


@pytest.mark.parametrize(
    "module", [*LEAN, "shards.packing.plan", "shards.packing.pack", "shards.packing.attach", "cli.main"]
)
def test_planning_packing_and_looking_import_neither_torch_nor_dali(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'nvidia.dali') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["shards.packing.make_shard", "cxrdali.runs.reader"])
def test_a_packing_worker_and_the_reader_of_runs_import_no_pandas(module):
    """It would take longer to load than 20 images take to pack."""
    code = f"import sys, {module}; print([m for m in ('pandas', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_who_loads_raw_images_waits_for_numba():
    code = "import sys, cxrdali.data.loader; print([m for m in ('numba', 'llvmlite') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
