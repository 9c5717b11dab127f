import sys

import pytest

from cxrdali.data import pipeline as dali
from shards.errors import UserError


def test_the_installed_dali_loads():
    pipeline_def, fn, types = dali.load()
    assert callable(pipeline_def) and fn.external_source and types.UINT8 is not None


def test_both_wheels_together_are_refused_with_the_command_that_mends_it(monkeypatch):
    monkeypatch.setattr(dali, "version", lambda name: "2.4.0")
    with pytest.raises(UserError, match="both installed.*pip uninstall -y nvidia-dali-cuda130 nvidia-dali-cuda120"):
        dali.load()


def test_a_missing_dali_names_both_wheels(monkeypatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(UserError, match="pip install nvidia-dali-cuda130 .*nvidia-dali-cuda120 for CUDA 12"):
        dali.load()
