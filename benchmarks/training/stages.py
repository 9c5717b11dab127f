"""What does training on small images first save, and what does it cost in mAP?

    python -m benchmarks.training.stages [--save]
    python -m benchmarks.training.stages --real [--save]     # on a GPU, with EfficientNetV2-S at 224 to 512 pixels

Pairs of arms that differ in the size of their first stages alone. A stage starts from the best weights before it.

    figure 2       the stage-training paper's Figure 2: small images, then large ones; against large images in both
    three stages   small, middle and large; against the largest size in all three (a schedule per stage in both arms)
    native files   figure 2 again from JPEGs of 2544 x 3056 pixels through the stage-training paper's loader, which
                   decodes and shrinks originals in every epoch; and our loader over the same few images, packed.
                   Times, not mAP

Held fixed in a pair: images, seed, epochs, rates, network, machine. Training rows are cut to whole batches of all
sizes, so both arms see the same images. A batch is smaller where the images are larger, as in that paper. Every arm is
run for every seed, in turn: cheap, dear; dear, cheap; ... A throwaway run of each comes first. Half of the cores train,
the others load.

Seconds are wall-clock around each call of the trainer and around a whole arm. Beside the share saved stand that of the
epochs after each stage's first, which long runs tend to, and the ideal one by pixels. If parts and totals differ by
more than 1 %, the benchmark fails. On a CPU the network and the sizes are small, and rows say so.

--real answers for that paper's network, sizes and batches, on a GPU: synthetic data packed at the sizes, --epochs of
each stage, one pair each. That paper's loader reads few native files over and over, in whole rounds of its workers. mAP
is compared on one's own data alone (--data): the small networks' CPU study has it for synthetic images.
"""

import multiprocessing
import multiprocessing.forkserver
import sys
import tempfile
from pathlib import Path

from benchmarks import results
from benchmarks.options import parse
from benchmarks.training.stages_options import StagesRun
from benchmarks.training.stages_report import NATIVE, table
from shards.errors import UserError

# Worker processes import this module again and need none of what the measuring needs: that is imported in `measured`.
PRELOAD = ["benchmarks.peers.paper", "albumentations.pytorch"]  # once for all workers


def measured(options: StagesRun) -> list[dict]:
    """All rows of a run, saved where that was asked for."""
    options = options.resolved()
    multiprocessing.set_forkserver_preload(PRELOAD)
    if NATIVE in options.comparisons:
        multiprocessing.forkserver.ensure_running()  # its imports take seconds; meanwhile data is made
    from benchmarks.training.stages_run import measure
    from cxrdali.runtime.device import Hardware

    try:
        Hardware.resolve(options.device, options.precision)
    except UserError as error:
        raise UserError(
            f"{error}; --real --quick tries the same out on a CPU" if options.real else str(error)
        ) from error
    environment = results.environment("benchmarks.training.stages", options.device)
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as folder:
        rows = measure(options, Path(folder))
    results.save(rows, environment, options.save, "stages")
    return rows


def main() -> None:
    options = parse(StagesRun, "benchmarks.training.stages", __doc__.splitlines()[0])
    try:
        print(table(measured(options)))
    except (UserError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
