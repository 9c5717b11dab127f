"""Can a small CNN learn the synthetic release, and which findings need pixels?

    python -m benchmarks.effects.synthetic [--save]
    python -m benchmarks.effects.synthetic --table     # the newest committed rows as docs/synthetic.md shows them

Without training, per finding and view: the same patient is drawn at 512 pixels with and without the finding, noise left
out, and both are shrunk to 128, 224, 320 and 512 pixels as packing does.

    contrast       gray levels by which the most changed pixels differ (the mean of the uppermost 1 in 5,000)
    detectability  d' of the observer who knows the difference's shape and place and weighs every spatial frequency
                   against what it drowns in: d'^2 = sum |D(f)|^2 / (S^2 W(f)). D is the Fourier transform of the
                   difference (S x S), W the power spectrum of other patients' pictures without findings about their
                   mean, which holds anatomy, exposure, noise and the rendition's JPEG quality 95

Both are medians over patients. A finding needs pixels if 224 keeps less than FINE of the detectability at 512: it lives
in frequencies that 224 pixels cannot hold. A broad shadow keeps most of it, its frequencies are all low.

With training: the package's own path (release, packing, training from scratch, prediction) with a small timm network on
one thread; the pictures of a second release, other subjects, are the test. "paper" has the 26 findings with the
frequencies of CXR-LT 2023. "few" has FEW, each in two studies of five: fine ones and two broad ones, so that sizes can
be compared with few pictures; pictures, order and steps are the same, only the rendition differs.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import cv2
import numpy as np
import simplejpeg
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks import results
from benchmarks.effects import smallnet
from benchmarks.results import newest
from cxrdali.data.targets import targets
from cxrdali.predict.predict import predict
from cxrdali.runs.settings import settings_of
from cxrdali.train.trainer import train
from shards.dataset.packed import PackedDataset
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.packing.rendition import Size, encode, resize
from shards.releases.open import open_release
from shards.synthetic.facts import FREQUENCIES
from shards.synthetic.patient import sample_anatomy, sample_sign
from shards.synthetic.plan import SyntheticOptions
from shards.synthetic.radiograph import draw, exposed
from shards.synthetic.release import QUALITY, write_release

DRAWN = 512  # side of the pictures that are shrunk, pixels
SIZES = (128, 224, 320, 512)
FINE = 0.4  # a finding of which 224 pixels keep less than this share of the detectability at 512 needs pixels
PEAK = 2e-4  # share of the pixels whose difference is called the contrast
LABELS = "cxr-lt-2023"
FEW = (
    "Fracture",
    "Calcification of the Aorta",
    "Fibrosis",
    "Pneumomediastinum",
    "Pneumoperitoneum",
    "Atelectasis",
    "Mass",
)
FINDINGS = tuple(finding for finding in FREQUENCIES if finding != "No Finding")
# the paper's frequency above which a finding is head, and at or below which it is tail
HEAD, TAIL = 0.1, 0.01


# ---------------------------------------------------------------- without training


def detectability(patients: int, views: tuple[str, ...] = ("frontal", "lateral")) -> Iterator[dict]:
    """One row per finding and view: lists over SIZES."""
    for view in views:
        lateral = view == "lateral"
        spectra = _spectra(lateral, 3 * patients)
        for finding in FINDINGS:
            found = np.median([_one(finding, lateral, patient, spectra) for patient in range(patients)], axis=0)
            contrast, index = found[:, 0], found[:, 1]
            kept = index[SIZES.index(224)] / index[-1] if index[-1] > 0 else None
            yield {
                "finding": finding,
                "view": view,
                "patients": patients,
                "sizes": SIZES,
                "contrast": contrast.round(2).tolist(),
                "detectability": index.round(2).tolist(),
                "kept_at_224": kept,
                "needs_pixels": kept is not None and bool(kept < FINE),
            }


def difference(finding: str, lateral: bool, patient: int) -> np.ndarray:
    """float32 (DRAWN, DRAWN), gray levels: with the finding less without it, everything else and noise equal."""
    anatomy, sign = sample_anatomy(_stream(1, patient)), sample_sign(finding, _stream(2, patient))
    portable = bool(patient % 2) and not lateral
    with_it, without = (
        exposed((DRAWN, DRAWN), lateral, portable, anatomy, signs, _stream(3, patient))[0] for signs in ([sign], [])
    )
    return with_it - without


def _one(finding: str, lateral: bool, patient: int, spectra: dict[int, np.ndarray]) -> np.ndarray:
    """float64 (len(SIZES), 2): contrast and detectability."""
    drawn, found = difference(finding, lateral, patient), []
    for size in SIZES:
        shrunk = resize(drawn, size, "squash")  # linear, so the difference is shrunk instead of both pictures
        peak = np.sort(np.abs(shrunk).ravel())[-max(1, round(PEAK * size * size)) :].mean()
        energy = np.abs(np.fft.fft2(shrunk)) ** 2 / spectra[size]
        found.append((peak, np.sqrt(energy.sum()) / size))
    return np.array(found)


def _spectra(lateral: bool, patients: int) -> dict[int, np.ndarray]:
    """Power per frequency of what patients without findings differ in: float64 (S, S) for every size S."""
    pictures = [
        draw(
            (DRAWN, DRAWN),
            lateral,
            bool(patient % 2) and not lateral,
            sample_anatomy(_stream(4, patient)),
            [],
            _stream(5, patient),
        )
        for patient in range(patients)
    ]
    return {size: _spectrum(np.array([_rendition(picture, size) for picture in pictures])) for size in SIZES}


def _rendition(picture: np.ndarray, size: int) -> np.ndarray:
    data = encode(resize(picture, size, "squash"), Size(size), QUALITY)
    return simplejpeg.decode_jpeg(data, "GRAY")[:, :, 0].astype(np.float64)


def _spectrum(pictures: np.ndarray) -> np.ndarray:
    """(n, S, S) to (S, S): periodograms of the windowed deviations from the mean, averaged over pictures and rings."""
    count, side, _ = pictures.shape
    window = np.outer(np.hanning(side), np.hanning(side))
    deviations = (pictures - pictures.mean(axis=0)) * window
    power = sum(np.abs(np.fft.fft2(one)) ** 2 for one in deviations) / (count - 1) / (window**2).sum()
    cycles = np.fft.fftfreq(side) * side
    ring = np.hypot(cycles[:, None], cycles).astype(int)
    return (np.bincount(ring.ravel(), power.ravel()) / np.bincount(ring.ravel()))[ring]


def _stream(purpose: int, patient: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[purpose, patient]))


# ---------------------------------------------------------------- with training


def learnability(folder: Path, mix: str, studies: int, sizes: tuple[int, ...], options: argparse.Namespace) -> list:
    """A row per finding and size: average precision and AUROC on other subjects, beside the prevalence there."""
    only = FEW if mix == "few" else ()
    datasets = [
        _packed(folder / f"{mix}-{seed}", SyntheticOptions(count, DRAWN, seed, only), sizes)
        for seed, count in enumerate((studies, max(40, round(studies * options.test_share))))
    ]
    return [row for size in sizes for row in _learn(folder / f"{mix}-run-{size}", mix, size, *datasets, options)]


def _packed(folder: Path, options: SyntheticOptions, sizes: tuple[int, ...]) -> PackedDataset:
    write_release(folder / "release", options)
    wanted = PackOptions(tuple(Size(size) for size in sizes), shard_images=512)
    pack(open_release(folder / "release"), folder / "packed", wanted, jobs=1)
    shutil.rmtree(folder / "release")
    return PackedDataset.open(folder / "packed")


def _learn(
    run: Path, mix: str, size: int, learn: PackedDataset, test: PackedDataset, options: argparse.Namespace
) -> list[dict]:
    arch = options.few_arch if mix == "few" else options.arch
    settings = settings_of(
        stage=1, size=size, batch=options.batch, epochs=options.epochs, lr=options.lr, arch=arch, pretrained=False,
        labels=LABELS, threads=1, device="cpu", folds=10,
    )  # fmt: skip
    started = time.process_time()
    train(settings, learn, run)
    seconds = time.process_time() - started
    values = predict(run, test, "all", batch=64, device="cpu", threads=1)
    labels = test.labels(LABELS)
    truth = targets(labels, "negative")[test.packed]
    frontal = (test.catalog["view"][test.packed] == "frontal").to_numpy()
    rows = []
    for finding in (*FEW, "No Finding") if mix == "few" else FREQUENCIES:
        wanted = truth[:, labels.findings.index(finding)]
        logits = values.values[:, values.findings.index(finding)]
        known = 0 < wanted.sum() < len(wanted)
        rows.append(
            {
                "finding": finding,
                "mix": mix,
                "size": size,
                "arch": arch,
                "epochs": options.epochs,
                "batch": options.batch,
                "images": int(learn.packed.sum()),
                "test_images": len(wanted),
                "positives": int(wanted.sum()),
                "prevalence": float(wanted.mean()),
                "ap": float(average_precision_score(wanted, logits)) if known else None,
                "auroc": float(roc_auc_score(wanted, logits)) if known else None,
                "auroc_frontal": _auroc(wanted[frontal], logits[frontal]),
                "auroc_lateral": _auroc(wanted[~frontal], logits[~frontal]),
                "train_cpu_seconds": round(seconds, 1),
            }
        )
    return rows


def _auroc(wanted: np.ndarray, logits: np.ndarray) -> float | None:
    return float(roc_auc_score(wanted, logits)) if 0 < wanted.sum() < len(wanted) else None


def group(finding: str) -> str:
    share = FREQUENCIES[finding]
    return "head" if share > HEAD else "middle" if share > TAIL else "tail"


def groups(rows: list[dict]) -> list[dict]:
    """Means of AP and prevalence over the head, the middle and the tail of the findings, and over all."""
    means = []
    for name in ("head", "middle", "tail", "all"):
        chosen = [row for row in rows if row["ap"] is not None and name in ("all", group(row["finding"]))]
        if chosen:
            means.append(
                {
                    "group": name,
                    "findings": len(chosen),
                    **{key: rows[0][key] for key in ("mix", "size", "images", "test_images")},
                    **{f"mean_{key}": fmean(row[key] for row in chosen) for key in ("ap", "prevalence", "auroc")},
                }
            )
    return means


# ---------------------------------------------------------------- speed


def drawing(folder: Path, size: int | str, studies: int) -> dict:
    """CPU seconds per 1,000 images of one process, drawn, encoded and written, and bytes per image."""
    write_release(folder / f"warm-{size}", SyntheticOptions(1, size, seed=9))  # makes the noise
    started = time.process_time()
    summary = write_release(folder / f"drawn-{size}", SyntheticOptions(studies, size, seed=9))
    seconds = time.process_time() - started
    return {
        "drawing": size,
        "images": summary.images,
        "cpu_seconds_per_1000": round(1000 * seconds / summary.images, 2),
        "bytes_per_image": round(summary.bytes / summary.images),
    }


# ---------------------------------------------------------------- command


def print_detectability(rows: list[dict]) -> None:
    print(
        f"  {'detectability':28} {'view':8}" + "".join(f"{size:8}" for size in SIZES) + "   224/512   contrast at 512"
    )
    for row in rows:
        index = "".join(f"{value:8.1f}" for value in row["detectability"])
        kept = "-" if row["kept_at_224"] is None else f"{row['kept_at_224']:.2f}"
        fine = "  needs pixels" if row["needs_pixels"] else ""
        print(
            f"  {row['finding']:28} {row['view']:8}{index}   {kept:>7}   {row['contrast'][-1]:6.1f}{fine}", flush=True
        )


def print_learnability(rows: list[dict], means: list[dict]) -> None:
    first = rows[0]
    print(
        f"  {first['mix']}, {first['size']} px, {first['arch']}, {first['images']:,} images, {first['epochs']} epochs, "
        f"{first['train_cpu_seconds']:.0f} CPU s"
    )
    for row in rows:
        ap, auroc = ("-" if row[key] is None else f"{row[key]:.3f}" for key in ("ap", "auroc"))
        print(f"  {row['finding']:28} prevalence {row['prevalence']:.3f}   AP {ap}   AUROC {auroc}")
    for row in means:
        print(f"  {row['group']:28} prevalence {row['mean_prevalence']:.3f}   AP {row['mean_ap']:.3f}", flush=True)


def table(rows: list[dict]) -> str:
    """Markdown of one run's rows: a line per finding, then the means, then the few findings by size."""
    seen = {(row["finding"], row["view"]): row for row in rows if "detectability" in row}
    learnt = {row["finding"]: row for row in rows if "ap" in row and row["mix"] == "paper"}
    few = {(row["finding"], row["size"]): row for row in rows if "ap" in row and row["mix"] == "few"}
    small, sizes = next(iter(learnt.values()))["size"], sorted({size for _, size in few})
    lines = [
        f"| finding | share | contrast, frontal | lateral | d' at 224 / at 512 | AP at {small} px | AUROC |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for finding, share in FREQUENCIES.items():
        ap = f"{_number(learnt[finding]['ap'], 2)} | {_number(learnt[finding]['auroc'], 2)}"
        if finding == "No Finding":
            lines.append(f"| {finding} | {share:.3f} | | | | {ap} |")
            continue
        front, side = seen[finding, "frontal"], seen[finding, "lateral"]
        kept = f"**{front['kept_at_224']:.2f}**" if front["needs_pixels"] else f"{front['kept_at_224']:.2f}"
        contrasts = f"{front['contrast'][-1]:.0f} | {side['contrast'][-1]:.0f}"
        lines.append(f"| {finding} | {share:.3f} | {contrasts} | {kept} | {ap} |")
    lines += ["", f"| group | findings | mean prevalence | mAP at {small} px |", "|---|---:|---:|---:|"]
    for row in rows:
        if "group" in row:
            lines.append(
                f"| {row['group']} | {row['findings']} | {row['mean_prevalence']:.3f} | {row['mean_ap']:.3f} |"
            )
    header = "".join(f" AP at {size} px |" for size in sizes)
    lines += ["", f"| a few findings, often | prevalence |{header}", "|---|---:|" + "---:|" * len(sizes)]
    for finding in FEW:
        values = "".join(f" {_number(few[finding, size]['ap'], 2)} |" for size in sizes)
        lines.append(f"| {finding} | {few[finding, sizes[0]]['prevalence']:.2f} |{values}")
    return "\n".join(lines)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.effects.synthetic", description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, default=20, help="for the detectability [%(default)s]")
    parser.add_argument("--drawn", type=int, default=200, help="studies whose drawing is timed [%(default)s]")
    parser.add_argument("--studies", type=int, default=3500, help="to train on, all findings [%(default)s]")
    parser.add_argument("--few-studies", type=int, default=1200, help="to train on, a few findings [%(default)s]")
    parser.add_argument("--size", type=int, default=128, help="of all findings, pixels [%(default)s]")
    parser.add_argument("--few-sizes", default="128,256", help="of the few findings, pixels [%(default)s]")
    parser.add_argument("--epochs", type=int, default=8, help="[%(default)s]")
    parser.add_argument("--test-share", type=float, default=0.5, help="test studies per study [%(default)s]")
    parser.add_argument("--batch", type=int, default=16, help="[%(default)s]")
    parser.add_argument("--lr", type=float, default=2e-3, help="[%(default)s]")
    parser.add_argument("--arch", default="test_byobnet", help="timm model, from scratch [%(default)s]")
    parser.add_argument(
        "--table", action="store_true", help="print the newest committed rows as Markdown, measure nothing"
    )
    parser.add_argument("--few-arch", default=smallnet.NAME, help="of the few findings [%(default)s]")
    results.add_save_option(parser, "synthetic")
    options = parser.parse_args()
    options.few_sizes = tuple(int(text) for text in options.few_sizes.split(","))
    return options


def main() -> None:
    options = arguments()
    if options.table:
        print(table(newest(results.RESULTS / "synthetic.jsonl")))
        return
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    environment = results.environment("benchmarks.effects.synthetic")
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as name:
        rows = [drawing(Path(name), 512, options.drawn), drawing(Path(name), "native", max(1, options.drawn // 20))]
    for row in rows:
        print(
            f"  {row['drawing']}: {row['cpu_seconds_per_1000']:.1f} CPU s / 1,000 images, "
            f"{row['bytes_per_image']:,} bytes an image",
            flush=True,
        )
    found = list(detectability(options.patients))
    print_detectability(found)
    rows += found
    plans = (("paper", options.studies, (options.size,)), ("few", options.few_studies, options.few_sizes))
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as name:
        for mix, studies, sizes in plans:
            learnt = learnability(Path(name), mix, studies, sizes, options)
            for size in sizes:
                part = [row for row in learnt if row["size"] == size]
                means = groups(part) if mix == "paper" else []
                print_learnability(part, means)
                rows += [*part, *means]
    if options.save:
        path = results.save([{"data": "synthetic", **row} for row in rows], environment, options.save, "synthetic")
        print(f"{len(rows)} rows -> {path}")


if __name__ == "__main__":
    main()
