"""Whether this machine can pack and train, and how to fix what is wrong.

Facts come in as arguments, so that every decision is a pure function; `checks` gathers them. Torch, DALI and the
image libraries are imported inside: a broken one then is a line of the table too.
"""

import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from cxrdali.data.pipeline import WHEELS
from cxrdali.doctor import gpu, machine, software
from cxrdali.doctor.check import Check, bounded
from cxrdali.runtime.driver import driver_version
from cxrdali.runtime.limits import cores, memory_available


def checks(data: Path, data_required: bool, runs: Path, copies: Path | None = None) -> Iterator[Check]:
    """Every check of this machine. data: packed dataset, whose absence is wrong only if it is required; copies: where
    one in a bucket is copied to."""
    yield software.python_check(sys.version_info[:2], platform.python_version())
    system = software.platform_check(sys.platform, platform.machine())
    yield system
    if system.state == "wrong":
        return  # what follows asks Linux
    driver = driver_version()
    wheels = software.installed(WHEELS)
    torch, error = software.try_import("torch")
    torch_cuda = torch.version.cuda if torch else None
    memory, limit = memory_available()
    yield software.packages_check(software.requires_of("cxrdali"), wheels)
    yield software.torch_check(torch and torch.__version__, torch_cuda, error, driver)
    yield from bounded("DALI", lambda: [gpu.dali_check(wheels, None)])
    yield gpu.driver_check(driver, torch_cuda, wheels)
    found = bounded("GPU", lambda: gpu.gpu_checks(torch, wheels))
    yield from found
    yield software.compiler_check("cuda" if any(each.name == "GPU 0" for each in found) else "cpu")
    yield machine.cores_check(cores(), os.cpu_count())
    yield machine.memory_check(memory, limit)
    yield software.simplejpeg_check()
    yield software.opencv_check(software.installed(software.OPENCV_WHEELS))
    yield from bounded("run folders", lambda: [machine.folder_check(runs), machine.disk_check(copies or data)])
    yield from bounded("packed dataset", lambda: machine.dataset_checks(data, data_required, memory))
