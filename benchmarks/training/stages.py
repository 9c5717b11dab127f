"""What does training on small images first save, and what does it cost in mAP?

    python -m benchmarks.training.stages [--save] [--plot FILE]
    python -m benchmarks.training.stages --real [--save]         # on a GPU, with the paper's network, sizes and batches
    python -m benchmarks.training.stages --table [--plot FILE]   # the newest committed rows, nothing is measured

Pairs of arms that differ in the size of their first stages alone. A stage starts from the best weights before it.

    figure 2       the paper's Figure 2: small images, then large ones; against large images in both stages
    three stages   small, middle and large; against the largest size in all three (a schedule per stage in both arms)
    native files   figure 2 again from JPEGs of 2544 x 3056 pixels through the paper's loader, which decodes and shrinks
                   originals in every epoch; and our loader over the same few images, packed. Times, not mAP

Held fixed in a pair: images, seed, epochs, rates, network, machine. Training rows are cut to whole batches of all
sizes, so both arms see the same images. A batch is smaller where the images are larger, as in the paper. Every arm is
run for every seed, in turn: cheap, dear; dear, cheap; ... A throwaway run of each comes first and predicts the
duration. Half of the cores train, the others load; nothing else should run on the machine.

Seconds are wall-clock around each call of the trainer and around a whole arm: set-up, compiling, validation and saving
count, and the trainer says where a stage's went. Beside the share saved stand that of the epochs after each stage's
first, which long runs tend to, and the ideal one by pixels. If parts and totals differ by more than 1 %, the benchmark
fails. Final mAP is that of the last stage's best epoch, on the part of the training split that validates. On a CPU the
network and the sizes are small, and rows say so.

--real answers for the paper's network, sizes and batches, on a GPU, in under 10 minutes: data that it draws and packs
at 224, 320, 384 and 512 pixels (under a minute on 16 cores), as many epochs of each stage as fit --minutes after a
short trial (at most 10), one pair each. The paper's loader reads few native files over and over, in whole rounds of its
workers. mAP is compared on one's own data alone (--data): the small networks' CPU study has it for synthetic images.
"""

import argparse
import multiprocessing
import multiprocessing.forkserver
import sys
import tempfile
from pathlib import Path

from benchmarks import results
from benchmarks.results import newest
from benchmarks.training.stages_report import FIGURE, NATIVE, THREE, plot, table

# Worker processes import this module again and need none of what the measuring needs: that is imported in `measured`.
PRELOAD = ["benchmarks.loading.baselines", "albumentations.pytorch"]  # once for all workers
DEFAULTS = {
    "cpu": {
        "figure2": "64:32,96:16", "three": "64:32,96:16,128:6", "arch": "test_byobnet", "epochs": 5,
        "native_epochs": 2, "lr": 2e-3, "studies": 2000, "native_studies": 250, "seeds": 3, "native_seeds": 3,
        "drawn": 256,
    },
    "real": {
        "figure2": "224:256,320:128", "three": "224:256,320:128,512:48", "arch": "tf_efficientnetv2_s.in21k_ft_in1k",
        "epochs": None, "native_epochs": 1, "lr": 1e-3, "studies": 6000, "native_studies": 200, "seeds": 1,
        "native_seeds": 1, "drawn": 512, "minutes": 5.0, "packed": "384",
    },
    "quick": {
        "figure2": "32:8,48:4", "three": "32:8,48:4,64:4", "arch": "test_byobnet", "epochs": 1,
        "native_epochs": 1, "lr": 2e-3, "studies": 40, "native_studies": 14, "seeds": 2, "native_seeds": 1,
        "drawn": 64,
    },
    "real, quick": {
        "figure2": "32:8,48:4", "three": "32:8,48:4,64:4", "arch": "test_byobnet", "epochs": None,
        "native_epochs": 1, "lr": 2e-3, "studies": 40, "native_studies": 4, "seeds": 1, "native_seeds": 1,
        "drawn": 64, "minutes": 0.05, "packed": "56",
    },
}  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training.stages", description=__doc__.splitlines()[0])
    names = ",".join((FIGURE, THREE, NATIVE))
    parser.add_argument("--comparisons", default=names, metavar="NAME,...", help="[%(default)s]")
    parser.add_argument("--real", action="store_true", help="the paper's network and sizes on a GPU, in 10 minutes")
    parser.add_argument("--minutes", type=float, help="--real: for the packed pairs; decides the epochs [5]")
    parser.add_argument("--seeds", type=int, help="pairs of each comparison [3; --real: 1]")
    parser.add_argument("--native-seeds", type=int, help="the same for native files [3; --real: 1]")
    parser.add_argument("--figure2", metavar="SIZE:BATCH,...", help="two stages [64:32,96:16; --real: the paper's]")
    parser.add_argument("--three", metavar="SIZE:BATCH,...", help="stages [64:32,96:16,128:6; --real: the paper's]")
    parser.add_argument("--packed", metavar="SIZE,...", help="sizes to pack beside the stages' [none; --real: 384]")
    parser.add_argument("--epochs", type=int, help="of each stage [5; --real: by --minutes]")
    parser.add_argument("--native-epochs", type=int, help="the same for native files [2; --real: 1]")
    parser.add_argument("--arch", help="timm network [test_byobnet; --real: the paper's]")
    parser.add_argument("--pretrained", action="store_true", help="start from timm's weights [from scratch]")
    parser.add_argument("--lr", type=float, help="largest rate [0.002; --real: 0.001]")
    parser.add_argument("--data", type=Path, metavar="PACK", help="packed dataset with all the sizes [a synthetic one]")
    parser.add_argument("--native", type=Path, metavar="DIR", help="release with native files [a synthetic one]")
    parser.add_argument("--studies", type=int, help="of the synthetic release [2000; --real: 6000]")
    parser.add_argument("--native-studies", type=int, help="of the native one [250; --real: 200]")
    parser.add_argument("--drawn", type=int, help="side of the synthetic pictures, pixels [256; --real: 512]")
    parser.add_argument("--warm-batches", type=int, default=4, help="of a throwaway run's epoch [%(default)s]")
    parser.add_argument("--device", help="cpu or cuda[:N]; a GPU means --real [cpu; --real: cuda]")
    parser.add_argument("--precision", default="auto", help="auto, bf16, fp16 or fp32 [%(default)s]")
    parser.add_argument("--decode", default="auto", help="auto, cpu, mixed or hybrid [%(default)s]")
    parser.add_argument("--compile", action="store_true", help="torch.compile, from an empty cache in every stage")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where data and runs are made [the temporary folder]")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and data, for tests")
    parser.add_argument("--table", action="store_true", help="print the newest committed rows, measure nothing")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the seconds as .svg or .png")
    results.add_save_option(parser, "stages")
    options = parser.parse_args()
    unknown = set(options.comparisons.split(",")) - set(names.split(","))
    if unknown:
        parser.error(f"--comparisons {min(unknown)!r}: choose from {names}")
    options.device = options.device or ("cuda" if options.real and not options.quick else "cpu")
    options.real = options.real or options.device.startswith("cuda")
    preset = ("real, quick" if options.quick else "real") if options.real else "quick" if options.quick else "cpu"
    for name, value in DEFAULTS[preset].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    for name in ("seeds", "native_seeds", "epochs", "native_epochs", "warm_batches"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} {value}: at least 1")
    if options.figure2.count(":") != 2 or options.three.count(":") not in (2, 3):
        parser.error("--figure2 takes two stages SIZE:BATCH,SIZE:BATCH; --three two or three")
    return options


def measured(options: argparse.Namespace) -> list[dict]:
    """All rows of a run, saved where that was asked for."""
    multiprocessing.set_forkserver_preload(PRELOAD)
    if NATIVE in options.comparisons.split(","):
        multiprocessing.forkserver.ensure_running()  # its imports take seconds; meanwhile data is made
    from benchmarks.training.stages_run import measure
    from cxrdali.runtime.device import Hardware
    from shards.errors import UserError

    try:
        Hardware.resolve(options.device, options.precision)
    except UserError as error:
        sys.exit(f"{error}; --real --quick tries the same out on a CPU" if options.real else str(error))
    environment = results.environment("benchmarks.training.stages", options.device)
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-", dir=options.work) as folder:
        try:
            rows = measure(options, Path(folder))
        except (UserError, ValueError) as error:
            sys.exit(str(error))
    if options.save:
        path = results.save(rows, environment, options.save, "stages")
        print(f"{len(rows)} rows -> {path}")
    return rows


def main() -> None:
    options = arguments()
    rows = newest(results.RESULTS / "stages.jsonl") if options.table else measured(options)
    if not rows:
        sys.exit("no rows in benchmarks/results/stages.jsonl yet; run with --save first")
    print(table(rows))
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
