"""The baselines of `benchmarks.peers`: each delivers the work that it is timed for. Those that need an environment of
their own run where CXRDALI_PEERS names the folder in which `python -m benchmarks.peers --install` made them."""

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import cv2
import joblib
import numpy as np
import pytest
import torch

from benchmarks.peers import install
from benchmarks.peers.checks import difference, stored_images
from benchmarks.peers.dali import DaliReader
from benchmarks.peers.dataloader import Batches, file_loader
from benchmarks.peers.images import Collate
from benchmarks.peers.install import ENVIRONMENTS, python_of, reason, state
from benchmarks.peers.measure import Refused, Timing, start
from benchmarks.peers.registry import BOUNDS, How, baselines, targets
from benchmarks.peers.served import Served, make, seen
from benchmarks.peers.webdataset import webdataset_loader
from benchmarks.peers.work import AUGMENT, STILL, Data, Work
from cxrdali.data.augment import AugmentOptions
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.order import global_order
from shards.dataset.mapped import MappedSize

pytestmark = pytest.mark.slow

ENVS = Path(os.environ["CXRDALI_PEERS"]) if "CXRDALI_PEERS" in os.environ else None
CORES = joblib.cpu_count()
# twice the workers is the same code, and so are torchvision's workers: the best-effort DataLoader's with its decoder
SAME = (f"{2 * CORES} workers", f"{2 * CORES} threads")


def loose_files(dataset, size: int, folder: Path) -> tuple[Path, ...]:
    mapped = MappedSize(dataset.stored(size))
    files = tuple(folder / f"{row}.jpg" for row in range(len(dataset.packed)))
    for row in dataset.packed.nonzero()[0]:
        files[row].write_bytes(mapped[row])
    return files


@pytest.fixture
def work(dataset, tmp_path) -> Work:
    """What a baseline is given, over the tests' dataset: JPEGs of 48 pixels."""
    files = loose_files(dataset, 48, tmp_path)
    data = Data(dataset.root, dataset.root, {48: files}, tuple(path for path in files if path.exists())[:4])
    return Work(data, 48, 8, "cpu", "auto", tmp_path / "peers")


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        (name, variant)
        for name, how in baselines("cpu").items()
        for variant in how.variants
        if how.needs is None and name != "raw" and variant not in SAME + (f"{CORES} workers",) * (name == "torchvision")
    ],
)
def test_every_baseline_delivers_the_work_that_it_is_timed_for(name, variant, work):
    how = baselines("cpu")[name]
    if how.make.startswith("paper."):
        pytest.importorskip("albumentations")
    made = make(how.make, work, *how.variants[variant])
    assert made.stored_bytes > 100
    for augment in (STILL, AUGMENT) if how.levels is not None else ():
        images = seen(made.open(8 * made.step, augment)(), 8 * made.step)
        assert len(images) == 8 * made.step
        wanted = STILL if how.still else augment
        assert difference(images, stored_images(work, False), wanted, how.levels) is None
    if how.levels is None:
        assert sum(len(batch) for batch in made.open(made.step, AUGMENT)()) == made.step


@pytest.mark.skipif(ENVS is None, reason="CXRDALI_PEERS names no folder of environments")
@pytest.mark.parametrize("name", [name for name, how in baselines("cpu").items() if how.needs])
def test_peers_with_an_environment_deliver_it_too(name, work):
    how = baselines("cpu")[name]
    for variant, arguments in how.variants.items():
        served = Served(how.make, work, *arguments, python=python_of(ENVS, how.needs))
        for augment in (STILL, AUGMENT):
            assert served.open(8 * served.step, augment)() == 8 * served.step, variant
            wrong = difference(served.look(8 * served.step), stored_images(work, False), augment, how.levels)
            assert wrong is None, variant
        served.close()


@pytest.fixture
def images() -> np.ndarray:
    """Eight of 40 pixels: no two, and no two flips of one, are alike; none has a pixel near 0."""
    return np.random.default_rng(0).integers(30, 256, (8, 40, 40)).astype(np.uint8)


def augmented(images: np.ndarray, hflip: float, vflip: float, cut: float) -> np.ndarray:
    """800 of them, these shares of which are flipped and cut (two pixels high and wide, in a corner of their own)."""
    found = np.tile(images, (100, 1, 1))
    share = np.arange(800) // 8 / 100  # the same for all eight images
    found[share < hflip] = found[share < hflip][:, :, ::-1]
    found[share * 7 % 1 < vflip] = found[share * 7 % 1 < vflip][:, ::-1]
    found[share * 3 % 1 < cut, 5:7, 3:5] = 0
    return found


def test_other_work_is_refused(images):
    """Each kind of it by its reason; and what is right is not."""
    assert difference(images[[3, 1, 1]], images, STILL, 0) is None
    assert difference(images - 1, images, STILL, 1) is None
    assert difference(images - 2, images, STILL, 1) == "its pixels are up to 2 gray levels from the stored ones"
    assert difference(augmented(images, 0.5, 0.5, 0.5), images, AUGMENT, 0) is None
    for shares, words in (
        ((0.0, 0.5, 0.5), "0% of its images are flipped horizontally, not 50%"),
        ((0.5, 1.0, 0.5), "100% of its images are flipped vertically, not 50%"),
        ((0.5, 0.5, 0.2), "20% of its images are cut, not 50%"),
    ):
        assert difference(augmented(images, *shares), images, AUGMENT, 0) == words
    assert difference(augmented(images, 0.5, 0.5, 0.5), images, STILL, 0).endswith("horizontally, not 0%")
    holes = augmented(images, 0.5, 0.5, 0.5)
    holes[0, :10, :10] = 0
    assert difference(holes, images, AUGMENT, 0).startswith("it cut 1")
    assert difference(images[:, ::2], images, STILL, 0) == "its images are uint8 (20, 40), not uint8 (40, 40)"


def test_the_fastest_setting_stays_and_a_peer_that_differs_is_said(work):
    """A setting that fails leaves the others; who has none left, or does other work, has a reason; the rest runs."""
    wanted = {
        "reader": How("dali.baseline", {"broken": ("two",), "1 thread": (1,)}),
        "differs": How("dali.baseline", {"": (1,)}, still=True),
        "is absent": How("spdl.baseline", needs="spdl"),
    }
    with ExitStack() as stack:
        found, missing = start(work, wanted, Timing(1, 0.05), stack)
        assert list(found) == ["reader, 1 thread"]
        assert found["reader, 1 thread"].more["tried"].keys() == {"1 thread", "broken"}
        assert found["reader, 1 thread"].run() % work.step == 0
    assert missing["differs"].startswith("refused: ") and missing["differs"].endswith(", not 0%")
    assert missing["is absent"] == "no --envs was given"
    with pytest.raises(Refused, match="ours: refused: "), ExitStack() as stack:  # ours is not passed over
        start(work, {"ours": How("ours.loader", {"": (False,)}, still=True)}, Timing(1, 0.05), stack)


def test_the_best_effort_loader_makes_our_pixels(dataset, tmp_path):
    """Both are compared on the same work only if the same batches come out."""
    files = loose_files(dataset, 64, tmp_path)
    rows = dataset.packed.nonzero()[0]
    order = global_order(rows[: len(rows) // 8 * 8], 0, 0).tolist()
    batches = [[files[row] for row in order[start : start + 8]] for start in range(0, len(order), 8)]
    theirs = file_loader(Batches(64, AUGMENT), batches, 1)
    options = LoaderOptions(size=64, batch=8, threads=1)
    ours = Loader(dataset, rows[: len(order)], options, shuffle=True, augment=AUGMENT, drop_last=True)
    for expected, found in zip(ours, theirs, strict=True):
        assert torch.equal(found, expected.images)


def stored(dataset) -> np.ndarray:
    """uint8 [rows, 48, 48] by OpenCV."""
    mapped = MappedSize(dataset.stored(48))
    rows = dataset.packed.nonzero()[0]
    return np.stack([cv2.imdecode(mapped[row], cv2.IMREAD_GRAYSCALE) for row in rows])


def test_dali_s_reader_gives_the_stored_pixels(dataset):
    tars = list(dataset.stored(48).paths.values())
    expected = stored(dataset)
    count = len(expected) // 8

    def read(augment: AugmentOptions) -> np.ndarray:
        reader = DaliReader(tars, LoaderOptions(48, 8), 2, augment, shuffle=False)
        return torch.cat(list(reader.batches(count))).numpy()[:, 0]

    plain = read(STILL)
    assert (plain == expected[: count * 8]).all()
    assert (read(AugmentOptions(hflip=1, vflip=0, cutout_probability=0)) == plain[:, :, ::-1]).all()
    cut = read(AugmentOptions(hflip=0, vflip=0, cutout_probability=1, side=0.25))
    differs = cut != plain
    assert (cut[differs] == 0).all() and differs.any(axis=(1, 2)).all()
    assert (differs.sum(axis=(1, 2)) <= 5 * 12 * 12).all()


def test_webdataset_gives_the_stored_pixels_once_an_epoch(dataset):
    tars = list(dataset.stored(48).paths.values())
    expected = stored(dataset)

    def epoch(augment: AugmentOptions, once: bool) -> np.ndarray:
        collate = Collate(48, augment, first)
        return torch.cat(list(webdataset_loader(tars, (1, len(expected)), collate, 1, once))).numpy()[:, 0]

    plain = epoch(STILL, once=True)
    assert sorted(image.tobytes() for image in plain) == sorted(image.tobytes() for image in expected)
    turned = epoch(AugmentOptions(hflip=1, vflip=1, cutout_probability=0), once=False)[:, ::-1, ::-1]
    assert len(turned) == len(expected)
    assert {image.tobytes() for image in turned} <= {image.tobytes() for image in expected}  # with replacement


def first(item: tuple) -> bytes:
    return item[0]


def test_a_baseline_that_fails_says_why(work):
    with pytest.raises(RuntimeError, match="no attribute 'nothing'"):
        Served("ours.nothing", work)


def test_why_a_peer_is_not_measured(tmp_path, monkeypatch):
    """No folder, no environment, pip's own reason, an interpreter without it; and its version where all is well."""
    assert state(None, "spdl") == (None, "no --envs was given")
    assert state(tmp_path, "spdl") == (
        None, f"{tmp_path} has no spdl: python -m benchmarks.peers --install {tmp_path}"
    )  # fmt: skip
    (tmp_path / "spdl").mkdir()
    assert state(tmp_path, "spdl")[1].endswith("does not start: No such file or directory")
    monkeypatch.setattr(install, "python_of", lambda folder, name: sys.executable)
    assert state(tmp_path, "spdl") == (None, "ModuleNotFoundError: No module named 'spdl'")
    (tmp_path / "numpy").mkdir()
    assert state(tmp_path, "numpy") == (np.__version__, None)
    (tmp_path / "numpy" / "why-not.txt").write_text("ERROR: No matching distribution found for numpy")
    assert state(tmp_path, "numpy") == (None, "pip: ERROR: No matching distribution found for numpy")
    text = "ERROR: one\nERROR: Failed building wheel for ffcv\n\n[notice] To update, run pip\n"
    assert reason(text) == "ERROR: Failed building wheel for ffcv"
    assert {how.needs for how in baselines("cpu").values()} == {None, *ENVIRONMENTS}


def test_a_target_is_checked_against_the_setting_that_was_measured():
    measured = ["JPEG", "litData, 4 workers", "FFCV with our flips, raw"]
    found = {(each.ours, each.theirs): each.bound for each in targets(224, measured)}
    assert found["JPEG", ("litData, 4 workers",)] == 1 and found["JPEG", ("SPDL",)] == 1
    assert found["raw", ("FFCV with our flips, raw",)] == 1 and found["raw", ("cached batches",)] == 0.9
    assert all(each.bound is None for each in targets(320, measured))
    named = {name for pairs in BOUNDS.values() for name in pairs} | set(BOUNDS)
    assert named < set(baselines("cpu"))
