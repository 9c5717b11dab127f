"""The decisions of `cxrdali doctor` on facts given, and its probes on real files and libraries."""

import configparser
import os
import shutil
import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch

from cxrdali.doctor import gpu, machine, software
from cxrdali.doctor.check import Check, bounded
from cxrdali.runtime import limits
from cxrdali.runtime.driver import GpuFacts, driver_version

BOTH = ["nvidia-dali-cuda130", "nvidia-dali-cuda120"]


@pytest.mark.parametrize("found, state", [((3, 10), "wrong"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "wrong")])
def test_python_is_measured_against_what_setup_cfg_asks(found, state):
    check = software.python_check(found, ".".join(map(str, found)))
    assert check.state == state
    assert state == "ok" or "Python 3.11 to 3.13" in check.fix


def test_the_python_versions_are_those_of_setup_cfg():
    config = configparser.ConfigParser()
    config.read(Path(__file__).resolve().parents[3] / "setup.cfg")
    (low, below) = software.PYTHONS
    assert config["options"]["python_requires"] == f">={low[0]}.{low[1]},<{below[0]}.{below[1]}"


@pytest.mark.parametrize("system, machine", [("darwin", "x86_64"), ("linux", "aarch64"), ("win32", "AMD64")])
def test_only_linux_on_x86_64_is_ready(system, machine):
    assert software.platform_check("linux", "x86_64").state == "ok"
    check = software.platform_check(system, machine)
    assert check.state == "wrong" and system in check.found and machine in check.found


def test_a_missing_package_is_named_with_its_command():
    check = software.packages_check(["numpy", "no-such-package", "torch", *BOTH], [])
    assert (check.state, check.found) == ("wrong", "not installed: no-such-package")
    assert check.fix == "pip install no-such-package"
    assert software.packages_check(["numpy", "scikit_learn"], []).state == "ok"
    assert software.packages_check([], []).state == "note"


def test_requirements_leave_out_the_extras():
    needed = software.requires_of("cxrdali")
    assert "numpy" in needed and "nvidia-dali-cuda130" in needed and "pytest" not in needed
    assert software.requires_of("no-such-package") == []


# ---------------------------------------------------------------- driver, torch, GPUs


@pytest.mark.parametrize(
    "driver, torch_cuda, wheels, state, words",
    [
        (None, "13.0", BOTH[:1], "note", []),
        ((13, 0), "13.0", BOTH[:1], "ok", []),
        ((13, 2), "12.6", BOTH[1:], "ok", []),  # a newer driver runs what is older
        ((12, 4), "12.8", BOTH[1:], "ok", []),  # within a major version
        ((12, 4), "12.6", BOTH[:1], "wrong", ["pip uninstall nvidia-dali-cuda130 && pip install nvidia-dali-cuda120"]),
        ((12, 4), None, BOTH[:1], "wrong", ["pip uninstall nvidia-dali-cuda130 && pip install nvidia-dali-cuda120"]),
        ((12, 4), "13.0", BOTH[1:], "wrong", ["install torch for CUDA 12"]),
        ((12, 4), "13.0", BOTH[:1], "wrong", ["install torch for CUDA 12", "pip uninstall nvidia-dali-cuda130 &&"]),
        ((11, 8), "12.6", BOTH[1:], "wrong", ["install a newer NVIDIA driver"]),
    ],
)
def test_the_driver_must_run_what_torch_and_dali_are_built_for(driver, torch_cuda, wheels, state, words):
    check = gpu.driver_check(driver, torch_cuda, wheels)
    assert check.state == state
    for word in words:
        assert word in check.fix


def test_only_what_is_too_new_is_exchanged():
    check = gpu.driver_check((12, 4), "12.6", BOTH[:1])
    assert check.found == "for CUDA 12.4, but nvidia-dali-cuda130 is built for 13.0"
    assert "install torch" not in check.fix
    assert "pip uninstall nvidia-dali" not in gpu.driver_check((12, 4), "13.0", BOTH[1:]).fix
    assert "pip install" not in gpu.driver_check((12, 4), "12.6", BOTH).fix  # the other one is there


def test_the_drivers_version_is_what_its_library_says(tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    for body, expected in (("*v = 12040; return 0;", (12, 4)), ("return 100;", None)):
        source, library = tmp_path / "cuda.c", tmp_path / f"libcuda{expected is None}.so.1"
        source.write_text(f"int cuDriverGetVersion(int *v) {{ {body} }}")
        subprocess.run([compiler, "-shared", "-fPIC", source, "-o", library], check=True)
        assert driver_version(str(library)) == expected


def test_no_driver_library_or_a_strange_one_is_no_driver(tmp_path):
    assert driver_version(str(tmp_path / "libcuda.so.1")) is None
    assert driver_version("libc.so.6") is None


def test_torch_for_the_cpu_is_wrong_only_beside_a_driver():
    assert software.torch_check("2.6.0+cpu", None, "", None).state == "ok"
    check = software.torch_check("2.6.0+cpu", None, "", (12, 4))
    assert check.state == "wrong" and "install torch for CUDA 12" in check.fix
    check = software.torch_check(None, None, "libcudart.so.13: cannot open", None)
    assert check.state == "wrong" and "libcudart.so.13: cannot open" in check.found


def test_no_gpu_is_a_note_that_says_why_and_one_that_a_run_would_refuse_is_wrong():
    check = gpu.no_gpu_check(GpuFacts("13.0"))
    assert (check.state, check.found) == ("note", "none; trains on the CPU, slowly")
    check = gpu.no_gpu_check(GpuFacts("13.0", (13, 0), kernel=True, visible=""))
    assert (check.state, check.fix) == ("note", "unset CUDA_VISIBLE_DEVICES")
    assert check.found == "none (CUDA_VISIBLE_DEVICES='' hides the GPUs); trains on the CPU, slowly"
    check = gpu.no_gpu_check(GpuFacts("13.0", (12, 4), kernel=True))
    assert (check.state, check.found) == ("wrong", "its driver is for CUDA 12.4, torch is built for 13.0")
    assert check.fix.endswith("or give --device cpu")
    (check,) = gpu.gpu_checks(None, BOTH)
    assert (check.state, check.found) == ("note", "not looked for: torch cannot be imported")


def test_a_gpu_that_cannot_decode_is_a_note():
    check = gpu.mixed_check(0)
    if torch.cuda.is_available():
        assert check.state == "ok"
    else:
        assert (
            check.state == "note"
            and check.fix == "use --decode cpu or hybrid"
            and "does not work here (" in check.found
        )


def test_a_check_that_hangs_or_raises_is_wrong_and_keeps_what_it_found_before():
    ended = threading.Event()

    def hangs():
        yield Check("one", "ok", "there")
        ended.wait(20)
        yield Check("two", "ok", "there")

    found = bounded("GPU", hangs, seconds=0.2)
    ended.set()
    assert [(each.name, each.state) for each in found] == [("one", "ok"), ("GPU", "wrong")]
    assert found[1].found == "no answer in 0.2 s"

    def raises():
        yield Check("one", "ok", "there")
        raise KeyError("sm_42")

    found = bounded("GPU", raises)
    assert [(each.name, each.state) for each in found] == [("one", "ok"), ("GPU", "wrong")]
    assert "sm_42" in found[1].found


# ---------------------------------------------------------------- DALI and the image libraries, the real ones


def test_the_installed_dali_decodes():
    wheels = software.installed(BOTH)
    check = gpu.dali_check(wheels, None)
    assert check.state == "ok" and wheels[0] in check.found, check


def test_pixels_that_dali_changed_are_noticed(monkeypatch):
    from cxrdali.data import pipeline

    build = pipeline.build

    def inverted(spec, source):
        def other():
            image = 255 - simplejpeg.decode_jpeg(bytes(source()[0]), "GRAY")
            return [np.frombuffer(simplejpeg.encode_jpeg(image, 95, "GRAY"), np.uint8)]

        return build(spec, other)

    assert gpu.decode_one(None) == ""
    monkeypatch.setattr(pipeline, "build", inverted)
    assert "of 255 off" in gpu.decode_one(None)
    check = gpu.dali_check(BOTH[:1], None)
    assert check.state == "wrong" and "force-reinstall nvidia-dali-cuda130" in check.fix


def test_a_simplejpeg_that_takes_half_a_file_is_wrong(monkeypatch):
    assert software.simplejpeg_check().state == "ok"
    strict = simplejpeg.decode_jpeg
    lax = types.SimpleNamespace(
        encode_jpeg=simplejpeg.encode_jpeg,
        decode_jpeg=lambda data, space, **_: strict(data, space, strict=False),
    )
    monkeypatch.setitem(sys.modules, "simplejpeg", lax)
    check = software.simplejpeg_check()
    assert check.state == "wrong" and "truncated" in check.found


def test_two_opencv_wheels_are_wrong_and_one_keeps_16_bits(monkeypatch):
    check = software.opencv_check(["opencv-python", "opencv-python-headless"])
    assert check.state == "wrong" and "pip install opencv-python-headless" in check.fix
    assert software.opencv_check(["opencv-python-headless"]).state == "ok"
    import cv2

    eight = types.SimpleNamespace(
        __version__="0", imencode=lambda kind, image: cv2.imencode(kind, (image >> 8).astype("uint8")),
        imdecode=cv2.imdecode, IMREAD_UNCHANGED=cv2.IMREAD_UNCHANGED,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "cv2", eight)
    assert software.opencv_check([]).state == "wrong"
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert "cannot be imported" in software.opencv_check([]).found


# ---------------------------------------------------------------- cores and memory


def group(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def in_a_container(code: str, quota: str) -> str:
    """What a process prints under a quota of its control group: a file in place of the kernel's, for it alone."""
    script = f"""
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /sys/fs/cgroup
echo '{quota}' > /sys/fs/cgroup/cpu.max
exec {sys.executable} -c '{code}'
"""
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True)
    if not done.stdout and any(word in done.stderr for word in ("unshare", "mount", "No such file", "denied")):
        pytest.skip(f"no namespace of its own: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("quota, expected", [("100000 100000", 1), ("150000 100000", 2), ("max 100000", None)])
def test_the_quota_of_a_container_is_the_number_of_cores(quota, expected):
    code = "from cxrdali.runtime.limits import cores, default_threads; print(cores(), default_threads())"
    expected = min(expected or 1024, len(os.sched_getaffinity(0)))
    assert in_a_container(code, quota) == f"{expected} {min(8, 2 * expected)}"


def test_torch_has_no_more_threads_than_cores():
    code = (
        "import torch; torch.set_num_threads(7); from cxrdali.runtime.device import Hardware, share_cores; "
        'Hardware.resolve("cpu", "auto"); print(torch.get_num_threads()); share_cores(2); '
        "print(torch.get_num_threads())"
    )
    assert in_a_container(code, "200000 100000").split() == [str(min(2, len(os.sched_getaffinity(0)))), "1"]


def test_the_processes_of_a_machine_share_its_cores(monkeypatch):
    monkeypatch.setattr(limits, "cores", lambda: 6)
    assert [limits.default_threads(processes) for processes in (1, 2, 3, 4, 20)] == [8, 6, 4, 3, 1]


MEMINFO = "MemTotal:       64000000 kB\nMemFree: 1 kB\nMemAvailable:   50000000 kB\n"


@pytest.mark.parametrize(
    "lines, names",
    [
        ("0::/job\n", ("job/memory.max", "job/memory.current", "job/memory.stat", "file")),
        (
            "4:memory:/job\n",
            ("memory/job/memory.limit_in_bytes", "memory/job/memory.usage_in_bytes", "memory/job/memory.stat",
             "total_cache"),
        ),
    ],
)  # fmt: skip
def test_memory_is_what_the_group_leaves_its_page_cache_included(tmp_path, lines, names):
    member, meminfo = tmp_path / "cgroup", tmp_path / "meminfo"
    member.write_text(lines)
    meminfo.write_text(MEMINFO)
    assert limits.memory_available(tmp_path / "fs", member, meminfo) == (50_000_000 * 1024, None)
    limit, used, stat, cache = names
    group(tmp_path / "fs", {limit: "10000000000\n", used: "9000000000\n", stat: f"anon 1\n{cache} 6000000000\n"})
    assert limits.memory_available(tmp_path / "fs", member, meminfo) == (7_000_000_000, 10_000_000_000)
    group(tmp_path / "fs", {limit: "9223372036854771712\n"})
    assert limits.memory_available(tmp_path / "fs", member, meminfo) == (50_000_000 * 1024, None)


def test_the_cores_are_those_that_commands_use():
    check = machine.cores_check(4, 64)
    assert (check.state, check.found) == ("ok", "4 of 64 usable")


# ---------------------------------------------------------------- folders and the packed dataset


def test_a_folder_without_permission_is_wrong():
    code = """
import os
from pathlib import Path
from cxrdali.doctor import checks, machine
from cxrdali.runtime import limits
if os.geteuid() == 0:
    os.setgid(65534), os.setuid(65534)
check = machine.folder_check(Path("/runs"))
print(check.state, check.found)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.stdout.strip() == "wrong /: cannot be written to (Permission denied)", said


def test_a_file_where_runs_go_is_wrong_and_a_good_folder_stays_empty(tmp_path):
    (tmp_path / "runs").write_text("")
    check = machine.folder_check(tmp_path / "runs")
    assert check.state == "wrong" and "Not a directory" in check.found
    good = tmp_path / "good"
    good.mkdir()
    assert machine.folder_check(good / "runs").state == "ok" and not list(good.iterdir())


def test_sizes_are_measured_against_memory():
    check = machine.size_check(224, 4_300_000_000, 8_000_000_000)
    assert (check.name, check.state, check.found) == ("224 px", "ok", "4.3 GB, fits in memory")
    check = machine.size_check(512, 18_000_000_000, 8_000_000_000)
    assert (check.state, check.found) == ("note", "18.0 GB, larger than memory")
    assert check.fix == "`--order windowed` on slow disks"


def test_a_packed_dataset_has_a_line_per_stored_size(pack_folder):
    found = {check.name: check for check in machine.dataset_checks(pack_folder, True, 10**12)}
    assert list(found) == ["packed dataset", "48 px", "56 px", "64 px"]
    assert {check.state for check in found.values()} == {"ok"}
    assert "120 images, labels cxr-lt-2023, chexpert" in found["packed dataset"].found
    on_disk = sum(path.stat().st_size for path in (pack_folder / "56").glob("*.tar"))
    exact = {check.name: check.state for check in machine.dataset_checks(pack_folder, True, on_disk)}
    less = {check.name: check.state for check in machine.dataset_checks(pack_folder, True, on_disk - 1)}
    assert (exact["56 px"], less["56 px"]) == ("ok", "note")


def test_an_absent_dataset_is_wrong_only_when_it_was_named(tmp_path):
    for required, state in ((False, "note"), (True, "wrong")):
        check = list(machine.dataset_checks(tmp_path / "packed", required, 10**9))[-1]
        assert check.state == state and check.fix == "run `cxrdali shard` first"


def test_a_dataset_that_lost_a_shard_is_wrong_even_at_the_default_place(pack_folder, tmp_path):
    copy = tmp_path / "pack"
    shutil.copytree(pack_folder, copy)
    (copy / "48" / "000001.tar").unlink()
    check = list(machine.dataset_checks(copy, False, 10**9))[-1]
    assert check.state == "wrong" and "000001.tar: is missing" in check.found
