"""Embedding a grid cell: every well is tiled, tiles go through the encoder, and their embeddings are averaged.

The paper tiles a 2048 × 2048 well into 64 crops of 256 (supplement A.3). The pixel-statistics baseline takes the mean
and standard deviation of each channel instead. The result is one Parquet file per cell, with the wells' metadata. It
is joined from parts, which several jobs may have embedded (`parts.py`).

Shapes: T tiles in a forward pass, W wells, C channels, S crop side, D embedding width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from harness.data.channels import learned_channels
from harness.data.labels import class_count
from harness.data.shard_sets import check_shards
from harness.data.wells import Wells
from harness.distributed.preemption import RunControl, StopFlag, controlled, in_lockstep
from harness.distributed.ranks import Ranks, process_group
from harness.distributed.recompute import compile_for, set_up_blocks
from harness.distributed.stalls.pulse import PULSE, SAVE
from harness.distributed.stalls.watch import watched
from harness.embed.parts import WHOLE, Embedding, JobShare, join_parts
from harness.embed.pixel_statistics import pixel_statistics
from harness.embed.reconstructions import Inpainter, save_reconstructions
from harness.embed.wells import Features, TileReading, embed_parts
from harness.grid.cell_folder import RECONSTRUCTIONS, WEIGHTS
from harness.grid.cells import weights_path
from harness.models.architecture import build, initialise
from harness.models.interface import Network
from harness.models.layers.attention import attention_kernel
from harness.models.mae import MaskedAutoencoder
from harness.storage.embeddings import write_embeddings
from harness.storage.weights import load_weights

Encode = Callable[[Sequence[Wells]], Iterator[Features]]


def embed_cell(embedding: Embedding, share: JobShare = WHOLE, control: RunControl | None = None) -> dict[str, Any]:
    """Embed a job share's parts of the wells of `recipe.embed` with a cell's model, and return the ledger's values.

    Continues after the parts that an earlier run of the same fingerprint and weights left. A job that has the whole
    cell also joins the parts; job shares leave that to `harness.stages.shared_embedding.finish`.

    Raises:
        WeightsError, EncoderFileError: the weights are missing or damaged, or do not fit.
        Preempted: a signal asked to stop; the parts that are done stay.
        ValueError: the wells do not fit the model.
    """
    recipe, cell, parts = embedding.stage.recipe, embedding.stage.cell, embedding.parts
    with (
        process_group(recipe.launch.device) as ranks,
        controlled(control) as control,
        watched(embedding.stage.folder, ranks, control, recipe.launch.stall_minutes),
    ):
        missing = [number for number in parts.of(share) if ranks.any(not parts.path(number).exists())]
        seconds = 0.0
        if missing:
            check_shards(embedding.shards, ranks)
            dtype = torch.bfloat16 if recipe.train.precision == "bf16" else torch.float32
            has_attention = cell.kind != "pixel_statistics"
            with attention_kernel(recipe.launch.attention, ranks.device, dtype) if has_attention else nullcontext():
                encode = _encoder(embedding, ranks, control.stop, share)
                seconds = _embed_parts(embedding, missing, encode, ranks)
        embedded = embedding.count_crops(map(parts.wells_of, missing))
        own = [parts.wells_of(number) for number in parts.of(share)]
        counts: dict[str, Any] = {"wells": sum(map(len, own)), "crops": embedding.count_crops(own)}
        PULSE.mark(SAVE)
        if share == WHOLE and ranks.is_first:
            counts = join_parts(embedding) or counts
        ranks.wait()
    speed = round(embedded / seconds, 1) if seconds and cell.kind != "pixel_statistics" else None
    return {"kind": cell.kind, **counts, "ranks": ranks.world, "crops_per_second": speed}


def _embed_parts(embedding: Embedding, numbers: Sequence[int], encode: Encode, ranks: Ranks) -> float:
    """Embed parts and write each as it is done; return the seconds that it took."""
    start, provenance = time.perf_counter(), _provenance(embedding)
    parts = [embedding.parts.wells_of(number) for number in numbers]
    for number, wells, features in zip(numbers, parts, encode(parts), strict=True):
        PULSE.mark(SAVE)
        if ranks.is_first:
            write_embeddings(embedding.parts.path(number), embedding.shards.wells.loc[wells], features, provenance)
    return time.perf_counter() - start


def _provenance(embedding: Embedding) -> dict[str, Any]:
    """What a reader of the file needs to know of its making."""
    recipe, cell = embedding.stage.recipe, embedding.stage.cell
    assert recipe.embed is not None
    options = recipe.embed
    return {
        "study": recipe.name,
        "cell": cell.id,
        "kind": cell.kind,
        "model": cell.model,
        "stage_fingerprint": embedding.stage.fingerprint,
        "weights_sha256": embedding.weights_sha256,
        "shards": str(options.shards),
        "channels": embedding.channels.names,
        "trained_channels": learned_channels(recipe, cell, embedding.stage.folder),
        "pool": options.pool,
        "block": options.block,
        "crop": recipe.mae.crop,
        "precision": recipe.train.precision,
    }


def _encoder(embedding: Embedding, ranks: Ranks, stop: StopFlag, share: JobShare) -> Encode:
    """What turns parts of wells into their features, each (W, D); it raises Preempted when a rank is told to stop."""
    recipe, cell, folder, shards = (
        embedding.stage.recipe, embedding.stage.cell, embedding.stage.folder, embedding.shards
    )  # fmt: skip
    if cell.kind == "pixel_statistics":
        return lambda parts: (pixel_statistics(shards, in_lockstep(wells, ranks, stop)) for wells in parts)
    assert recipe.embed is not None
    assert cell.architecture is not None
    options, precision = recipe.embed, recipe.train.precision
    model = build(cell.architecture, options.pool, class_count(recipe, cell)).to(ranks.device)
    if cell.kind == "pretrained":
        initialise(model, weights_path(recipe, cell))
    else:
        load_weights(folder / WEIGHTS, model)
    model.eval()
    if ranks.is_first and share.number == 0 and cell.kind == "trained" and isinstance(model, Inpainter):
        save_reconstructions(folder / RECONSTRUCTIONS, model, embedding, ranks)
    if options.block is not None:
        keep_blocks(model, options.block)
    compiled = compile_for(recipe.launch.compile, ranks.device)
    set_up_blocks(model, "none", "none" if compiled == "none" else "blocks")  # it does not call the whole network
    reading = TileReading.of(recipe, model.config.crop, ranks.device)
    return lambda parts: embed_parts(model, cell, shards, parts, embedding.channels, reading, ranks, precision, stop)


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
