"""The one place that imports DALI, so that a wrong installation ends in a sentence and not in a traceback."""

from importlib.metadata import PackageNotFoundError, version

from shards.errors import DataError

WHEELS = ("nvidia-dali-cuda130", "nvidia-dali-cuda120")


def load():
    """The modules (pipeline_def, fn, types) of NVIDIA DALI. Raises DataError with the command that fixes it."""
    found = [name for name in WHEELS if _installed(name)]
    if len(found) > 1:  # both write the folder nvidia/dali: the second one overwrote half of the first
        raise DataError(
            f"{' and '.join(found)} are both installed and overwrite each other; "
            f"pip uninstall -y {' '.join(found)}, then pip install one of them (cuda130 for CUDA 13 drivers)"
        )
    try:
        from nvidia.dali import fn, pipeline_def, types
    except ImportError as error:
        raise DataError(
            f"NVIDIA DALI cannot be imported ({error}); pip install {WHEELS[0]} (CUDA 13, or no GPU), "
            f"or {WHEELS[1]} for CUDA 12 drivers"
        ) from error
    return pipeline_def, fn, types


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True
