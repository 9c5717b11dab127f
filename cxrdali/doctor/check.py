"""What one check found."""

from dataclasses import dataclass

from cxrdali.data import pipeline as dali

STATES = ("ok", "note", "wrong")


PYTHONS = ((3, 11), (3, 14))  # from, below: setup.cfg's python_requires


OTHER_FILES = 128  # descriptors of a run beside its shards: 8 were seen on the CPU, the rest is room for a GPU's


CUDA_OF_WHEEL = {name: (int(name[-3:-1]), int(name[-1])) for name in dali.WHEELS}


OPENCV_WHEELS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, its state (ok, note: works but look, wrong), what was found, and the way out."""

    name: str
    state: str
    found: str
    fix: str = ""

    def __post_init__(self):
        assert self.state in STATES, self.state
        assert self.fix or self.state != "wrong", f"{self.name}: wrong without a way out"


def dotted(numbers: tuple[int, int]) -> str:
    return ".".join(map(str, numbers))
