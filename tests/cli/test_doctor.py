"""The doctor in a process of its own, on this machine and on broken ones."""

import json

import pytest

from tests.cli.cli import ROOT, call, run

pytestmark = pytest.mark.slow


@pytest.fixture
def broken(tmp_path):
    """A folder for PYTHONPATH, filled by the test, in front of the installed packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    return folder


def named(done) -> dict[str, dict]:
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def paths(folder) -> str:
    return f"{folder}:{ROOT}"


def test_this_machine_is_ready(pack_folder, tmp_path):
    done = run("doctor", "--data", pack_folder, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "ready" and "Traceback" not in done.stderr
    columns = {line[:18].strip(): line[19:25].strip() for line in lines[:-1] if line[:18].strip()}
    assert columns["DALI"] == columns["torch"] == columns["simplejpeg"] == columns["48 px"] == "ok"
    assert set(columns.values()) <= {"ok", "note"}
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_is_followed_by_its_fix_and_counted(tmp_path):
    done = call("doctor", "--data", "nowhere", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-3:] == [
        "packed dataset     wrong  nowhere: no packed dataset",
        "                     fix  run `cxrdali shard` first",
        "1 thing to fix",
    ]


def test_json_is_the_same_checks(tmp_path):
    done = call("doctor", "--json", "--data", "nowhere", cwd=tmp_path)
    said = json.loads(done.stdout)
    assert done.returncode == 1 and said["ready"] is False
    assert [c["name"] for c in said["checks"] if c["state"] == "wrong"] == ["packed dataset"]
    done = call("doctor", "--json", cwd=tmp_path)  # no dataset yet, and none was named
    assert done.returncode == 0 and json.loads(done.stdout)["ready"] is True


def test_a_torch_that_cannot_be_loaded_is_a_line_not_a_crash(broken, tmp_path):
    (broken / "torch.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')")
    done = run("doctor", "--json", cwd=tmp_path, PYTHONPATH=paths(broken))
    checks = named(done)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "libcudart.so.13: cannot open" in checks["torch"]["found"]
    assert checks["GPU"]["found"] == "not looked for: torch cannot be imported"
    assert checks["DALI"]["state"] == checks["OpenCV"]["state"] == "ok"


@pytest.mark.parametrize("error", ["ImportError", "OSError"])
def test_a_dali_that_cannot_be_loaded_is_a_line_not_a_crash(broken, tmp_path, error):
    (broken / "nvidia").mkdir()
    (broken / "nvidia" / "__init__.py").write_text("")
    (broken / "nvidia" / "dali.py").write_text(f"raise {error}('libdali.so: wrong ELF class')")
    done = run("doctor", "--json", cwd=tmp_path, PYTHONPATH=paths(broken))
    check = named(done)["DALI"]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert check["state"] == "wrong" and "libdali.so: wrong ELF class" in check["found"]
    assert "pip install" in check["fix"]


def test_both_dali_wheels_are_wrong(broken, tmp_path):
    for name in ("nvidia_dali_cuda120", "nvidia_dali_cuda130"):
        info = broken / f"{name}-2.4.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 2.4.0\n")
    check = named(run("doctor", "--json", cwd=tmp_path, PYTHONPATH=paths(broken)))["DALI"]
    assert check["state"] == "wrong" and "both installed" in check["found"]
    assert check["fix"].startswith("pip uninstall -y nvidia-dali-cuda130 nvidia-dali-cuda120")
