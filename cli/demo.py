"""cxrdali demo: the whole path on a small synthetic release, ending in one page."""

import shutil
import time
from pathlib import Path

import click

from cli.options.folders import FOLDER
from shards.errors import UserError
from shards.storage.files import check_inside
from shards.words import counted

STUDIES, NATIVE = 1000, 256
# stage -> side in pixels, batch, epochs: the three stages at a scale that two cores train in minutes
STAGES = {1: (64, 64, 6), 2: (96, 32, 4), 3: (128, 16, 3)}
ARCH, LR = "resnet10t", 2e-3
MARK = ".cxrdali-demo"


@click.command()
@click.option(
    "--out",
    default="demo",
    show_default=True,
    type=FOLDER,
    help="Folder to write; what is there of an earlier demo is continued.",
)
@click.option("--fresh", is_flag=True, help="Delete an earlier demo in that folder first.")
def demo(out: Path, fresh: bool):
    """Write a small synthetic release, pack it, train stages 1 to 3, predict, evaluate, and leave OUT/report.html.

    The data is synthetic, not measured: the page shows how the parts work together, not what they achieve.
    """
    from cxrdali.evaluate.evaluate import evaluate, write
    from cxrdali.evaluate.options import EvaluateOptions
    from cxrdali.predict.predict import predict
    from cxrdali.report.training.page import write_report
    from cxrdali.report.training.sources import ReportOptions
    from cxrdali.runs.settings import run_folder, settings_of
    from cxrdali.train.trainer import train

    started, runs = time.perf_counter(), out / "runs"
    claim(out, MARK)
    check_inside(out, *(out / name for name in ("release", "packed", "runs")))
    if fresh:
        for name in ("release", "packed", "runs"):
            shutil.rmtree(out / name, ignore_errors=True)
    dataset = synthetic_pack(out, STUDIES, [size for size, _, _ in STAGES.values()])
    evaluations, folders = [], []
    for stage, (size, batch, epochs) in STAGES.items():
        _step(f"stage {stage}: {size} px")
        run = run_folder(runs, stage)
        init = str(run_folder(runs, stage - 1)) if stage > 1 else None
        settings = settings_of(
            stage=stage, size=size, batch=batch, epochs=epochs, lr=LR, arch=ARCH, pretrained=False, init=init
        )
        train(settings, dataset, run)
        folders.append(run)
    _step("predict and evaluate the test split")
    table = out / "test.parquet"
    predict(folders[-1], dataset, "test").write(table)
    result = evaluate(table, dataset, dataset.labels(), EvaluateOptions(draws=200))
    evaluations.append(write(result, out / "test.metrics")[0])
    page = write_report(
        out / "report.html",
        folders,
        pack=dataset.root,
        evaluations=evaluations,
        options=ReportOptions("cxrdali demo", synthetic=True, images=True),
    )
    click.echo(f"\n{page}: done in {time.perf_counter() - started:,.0f} s; open it in a browser")


def synthetic_pack(out: Path, studies: int, sizes: list[int], place: tuple[str, str] | None = None):
    """A synthetic release in out/release and its packed dataset in out/packed; what is there already stays.

    place: the name of one of several, whose folders are release-NAME and packed-NAME, and its hospital.
    """
    from joblib import cpu_count

    from shards.dataset.packed import PackedDataset
    from shards.packing.options import PackOptions
    from shards.packing.pack import pack
    from shards.releases.open import open_release
    from shards.renditions.options import Size
    from shards.synthetic.hospital import open_hospital
    from shards.synthetic.layouts import OWN_DECLARATION
    from shards.synthetic.plan import SyntheticOptions
    from shards.synthetic.release import write_release

    suffix = f"-{place[0]}" if place else ""
    source, packed, jobs = out / f"release{suffix}", out / f"packed{suffix}", cpu_count()
    if not (packed / "dataset.json").exists():
        shutil.rmtree(source, ignore_errors=True)
        _step(f"synthetic release{f' {place[0]}' if place else ''}: {counted(studies, 'study')}")
        hospital = open_hospital(place[1]) if place else None
        write_release(source, SyntheticOptions(studies, NATIVE, seed=0, hospital=hospital), jobs=jobs)
    _step("pack")
    declared = source / OWN_DECLARATION
    release = open_release(source, name=str(declared) if declared.exists() else None)
    summary = pack(release, packed, PackOptions(tuple(map(Size, sizes)), shard_images=512), jobs)
    click.echo(f"{counted(summary.packed, 'image')} in {counted(summary.shards, 'shard')} per size")
    return PackedDataset.open(packed)


def claim(out: Path, mark: str) -> None:
    """Only a folder that the same command made is written to: it deletes in it."""
    if out.exists() and any(out.iterdir()) and not (out / mark).exists():
        raise UserError(f"{out}: is not empty and no demo's folder; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    check_inside(out, out / mark)
    (out / mark).touch()


def _step(text: str) -> None:
    click.echo(f"\n== {text}")
