"""Checks of Python, the platform and the installed packages."""

import importlib
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distributions, requires, version

from cxrdali.data.pipeline import WHEELS
from cxrdali.doctor.check import Check, dotted, first_line, note, ok, wrong
from cxrdali.runtime.compiler import missing_compiler

PYTHONS = ((3, 11), (3, 14))  # from, below: setup.cfg's python_requires
OPENCV_WHEELS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")


def python_check(found: tuple[int, int], text: str) -> Check:
    lowest, below = PYTHONS
    if lowest <= found < below:
        return ok("Python", text)
    wanted = f"{lowest[0]}.{lowest[1]} to {below[0]}.{below[1] - 1}"
    return wrong("Python", f"{text}, not {wanted}", f"make a virtual environment with Python {wanted}")


def platform_check(system: str, machine: str) -> Check:
    if (system, machine) == ("linux", "x86_64"):
        return ok("platform", "Linux x86-64")
    return wrong("platform", f"{system} {machine}", "use Linux on x86-64: DALI's wheels are built for it")


def requires_of(package: str) -> list[str]:
    """Names of the packages that an installed one needs, without extras; none if it is not installed."""
    try:
        needed = requires(package) or []
    except PackageNotFoundError:
        return []
    return [re.match(r"[\w.-]+", line)[0] for line in needed if "extra ==" not in line]


def installed(names: Iterable[str]) -> list[str]:
    """Those of the distributions that are installed, in the order given."""
    found = {(one.metadata["Name"] or "").lower().replace("_", "-") for one in distributions()}
    return [name for name in names if name.lower().replace("_", "-") in found]


def packages_check(needed: list[str], wheels: list[str]) -> Check:
    """DALI and torch have lines of their own."""
    if not needed:
        return note("packages", "cxrdali is not installed here, its requirements are unknown")
    needed = [name for name in needed if name not in (*WHEELS, "torch")]
    missing = [name for name in needed if name not in installed(needed)]
    if missing:
        return wrong("packages", f"not installed: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return ok("packages", f"cxrdali {version('cxrdali')} and the {len(needed)} that it needs")


def try_import(name: str):
    """(module, "") or (None, why not)."""
    try:
        return importlib.import_module(name), ""
    except (ImportError, OSError) as error:  # OSError: a shared library that it loads is missing or damaged
        return None, first_line(error)


def torch_check(text: str | None, cuda: str | None, error: str, driver: tuple[int, int] | None) -> Check:
    """text: torch's version, None if it cannot be imported; cuda: what it is built for, None for the CPU only."""
    if text is None:
        return wrong("torch", f"cannot be imported ({error})", "pip install --force-reinstall torch")
    if cuda is None and driver is not None:
        return wrong(
            "torch",
            f"{text}, built for the CPU only, beside a CUDA {dotted(driver)} driver",
            f"install torch for CUDA {driver[0]}: https://pytorch.org/get-started/locally",
        )
    return ok("torch", f"{text}, built for {f'CUDA {cuda}' if cuda else 'the CPU only'}")


def simplejpeg_check() -> Check:
    """A damaged JPEG must raise, or packing and training would take its gray rest for a radiograph."""
    fix = "pip install --force-reinstall simplejpeg"
    module, error = try_import("simplejpeg")
    if module is None:
        return wrong("simplejpeg", f"cannot be imported ({error})", fix)
    import numpy as np

    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 1), dtype=np.uint8)
    whole = module.encode_jpeg(noise, 95, "GRAY")
    text = version("simplejpeg")
    try:
        module.decode_jpeg(whole, "GRAY", strict=True)
    except ValueError as error:
        return wrong("simplejpeg", f"{text} refuses a whole JPEG ({first_line(error)})", fix)
    try:
        module.decode_jpeg(whole[: len(whole) // 2], "GRAY", strict=True)
    except ValueError:
        return ok("simplejpeg", f"{text}, refuses a truncated JPEG")
    return wrong("simplejpeg", f"{text} decodes a truncated JPEG without an error", fix)


def opencv_check(wheels: list[str]) -> Check:
    if len(wheels) > 1:
        return wrong(
            "OpenCV",
            f"{' and '.join(wheels)} are installed and overwrite each other",
            f"pip uninstall -y {' '.join(wheels)} && pip install opencv-python-headless",
        )
    fix = "pip install --force-reinstall opencv-python-headless"
    module, error = try_import("cv2")
    if module is None:
        return wrong("OpenCV", f"cannot be imported ({error})", fix)
    import numpy as np

    image = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    done, data = module.imencode(".png", image)
    back = module.imdecode(data, module.IMREAD_UNCHANGED) if done else None
    if back is None or back.dtype != image.dtype or not np.array_equal(back, image):
        return wrong("OpenCV", f"{module.__version__} changes the pixels of a 16-bit PNG", fix)
    return ok("OpenCV", f"{module.__version__}, keeps 16-bit PNG")


def compiler_check(device: str) -> Check:
    """For --compile alone, so its absence is a note. device: "cpu" or "cuda"."""
    if lacking := missing_compiler(device):
        return note("compiler", f"--compile needs {lacking[0]}", lacking[1])
    return ok("compiler", "there, for --compile")
