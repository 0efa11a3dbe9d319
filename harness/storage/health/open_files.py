"""File descriptors: as many as the system allows, and how many shards may stay open with them.

Clusters often start jobs with a soft limit of 1,024 and a hard one far above. The first rank of a job holds connections
to every other one, so what is left for shards depends on the number of ranks. No torch.
"""

from __future__ import annotations

import os
import resource
import sys

PER_RANK = 4
"""Descriptors of the first rank for each rank: one connection in each group of gloo and in each store. There are two of
each, and tests/distributed/test_open_files.py counts them."""
FIXED = 128  # libraries, logs, pipes, the files of a save; a process with torch has about 40
PER_SHARD = 2  # its tar file and its index
FEWEST_SHARDS = 8  # a reader with fewer would open a file for every crop


def raise_limit() -> int:
    """Raise this process's soft limit of open files to the hard one, and return what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):  # a system may refuse its own hard limit, such as macOS an unlimited one
        return soft
    return hard


def open_shards_limit(wanted: int, held: int = 0, world: int | None = None) -> int:
    """How many shards a rank may keep open: `wanted`, or what the limit of open files leaves beside `world` ranks.

    Args:
        held: shards in the hands of reading threads, beside those that are kept.
        world: number of ranks; by default this job's.

    Raises:
        OSError: the limit does not leave `FEWEST_SHARDS`.
    """
    world = int(os.environ.get("WORLD_SIZE", "1")) if world is None else world
    limit = raise_limit()
    if limit == resource.RLIM_INFINITY:
        return wanted
    others = FIXED + PER_RANK * world + PER_SHARD * held
    left = (limit - others) // PER_SHARD
    if left >= wanted:
        return wanted
    least = others + PER_SHARD * min(wanted, FEWEST_SHARDS)
    how = "raise the hard limit of open files (ulimit -Hn; LimitNOFILE of slurmd)"
    if limit < least:
        raise OSError(f"a job of {world} ranks needs {least:,} open files, and this process may have {limit:,}: {how}")
    print(
        f"warning: {limit:,} open files and {world} ranks leave {left} of the {wanted} shards of "
        f"launch.loader_open_shards: {how}", file=sys.stderr, flush=True,
    )  # fmt: skip
    return left
