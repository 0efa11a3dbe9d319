"""Rewrite the sidecar indices of a shard set from its tar files: `python -m shards.index DIR`."""

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

    parser = argparse.ArgumentParser(prog="python -m shards.index", description="Rewrite all sidecar indices.")
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
