"""The sidecar index of a shard: where each image's chunks lie, so that a crop is read without looking for it.

    header      magic, version, wells, bytes and SHA-256 of the tar file, CRC-32C of header and records
    records     one per well image, in the order of the shard (`RECORD`)
    offsets     4 bytes each: for image after image, where in its payload each chunk begins, and the last one ends

It is never the only copy: everything in it can be read from the tar file, and is, where the sidecar is missing or of
another tar file. Header and records are checked on opening, an image's offsets whenever they are used.

Shapes: W wells of the shard, N chunks of an image.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from shards.errors import ShardError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    from shards.format.manifest import read_manifest
    from shards.format.source import LocalFolder
    from shards.reader.crop_reader import rebuild_index, write_sidecar

    parser = argparse.ArgumentParser(prog="python -m shards.index", description="Write all sidecar indices anew.")
    parser.add_argument("folder", type=Path, help="folder of a finished shard set")
    folder = LocalFolder(parser.parse_args(arguments).folder)
    try:
        manifest = read_manifest(folder)
        for shard in manifest.shards:
            write_sidecar(folder.place, shard, rebuild_index(folder, shard, manifest))
    except (ShardError, OSError) as error:
        print(f"shards.index: {error}", file=sys.stderr)
        return 1
    print(f"{folder.place}: {len(manifest.shards)} indices written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
