"""Rewrite the sidecar indices of a shard set from its tar files: `python -m shards.index DIR`.

Every tar file is read completely, and its checksum compared with the manifest's. The indices of the others are written
also if one is refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from shards.errors import ShardError


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit status is 1 if any index could not be written."""
    from shards.format.manifest import read_manifest
    from shards.format.source import LocalFolder
    from shards.reader.sidecar import rebuild_index, write_sidecar
    from shards.reader.well_table import WellTable

    parser = argparse.ArgumentParser(prog="python -m shards.index", description="Rewrite all sidecar indices.")
    parser.add_argument("folder", type=Path, help="folder of a finished shard set")
    folder, failed = LocalFolder(parser.parse_args(arguments).folder), 0
    try:
        table = WellTable.open(folder, read_manifest(folder))
    except (ShardError, OSError) as error:
        print(f"shards.index: {error}", file=sys.stderr)
        return 1
    shards = table.manifest.shards
    for number, shard in enumerate(shards):
        try:
            write_sidecar(folder.place, shard, rebuild_index(folder, table, number))
        except (ShardError, OSError) as error:
            print(f"shards.index: {error}", file=sys.stderr)
            failed += 1
    print(f"{folder.place}: {len(shards) - failed} of {len(shards)} indices written")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
