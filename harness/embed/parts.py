"""The parts in which a cell's wells are embedded: a Parquet file each, so that a stop or a crash costs less than one of
them, and so that jobs that know nothing of one another can share a cell's wells. No torch.

How wells fall into parts follows from the recipe, not from who embeds them: any number of elements, also another one
than before, goes on from the parts that are there and leaves the same file.

Legend: W wells, D embedding width.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.data.shard_sets import open_shards
from harness.grid.cell_folder import EMBEDDINGS, WEIGHTS
from harness.grid.cells import Cell, weights_path
from harness.recipe.schema import Recipe
from harness.storage.checksums import checksum
from harness.storage.embeddings import join_embeddings

if TYPE_CHECKING:
    from harness.data.wells import Wells
    from shards.reader.shard_set import ShardSet

FOLDER = "embedding-"


@dataclass(frozen=True)
class JobShare:
    """One of `count` jobs that share a cell's wells without speaking to one another; `number` counts from 0."""

    number: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count:
            raise ValueError(f"element {self.number} is not one of {self.count}")


WHOLE = JobShare()


@dataclass(frozen=True)
class Parts:
    """The wells of a cell, `size` in a part, and the folder of the parts that are whole."""

    folder: Path
    wells: Wells  # (W,)
    size: int

    def __len__(self) -> int:
        return -(-len(self.wells) // self.size)

    def wells_of(self, number: int) -> Wells:
        """The wells of a part, in their order."""
        return self.wells[number * self.size : (number + 1) * self.size]

    def path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.parquet"

    def of(self, share: JobShare) -> range:
        """The parts that an element embeds: every `count`-th."""
        return range(share.number, len(self), share.count)

    def missing(self) -> list[int]:
        """The parts that nobody has embedded yet."""
        there = {entry.name for entry in os.scandir(self.folder)} if self.folder.exists() else set()
        return [number for number in range(len(self)) if self.path(number).name not in there]


def parts_of(recipe: Recipe, cell: Cell, folder: Path, fingerprint: str) -> tuple[ShardSet, Parts]:
    """The shards that a cell embeds, and its parts for these settings and weights."""
    from harness.data.wells import evaluation_wells

    assert recipe.embed is not None
    shards = open_shards(recipe, recipe.embed.shards)
    wells = evaluation_wells(shards, recipe.embed.experiments)
    size = recipe.launch.embed_part_wells
    settings = json.dumps([fingerprint, weights_digest(recipe, cell, folder), size])
    name = hashlib.sha256(settings.encode()).hexdigest()[:16]
    return shards, Parts(folder / f"{FOLDER}{name}", wells, size)


def join_parts(recipe: Recipe, cell: Cell, folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """Put a cell's parts together into its file of embeddings; None, and nothing done, while one is missing.

    Doing it again gives the same file: parts stay until `discard_parts`.

    Returns:
        `wells`, `width` and `crops`, for the ledger.

    Raises:
        ValueError: a part is damaged. It is removed, so that the next run embeds it again.
    """
    shards, parts = parts_of(recipe, cell, folder, fingerprint)
    if parts.missing():
        return None
    keys = shards.wells["key"].to_numpy()
    wanted = [(parts.path(number), keys[parts.wells_of(number)].tolist()) for number in range(len(parts))]
    width = join_embeddings(folder / EMBEDDINGS, wanted)
    return {"wells": len(parts.wells), "width": width, "crops": count_crops(shards, [parts.wells], recipe.mae.crop)}


def discard_parts(folder: Path) -> None:
    """Remove a cell's parts, those of earlier settings or weights too."""
    for path in folder.glob(f"{FOLDER}*"):
        shutil.rmtree(path, ignore_errors=True)


def count_crops(shards: ShardSet, wells: Iterable[Wells], crop: int) -> int:
    """Tiles of `crop` pixels in these wells."""
    return sum(int((shards.shapes[some] // crop).prod(axis=1).sum()) for some in wells)


def weights_digest(recipe: Recipe, cell: Cell, folder: Path) -> str | None:
    """SHA-256 of the file that a cell's weights are in; None for a cell without any."""
    if cell.architecture is None:
        return None
    given = weights_path(recipe, cell) if cell.kind == "pretrained" else None
    return str(checksum(given or folder / WEIGHTS)[1])
