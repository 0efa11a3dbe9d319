"""Embedding wells: every well is tiled, each tile goes through the encoder, and the tiles' embeddings are averaged.

The paper tiles a 2048 × 2048 well into 64 crops of 256 (supplement A.3). The pixel-statistics baseline takes the mean
and standard deviation of each channel instead. One Parquet file per cell, with the wells' metadata, is put
together from parts, which several jobs may have embedded (`parts.py`).

Shapes: T tiles in a forward pass, W wells, C channels, S crop side, D embedding width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.data.labels import class_count
from harness.data.plate_statistics import adapted, by_plate
from harness.data.to_device import prepare, steps_ahead
from harness.data.wells import Wells, validation_wells
from harness.distributed.engine import autocast
from harness.distributed.preemption import StopFlag, abreast, stop_on_signals
from harness.distributed.ranks import Ranks, ranks
from harness.embed.parts import ALONE, Element, Parts, count_crops, join_parts, parts_of, weights_digest
from harness.grid.cells import Cell
from harness.models.architecture import build, initialise
from harness.models.channel_agnostic import ChannelAgnosticMae
from harness.models.interface import Network
from harness.models.layers.masking import masking_noise
from harness.models.mae import MaskedAutoencoder
from harness.models.mu_net import MuNet
from harness.recipe.schema import Recipe
from harness.stages.missing import WEIGHTS
from harness.storage.atomic import write_whole
from harness.storage.embeddings import RECONSTRUCTIONS, write_embeddings
from harness.storage.weights import load_weights
from harness.train.validate import VALIDATION_SEED
from shards.loader.batches import Batch, well_tiles
from shards.reader.shard_set import ShardSet

RECONSTRUCTED_CROPS = 6
GPU_BATCH = 256  # tiles in a forward pass where the recipe does not say
CPU_PIXELS = 8 * 256**2  # the same, in pixels of one channel: more leave the caches, and a pass takes longer per tile
Features = NDArray[np.float32]  # (W, D)
Inpainter = MaskedAutoencoder | MuNet | ChannelAgnosticMae  # networks that can reconstruct
Encode = Callable[[Wells], Features]


@dataclass(frozen=True)
class Reading:
    """Tiles in a forward pass, and the threads that decode wells ahead of it."""

    batch: int
    workers: int

    @classmethod
    def of(cls, recipe: Recipe, crop: int, device: torch.device) -> Reading:
        """As the recipe says. On a CPU every reading thread but one would only take time from the network."""
        assert recipe.embed is not None
        if device.type == "cuda":
            return cls(recipe.embed.batch or GPU_BATCH, recipe.launch.loader_workers)
        return cls(recipe.embed.batch or max(1, min(GPU_BATCH, CPU_PIXELS // crop**2)), 1)


def embed_cell(recipe: Recipe, cell: Cell, folder: Path, fingerprint: str, element: Element = ALONE) -> dict[str, Any]:
    """Embed an element's parts of the wells of `recipe.embed` with a cell's model, and return the ledger's values.

    Goes on after the parts that an earlier run of the same `fingerprint` and weights left in `folder`. A job that is
    alone also puts the parts together; elements leave that to `harness.stages.shared_embedding.finish`.

    Raises:
        CheckpointError, EncoderFileError: the weights are missing or damaged, or do not fit.
        Preempted: a signal asked to stop; the parts that are done stay.
        ValueError: the wells do not fit the model.
    """
    with ranks(recipe.launch.device) as here, stop_on_signals() as stop:
        shards, parts = parts_of(recipe, cell, folder, fingerprint)
        lacking = [number for number in parts.of(element) if here.any(not parts.path(number).exists())]
        seconds = 0.0
        if lacking:
            encode = _encoder(recipe, cell, folder, shards, here, stop, element)
            made_by = _provenance(recipe, cell, folder, fingerprint)
            seconds = _embed_parts(shards, parts, lacking, encode, here, made_by)
        embedded = count_crops(shards, map(parts.wells_of, lacking), recipe.mae.crop)
        own = [parts.wells_of(number) for number in parts.of(element)]
        counts = {"wells": sum(map(len, own)), "crops": count_crops(shards, own, recipe.mae.crop)}
        if element == ALONE and here.is_first:
            counts = join_parts(recipe, cell, folder, fingerprint) or counts
        here.wait()
    speed = round(embedded / seconds, 1) if seconds and cell.kind != "pixel_statistics" else None
    return {"kind": cell.kind, **counts, "ranks": here.world, "crops_per_second": speed}


def _embed_parts(
    shards: ShardSet, parts: Parts, numbers: Iterable[int], encode: Encode, here: Ranks, made_by: dict[str, Any]
) -> float:
    """Embed parts and write each as it is done; return the seconds that it took."""
    start = time.perf_counter()
    for number in numbers:
        wells = parts.wells_of(number)
        features = encode(wells)
        if here.is_first:
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
    recipe: Recipe, cell: Cell, folder: Path, shards: ShardSet, here: Ranks, stop: StopFlag, element: Element
) -> Encode:
    """What turns wells into features (W, D); it raises Preempted when a rank is told to stop."""
    if cell.kind == "pixel_statistics":
        return lambda wells: pixel_statistics(shards, abreast(wells, here, stop))
    assert recipe.embed is not None
    options, precision = recipe.embed, recipe.train.precision
    model = build(cell, options.pool, class_count(recipe, cell)).to(here.device)
    if cell.kind == "pretrained":
        initialise(model, recipe, cell)
    else:
        load_weights(folder / WEIGHTS, model)
    model.eval()
    if here.is_first and element.number == 0 and cell.kind == "trained" and isinstance(model, Inpainter):
        _save_reconstructions(folder / RECONSTRUCTIONS, model, cell, shards, here)
    if options.block is not None:
        keep_blocks(model, options.block)
    reading = Reading.of(recipe, model.config.crop, here.device)
    return lambda wells: embed_wells(model, cell, shards, wells, reading, here, precision, stop)


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


@torch.inference_mode()
def embed_wells(
    model: Network, cell: Cell, shards: ShardSet, wells: Wells, reading: Reading, here: Ranks, precision: str,
    stop: StopFlag,
) -> Features:  # fmt: skip
    """Mean embedding of each well's tiles, (W, D), in the order of `wells`; ranks share the work."""
    place = {int(well): i for i, well in enumerate(wells)}
    sums = torch.zeros(len(wells), model.config.embedding_width, dtype=torch.float64, device=here.device)  # (W, D)
    tiles = torch.zeros(len(wells), dtype=torch.float64, device=here.device)  # (W,)
    for part in by_plate(model, shards, wells):
        with adapted(model, cell, shards, part, here, autocast(here.device, precision)):
            for batch in abreast(_tiles(shards, part, model.config.crop, reading, here), here, stop):
                with autocast(here.device, precision):
                    found = model.embed(prepare(batch.images, cell, here))  # (T, D)
                rows = torch.tensor([place[int(well)] for well in batch.wells], device=here.device)
                sums.index_add_(0, rows, found.double())
                tiles.index_add_(0, rows, torch.ones(len(rows), dtype=torch.float64, device=here.device))
    mean = here.sum(sums) / here.sum(tiles)[:, None]
    return mean.float().cpu().numpy()


def _tiles(shards: ShardSet, wells: Wells, crop: int, reading: Reading, here: Ranks) -> Iterator[Batch]:
    """This rank's batches of tiles, decoded ahead by threads and, to a GPU, copied while the one before is computed."""
    from tqdm import tqdm

    batches = well_tiles(
        shards, wells, crop=crop, batch=reading.batch, rank=here.rank, world=here.world, workers=reading.workers
    )
    if here.device.type == "cuda":
        ahead = steps_ahead(batches, lambda _, wells: torch.empty(len(wells), 0), 0, here.device)
        batches = (step.batch for step in ahead)
    with tqdm(unit=" tiles", unit_scale=True, desc="embed", mininterval=5, disable=not here.is_first) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch.images))


def pixel_statistics(shards: ShardSet, wells: Iterable[int]) -> Features:
    """Mean and standard deviation of each channel of each raw well: (W, 2 C)."""
    rows = []
    for well in wells:
        sums = np.zeros((len(shards.manifest.channels), 2), np.uint64)
        pixels = shards.read_well(int(well), sums=sums)  # (C, H, W)
        mean, square = (sums / pixels[0].size).T
        rows.append(np.concatenate([mean, np.sqrt(np.maximum(square - mean**2, 0))]))
    return np.stack(rows).astype(np.float32)


@torch.inference_mode()
def _save_reconstructions(path: Path, model: Inpainter, cell: Cell, shards: ShardSet, here: Ranks) -> None:
    """Crops of unseen experiments, original and filled in, for a figure like the paper's Figure 7."""
    wells = validation_wells(shards, RECONSTRUCTED_CROPS)
    tiles = [*well_tiles(shards, wells, crop=model.config.crop, batch=RECONSTRUCTED_CROPS)]
    images, origin = torch.cat([part.images for part in tiles]), torch.cat([part.wells for part in tiles])
    chosen = np.linspace(0, len(images) - 1, RECONSTRUCTED_CROPS + 2).round().astype(int)[1:-1]
    crops = prepare(images[chosen], cell, here)
    noise = masking_noise(VALIDATION_SEED, range(len(crops)), model.config.tokens).to(here.device)
    filled = model.reconstruct(crops, noise)
    arrays = {
        "original": crops.cpu().numpy(),
        "reconstruction": filled.image.float().cpu().numpy(),
        "mask": filled.mask.cpu().numpy(),
        "channels": np.array(shards.manifest.channels),
        "wells": shards.wells.loc[origin[chosen].numpy(), "key"].to_numpy(str),
    }
    write_whole(path, lambda file: np.savez_compressed(file, allow_pickle=False, **arrays))
