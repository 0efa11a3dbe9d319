"""Check what a build is asked to do before anything is read: its numbers, and where it reads and writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from shards.builder.write import RECORDS
from shards.errors import BuildError
from shards.images.locations import is_url, path_of
from shards.images.planes import MAX_PLANE

PLAN = "plan.json"
LIMITS = {"wells per shard": (1, 1_000_000), "workers": (1, 1024), "seed": (0, 2**64 - 1)}
"""The least and the greatest value of a number."""


def check_numbers(wells_per_shard: int, workers: int, seed: int) -> None:
    """Raise BuildError for a number outside LIMITS."""
    for (name, (least, most)), value in zip(LIMITS.items(), (wells_per_shard, workers, seed), strict=True):
        if not least <= value <= most:
            raise BuildError(f"{name} must be at least {least} and at most {most}, got {value}")


def check_plane(plane: object) -> None:
    """Raise BuildError if this is no plane that an image may have."""
    is_number = isinstance(plane, int) and not isinstance(plane, bool) and 1 <= plane <= MAX_PLANE
    if plane not in (None, "max") and not is_number:
        raise BuildError(f"plane must be a number from 1 to {MAX_PLANE}, or max, got {plane!r}")


def check_folders(root: str, output: Path) -> None:
    """Raise BuildError if `output` cannot be a folder of this build, or if the images are inside it."""
    for path in (output, output / RECORDS):
        if os.path.lexists(path) and not path.is_dir():
            raise BuildError(f"{path} is not a folder: build into another one")
    if above := next((path for path in output.absolute().parents if path.exists() and not path.is_dir()), None):
        raise BuildError(f"{output} cannot be created: {above} is not a folder")
    if not is_url(root) and path_of(root).resolve().is_relative_to(output.resolve()):
        raise BuildError(f"the images, in {root}, are inside the output {output}: build into a folder of its own")
    if not (output / RECORDS / PLAN).is_file() and (name := next(_foreign(output), None)):
        kind = "tar files" if name.endswith(".tar") else "files"
        raise BuildError(
            f"{output} holds {kind} that this command did not write, such as {name}: build into another folder"
        )


def _foreign(output: Path) -> Iterator[str]:
    """Names of what a folder holds besides an unused folder of records; hidden files may be the file system's own."""
    if output.is_dir():
        yield from sorted(path.name for path in output.iterdir() if not path.name.startswith("."))
