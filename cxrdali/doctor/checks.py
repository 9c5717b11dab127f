"""Whether this machine can pack and train, and how to fix what is wrong.

Facts come in as arguments, so that every decision is a pure function; `checks` gathers them. Torch, DALI and the
image libraries are imported inside: a broken one then is a line of the table too.
"""

import os
import platform
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from cxrdali.data.pipeline import WHEELS
from cxrdali.doctor.check import Check
from cxrdali.doctor.gpu import dali_check, driver_check, driver_version, gpu_checks
from cxrdali.doctor.machine import cores_check, dataset_checks, disk_check, folder_check, memory_check
from cxrdali.doctor.software import (
    OPENCV_WHEELS,
    installed,
    opencv_check,
    packages_check,
    platform_check,
    python_check,
    requires_of,
    simplejpeg_check,
    torch_check,
    try_import,
)
from cxrdali.runtime.limits import cores, memory_available


def checks(data: Path, data_required: bool, runs: Path, copies: Path | None = None) -> Iterator[Check]:
    """Every check of this machine. data: packed dataset, whose absence is wrong only if it is required; copies: where
    one in a bucket is copied to."""
    yield python_check(sys.version_info[:2], platform.python_version())
    system = platform_check(sys.platform, platform.machine())
    yield system
    if system.state == "wrong":
        return  # what follows asks Linux
    driver = driver_version()
    wheels = installed(WHEELS)
    torch, error = try_import("torch")
    torch_cuda = torch.version.cuda if torch else None
    memory, limit = memory_available()
    yield packages_check(requires_of("cxrdali"), wheels)
    yield torch_check(torch and torch.__version__, torch_cuda, error, driver)
    yield dali_check(wheels, None)
    yield driver_check(driver, torch_cuda, wheels)
    yield from gpu_checks(torch, driver, wheels)
    yield cores_check(cores(), os.cpu_count())
    yield memory_check(memory, limit)
    yield simplejpeg_check()
    yield opencv_check(installed(OPENCV_WHEELS))
    yield folder_check(runs)
    yield disk_check(copies or data)
    yield from dataset_checks(data, data_required, memory, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
