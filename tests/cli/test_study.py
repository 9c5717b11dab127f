"""`cxrdali study` as a user calls it: mistakes are one line with the line of the file, and nothing is started."""

import pytest

from tests.cli.cli import call

RUN = """[runs.net]
recipe = "model0"
model = { arch = "test_efficientnet", pretrained = false }
data.size = 48
optimizer.batch = 8
"""
CASES = [
    (RUN + "grid = { seed = [0, 1], lrr = [1e-3] }\n", "bad.toml, line 6: unknown setting 'lrr'; did you mean lr?"),
    (RUN + "epoch = 2\n", "bad.toml, line 6: unknown setting 'epoch'; did you mean epochs?"),
    (RUN + "recip = 2\n", "bad.toml, line 6: unknown setting 'recip'; did you mean recipe?"),
    ("titel = 'x'\n" + RUN, "bad.toml, line 1: unknown key 'titel'; did you mean title?"),
    (RUN + "[[predict]]\nsplit = 'test'\n", "bad.toml, line 7: unknown key 'split'; did you mean splits?"),
    (RUN + "[runs.net]\n", "bad.toml: no study (Cannot declare ('runs', 'net') twice (at line 6, column 10))"),
    (RUN + "grid.seed = [0]\n[runs.net-seed0]\nrecipe = 'model0'\n", "7: two runs are called net-seed0"),
    ("[runs.net-seed0]\nrecipe = 'model0'\n" + RUN + "grid.seed = [0]\n", "3: two runs are called net-seed0"),
    (RUN + "starts_from = 'b'\n[runs.b]\nlike = 'net'\nstarts_from = 'net'\n", "6: net needs b needs net; break"),
    (RUN + "like = 'b'\n[runs.b]\nlike = 'net'\n", "line 6: net: recipe and like both say what its settings are; give"),
    ("[runs.a]\nlike = 'b'\n[runs.b]\nlike = 'a'\n", "line 4: a is like b is like a; break the circle"),
    ("[runs.a]\nlike = 'c'\n[runs.b]\nrecipe = 'model0'\n", "line 2: no run 'c'; there are a, b"),
    ("[runs.a]\nrecipe = 'model8'\n", "line 2: no recipe 'model8'; did you mean model7"),
    (RUN + f"grid.seed = {list(range(1001))}\n", "line 6: 1,001 runs and more, above 1,000; give --yes to mean it"),
    (RUN + "starts_from = 'nett'\n", "line 6: net: no run 'nett'; did you mean net?"),
    (RUN + "grid.lr = [1e-3, 1e-2]\n[runs.b]\nlike = 'net'\nstarts_from = 'net'\n", "9: b: starts_from 'net' stands"),
    (RUN + "[[ensembles]]\nname = 'both'\nmembers = ['net', 'nex']\n", "line 8: no table 'nex' before this"),
    (RUN + "[[ensembles]]\nname = 'e'\nmembers = ['e', 'net']\n", "line 8: e is made here or later; name tables"),
    (RUN + "[[ensembles]]\nname = 'd'\nmembers = 'e'\n[[ensembles]]\nname = 'e'\nmembers = 'net'\n", "8: e is made"),
    (RUN + "[[comparisons]]\nname = 'x'\nruns = ['net', 'nex']\n", "line 8: no run 'nex'; did you mean net?"),
    (RUN + "[[comparisons]]\nname = 'x'\n", "line 6: a comparison is of runs, of tables, or of chain and against"),
    (RUN + "[groups.g]\nof = 'h'\n", "line 7: no group 'h'"),
    (RUN + "[[calibrate]]\nof = 'net'\nmethods = 'beta'\n", "line 8: methods 'beta': choose one of temperature"),
    (RUN + "[groups.g]\nlike = 'net'\nsame = ['lrr']\n", "line 8: unknown setting 'lrr'; did you mean lr?"),
    (RUN + "[groups.g]\nwhere = { frozn = true }\n", "line 7: unknown setting 'frozn'; did you mean frozen?"),
    (RUN + "[[predict]]\nsplits = [\n  'tets',\n]\n", "line 7: splits 'tets': did you mean test?"),
    (RUN + "[[comparisons]]\nname = 'x'\ntables = 'net'\nsplits = 'tst'\n", "line 9: splits 'tst': did you mean test?"),
    (RUN + "[[comparisons]]\nby = 'seed'\nchain = ['net']\n", "line 7: by = 'seed' is of runs or of tables; leave"),
    (RUN + "[[comparisons]]\nname = 'x'\nruns = 'net'\nbaseline = 'net'\nstart = true\n", "line 10: start compares"),
    (RUN + "[[comparisons]]\nname = 'x'\nruns = 'net'\nbaseline = 'b'\n", "line 9: no run 'b'; there are net"),
    (RUN + "[[predict]]\n[[predict]]\ntta = 'hflip'\n", "line 7: two tables are called net; give one another name"),
    (RUN + "packs = 'b'\n", "line 6: no pack 'b'; there are pack"),
    (RUN + "[[comparisons]]\nname = 'test'\nruns = 'net'\n", "7: name 'test': letters, digits, -, + and _"),
    (RUN + "[[comparisons]]\nruns = 'net'\n", "line 6: a comparison of runs or tables has a name"),
    (RUN + "[[ensembles]]\nname = '../x'\nmembers = 'net'\n", "line 7: name '../x': letters, digits"),
    (RUN + "[[predict]]\nname = '{arch}'\n", "line 7: name '{arch}': letters, digits, -, + and _, {run}"),
    (RUN + "[runs.'a/b']\nrecipe = 'model0'\n", "line 6: 'a/b' cannot name a run, which names files too"),
    (RUN + "grid.seed = [0, 1]\n" + 2 * "[[comparisons]]\nname = 'x'\nruns = 'net'\n", "two steps are called"),
    ("title = 'x'\n", "bad.toml: trains nothing; give [runs.NAME] with settings below it, or train in [recipes]"),
    ("[recipes]\ntrain = ['model8']\n", "line 2: no recipe 'model8'; did you mean model7"),
    ("[recipes]\ntrain = 'all'\n", 'line 2: "all" are those of a file; give file = "NAME.toml"'),
    ("[runs.a]\nlr = 1e-3\n", "line 1: a: stage is missing; give stage = 1, 2 or 3"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), CASES)
def test_what_is_wrong_with_a_file_is_one_line_and_nothing_starts(
    text, message, pack_folder, tmp_path, monkeypatch, capsys
):
    from click.testing import CliRunner

    from cli.study import study
    from shards.errors import UserError

    (tmp_path / "bad.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(study, ["bad.toml", "--data", str(pack_folder), "--draws", "0"])
    assert isinstance(done.exception, UserError), done.output
    assert message in str(done.exception) and "\n" not in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.toml"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nix"], 1, "no study 'nix'; give a file, NAME.toml, or one of cxr-lt-2026, external, loss-design,"),
        (["loss-desing"], 1, "no study 'loss-desing'; did you mean loss-design?"),
        (["nix.toml"], 1, "nix.toml: no study (No such file or directory)"),
        (["net.toml", "--only", "predict*"], 1, "--only 'predict*': no step is called so; there are train net"),
        (["net.toml", "--part", "3/2"], 1, "part '3/2': write I/N, such as 1/4"),
        (["net.toml", "--gpus", "0,0"], 2, "--gpus 0,0: write each GPU once, with commas between them"),
        (["net.toml", "--gpus", "0,1", "--jobs", "3"], 2, "--jobs 3: --gpus 0,1 are 2, with a run on each"),
        (["net.toml", "--set", "nex.lr=1e-3"], 1, "--set nex.lr=1e-3: no recipe 'nex'"),
        (["net.toml", "--template", "val=x"], 2, "--template 'val=x': write test=FILE or dev=FILE"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_command_is_one_line(arguments, code, message, pack_folder, tmp_path):
    (tmp_path / "net.toml").write_text(RUN)
    done = call("study", *arguments, "--data", pack_folder, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert not (tmp_path / "net" / "runs").exists()


def test_the_table_of_a_study_is_printed_and_written(tmp_path, monkeypatch):
    """Without a dataset: from the files that its steps left."""
    from click.testing import CliRunner

    from cli.study import study
    from cxrdali.runs.steps import Book, Step
    from shards.storage.sealed import read_json, sealed_json

    (tmp_path / "six.toml").write_text(RUN)
    root, out = tmp_path / "six", "evaluations/net.test.json"
    result = {"hashes": "x", "labels": "l", "all": {"findings": [], "mAP": 0.25, "macro_AUROC": 0.5}}

    def do():
        (root / out).parent.mkdir(parents=True)
        (root / out).write_bytes(sealed_json(result))

    train = Step("train net", (), {}, (), lambda: None)
    for step in (train, Step("evaluate net test", (out,), {}, ("train net",), do)):
        Book(root).make(step)
    table = {"name": "net", "kind": "model", "of": "net", "how": "none"}
    record = {"models": ["net"], "tables": [table], "steps": ["train net", "evaluate net test", "evaluate net val"]}
    (root / "study.json").write_bytes(sealed_json(record))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(study, ["six.toml", "--table"], catch_exceptions=False)
    shown = [line.split() for line in done.output.splitlines()]
    assert ["net", "test", "1", "0.250", "0.500"] in shown and ["net", "val", "not", "done", "yet"] in shown, (
        done.output
    )
    assert {"table.json", "table.csv", "table.tex", "table.md"} < {path.name for path in root.iterdir()}
    assert read_json(root / "table.json")["scores"][0]["mean"] == 0.25
