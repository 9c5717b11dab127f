"""What `cxrdali train` imports before its first step, and how."""

import gc
import subprocess
import sys

import pytest

from cli.options.imports import quick_imports

LATER = ("sklearn", "scipy", "matplotlib", "captum", "tensorboard", "numba")  # needed after an epoch, or never


def test_the_collector_works_again_afterwards_also_after_an_import_that_fails():
    with quick_imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ModuleNotFoundError), quick_imports():
        import there_is_no_such_module  # noqa: F401
    assert gc.isenabled()


def test_the_trainer_waits_for_nothing_that_a_first_step_does_not_need():
    code = f"import cxrdali.train.trainer, sys; print([name for name in {LATER} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
