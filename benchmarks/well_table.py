"""Memory and time of naming the crops of a bad step, from the rows asked for and from the complete table of wells.

    python -m benchmarks.well_table [--wells 2000000] [--crops 64] [--json]

The table has the columns of RxRx3's. It is opened by a process of its own, as by each rank of a training run. Then the
keys of wells spread over the set are read, in a way each. Memory is what its peak grows by after the set is opened.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.evaluation_jobs import high_water

if TYPE_CHECKING:
    import pandas as pd

SHARD_WELLS, EXPERIMENT_WELLS, WRITTEN = 64, 12_420, 1 << 17
SMALLER = 10.0  # goal for the ratio of memory


def main(arguments: Sequence[str] | None = None, write: Callable[[str], None] = print) -> int:
    """The command line."""
    options = _parser().parse_args(arguments)
    if options.of:
        write(json.dumps(read_here(options.of, options.read, options.crops)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        write_set(Path(folder), options.wells)
        ours, before = (_in_a_process(Path(folder), read, options.crops) for read in ("rows", "wells"))
    found = rows(options.wells, options.crops, ours, before)
    write(json.dumps(found, indent=1) if options.json else "\n".join(map(_text, found)))
    return 0


def read_here(folder: Path, read: str, crops: int) -> dict[str, float]:
    """Open the set's table and read keys; seconds, and bytes above those after opening."""
    from shards.format.manifest import read_manifest
    from shards.format.source import LocalFolder
    from shards.reader.well_table import WellTable

    source = LocalFolder(folder)
    table = WellTable.open(source, read_manifest(source))
    wells = np.random.default_rng(0).choice(len(table.codes), crops, replace=False)
    base, start = _reset_peak(), time.perf_counter()
    keys = table.rows(wells, ["key"])["key"] if read == "rows" else table.frame().loc[wells, "key"]
    assert keys.tolist() == [_key(int(well)) for well in wells]
    return {"seconds": time.perf_counter() - start, "bytes": high_water() - base}


def _reset_peak() -> float:
    """Make the peak of this process's memory what it holds now."""
    Path("/proc/self/clear_refs").write_text("5")
    return high_water()


def write_set(folder: Path, wells: int) -> None:
    """A manifest and its table of wells, without shards."""
    from shards.format.manifest import Manifest, Shard, write_manifest
    from shards.format.writer import write_table

    sizes = [min(SHARD_WELLS, wells - first) for first in range(0, wells, SHARD_WELLS)]
    shards = tuple(
        Shard(name=f"train-{number:06d}.tar", split="train", wells=size, bytes=1024, sha256="0" * 64)
        for number, size in enumerate(sizes)
    )
    experiments = tuple(f"gene-{number:03d}" for number in range(-(-wells // EXPERIMENT_WELLS)))
    manifest = Manifest(
        channels=("a",), pixel_type="uint8", codec="delta+zstd", chunk=32, wells={"train": wells, "validation": 0},
        experiments={"train": experiments, "validation": ()}, shards=shards,
        wells_sha256=write_table(folder, _frames(wells)), made_with={},
    )  # fmt: skip
    write_manifest(folder, manifest)


def _key(well: int) -> str:
    return f"gene-{well // EXPERIMENT_WELLS:03d}_{well % EXPERIMENT_WELLS // 1380 + 1}_W{well % 1380:04d}_{well}"


def _frames(wells: int) -> Iterator[pd.DataFrame]:
    import pandas as pd

    rng = np.random.default_rng(0)
    for first in range(0, wells, WRITTEN):
        numbers = range(first, min(first + WRITTEN, wells))
        guides = rng.integers(100_000, size=len(numbers))
        yield pd.DataFrame({
            "key": [_key(number) for number in numbers],
            "experiment": [f"gene-{number // EXPERIMENT_WELLS:03d}" for number in numbers],
            "plate": [str(number % EXPERIMENT_WELLS // 1380 + 1) for number in numbers],
            "well": [f"W{number % 1380:04d}" for number in numbers],
            "gene": [f"G{guide // 6}" for guide in guides],
            "treatment": [f"G{guide // 6}_guide_{guide % 6}" for guide in guides],
            "perturbation_type": "CRISPR",
            "shard": [f"train-{number // SHARD_WELLS:06d}.tar" for number in numbers],
            "split": "train",
            "height": 2048,
            "width": 2048,
        })  # fmt: skip


def _in_a_process(folder: Path, read: str, crops: int) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.well_table",
        "--of",
        str(folder),
        "--read",
        read,
        "--crops",
        f"{crops}",
    ]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def rows(wells: int, crops: int, ours: dict[str, float], before: dict[str, float]) -> list[dict[str, Any]]:
    """What was measured, as {name, unit, ours, peer, peer_name, ratio, goal, met}."""
    found = []
    for unit, label, key, scale in (("MB", "memory", "bytes", 1e6), ("s", "time", "seconds", 1.0)):
        values, ratio = (ours[key] / scale, before[key] / scale), before[key] / max(ours[key], 1e-9)
        goal, met = (f">= {SMALLER:g} x", ratio >= SMALLER) if unit == "MB" else (None, None)
        found.append({
            "name": f"{crops} keys of {wells:,} wells: {label}", "unit": unit, "ours": round(values[0], 3),
            "peer": round(values[1], 3), "peer_name": "the complete table", "ratio": round(ratio, 2), "goal": goal,
            "met": met,
        })  # fmt: skip
    return found


def _text(row: dict[str, Any]) -> str:
    met = {True: "met", False: "NOT met", None: ""}[row["met"]]
    numbers = f"{row['ours']:10,.3f} {row['peer']:10,.3f} {row['unit']:2} {row['ratio']:8,.1f} x"
    return f"{row['name']:36} {numbers}  {row['goal'] or '':8} {met:8} ({row['peer_name']})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.well_table", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--wells", type=int, default=2_000_000)
    parser.add_argument("--crops", type=int, default=64, help="of a rank in a step")
    parser.add_argument("--of", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--read", choices=("rows", "wells"), help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
