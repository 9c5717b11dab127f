"""Do 100 million images open, divide and begin an epoch within a minute and 16 GB, and what breaks first beyond that?

    python -m benchmarks.scale_large [--save]

A packed dataset of --rows images is written (`scale_made`; 4 GB of TMPDIR), since packing's own tables of as many take
more memory than most machines have. Measured are, each in a fresh process and the first one after a run that is thrown
away, `scale`'s epoch in global order, and the record that a run keeps of its data, which it writes before its first
step. A part that asks for more than --most-gib of memory fails.
"""

import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import results
from benchmarks.options import Options, option, parse
from benchmarks.scale import part_row, run, target
from benchmarks.scale_made import write_pack
from benchmarks.scale_run import POSITIVE, SEED
from shards.errors import UserError

AT_MOST_SECONDS, AT_MOST_MIB = 60.0, 16 * 1024  # for 100 million images
START = ("open and divide", "loader", "validation's loader", "first epoch")


@dataclass(frozen=True)
class LargeRun(Options):
    """What is measured."""

    rows: int = option(100_000_000, "images")
    findings: int = option(26, "findings of the labels")
    shard_images: int = option(4096, "images in a shard")
    most_gib: int = option(20, "memory, whether used or not, that a part may ask for")


def main() -> None:
    options = parse(LargeRun, "benchmarks.scale_large", __doc__.splitlines()[0])
    environment, rows = results.environment("benchmarks.scale_large"), []
    with tempfile.TemporaryDirectory(prefix="cxrdali-bench-") as name:
        folder, started = Path(name) / "pack", time.perf_counter()
        positive = np.resize(POSITIVE, options.findings)
        made = {"rows": options.rows, "shards": write_pack(folder, options.rows, options.shard_images, positive, SEED)}
        print(f"{options.rows:,} images written in {time.perf_counter() - started:.0f} s")
        resource.setrlimit(resource.RLIMIT_DATA, (options.most_gib * 2**30,) * 2)
        try:
            run("epoch", folder, order="global", window=8)
            rows.append(part_row("epoch, global", made, [run("epoch", folder, order="global", window=8)]))
            rows.append(part_row("record", made, [run("record", folder)]))
        except UserError as error:  # what breaks first
            print(f"  {error}")
            rows.append({**made, "broke": str(error), "most_gib": options.most_gib})
    if "part" in rows[0]:
        seconds = sum(rows[0]["seconds"][step]["median"] for step in START)
        rows.append(target(rows[0], "from opening to the first batch, seconds", seconds, AT_MOST_SECONDS))
        rows.append(target(rows[0], "own memory, MiB", rows[0]["own_mib"], AT_MOST_MIB))
    common = {"data": "made", "findings": options.findings, "shard_images": options.shard_images}
    results.save([common | row for row in rows], environment, options.save, "scale_large")
    sys.exit(0 if "part" in rows[0] else 1)


if __name__ == "__main__":
    main()
