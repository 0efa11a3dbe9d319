"""Throughput of the shard builder compared with a plain WebDataset writer on the same files.

    python -m benchmarks.builder [--json] [--workers 1]

Wells are 2048 x 2048 x 6 of 8 bits, cut from the real images that SCALING_TEST_DATA points to (without them, smoothed
noise), one raw array (.npy) per channel: reading costs a memory copy, so that only the builder's own work is measured.
Files are warm in the page cache. MB are pixels.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.builder.build_set import build
from shards.images.decode import EightBit, read_image

SIDE, CHANNELS, WELLS = 2048, 6, 24
GOAL = 100.0  # MB/s per core from raw arrays
WRITER = "webdataset TarWriter"
ABSENT_PEERS = {"litdata": "litdata optimize", "streaming": "mosaicml-streaming MDSWriter"}

Planes = list[NDArray[np.uint8]]


def rows(wells: int = WELLS, workers: int = 1) -> list[dict[str, Any]]:
    """The measurements, as {name, unit, ours, peer, peer_name, ratio, goal, met}."""
    with tempfile.TemporaryDirectory(dir=_place()) as folder:
        root = Path(folder) / "images"
        megabytes = write_wells(root, wells) / 1e6
        _ours(root, Path(folder) / "warm", workers)  # page cache, imports and worker start-up
        ours = megabytes / _ours(root, Path(folder) / "shards", workers) / workers
        peer = _measured_peer(root, Path(folder) / "peer.tar", megabytes)
    common = {"name": f"build, raw arrays, {workers} worker(s)", "unit": "MB/s per core", "ours": round(ours, 1)}
    met = {"goal": GOAL, "met": ours >= GOAL}
    ratio = peer and round(ours / peer, 2)
    measurements = [{**common, "peer": peer and round(peer, 1), "peer_name": WRITER, "ratio": ratio}]
    for module, name in ABSENT_PEERS.items():
        if importlib.util.find_spec(module) is None:
            measurements.append({**common, "peer": None, "peer_name": f"{name} (not installed)", "ratio": None})
    return [{**row, **met} for row in measurements]


def write_wells(root: Path, wells: int) -> int:
    """Write a screen in the `folder` layout, two experiments, and return its bytes of pixels."""
    planes = _planes()
    root.mkdir(parents=True)
    random = np.random.default_rng(0)
    table = ["experiment,plate,well,file"]
    for well in range(wells):
        name = f"well{well:03d}"
        table.append(f"e{well % 2},p1,{name},{name}")
        for channel in range(CHANNELS):
            down, right = random.integers(0, SIDE, 2)  # a different part of the field in every well
            np.save(root / f"{name}_c{channel}.npy", np.roll(planes[channel % len(planes)], (down, right), (0, 1)))
    (root / "wells.csv").write_text("\n".join(table) + "\n")
    return wells * CHANNELS * SIDE * SIDE


def _planes() -> Planes:
    """Fluorescence images, mirrored to the size of a well and converted to 8 bits at their 99.9th percentile."""
    data = os.environ.get("SCALING_TEST_DATA", "")
    files = [file for number in range(1, 6) for file in sorted(Path(data).glob(f"cpjump1/images/*/*-ch{number}sk1*"))]
    if not data or not files:
        from scipy.ndimage import gaussian_filter

        noise = np.random.default_rng(0).normal(0, 1, (CHANNELS, SIDE, SIDE))
        return [
            (60 * gaussian_filter(plane, 3) / 0.1 + 4 * plane + 100).clip(0, 255).astype(np.uint8) for plane in noise
        ]
    planes = []
    for file in files:
        image = read_image(str(file))
        flat = EightBit(f"0:{int(np.percentile(image, 99.9))}").apply(image)
        planes.append(np.pad(flat, [(0, SIDE - side) for side in flat.shape], mode="symmetric"))
    return planes


def _ours(root: Path, output: Path, workers: int) -> float:
    options = {"pattern": "{file}_c{channel}.npy", "channels": ",".join(map(str, range(CHANNELS)))}
    return _seconds(lambda: build("folder", root, output, options=options, wells_per_shard=4, workers=workers,
                                  progress=False))  # fmt: skip


def _measured_peer(root: Path, path: Path, megabytes: float) -> float | None:
    """MB/s of a WebDataset tar with one .npy per channel: no compression, no index, no checksums."""
    if importlib.util.find_spec("webdataset") is None:
        return None
    import webdataset

    def write() -> None:
        with path.open("wb") as file:
            with webdataset.TarWriter(file) as writer:
                for well in sorted({file.name.partition("_")[0] for file in root.glob("*.npy")}):
                    planes = {f"c{c}.npy": np.load(root / f"{well}_c{c}.npy") for c in range(CHANNELS)}
                    writer.write({"__key__": well, **planes, "json": {"well": well}})
            file.flush()
            os.fsync(file.fileno())

    write()
    return megabytes / _seconds(write)


def _seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def _place() -> str | None:
    """A folder in memory where there is space, because the disk is not measured."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        return None
    space = os.statvfs(memory)
    return str(memory) if space.f_bavail * space.f_frsize > 4e9 else None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.builder", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--wells", type=int, default=WELLS)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    measurements = rows(options.wells, options.workers)
    if options.json:
        print(json.dumps(measurements, indent=1))
        return 0
    for row in measurements:
        peer = "-" if row["peer"] is None else f"{row['peer']} ({row['ratio']} x)"
        print(f"{row['name']}: {row['ours']} {row['unit']}, goal {row['goal']}; {row['peer_name']}: {peer}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
