"""The embedding of a grid cell, opened once, and the parts that it is made in.

A part is a Parquet file of some wells, so that a stop or a crash costs less than one of them, and so that jobs that do
not communicate can share a cell's wells. How wells fall into parts follows from the recipe, not from who embeds them:
any number of job shares, also another one than before, continues from the existing parts and leaves the same file.
No torch.

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

from harness.data.channels import ChannelOrder, embedding_channels
from harness.data.shard_sets import open_shards
from harness.grid.cell_folder import EMBEDDINGS, WEIGHTS
from harness.grid.cells import weights_path
from harness.grid.stage_run import StageRun
from harness.storage.checksums import checksum
from harness.storage.embeddings import join_embeddings

if TYPE_CHECKING:
    from harness.data.wells import Wells
    from shards.reader.shard_set import ShardSet

FOLDER = "embedding-"


@dataclass(frozen=True)
class JobShare:
    """One of `count` jobs that share a cell's wells without communicating; `number` counts from 0."""

    number: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count:
            raise ValueError(f"job share {self.number} is not one of {self.count}")


WHOLE = JobShare()


@dataclass(frozen=True)
class Parts:
    """The wells of a cell, `size` in a part, and the folder of the parts that are complete."""

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
        """The parts that a job share embeds: every `count`-th."""
        return range(share.number, len(self), share.count)

    def missing(self) -> list[int]:
        """The parts that nobody has embedded yet."""
        present = {entry.name for entry in os.scandir(self.folder)} if self.folder.exists() else set()
        return [number for number in range(len(self)) if self.path(number).name not in present]


@dataclass(frozen=True)
class Embedding:
    """A cell's embedding under given settings and weights: its shards opened, its weights hashed, its parts known."""

    stage: StageRun
    shards: ShardSet
    channels: ChannelOrder  # of the network, in these shards
    parts: Parts
    weights_sha256: str | None  # None for a cell without weights

    def count_crops(self, wells: Iterable[Wells]) -> int:
        """Tiles in these wells, of the study's crop size."""
        crop = self.stage.recipe.mae.crop
        return sum(int((self.shards.shapes[part] // crop).prod(axis=1).sum()) for part in wells)


def open_embedding(stage: StageRun) -> Embedding:
    """Open what a cell embeds, once for all that follows. `embed_cell` looks for the shards, if wells are missing.

    Raises:
        ChannelError: the shards' channels are not those of the cell's network.
    """
    from harness.data.wells import evaluation_wells

    recipe = stage.recipe
    assert recipe.embed is not None
    shards = open_shards(recipe, recipe.embed.shards, sizes=False)
    channels = embedding_channels(recipe, stage.cell, stage.folder, shards.manifest.channels)
    wells = evaluation_wells(shards, recipe.embed.experiments)
    size, digest = recipe.launch.embed_part_wells, _weights_digest(stage)
    name = hashlib.sha256(json.dumps([stage.fingerprint, digest, size]).encode()).hexdigest()[:16]
    return Embedding(stage, shards, channels, Parts(stage.folder / f"{FOLDER}{name}", wells, size), digest)


def _weights_digest(stage: StageRun) -> str | None:
    """SHA-256 of the file that a cell's weights are in; None for a cell without any."""
    if stage.cell.architecture is None:
        return None
    pretrained = weights_path(stage.recipe, stage.cell) if stage.cell.kind == "pretrained" else None
    return str(checksum(pretrained or stage.folder / WEIGHTS)[1])


def join_parts(embedding: Embedding) -> dict[str, Any] | None:
    """Join a cell's parts into its file of embeddings; None, and nothing done, while one is missing.

    Doing it again gives the same file: parts stay until `discard_parts`.

    Returns:
        `wells`, `width`, `crops` and `channels`, for the ledger.

    Raises:
        ValueError: a part is damaged. It is removed, so that the next run embeds it again.
    """
    parts = embedding.parts
    if parts.missing():
        return None
    keys = embedding.shards.table.frame(["key"])["key"].to_numpy()
    files = [(parts.path(number), keys[parts.wells_of(number)].tolist()) for number in range(len(parts))]
    width = join_embeddings(embedding.stage.folder / EMBEDDINGS, files)
    return {
        "wells": len(parts.wells), "width": width, "crops": embedding.count_crops([parts.wells]),
        "channels": list(embedding.channels.names),
    }  # fmt: skip


def discard_parts(folder: Path) -> None:
    """Remove a cell's parts, those of earlier settings or weights too."""
    for path in folder.glob(f"{FOLDER}*"):
        shutil.rmtree(path, ignore_errors=True)
