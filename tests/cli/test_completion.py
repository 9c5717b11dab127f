"""Shell completion through the console entry, and in a real bash."""

import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest

from tests.cli.cli import call, environment, run


@pytest.fixture(scope="module")
def bin_folder(tmp_path_factory):
    """A `cxrdali` as pip writes it."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "cxrdali"
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom cli.main import main\nsys.exit(main())\n")
    script.chmod(0o755)
    return folder


def with_path(folder, **variables) -> dict[str, str]:
    return environment(PATH=f"{folder}:{os.environ['PATH']}", **variables)


def complete(folder, words: str, number: int) -> subprocess.CompletedProcess:
    variables = {"COMP_WORDS": words, "COMP_CWORD": str(number), "_CXRDALI_COMPLETE": "bash_complete"}
    return subprocess.run(
        [folder / "cxrdali"], env=with_path(folder, **variables), capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    "words, number, expected",
    [
        ("cxrdali tr", 1, ["plain,train"]),
        ("cxrdali do", 1, ["plain,doctor"]),
        ("cxrdali train --de", 2, ["plain,--device", "plain,--decode"]),
        ("cxrdali train --decode h", 3, ["plain,hybrid"]),
        ("cxrdali predict --split ", 3, ["plain,val", "plain,train", "plain,dev", "plain,test", "plain,all"]),
        ("cxrdali train --data da", 3, ["dir,da"]),
        ("cxrdali verify da", 2, ["dir,da"]),
        ("cxrdali train --out ru", 3, ["dir,ru"]),
        ("cxrdali evaluate te", 2, ["file,te"]),
        ("cxrdali completion f", 2, ["plain,fish"]),
        ("cxrdali nonsense ", 2, None),
    ],
)
def test_verbs_options_choices_and_folders(bin_folder, words, number, expected):
    done = complete(bin_folder, words, number)
    assert (done.returncode, done.stderr) == (0, "")
    if expected is not None:
        assert done.stdout.splitlines() == expected


def test_every_verb_is_offered(bin_folder):
    from cli.main import VERBS

    said = complete(bin_folder, "cxrdali ", 1).stdout.split()
    assert said == [f"plain,{verb}" for verb in VERBS]


def test_no_verb_imports_torch_or_dali_to_be_completed():
    from cli.main import VERBS

    code = f"""
import sys
from cli.main import cxrdali
from click.shell_completion import ShellComplete
for verb in {VERBS!r}:
    ShellComplete(cxrdali, {{}}, "cxrdali", "_CXRDALI_COMPLETE").get_completions([verb], "--")
print([name for name in ("torch", "nvidia.dali", "pandas", "cv2") if name in sys.modules])
"""
    said = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "shell, line",
    [("bash", "complete -o nosort"), ("zsh", "#compdef cxrdali"), ("fish", "complete --no-files --command cxrdali")],
)
def test_the_script_is_that_of_the_shell_and_of_cxrdali(tmp_path, shell, line):
    done = call("completion", shell, cwd=tmp_path)
    assert done.returncode == 0 and line in done.stdout and f"_CXRDALI_COMPLETE={shell}_complete" in done.stdout
    by_itself = run("completion", cwd=tmp_path, SHELL=f"/usr/bin/{shell}")
    assert (by_itself.returncode, by_itself.stdout) == (0, done.stdout)


def test_an_unknown_shell_is_wrong_usage(tmp_path):
    assert call("completion", "tcsh", cwd=tmp_path).returncode == 2
    done = run("completion", cwd=tmp_path, SHELL="/bin/tcsh")
    assert done.returncode == 2 and "'/bin/tcsh': name one of bash, zsh, fish" in done.stderr and done.stdout == ""


def test_the_help_tells_the_line_for_each_shell(tmp_path):
    text = call("completion", "--help", cwd=tmp_path).stdout
    for line in ("~/.bashrc", 'eval "$(cxrdali completion bash)"', "~/.zshrc", "cxrdali completion fish | source"):
        assert line in text


def test_bash_completes_verbs_options_and_folders_as_typed(bin_folder, tmp_path):
    """Real bash on a terminal, with the line of the help; TAB is sent, what readline puts on the line is read."""
    (tmp_path / "folder-of-shards").mkdir()
    (tmp_path / "folder-is-a-file").write_text("")
    main, other = pty.openpty()
    env = with_path(bin_folder, PS1="READY> ", TERM="dumb", INPUTRC="/dev/null", HOME=str(tmp_path))
    bash = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"], stdin=other, stdout=other, stderr=other, cwd=tmp_path, env=env,
        start_new_session=True,
    )  # fmt: skip
    os.close(other)

    def read_until(pattern: str) -> None:
        seen, end = "", time.monotonic() + 30
        while not re.search(pattern, seen):
            assert select.select([main], [], [], max(0, end - time.monotonic()))[0], f"{pattern!r} not in {seen!r}"
            seen += os.read(main, 4096).decode()

    try:
        read_until("READY> ")
        os.write(main, b'eval "$(cxrdali completion bash)"; echo do""ne\n')
        read_until(r"done\r?\nREADY> ")
        for typed, expected in (
            (b"cxrdali eval\t", "cxrdali evaluate "),
            (b"cxrdali train --micro\t", "--micro-batch "),
            (b"cxrdali train --decode hy\t", "--decode hybrid "),
            (b"cxrdali train --data fol\t", "--data folder-of-shards/"),  # the file is no folder
            (b"cxrdali verify fol\t", "verify folder-of-shards/"),
        ):
            os.write(main, typed)
            read_until(re.escape(expected))
            os.write(main, b"\x15")  # clears the line
    finally:
        bash.kill()
        bash.wait()
        os.close(main)
