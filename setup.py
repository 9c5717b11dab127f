"""What setup.cfg cannot say: packages for CUDA 12 have other names and versions. CXRDALI_CUDA=12 pip install -e ."""

import os
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

CUDA_12 = {
    "nvidia-dali-cuda130>=2.0,<3": "nvidia-dali-cuda120>=2.0,<3",
    "torch>=2.6": "torch>=2.6,<2.11",  # from 2.11 on, PyPI's is built for CUDA 13
    "torchvision>=0.21": "torchvision>=0.21,<0.26",  # of torch 2.10
}

settings = ConfigParser()
settings.read(Path(__file__).with_name("setup.cfg"))
needed = settings["options"]["install_requires"].split()
cuda = os.environ.get("CXRDALI_CUDA", "13")
if cuda not in ("12", "13"):
    raise SystemExit(f"CXRDALI_CUDA={cuda}: 12 or 13, as the driver has")
if cuda == "12":
    needed = [CUDA_12.pop(each, each) for each in needed]
    if CUDA_12:
        raise SystemExit(f"setup.cfg does not need {', '.join(CUDA_12)}; correct setup.py")
setup(install_requires=needed)
