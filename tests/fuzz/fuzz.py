"""A longer fuzzing run over the readers: python -m tests.fuzz.fuzz --seconds 300 [--seed N] [--only TARGET]

Execution number e of a target damages a small whole file as seed N + e says and asks what the property tests ask:
the right content or a refusal, nothing else, within 20 s and 8 GiB. Targets take turns of 0.25 s. A failure is
printed with its target, seed and traceback, once per place in the code; `--only TARGET --seed SEED --seconds 0` runs
that one execution again. The execution in hand is written to the file named at the start, for a reader that crashes
the process. The exit code is 1 if anything failed.
"""

import argparse
import faulthandler
import gzip
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.cxrdali import comparable_runs
from tests.fuzz import (
    damaged,
    test_decoders,
    test_dicoms,
    test_ids,
    test_index,
    test_names,
    test_results,
    test_shards,
    test_spellings,
    test_tables,
)

SECONDS_EACH, TURN, MEMORY = 20, 0.25, 8 << 30
LETTERS = 'ab,"\n\r é\0\ufeff1.0'
VALUES = [None, True, 0, -1, 10**400, 1e400, "", "..", "../../x", "/x", "x\ny", [], {}, [None], {"": {}}, 1.5, "32"]


def targets(folder: Path) -> dict[str, Callable[[int], object]]:
    """Per name what runs one seed."""
    for name in ("tables", "release", "data"):
        (folder / name).mkdir()
    plain, zipped = folder / "tables" / "t.csv", folder / "tables" / "t.csv.gz"
    table, packed = test_tables.TABLE.encode(), gzip.compress(test_tables.TABLE.encode(), mtime=0)
    test_tables.release(folder / "release")
    pack = test_shards.make_pack(folder / "data")
    info = json.loads((pack / "dataset.json").read_bytes())
    entries = [path for path in test_shards.places(info) if path and path[0] != "checksum"]
    predictions = {}
    for suffix in (".csv", ".parquet"):
        test_tables.predictions().write(folder / f"p{suffix}")
        predictions[suffix] = (folder / f"p{suffix}").read_bytes()
    tar = test_shards.shard_bytes()
    files = test_ids.make_files(folder / "paths")
    (names := folder / "names").mkdir()
    (folder / "results").mkdir()
    readers = test_results.results(folder / "results", comparable_runs.packed(folder / "packed", 24))

    def results(seed):
        rng = random.Random(seed)
        name = rng.choice(sorted(readers))
        place = rng.choice(list(test_results.places(json.loads((folder / "results" / name).read_bytes()))))
        entry = rng.choice(test_results.ENTRIES)
        test_results.check(folder / "results" / name, readers[name], place, entry, rng.random() < 0.2)

    def letters(seed):
        rng = random.Random(seed)
        data = "".join(rng.choices(LETTERS, k=rng.randrange(60))).encode()
        test_tables.check_table(plain, data)

    def predicted(suffix):
        return lambda seed: test_tables.check_predictions(folder / f"p{suffix}", damaged(predictions[suffix], seed))

    def description(seed):
        rng = random.Random(seed)
        test_shards.check_description(pack, rng.choice(entries), rng.choice(VALUES), rng.random() < 0.3)

    return {
        "table": lambda seed: test_tables.check_table(plain, damaged(table, seed)),
        "table.gz": lambda seed: test_tables.check_table(zipped, damaged(packed, seed)),
        "letters": letters,
        "spelling": lambda seed: test_spellings.check_random_spelling(plain, seed),
        "spelling and damage": lambda seed: test_spellings.check_damaged_spelling(plain, seed),
        "parquet": lambda seed: test_spellings.check_damaged_parquet(plain, seed),
        "release": lambda seed: test_tables.check_release(folder / "release", seed),
        "predictions.csv": predicted(".csv"),
        "predictions.parquet": predicted(".parquet"),
        "index": lambda seed: test_index.check_index(
            damaged(test_index.TEXT.encode(), seed).decode(errors="surrogateescape")
        ),
        "tar": lambda seed: test_shards.check_members(damaged(tar, seed)),
        "headers": lambda seed: test_shards.check_members(test_shards.reheaded(tar, seed)),
        "headers and damage": lambda seed: test_shards.check_members(
            damaged(test_shards.reheaded(tar, seed), seed + 1)
        ),
        "decoders": test_decoders.check_decoder,
        "dicoms": test_dicoms.check_dicom,
        "ids": test_ids.check_ids,
        "writers": test_ids.check_writers,
        "spellings": lambda seed: test_ids.check_spellings(files, seed),
        "paths": lambda seed: test_ids.check_any_path(files, seed),
        "rows": lambda seed: test_ids.check_rows(files, seed),
        "names": lambda seed: test_names.check_name(pack, names, seed),
        "dataset": lambda seed: test_shards.check_damaged_file(pack, seed),
        "description": description,
        "results": results,
    }


def fuzz(seconds: float, seed: int, only: str | None, folder: Path) -> tuple[Counter, int]:
    """Executions per target, and how many places in the code failed."""
    chosen = {name: run for name, run in targets(folder).items() if only in (None, name)}
    counts, seen = Counter(), set()
    last = os.open(folder / "last", os.O_CREAT | os.O_WRONLY)
    print(f"the execution in hand is written to {folder / 'last'}", flush=True)
    stop, turn = time.monotonic() + seconds, min(TURN, seconds)
    while True:
        for name, run in chosen.items():
            turn_ends = time.monotonic() + turn
            while True:
                number = seed + counts[name]
                os.pwrite(last, f"--only '{name}' --seed {number}\n".ljust(80).encode(), 0)
                if (failure := failed(run, number)) and (name, failure[0]) not in seen:
                    seen.add((name, failure[0]))
                    print(f"--only '{name}' --seed {number}: {failure[0]}\n{failure[1]}", flush=True)
                counts[name] += 1
                if time.monotonic() >= turn_ends:
                    break
        if time.monotonic() >= stop:
            return counts, len(seen)


def failed(run: Callable[[int], object], seed: int) -> tuple[str, str] | None:
    """Kind and place of what one execution raised, and its traceback."""
    faulthandler.dump_traceback_later(3 * SECONDS_EACH, exit=True)  # where the alarm cannot get through
    signal.alarm(SECONDS_EACH)
    try:
        run(seed)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} at {frame.filename}:{frame.lineno}", traceback.format_exc()[-2000:]
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one target, named as in the output")
    options = parser.parse_args()

    def too_slow(*_):
        raise TimeoutError(f"longer than {SECONDS_EACH} s")

    signal.signal(signal.SIGALRM, too_slow)
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory() as folder:
        counts, failures = fuzz(options.seconds, options.seed, options.only, Path(folder))
    for name, count in counts.items():
        print(f"{name:20} {count:10,} executions")
    print(f"{'all':20} {sum(counts.values()):10,} executions, {failures} failures")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
