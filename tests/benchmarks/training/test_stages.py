"""The comparison of stage training: its arithmetic on rows worked by hand, and a tiny run as a user starts it."""

import shutil

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from benchmarks.options import Stage
from benchmarks.peers.paper import PaperLoader, without_normalisation
from benchmarks.training.stages import measured
from benchmarks.training.stages_data import PAPERS, WholeBatches, check_shared_memory, loading_cores, prepare
from benchmarks.training.stages_options import StagesRun
from benchmarks.training.stages_report import (
    KINDS,
    SIDES,
    SLACK,
    TARGETS,
    check_sum,
    grouped,
    ideal_share,
    saving,
    table,
)
from cxrdali.data.augment import AugmentOptions
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.models.classifier import ModelOptions, create
from shards.dataset.mapped import MappedSize
from shards.errors import UserError
from tests.benchmarks.test_benchmarks import check_environment, run

pytestmark = pytest.mark.slow


def stage(size: int, training: float, waiting: float) -> dict:
    """A stage with a second of each of the other kinds, none compiling."""
    others = {"validation": 1.0, "compiling": 0.0, "setup": 1.0, "saving": 1.0, "closing": 1.0}
    seconds = {"training": training, "waiting": waiting, **others}
    total = sum(seconds.values())
    epochs = [[2.0, 1.0], [training - 1.0, waiting + 0.0]]
    row = {"size": size, "batch": 8, "seconds": seconds, "total": total, "images_per_second": 100 * size}
    return {**row, "epoch_seconds": epochs}


def arm(name: str, seed: int, final_map: float, *stages: dict) -> dict:
    row = {"comparison": "figure 2", "arm": name, "seed": seed, "stages": stages, "final_map": final_map}
    row |= {"seconds": sum(one["total"] for one in stages), "scale": "small model, CPU", "epochs": 3}
    return row | {"train_images": 1000, "val_images": 200, "loader": "our loader"}


@pytest.fixture
def arms() -> list[dict]:
    """Totals in seconds, small and large first: 20 and 30; 21 and 28; 30 and 24. The second seed ran in reverse."""
    return [
        arm("small", 0, 0.30, stage(64, 3.0, 1.0), stage(96, 6.0, 2.0)),
        arm("large", 0, 0.28, stage(96, 9.0, 2.0), stage(96, 9.0, 2.0)),
        arm("large", 1, 0.31, stage(96, 8.0, 2.0), stage(96, 8.0, 2.0)),
        arm("small", 1, 0.29, stage(64, 3.0, 2.0), stage(96, 6.0, 2.0)),
        arm("small", 2, 0.34, stage(64, 9.0, 1.0), stage(96, 10.0, 2.0)),
        arm("large", 2, 0.33, stage(96, 6.0, 2.0), stage(96, 6.0, 2.0)),
    ]


def test_what_is_saved_is_worked_out_pair_by_pair(arms):
    found = saving(arms, "small", "large")
    assert [pair["saved_seconds"] for pair in found["pairs"]] == pytest.approx([10, 7, -6])
    assert [pair["saved_share"] for pair in found["pairs"]] == pytest.approx([1 / 3, 1 / 4, -1 / 4])
    assert [pair["map_difference"] for pair in found["pairs"]] == pytest.approx([0.02, -0.02, 0.01])
    # not the difference of the arms' medians, 21 and 28 s
    assert found["saved_share"] == pytest.approx(
        {"median": 1 / 4, "low": -1 / 4, "high": 1 / 3, "mean": 1 / 9, "sd": np.std([1 / 3, 1 / 4, -1 / 4], ddof=1)}
    )
    assert found["map_difference"] == pytest.approx(
        {"median": 0.01, "low": -0.02, "high": 0.02, "mean": 0.01 / 3, "sd": np.std([0.02, -0.02, 0.01], ddof=1)}
    )
    assert found["cheap_waiting_share"]["low"] == pytest.approx(3 / 22)  # seed 2: 1 + 2 s waiting, 9 + 10 training
    assert found["dear_waiting_share"]["high"] == pytest.approx(4 / 16)


def test_a_single_pair_has_no_deviation_and_times_can_be_compared_alone(arms):
    found = saving(arms[:2], "small", "large", scored=False)
    assert found["saved_share"]["sd"] is None
    assert "map_difference" not in found and found["pairs"][0]["map_difference"] == pytest.approx(0.02)


def test_a_seed_without_both_arms_is_no_pair(arms):
    with pytest.raises(ValueError, match=r"figure 2, seed 1: 0 of 'small', 1 of 'large'; one of each makes a pair"):
        saving(arms[:3], "small", "large")
    with pytest.raises(ValueError, match=r"seed 0: 2 of 'small'"):
        saving([*arms, arms[0]], "small", "large")


def test_parts_must_add_up_to_the_total():
    check_sum("a stage", [60.0, 39.1], 100.0)
    check_sum("a tiny stage", [0.1, 0.1], 0.2 + 0.9 * SLACK)
    for parts in ([60.0, 38.9], [60.0, 41.1]):
        with pytest.raises(
            ValueError, match=r"a stage: the parts add up to .* the total is 100.000 s; more than 1 % off"
        ):
            check_sum("a stage", parts, 100.0)


def test_the_ideal_and_the_target(arms):
    """The papers' two schedules by pixels, worked by hand; 7 of 28 s saved, and of 18 in later epochs."""
    assert ideal_share((224, 320), (320, 320)) == pytest.approx((320**2 - 224**2) / (2 * 320**2))
    assert ideal_share((224, 320, 512), (512,) * 3) == pytest.approx(0.473, abs=0.0005)
    assert all(TARGETS[name] < ideal_share(*sides) for name, sides in SIDES.items())
    found = saving(arms, "small", "large", at_least=0.25)
    assert found["ideal_share"] == pytest.approx(1 - (64**2 + 96**2) / (2 * 96**2))
    assert [pair["saved_later_share"] for pair in found["pairs"]] == pytest.approx([10 / 20, 7 / 18, -6 / 14])
    assert found["saved_later_share"]["median"] == pytest.approx(7 / 18)
    assert found["at_least"] == 0.25 and found["met"] is True
    assert saving(arms, "small", "large", at_least=0.26)["met"] is False
    assert saving(arms, "small", "large")["met"] is None
    lines = table([*arms, {"scale": "small", **found, "met": False}])
    assert "target: 25% of the wall-clock time: MISS" in lines and "ideal by pixels: 27.8%" in lines
    assert "saved of the epochs after each stage's first: 38.9% (" in lines
    for one in (each for row in arms for each in row["stages"]):
        del one["epoch_seconds"][1:]
    found = saving(arms, "small", "large")
    assert found["pairs"][0]["saved_later_share"] is None and "saved_later_share" not in found


def test_batches_that_shared_memory_cannot_hold_are_refused(tmp_path, monkeypatch):
    """224 x 224 pixels of 3 float32, 256 of them, two ahead for 16 workers: 4.6 GiB."""
    stages = (Stage(224, 256), Stage(320, 1))
    disk = shutil.disk_usage(tmp_path)

    def with_gib_free(free: float) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: disk._replace(free=int(free * 2**30)))
        check_shared_memory(stages, 16, tmp_path)

    with_gib_free(4.7)
    with pytest.raises(UserError, match=r"16 workers needs 4.6 GiB .* 4.5 GiB are free; .* with --comparisons"):
        with_gib_free(4.5)


def _pairs(arms):
    by_arm = {name: {row["seed"]: row for row in arms if row["arm"] == name} for name in ("small", "large")}
    return [(by_arm["small"][seed], by_arm["large"][seed]) for seed in by_arm["small"]]


def test_the_table(arms):
    rows = [*arms, {"scale": "small model, CPU", **saving(arms, "small", "large")}]
    lines = table(rows).splitlines()
    assert lines[0] == "All rows: small model, CPU."
    assert "| small | 64 px, batch 8 | 3.0 | 1.0 | 1.0 | 0.0 | 3.0 | 9.0 | 6,400 |" in lines
    assert "| | in all | | | | | | **21.0** | |" in lines and "| | in all | | | | | | **28.0** | |" in lines
    assert any(
        "saved by small: 25.0% (-25.0% to 33.3%) of the wall-clock time, 7.0 (-6.0 to 10.0) s" in x for x in lines
    )
    said = (
        "0.3100 against 0.3067, means; paired difference +0.0033 (lowest to highest -0.0200 to +0.0200; 95 % interval "
    )
    (line,) = [line for line in lines if said in line]
    gaps = [one["final_map"] - other["final_map"] for one, other in _pairs(arms)]
    low, high = ttest_1samp(gaps, 0).confidence_interval()
    assert f"interval by Student's t over 3 seeds {low:+.4f} to {high:+.4f}: not separable)" in line
    for one in (each for row in arms for each in row["stages"]):
        assert list(grouped(one)) == list(KINDS)
        assert sum(grouped(one).values()) == pytest.approx(one["total"])


def test_every_arm_trains_on_the_same_images(dataset):
    """48 rows cut to 32 for batches of 16 and 32; validation keeps every row."""
    rows = np.flatnonzero(dataset.packed)[:47]
    made = []
    make = WholeBatches(Loader, 32, made)
    for batch in (16, 32):
        options = LoaderOptions(size=64, batch=batch, threads=1)
        loader = make(dataset, rows, options, shuffle=True, drop_last=True)
        assert sorted(row for one in loader for row in one.rows.tolist()) == rows[:32].tolist()
    assert len(make(dataset, rows, options).rows) == 47
    assert len(made) == 3
    with pytest.raises(
        UserError, match=r"31 images to train, whole batches of all stages need 32; give more --studies"
    ):
        make(dataset, rows[:31], options, drop_last=True)


def test_the_stage_training_papers_loader_in_the_trainers_place(dataset, tmp_path):
    """The rows of ours in the order of ours; without augmentation the pixels of ours, normalised by the worker."""
    pytest.importorskip("albumentations")
    mapped, rows = MappedSize(dataset.stored(64)), np.flatnonzero(dataset.packed)[:22]
    files = [tmp_path / f"{row}.jpg" for row in range(len(dataset.packed))]
    for row in rows:
        files[row].write_bytes(mapped[row])
    options = LoaderOptions(size=64, batch=8, threads=1)
    training = {"seed": 5, "shuffle": True, "augment": AugmentOptions(), "drop_last": True}
    theirs = PaperLoader(files, 1, dataset, rows, options, **training)
    ours = Loader(dataset, rows, options, **training)
    assert len(theirs) == len(ours) == 2
    for state in ({"epoch": 0, "position": 0}, {"epoch": 3, "position": 8}):
        for loader in (theirs, ours):
            loader.load_state_dict(state)
        for _ in range(2):  # a finished epoch moves on by itself
            expected = [batch.rows.tolist() for batch in ours]
            assert [batch.rows.tolist() for batch in theirs] == expected

    plain = PaperLoader(files, 1, dataset, rows, options)
    (first, *_, last), (expected, *_) = list(plain), list(Loader(dataset, rows, options))
    assert first.rows.tolist() == rows[:8].tolist() and len(last.rows) == 22 - 16
    assert first.images.dtype == torch.float32 and first.images.shape == (8, 3, 64, 64)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    assert torch.allclose(first.images * std + mean, expected.images / 255, atol=1e-4)

    # the same network takes either batch, and normalises once
    made = []
    for arch, norm in (("test_byobnet", "imagenet"), (without_normalisation("test_byobnet"), "weights")):
        torch.manual_seed(0)
        made.append(create(ModelOptions(arch, 64, pretrained=False, norm=norm), 5).eval())
    with torch.inference_mode():
        assert torch.allclose(made[0](expected.images), made[1](first.images), atol=1e-4)


def test_stages_benchmark(tmp_path):
    pytest.importorskip("albumentations")
    rows, printed = run("training.stages", tmp_path, "--quick", "--comparisons", "figure 2,native files")

    check_environment(rows, "training.stages")
    small_words = "small model, small sizes, CPU, synthetic images (test_byobnet"
    assert all(row["scale"].startswith(small_words) and row["data"] == "synthetic" for row in rows)
    native = "native files, the stage-training paper's loader", "native files, our loader, packed"
    expected = {
        "figure 2": {"small first": [(32, 8), (48, 4)], "large first": [(48, 4), (48, 4)]},
    }
    expected |= dict.fromkeys(native, expected["figure 2"])
    verdicts = {row["comparison"]: row for row in rows if "pairs" in row}
    assert list(verdicts) == list(expected)
    for name, wanted in expected.items():
        arms = [row for row in rows if "stages" in row and row["comparison"] == name]
        cheap, dear = wanted
        turns = [(0, cheap), (0, dear)] if name in native else [(0, cheap), (0, dear), (1, dear), (1, cheap)]
        assert [(row["seed"], row["arm"]) for row in arms] == turns
        for row in arms:
            check_arm(row, wanted[row["arm"]])
        assert len({(row["train_images"], stage["images"]) for row in arms for stage in row["stages"]}) == 1
        for pair in verdicts[name]["pairs"]:
            ours, theirs = (
                next(row for row in arms if (row["seed"], row["arm"]) == (pair["seed"], arm)) for arm in (cheap, dear)
            )
            assert pair["saved_seconds"] == pytest.approx(theirs["seconds"] - ours["seconds"])
            assert pair["saved_share"] == pytest.approx(pair["saved_seconds"] / theirs["seconds"])
            assert pair["map_difference"] == pytest.approx(ours["final_map"] - theirs["final_map"])
        assert ("map_difference" in verdicts[name]) == (name not in native)
    # decoding originals takes the time; what is packed is there when it is wanted
    assert verdicts[native[0]]["cheap_waiting_share"]["median"] > 0.5
    assert verdicts[native[0]]["cheap_waiting_share"]["median"] > verdicts[native[1]]["cheap_waiting_share"]["median"]
    assert table(rows) in printed


def test_the_real_sizes_on_a_toy(tmp_path):
    """--real has few native files for all rows of the packed dataset, in whole rounds of workers, and no scores."""
    options = StagesRun(real=True, quick=True, comparisons=("native files",)).resolved()
    theirs, ours = prepare(options, tmp_path)
    assert (theirs.name, theirs.feed.words) == ("native files, the stage-training paper's loader", PAPERS)
    files, workers = theirs.feed.loader.args
    assert len(files) == len(theirs.feed.dataset.packed) > len(set(files)) >= 1
    assert all(path.exists() for path in set(files)) and workers == loading_cores("cpu")
    assert ours.feed.dataset is theirs.feed.dataset
    for one in (theirs, ours):
        assert (one.epochs, one.seeds, one.scored) == (1, 1, False)
        assert one.multiple == 8 * one.workers and 1 <= one.workers <= workers
        assert one.num_rows()[0] % one.multiple == 0 < one.num_rows()[0]
        assert 0.2 < ideal_share(*one.sides) < 0.5


def test_the_real_sizes_need_a_gpu():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(UserError, match=r"torch sees no GPU here; .* --real --quick tries the same out on a CPU"):
        measured(StagesRun(real=True, comparisons=("figure 2",)))


def test_what_cannot_be_compared():
    for given, message in (
        ({"comparisons": ("figure 3",)}, "--comparisons 'figure 3': choose from figure 2,three stages,native files"),
        ({"native_seeds": 0}, "--native-seeds 0: at least 1"),
        ({"figure2": (Stage(64, 8),)}, "--figure2 takes two stages"),
    ):
        with pytest.raises(UserError, match=message):
            StagesRun(**given).resolved()
    assert StagesRun(device="cuda").resolved().real and StagesRun(lr=1.0).resolved().lr == 1.0


def check_arm(row: dict, wanted: list[tuple[int, int]]) -> None:
    assert [(stage["size"], stage["batch"]) for stage in row["stages"]] == wanted
    started = [stage["init_sha256"] for stage in row["stages"]]
    assert started[0] is None and None not in started[1:] and len(set(started)) == len(started)
    for stage in row["stages"]:
        assert set(stage["seconds"]) == {*list(KINDS)[:4], "setup", "saving", "closing"}
        assert all(value >= 0 for value in stage["seconds"].values())
        assert stage["seconds"]["training"] > 0 and stage["seconds"]["compiling"] == 0
        check_sum("stage", list(stage["seconds"].values()), stage["total"])
        trained = stage["seconds"]["training"] + stage["seconds"]["waiting"]
        assert stage["images_per_second"] == pytest.approx(stage["images"] / trained)
        assert stage["best_map"] == max(stage["epoch_map"])
    check_sum("arm", [stage["total"] for stage in row["stages"]], row["seconds"])
    assert row["final_map"] == row["stages"][-1]["best_map"]
