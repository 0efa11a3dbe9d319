"""Embedding wells: every well is tiled, each tile goes through the encoder, and the tiles' embeddings are averaged.

The paper tiles a 2048 × 2048 well into 64 crops of 256 (supplement A.3). The pixel-statistics baseline takes the mean
and standard deviation of each channel instead. One Parquet file per cell, with the wells' metadata, is put
together from parts, which several jobs may have embedded (`parts.py`).

Shapes: T tiles in a forward pass, W wells, C channels, S crop side, D embedding width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from harness.data.labels import class_count
from harness.data.wells import Wells
from harness.distributed.preemption import StopFlag, in_lockstep, stop_on_signals
from harness.distributed.ranks import Ranks, process_group
from harness.embed.parts import WHOLE, JobShare, Parts, count_crops, join_parts, parts_of, weights_digest
from harness.embed.pixel_statistics import pixel_statistics
from harness.embed.reconstructions import Inpainter, save_reconstructions
from harness.embed.wells import Features, TileReading, embed_wells
from harness.grid.cell_folder import RECONSTRUCTIONS, WEIGHTS
from harness.grid.cells import Cell
from harness.models.architecture import build, initialise
from harness.models.interface import Network
from harness.models.mae import MaskedAutoencoder
from harness.recipe.schema import Recipe
from harness.storage.embeddings import write_embeddings
from harness.storage.weights import load_weights
from shards.reader.shard_set import ShardSet

Encode = Callable[[Wells], Features]


def embed_cell(recipe: Recipe, cell: Cell, folder: Path, fingerprint: str, share: JobShare = WHOLE) -> dict[str, Any]:
    """Embed an element's parts of the wells of `recipe.embed` with a cell's model, and return the ledger's values.

    Goes on after the parts that an earlier run of the same `fingerprint` and weights left in `folder`. A job that is
    alone also puts the parts together; elements leave that to `harness.stages.shared_embedding.finish`.

    Raises:
        WeightsError, EncoderFileError: the weights are missing or damaged, or do not fit.
        Preempted: a signal asked to stop; the parts that are done stay.
        ValueError: the wells do not fit the model.
    """
    with process_group(recipe.launch.device) as ranks, stop_on_signals() as stop:
        shards, parts = parts_of(recipe, cell, folder, fingerprint)
        lacking = [number for number in parts.of(share) if ranks.any(not parts.path(number).exists())]
        seconds = 0.0
        if lacking:
            encode = _encoder(recipe, cell, folder, shards, ranks, stop, share)
            made_by = _provenance(recipe, cell, folder, fingerprint)
            seconds = _embed_parts(shards, parts, lacking, encode, ranks, made_by)
        embedded = count_crops(shards, map(parts.wells_of, lacking), recipe.mae.crop)
        own = [parts.wells_of(number) for number in parts.of(share)]
        counts = {"wells": sum(map(len, own)), "crops": count_crops(shards, own, recipe.mae.crop)}
        if share == WHOLE and ranks.is_first:
            counts = join_parts(recipe, cell, folder, fingerprint) or counts
        ranks.wait()
    speed = round(embedded / seconds, 1) if seconds and cell.kind != "pixel_statistics" else None
    return {"kind": cell.kind, **counts, "ranks": ranks.world, "crops_per_second": speed}


def _embed_parts(
    shards: ShardSet, parts: Parts, numbers: Iterable[int], encode: Encode, ranks: Ranks, made_by: dict[str, Any]
) -> float:
    """Embed parts and write each as it is done; return the seconds that it took."""
    start = time.perf_counter()
    for number in numbers:
        wells = parts.wells_of(number)
        features = encode(wells)
        if ranks.is_first:
            write_embeddings(parts.path(number), shards.wells.loc[wells], features, made_by)
    return time.perf_counter() - start


def _provenance(recipe: Recipe, cell: Cell, folder: Path, fingerprint: str) -> dict[str, Any]:
    """What a reader of the file needs to know of its making."""
    assert recipe.embed is not None
    options = recipe.embed
    return {
        "study": recipe.name,
        "cell": cell.id,
        "kind": cell.kind,
        "model": cell.model,
        "stage_fingerprint": fingerprint,
        "weights_sha256": weights_digest(recipe, cell, folder),
        "shards": str(options.shards),
        "pool": options.pool,
        "block": options.block,
        "crop": recipe.mae.crop,
        "precision": recipe.train.precision,
    }


def _encoder(
    recipe: Recipe, cell: Cell, folder: Path, shards: ShardSet, ranks: Ranks, stop: StopFlag, share: JobShare
) -> Encode:
    """What turns wells into features (W, D); it raises Preempted when a rank is told to stop."""
    if cell.kind == "pixel_statistics":
        return lambda wells: pixel_statistics(shards, in_lockstep(wells, ranks, stop))
    assert recipe.embed is not None
    options, precision = recipe.embed, recipe.train.precision
    model = build(cell, options.pool, class_count(recipe, cell)).to(ranks.device)
    if cell.kind == "pretrained":
        initialise(model, recipe, cell)
    else:
        load_weights(folder / WEIGHTS, model)
    model.eval()
    if ranks.is_first and share.number == 0 and cell.kind == "trained" and isinstance(model, Inpainter):
        save_reconstructions(folder / RECONSTRUCTIONS, model, cell, shards, ranks)
    if options.block is not None:
        keep_blocks(model, options.block)
    reading = TileReading.of(recipe, model.config.crop, ranks.device)
    return lambda wells: embed_wells(model, cell, shards, wells, reading, ranks, precision, stop)


def keep_blocks(model: Network, count: int) -> None:
    """Leave the encoder its first `count` blocks alone; its features are then those, after the final norm.

    Raises:
        ValueError: not a vision transformer, or one with fewer blocks.
    """
    if not isinstance(model, MaskedAutoencoder):
        raise ValueError(f"embed.block is {count}, but {type(model).__name__} has no blocks to choose from")
    blocks = model.encoder.blocks
    if count > len(blocks):
        raise ValueError(f"embed.block is {count}, but the encoder has {len(blocks)} blocks")
    model.encoder.blocks = blocks[:count]
