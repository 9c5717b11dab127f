"""How fast does one loader read two packs, beside each of them alone with the same images?

    python -m benchmarks.loading.union [--work DIR] [--save]

Halves of the same images from two packs, beside a loader of one pack of all: what two halves may take is half of the
time of each pack alone. Batches are augmented; baselines take turns, and a ratio is of runs of the same round.
"""

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from scipy import stats

from benchmarks import datasets, results
from benchmarks.options import Options, option, parse
from cxrdali.data.augment import AugmentOptions
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from shards.dataset.packed import PackedDataset
from shards.dataset.union import Union

BOUND = 0.95  # of the speed of the packs alone
PACKS = {"JPEG": (224, False), "raw": (224, True), "JPEG of 320": (320, False)}
PAIRS = (("JPEG", "JPEG"), ("JPEG", "raw"), ("JPEG", "JPEG of 320"), ("raw", "JPEG of 320"))


@dataclass(frozen=True)
class UnionRun(Options):
    """What is measured."""

    images: int = option(2000, "different images, about")
    seen: int = option(6144, "images in a run")
    batch: int = option(256, "images in a batch")
    rounds: int = option(15, "timed runs of each")
    work: Path | None = option(None, "folder of the packs, kept for the next time [a temporary one]", Path)


def packs(options: UnionRun, folder: Path) -> dict[str, PackedDataset]:
    found = {}
    for name, (size, raw) in PACKS.items():
        out = folder / name.replace(" ", "-")
        if not out.exists():
            release = folder / "release"
            if not release.exists():
                datasets.synthetic(release, datasets.studies_for(options.images), 512)
            datasets.packed(release, out, [size], raw=raw)
        found[name] = PackedDataset.open(out)
    return found


def loaders(options: UnionRun, found: dict[str, PackedDataset]) -> dict[str, Loader]:
    how = {"shuffle": True, "augment": AugmentOptions(), "drop_last": True}
    loading, made = LoaderOptions(224, options.batch), {}
    for name, dataset in found.items():
        made[name] = Loader(dataset, np.resize(np.flatnonzero(dataset.packed), options.seen), loading, **how)
    for one, two in PAIRS:
        # the second pack is opened anew: also where both are the same files, they are two packs to the loader
        both = Union.of({"one": found[one], "two": PackedDataset.open(found[two].root)})
        kept = np.flatnonzero(found[one].packed)
        first, second = np.array_split(np.resize(kept, options.seen), 2)
        made[f"{one} + {two}"] = Loader(both, np.r_[first, second + both.parts[1].start], loading, **how)
    return made


def _images(loader: Loader) -> int:
    return sum(len(batch.rows) for batch in loader)


def ratio(ours: list[float], one: list[float], two: list[float]) -> dict:
    """How fast two halves are, in parts of what each pack alone would have needed for its half: the median over rounds,
    and its interval of at least 95 % by order statistics. All in images/s."""
    found = sorted(a * (1 / b + 1 / c) / 2 for a, b, c in zip(ours, one, two, strict=True))
    outside = max(int(stats.binom.ppf(0.025, len(found), 0.5)) - 1, 0)
    return {"ratio": median(found), "low": found[outside], "high": found[-1 - outside], "ratios": found}


def main() -> None:
    options = parse(UnionRun, "benchmarks.loading.union", __doc__.splitlines()[0])
    environment = results.environment("benchmarks.loading.union")
    with ExitStack() as stack:
        folder = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cxrdali-bench-")))
        made = loaders(options, packs(options, folder))
        baselines = {
            name: lambda loader=loader: sum(len(each.rows) for each in loader) for name, loader in made.items()
        }
        runs = results.interleaved(baselines, options.rounds)
    rows = [{"size": 224, "batch": options.batch, **results.rate_row(name, each)} for name, each in runs.items()]
    results.print_rates(rows)
    rates = {name: [run.rate for run in each] for name, each in runs.items()}
    for one, two in PAIRS:
        name = f"{one} + {two}"
        found = ratio(rates[name], rates[one], rates[two])
        rows.append({"ours": name, "theirs": f"halves of {one} and {two} alone", **found, "at_least": BOUND})
        verdict = "PASS" if found["ratio"] >= BOUND else "MISS"
        print(f"  {name}: {found['ratio']:.3f} ({found['low']:.3f} to {found['high']:.3f}) of both alone  {verdict}")
    results.save(rows, environment, options.save, "union")


if __name__ == "__main__":
    main()
