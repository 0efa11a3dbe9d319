"""Look at a shard set, and at one well of it: `python -m shards.inspect DIR [KEY] [--out PNG]`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shards.pictures import PERCENTILES, ChannelStatistics, draw, statistics
from shards.reader.shard_set import SPLITS, ShardError, ShardSet
from shards.remote.store import source_of


def number_of(shards: ShardSet, key: str | None) -> int:
    """The number of a well image by its key, the first of the set by default; ShardError names keys like it."""
    if key is None:
        return 0
    keys = shards.wells["key"].astype(str)
    found = np.flatnonzero((keys == key).to_numpy())
    if not len(found):
        import difflib

        near = difflib.get_close_matches(key, keys, n=3)
        raise ShardError(f"{shards.folder}: no well {key!r}; there is {', '.join(near or keys.head(3))}, ...")
    return int(found[0])


def stored_bytes(shards: ShardSet, number: int) -> int:
    """Bytes that a well image takes in its shard, its own index included."""
    window = shards.windows(np.array([number]), np.zeros((1, 4), np.int64))
    return int(shards.reader.opened(int(window.shard[0])).index.records[int(window.position[0])]["length"])


def describe_set(shards: ShardSet) -> str:
    """What a set holds, in a few lines."""
    manifest = shards.manifest
    raw = int(shards.shapes.prod(axis=1).sum()) * len(manifest.channels) * np.dtype(manifest.pixel_type).itemsize
    size = sum(shard.bytes for shard in manifest.shards)
    parts = [f"{manifest.wells[s]} {s} wells of {len(manifest.experiments[s])} experiments" for s in SPLITS]
    return "\n".join(
        [
            f"{shards.folder}: {', '.join(parts)}",
            f"channels {', '.join(manifest.channels)}",
            f"{manifest.pixel_type}, {manifest.conversion or 'pixels as their sources have them'}",
            f"{len(manifest.shards)} shards, {size / 1e6:.1f} MB, ratio {raw / size:.2f}: "
            f"{manifest.codec} in chunks of {manifest.chunk} pixels",
        ]
    )


def describe_well(shards: ShardSet, number: int, found: Sequence[ChannelStatistics], raw: int) -> str:
    """Metadata, size and statistics of a well image."""
    stored = stored_bytes(shards, number)
    height, width = shards.shapes[number].tolist()
    head = f"{'channel':<14}{'mean':>9}{'std':>9}{'min':>7}" + "".join(f"{f'p{p:g}':>9}" for p in PERCENTILES)
    rows = [
        f"{one.name[:13]:<14}{one.mean:>9.1f}{one.std:>9.1f}{one.least:>7}"
        + "".join(f"{value:>9.0f}" for value in one.percentiles)
        + f"{one.most:>7}{one.saturated:>11.3%}"
        for one in found
    ]
    metadata = {name: value for name, value in shards.metadata(number).items() if value not in ("", None)}
    return "\n".join(
        [
            json.dumps(metadata, ensure_ascii=False),
            f"{height} x {width}, {stored / 1e6:.2f} MB stored of {raw / 1e6:.2f} MB: ratio {raw / stored:.2f}",
            f"{head}{'max':>7}{'saturated':>11}",
            *rows,
        ]
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(prog="python -m shards.inspect", description="Show a well of a shard set.")
    add = arguments.add_argument
    add("place", metavar="DIR", help="folder or URL of the set")
    add("key", metavar="KEY", nargs="?", help="which well image (default: the first)")
    add("--out", type=Path, metavar="PNG", help="write a picture of its channels and their composite")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    given = parser().parse_args(argv)
    try:
        shards = ShardSet.open(source_of(given.place))
        number = number_of(shards, given.key)
        image = shards.read_well(number)
        print(describe_set(shards))
        print(describe_well(shards, number, statistics(image, shards.manifest.channels), image.nbytes))
        if given.out:
            row = shards.wells.iloc[number]
            treatment = f", {row['treatment']}" if row.get("treatment") else ""
            draw(image, shards.manifest.channels, f"{row['key']}{treatment}", given.out)
            print(f"picture: {given.out}")
    except (ShardError, OSError, ValueError) as error:
        print(f"shards.inspect: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
