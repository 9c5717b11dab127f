"""The commands as a user gives them on a GPU, and the tests that need one."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from benchmarks.gpu.facts import say, told
from benchmarks.gpu.work import DEVICE, MODES, ON_GPU, TINY, Work
from benchmarks.training.fed import EFFICIENTNET
from cxrdali.predict.explain import explain
from cxrdali.predict.options import ExplainOptions, PredictOptions
from cxrdali.predict.predict import predict

DATA = ("--data", "pack", "--device", DEVICE.partition(":")[0])
SMALL = (*DATA, "--stage", 1, "--size", 64, "--batch", 16, "--arch", TINY, "--no-pretrained", "--limit-batches", 3)
TERMINATED = 143  # the exit code after SIGTERM


def environment(work: Work) -> None:
    """Is the machine ready, as doctor sees it?"""
    done, _ = work.run("cli", "doctor", "--data", "pack", "--json")
    for check in json.loads(done.stdout)["checks"]:
        say(f"doctor: {check['name']}", check["state"] != "wrong", found=check["found"])


def tests(work: Work) -> None:
    """Do the tests that need a GPU pass?"""
    given = ("tests/gpu", "-rA", "-m", "slow or not slow", "-p", "no:cacheprovider", "--no-header")
    done, seconds = work.run("pytest", *given, cwd=Path(__file__).parents[2])
    found = re.findall(r"^(PASSED|FAILED|ERROR|SKIPPED) (.*)$", done.stdout, re.MULTILINE)
    for state, what in found:
        if state != "PASSED":
            say(f"a test: {what[:150]}", False if state != "SKIPPED" else None, state=state)
    passed = sum(state == "PASSED" for state, _ in found)
    say("tests pass", done.returncode == 0 if passed else None, passed=passed, seconds=seconds)


def runs(work: Work) -> None:
    """Does a run end when asked, continue, also with the other memory layout, and predict and explain?"""
    said(work, "train", *SMALL, "--epochs", 2, "--out", "whole")
    said(work, "train", *SMALL, "--epochs", 1, "--micro-batch", "auto", "--out", "searched")
    with told("a run ends when asked"):
        code, seconds = ended(work, *SMALL, "--epochs", 12, "--out", "ended")
        say("a run ends when asked", code == TERMINATED, code=code, seconds=seconds)
        for layout in ("--channels-last", "--no-channels-last"):
            shutil.copytree(work.folder / "ended", work.folder / f"ended{layout}")
            said(work, "train", *SMALL, "--epochs", 12, layout, "--out", f"ended{layout}")
    for decode in MODES:
        shown = ("--tta", "medium", "--decode", decode, "--out", f"{decode}.parquet")
        said(work, "predict", "--run", "whole", *DATA, *shown)
    said(work, "explain", "--run", "whole", *DATA, "--images", 1, "--out", "maps.html")


def said(work: Work, *command: object, **environment: str) -> str:
    """A command as a fact, with the last line that it says. Returns all that it says."""
    done, seconds = work.run("cli", *command, env=os.environ | environment)
    text = f"{done.stderr}\n{done.stdout}".replace("\r", "\n")
    last = [line.strip() for line in text.splitlines() if line.strip()][-1:]
    say(f"a command: {' '.join(map(str, command))}", done.returncode == 0, seconds=seconds, said=last)
    return text


def ended(work: Work, *given: object) -> tuple[int, float]:
    """A training that gets SIGTERM after its second epoch: its exit code, and the seconds until it ended."""
    command, log = [sys.executable, "-m", "cli", "train", *map(str, given)], work.folder / "ended.txt"
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=work.folder, stdout=file, stderr=file)
    until = time.monotonic() + 90
    while process.poll() is None and time.monotonic() < until and "epoch 2/" not in log.read_text():
        time.sleep(0.05)
    asked = time.perf_counter()
    process.send_signal(signal.SIGTERM)
    return process.wait(30), round(time.perf_counter() - asked, 2)


def predicting(work: Work) -> None:
    """How many images/s does the default network predict and explain at 224 px, in a warm process?"""
    network = ("--arch", EFFICIENTNET, "--size", 224) if ON_GPU else ("--arch", TINY, "--size", 64)
    short = ("--stage", 1, "--no-pretrained", "--batch", 8, "--epochs", 1, "--limit-batches", 1, "--out", "default")
    said(work, "train", *DATA, *network, *short)
    run, dataset, how = work.folder / "default", work.dataset(), PredictOptions(device=DEVICE, allow_leak=True)
    for name, count in (
        ("predicted, images/s", lambda: len(predict(run, dataset, "all", how).values)),
        ("explained, images/s", lambda: shown(explain(run, dataset, ExplainOptions(4), how))),
    ):
        with told(name):
            count()
            started = time.perf_counter()
            images = count()
            say(name, value=images / (time.perf_counter() - started), images=images)


def shown(explanation) -> int:
    return sum(len(each.best) + len(each.misses) + len(each.false_positives) for each in explanation.findings)


def compiled(work: Work) -> None:
    """How often does --compile compile anew, and what does auto decide?"""
    for given in (("--compile",), ("--compile", "auto")):
        limited = (*SMALL, "--epochs", 2, "--micro-batch", 8, *given, "--out", "".join(given))
        text = said(work, "train", *limited, TORCH_LOGS="recompiles")
        why = Counter(re.findall(r"tensor '\w+' size mismatch|GLOBAL_STATE changed: \w+", text))
        lines = [line for line in text.splitlines() if "compil" in line and "recompiles" not in line]
        say(" ".join(given), recompiled=why, said=lines[-3:])
