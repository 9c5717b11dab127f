"""Which effects of the two papers does a small network show on synthetic images, beyond chance and one network?

    python -m benchmarks.effects --work DIR --save       # continues what lies in DIR
    python -m benchmarks.pages.effects                   # docs/effects*.md, of the committed numbers

The study benchmarks/effects.toml on a synthetic release of its own for each replicate, and one table over all.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks import datasets, results
from benchmarks.options import Options, option, parse
from cxrdali.studies.pooled import pooled_table
from shards.storage.files import write_bytes
from shards.storage.sealed import sealed_json

STUDY = Path(__file__).with_suffix(".toml")
SEEDS = (11, 12, 13, 14, 15)  # of release and runs; those below 3 were used to choose learning rates
STUDIES, PIXELS, SIZE = 20_000, 96, 48  # about 33,500 images; made at 96 px, stored at SIZE
LABELS = "cxr-lt-2023"


@dataclass(frozen=True)
class EffectsRun(Options):
    """What is measured."""

    work: Path = option("effects", "folder of data and runs", lambda text: Path(text).absolute())
    studies: int = option(STUDIES, "studies of each release", int)


def replicate(work: Path, seed: int, studies: int) -> Path:
    """Make and pack the release, and do the study there; returns the study's folder."""
    folder = work / f"release{seed}"
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        datasets.packed(datasets.synthetic(folder / "release", studies, PIXELS, seed), folder / "pack", (SIZE,))
        shutil.rmtree(folder / "release")
        (folder / "done").touch()
    out = work / f"seed{seed}"
    given = ("--data", str(folder / "pack"), "--labels", LABELS, "--set", f"seed={seed}", "--out", str(out))
    subprocess.run([sys.executable, "-m", "cli", "study", str(STUDY), *given], check=True)
    return out


def main() -> None:
    options = parse(EffectsRun, "benchmarks.effects", __doc__.splitlines()[0])
    folders = [replicate(options.work, seed, options.studies) for seed in SEEDS]
    found = {**pooled_table(folders), "environment": results.environment("benchmarks.effects")}
    found["seconds"] = sum(spent or 0 for spent in found["seconds"].values())  # not of every step: they are many
    write_bytes((options.save or options.work) / "effects.json", sealed_json(found))


if __name__ == "__main__":
    main()
