"""Crops per second per core of our loader compared with its peers, in one run on the same images.

    python -m benchmarks.loader [--json] [--wells 16] [--seconds 6]

Wells are 2048 x 2048 x 6 of 8 bits, cut from the real images that SCALING_TEST_DATA points to (without them, smoothed
noise), warm in the page cache. Every reader runs in its own process, bound to one core. Peers come from
`pip install webdataset mosaicml-streaming litdata`; the latter two do not fit this project's pinned versions, so put
them into another folder on PYTHONPATH. A missing peer is reported.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.builder import write_wells
from benchmarks.crop_readers import LOSSLESS, OURS, PEERS, PLAIN, CropReader
from harness.models.layers.timm_import import import_timm

ROUNDS = PROCESSES = 3


@dataclass(frozen=True)
class LoaderSpeed:
    """What one reader reached: crops/s of all its cores, the best of the rounds and their median."""

    crops_per_second: float
    median: float
    per_processor_second: float  # of all rounds: hardly affected by other load
    first_batch: float  # seconds from opening the set, imports done
    read_per_crop: float | None  # MB; None where files are mapped rather than read
    memory: float  # peak resident MB


def measure(reader: CropReader, folder: Path, cores: int, seconds: float) -> LoaderSpeed:
    """Run a reader in a fresh process on this many cores."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (reader.name, folder, cores, seconds))


def first_batch(reader: CropReader, folder: Path) -> float:
    """Seconds to the first batch on one core, the best of some processes.

    A virtual machine that gives idle memory back to its host may wait 0.2 s for 100 MB of it, or not at all.
    """
    return min(measure(reader, folder, 1, 0).first_batch for _ in range(PROCESSES))


def _measure(name: str, folder: Path, cores: int, seconds: float) -> LoaderSpeed:
    """Runs inside the process. Time is wall-clock time: other load on the machine counts against a reader."""
    reader = next(candidate for candidate in (*OURS, *PEERS) if candidate.name == name)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    if reader in OURS:
        importlib.import_module("shards.reader.kernel")  # an import, as torch is
    else:
        import_timm()  # peers import torchvision
    opened = time.perf_counter()
    crops = reader.crops(folder, cores)
    next(crops)
    first, rates, before, total, spent = time.perf_counter() - opened, [], _bytes_read(), 0, time.process_time()
    for _ in range(ROUNDS):
        began, done = time.perf_counter(), next(crops)
        while time.perf_counter() - began < seconds / ROUNDS:
            done += next(crops)
        rates.append(done / (time.perf_counter() - began))
        total += done
    spent = time.process_time() - spent
    read = (_bytes_read() - before) / total / 1e6
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return LoaderSpeed(
        max(rates), statistics.median(rates), total / spent, first, read if read > 0.01 else None, memory
    )


def _bytes_read() -> int:
    with suppress(OSError):
        return int(Path("/proc/self/io").read_text().split()[1])
    return 0


def well_milliseconds(folder: Path) -> float:
    """Milliseconds to decode one complete well on one core, the fastest of all."""
    import numpy as np

    from shards.reader.shard_set import ShardSet

    shards = ShardSet.open(folder)
    into, best = shards.read_well(0), float("inf")
    for number in np.resize(np.arange(len(shards.wells)), 40).tolist():
        began = time.perf_counter()
        shards.read_well(number, into=into)
        best = min(best, time.perf_counter() - began)
    return 1000 * best


def rows(wells: int, seconds: float) -> list[dict[str, Any]]:
    """The measurements, as {name, unit, ours, peer, peer_name, ratio, goal, met}."""
    import_timm()  # peers import torchvision
    load = os.getloadavg()[2]
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "images"
        pixels = write_wells(root, wells)
        speeds: dict[str, LoaderSpeed] = {}
        for reader in (*OURS, *PEERS):
            if not reader.installed:
                continue
            folder = Path(place) / reader.folder
            if not folder.exists():
                reader.prepare(root, folder)
            speeds[reader.name] = measure(reader, folder, 1, seconds)
            print(f"{reader.name}: {speeds[reader.name]}", file=sys.stderr)
        lossless = Path(place) / OURS[0].folder
        stored = sum(path.stat().st_size for path in lossless.glob("*.tar"))
        one_core, two_cores = (measure(OURS[0], lossless, cores, seconds) for cores in (1, 2))
        first = first_batch(OURS[0], lossless)
        return _rows(speeds, one_core, two_cores, first, pixels / stored, well_milliseconds(lossless), load)


def _rows(
    speeds: dict[str, LoaderSpeed],
    one_core: LoaderSpeed,
    two_cores: LoaderSpeed,
    first: float,
    ratio: float,
    well_ms: float,
    load: float,
) -> list[dict[str, Any]]:
    best, plain = speeds[f"ours, {LOSSLESS}"], speeds[f"ours, {PLAIN}"]
    our_rate = best.crops_per_second
    measurements = [
        _row("crops, lossless", "crops/s per core", our_rate, goal=1500),
        _row("compression, lossless", "ratio", ratio, goal=1.9),
        _row("crops, lossless", "crops per processor second", best.per_processor_second),
        _row("crops, uncompressed", "crops/s per core", plain.crops_per_second, goal=5000),
        _row("crops, uncompressed", "crops per processor second", plain.per_processor_second),
        _row("two cores over one, lossless", "ratio", two_cores.crops_per_second / one_core.crops_per_second, goal=1.9),
        _row("first batch of 256, lossless", "s", first, goal=0.5, most=True),
        _row("memory, two threads", "MB", two_cores.memory, goal=1000, most=True),
        _row("read per crop, lossless", "MB", best.read_per_crop or 0.0, goal=0.5, most=True),
        _row("whole well, lossless", "ms", well_ms),
        _row("crops, lossless, two cores", "crops per processor second", two_cores.per_processor_second),
        _row("load of the machine before, 15 minutes", "processes", load),
    ]
    single = [p for p in PEERS if p.name in speeds and p.per_read == 1]
    fastest = max(single, key=lambda p: speeds[p.name].crops_per_second, default=None)
    for peer in PEERS:
        if peer.name not in speeds:
            measurements.append(_row("crops, lossless", "crops/s per core", our_rate, f"{peer.name} (not installed)"))
            continue
        goal = 18 if peer.name == PEERS[0].name else 3.5 if peer is fastest else None
        measurements.append(
            _row("crops, lossless", "crops/s per core", our_rate, peer.name, speeds[peer.name].crops_per_second, goal)
        )
    return measurements


def _row(
    name: str,
    unit: str,
    ours: float,
    peer_name: str | None = None,
    peer: float | None = None,
    goal: float | None = None,
    most: bool = False,
) -> dict[str, Any]:
    """One measurement; with a peer, the goal is for the ratio."""
    ratio = None if peer is None else ours / peer
    value = ours if ratio is None else ratio
    met = None if goal is None else value <= goal if most else value >= goal
    numbers = {"ours": ours, "peer": peer, "ratio": ratio}
    rounded = {key: None if number is None else float(f"{number:.4g}") for key, number in numbers.items()}
    return {"name": name, "unit": unit, **rounded, "peer_name": peer_name, "goal": goal, "met": met}


def table(measurements: Sequence[dict[str, Any]]) -> str:
    """The rows as text."""
    lines = []
    for number, row in zip(count(1), measurements, strict=False):
        peer = "" if row["peer_name"] is None else f"; {row['peer_name']}: {row['peer'] or '-'}"
        ratio = f" (ours {row['ratio']} x)" if row["ratio"] else ""
        goal = "" if row["goal"] is None else f"; goal {row['goal']}: {'met' if row['met'] else 'NOT met'}"
        lines.append(f"{number:2d} {row['name']}: {row['ours']} {row['unit']}{peer}{ratio}{goal}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--wells", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each reader (default %(default)s)")
    options = parser.parse_args(arguments)
    stdout = os.dup(1)
    os.dup2(2, 1)  # peers and their workers print to stdout
    measurements = rows(options.wells, options.seconds)
    os.dup2(stdout, 1)
    print(json.dumps(measurements, indent=1) if options.json else table(measurements))
    return 0


if __name__ == "__main__":
    sys.exit(main())
