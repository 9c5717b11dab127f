"""torch.compile of a run: one shape, before the first step, without a trace in what is trained; and when it pays."""

import copy
import functools
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from cli.train import train as command
from cxrdali.runs.layout import BEST, CONFIG, LAST
from cxrdali.runs.settings import TrainSettings, settings_of
from cxrdali.train import compiling
from cxrdali.train.compiling import Static, arrange, pays
from cxrdali.train.hooks import Hooks
from cxrdali.train.microbatch import BatchShape, Trial
from cxrdali.train.stopping import Stopped
from cxrdali.train.trainer import train
from shards.errors import UserError
from shards.storage.sealed import read_json
from tests.heard import heard

pytestmark = pytest.mark.slow


def settings(**changes):
    given = {"stage": 1, "size": 48, "batch": 8, "epochs": 2, "arch": "test_efficientnet", "pretrained": False}
    return settings_of(**{**given, "device": "cpu", **changes})


@pytest.fixture
def graphs(monkeypatch):
    """torch.compile with a compiler that compiles nothing; the nodes of each graph that it got."""
    found, whole = [], torch.compile

    def backend(graph, inputs):
        found.append(len(graph.graph.nodes))
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(whole, backend=backend))
    return found


@pytest.fixture
def trial(dataset, tmp_path):
    """Of a run that has its parts and has not begun: with --compile auto, which a run on the CPU would turn off."""
    found = []

    def look(parts, loaded):
        asked = parts.settings.changed(compile="auto")
        loaders, shape = (parts.loader, parts.val_loader), BatchShape(8, 48, len(parts.data.findings))
        found.append(Trial(asked, parts.hardware, parts.ranks, parts.model, parts.step.loss, loaders, shape))
        raise Stopped(15)

    with pytest.raises(Stopped):
        train(settings(dropout=0.5), dataset, tmp_path / "run", hooks=Hooks(on_parts=look))
    return found[0]


@pytest.mark.parametrize(
    ("plain", "compiled", "compiling", "steps", "wins"),
    [
        (0.75, 0.5, 50.0, 200, False),  # just won back
        (0.75, 0.5, 50.0, 201, True),
        (0.5, 0.75, 0.0, 10**6, False),
        (0.5, 0.5, 0.1, 10**6, False),
        (0.75, 0.5, 50.0, 0, False),
    ],
)
def test_compiling_pays_where_the_steps_that_are_left_win_its_time_back(plain, compiled, compiling, steps, wins):
    assert pays(plain, compiled, compiling, steps) is wins


def test_other_batches_than_the_compiled_ones_go_through_the_model_as_it_is(graphs):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten())
    static = Static(model, 4, 8)
    sizes = (3, 4, 8, 1, 4, 8, 5)
    for training, compiled in ((True, 4), (False, 8)):
        model.train(training)
        before, grown = len(graphs), []
        with torch.set_grad_enabled(training):
            for images in sizes:
                pixels = torch.rand(images, 1, 8, 8)
                output = static(pixels)
                grown.append(len(graphs) - before)
                assert training or torch.equal(output, model(pixels))
        first = sizes.index(compiled)
        assert grown[:first] == [0] * first and grown[first] > 0 and set(grown[first:]) == {grown[first]}


def test_a_compiled_run_trains_what_another_does_and_books_it(graphs, dataset, tmp_path):
    """With dropout, so that torch's generators count; batches of 8, and a validation that ends in a smaller one."""
    plain = train(settings(dropout=0.5), dataset, tmp_path / "plain")
    assert plain.seconds["compiling"] == 0 and not graphs
    made = []
    hooks = Hooks(on_step=lambda _: made.append(len(graphs)))
    compiled = train(settings(dropout=0.5, compile=True), dataset, tmp_path / "compiled", hooks=hooks)
    assert made[0] > 0 and set(made) == {len(graphs)}, "all before the first step"
    assert compiled.seconds["compiling"] > 0
    one, two = (load_file(tmp_path / name / BEST) for name in ("plain", "compiled"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    one, two = (torch.load(tmp_path / name / LAST, weights_only=True) for name in ("plain", "compiled"))
    assert torch.equal(one["rng"], two["rng"])
    for key in ("train_loss", "val_loss", "mAP"):
        assert [row[key] for row in one["metrics"]] == [row[key] for row in two["metrics"]]


def state(trial):
    return [*(value.clone() for value in trial.model.state_dict().values()), torch.get_rng_state()]


@pytest.mark.parametrize("on", [True, False])
def test_auto_measures_on_copies_and_decides_by_what_it_found(graphs, trial, on, monkeypatch):
    before, said, asked = state(trial), [], []
    monkeypatch.setattr(compiling, "STEPS", 3)
    monkeypatch.setattr(compiling, "pays", lambda *facts: asked.append(facts) or on)  # either, whatever is faster here
    with heard(said):
        arranged = arrange(trial, trial.model, 1234)
    found = arranged.measured
    seconds = [found[f"{name}_seconds"] for name in ("plain", "compiled", "compile")]
    assert all(each > 0 for each in seconds) and asked == [(*seconds, 1234)] and found["steps"] == 1234
    assert found["on"] is arranged.on is on and arranged.seconds > 3 * sum(seconds[:2]) + seconds[2]
    assert isinstance(arranged.forward, Static) if on else arranged.forward is trial.model
    assert all(torch.equal(one, two) for one, two in zip(before, state(trial), strict=True))
    assert all(each.grad is None for each in trial.model.parameters())
    assert said[-1].startswith(f"compile auto: {'on' if on else 'off'}: a step takes ")
    assert said[-1].endswith(" s, and 1,234 steps are left")


def test_a_run_that_continues_keeps_its_choice(graphs, trial):
    said = []
    with heard(said):
        for on in (True, False):
            arranged = arrange(trial, trial.model, 0, {"on": on})
            assert arranged.on is on and isinstance(arranged.forward, Static) is on
            assert arranged.measured == {"on": on}
    assert said == [] and graphs


def test_one_slower_rank_decides_for_all(graphs, trial):
    ranks = SimpleNamespace(world=1, least=lambda value: 0)
    arranged = arrange(Trial(**{**vars(trial), "ranks": ranks}), trial.model, 0, {"on": True})
    assert not arranged.on and arranged.forward is trial.model
    assert arranged.measured == {"on": False}, "so that all keep to it"


def test_the_classifier_stays_outside_of_the_graph_and_a_copy_computes_with_its_own(graphs, trial):
    arrange(Trial(**{**vars(trial), "settings": trial.settings.changed(compile=True)}), trial.model, 0)
    before, images = len(graphs), torch.randint(0, 256, (8, 1, 48, 48), dtype=torch.uint8)
    (head,) = trial.model.heads
    torch.compile(head)(torch.rand(8, head.in_features))
    assert len(graphs) == before, "the classifier was compiled"
    twin = copy.deepcopy(trial.model.eval())
    with torch.no_grad():
        for each in twin.heads:
            each.weight.zero_(), each.bias.fill_(3)
        assert (twin(images) == 3).all() and not (trial.model(images) == 3).any()


def test_auto_without_a_compiler_or_with_a_broken_one_is_off_with_a_line(trial, monkeypatch, tmp_path):
    def broken(graph, inputs):
        raise ValueError("no such header")

    said = []
    with heard(said), monkeypatch.context() as patch:
        patch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
        arranged = arrange(trial, trial.model, 10**9)
    assert not arranged.on and arranged.measured == {"on": False}
    assert len(said) == 1 and said[0].startswith("compile auto: off: --compile: torch cannot compile this model here (")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with heard(said):
        arranged = arrange(trial, trial.model, 10**9, {"on": True})
    assert not arranged.on and arranged.measured is None, "another machine may have one"
    assert said[1] == (
        "compile auto: off, for it needs a C++ compiler (g++), and there is none; install g++ (Debian: apt install g++)"
    )


def test_on_the_cpu_auto_is_off_and_kept_as_that(dataset, tmp_path):
    said = []
    with heard(said):
        train(settings(compile="auto", epochs=1), dataset, tmp_path / "run")
    config = read_json(tmp_path / "run" / CONFIG)
    assert "compile auto: off on the CPU" in said and config["settings"]["runtime"]["compile"] is False
    assert config["compile"] is None
    assert train(settings(compile="auto", epochs=1), dataset, tmp_path / "run").already_finished


@pytest.mark.parametrize(
    ("words", "value"),
    [([], None), (["--compile"], True), (["--compile", "--epochs", "2"], True), (["--compile", "auto"], "auto"),
     (["--compile=auto"], "auto"), (["--compile", "false"], False)],
)  # fmt: skip
def test_compile_alone_and_with_a_word(words, value):
    assert command.make_context("train", ["--stage", "1", *words]).params["compile"] == value


def test_other_words_are_named_and_older_runs_read():
    with pytest.raises(UserError, match="compile 'fast': true, false or auto"):
        settings(compile="fast")
    for value in (True, False, "auto"):
        stored = settings(compile=value).as_json()
        assert stored["runtime"]["compile"] is value or stored["runtime"]["compile"] == value
        assert TrainSettings.from_json(stored).runtime.compile == value
        assert settings().difference(stored) is None
