"""Environments of their own for the peers that need one: `python -m benchmarks.peers --install DIR`.

An environment sees this interpreter's packages behind its own (torch is 5 GB), so that a peer gets others only where
it asks for them. What a peer needs of the system is named in benchmarks/README.md.
"""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

# Environment -> what pip is given, line by line.
ENVIRONMENTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "litdata": (("litdata",),),
    "streaming": (("mosaicml-streaming",),),
    "spdl": (("spdl",),),
    "ffcv": (("setuptools", "wheel"), ("--no-build-isolation", "ffcv==1.0.2")),
}
NAMES = {"streaming": "mosaicml-streaming"}  # of packages, where they are not the environments'


def install(folder: Path) -> None:
    """Make every environment under `folder` anew, and say of each what came of it."""
    for name, steps in ENVIRONMENTS.items():
        print(f"{name} ...", flush=True)
        home = folder.absolute() / name
        venv.EnvBuilder(clear=True, with_pip=True).create(home)
        own = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
        (own / "shared.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        for step in steps:
            command = [python_of(folder, name), "-m", "pip", "install", "--disable-pip-version-check", *step]
            done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
            if done.returncode:
                _failed(folder, name).write_text(reason(done.stderr or done.stdout))
                break
        version, why = state(folder, name)
        print(f"{name} {version}" if version else f"{name}: not installed: {why}", flush=True)


def state(folder: Path | None, name: str) -> tuple[str | None, str | None]:
    """The peer's version, or why it cannot be measured."""
    if folder is None:
        return None, "no --envs was given"
    if not (folder / name).is_dir():
        return None, f"{folder} has no {name}: python -m benchmarks.peers --install {folder}"
    if _failed(folder, name).exists():
        return None, f"pip: {_failed(folder, name).read_text()}"
    question = f"import {name}, importlib.metadata as m; print(m.version({NAMES.get(name, name)!r}))"
    try:
        done = subprocess.run(
            [python_of(folder, name), "-c", question], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    except OSError as error:
        return None, f"{error.filename} does not start: {error.strerror}"
    return (None, reason(done.stderr)) if done.returncode else (done.stdout.split()[-1], None)


def python_of(folder: Path | None, name: str | None) -> str:
    """The interpreter of an environment; this one's for none."""
    return str(folder.absolute() / name / "bin" / "python") if folder and name else sys.executable


def reason(text: str) -> str:
    """The line that says what went wrong: pip's last ERROR, else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["it ended without a word"])[-1]


def _failed(folder: Path, name: str) -> Path:
    return folder / name / "why-not.txt"
