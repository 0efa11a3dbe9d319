"""Embedding wells: every well is tiled, each tile goes through the encoder, and the tiles' embeddings are averaged.

The paper tiles a 2048 × 2048 well into 64 crops of 256 (supplement A.3). The pixel-statistics baseline takes the mean
and standard deviation of each channel instead. One Parquet file per cell, with the wells' metadata.

Shapes: T tiles in a forward pass, W wells, C channels, S crop side, D embedding width.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.adapt import adapted, by_plate
from harness.crops import prepare
from harness.data import Wells, evaluation_wells, validation_wells
from harness.embeddings import EMBEDDINGS, RECONSTRUCTIONS, write_embeddings
from harness.engines import autocast
from harness.files import write_whole
from harness.grid import Cell
from harness.labels import class_count
from harness.models.channel_agnostic import ChannelAgnosticMae
from harness.models.mae import MaskedAutoencoder
from harness.models.masking import masking_noise
from harness.models.mu_net import MuNet
from harness.models.network import Network
from harness.networks import build, initialise, weights_path
from harness.parallel import Ranks, ranks
from harness.preempt import StopFlag, abreast, stop_on_signals
from harness.recipe import Embed, Recipe
from harness.sealed import checksum
from harness.shard_places import open_shards
from harness.train import WEIGHTS
from harness.validate import VALIDATION_SEED
from harness.weights import load_weights
from shards.format import ShardSet
from shards.loader import well_tiles

RECONSTRUCTED_CROPS = 6
PART_WELLS = 4096  # embedded, then written: a stop or a crash loses less than this many
Features = NDArray[np.float32]  # (W, D)
Inpainter = MaskedAutoencoder | MuNet | ChannelAgnosticMae  # networks that can reconstruct
Encode = Callable[[Wells], Features]


def embed_cell(recipe: Recipe, cell: Cell, folder: Path, fingerprint: str) -> dict[str, Any]:
    """Embed every well of `recipe.embed` with a cell's model, and return the ledger's values.

    Goes on after the parts that an earlier run of the same `fingerprint` and weights left in `folder`.

    Raises:
        CheckpointError, EncoderFileError: the weights are missing or damaged, or do not fit.
        Preempted: a signal asked to stop; the parts that are done stay.
        ValueError: the wells do not fit the model.
    """
    assert recipe.embed is not None
    with ranks(recipe.launch.device) as here, stop_on_signals() as stop:
        shards = open_shards(recipe, recipe.embed.shards)
        wells = evaluation_wells(shards, recipe.embed.experiments)
        encode = _encoder(recipe, cell, folder, shards, here, stop)
        parts = folder / f"embedding-{_identity(recipe, cell, folder, fingerprint)}"
        resumed, start = parts.exists(), time.perf_counter()
        features = in_parts(wells, parts, here, encode)
        seconds = time.perf_counter() - start
        if here.is_first:
            made_by = _provenance(recipe, cell, folder, fingerprint)
            write_embeddings(folder / EMBEDDINGS, shards.wells.loc[wells], features, made_by)
            shutil.rmtree(parts)
        here.wait()
        crops = int((shards.shapes[wells] // recipe.mae.crop).prod(axis=1).sum())
    speed = None if resumed or cell.kind == "pixel_statistics" else round(crops / seconds, 1)
    counts = {"wells": len(wells), "width": int(features.shape[1]), "crops": crops}
    return {"kind": cell.kind, **counts, "ranks": here.world, "crops_per_second": speed}


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
        "weights_sha256": weights[1] if (weights := _weights(recipe, cell, folder)) else None,
        "shards": str(options.shards),
        "pool": options.pool,
        "block": options.block,
        "crop": recipe.mae.crop,
        "precision": recipe.train.precision,
    }


def _identity(recipe: Recipe, cell: Cell, folder: Path, fingerprint: str) -> str:
    weights = _weights(recipe, cell, folder)
    return hashlib.sha256(json.dumps([fingerprint, weights, PART_WELLS]).encode()).hexdigest()[:16]


def _weights(recipe: Recipe, cell: Cell, folder: Path) -> list[Any] | None:
    """Size and SHA-256 of the file that the cell's weights are in; None for a cell without any."""
    if cell.architecture is None:
        return None
    given = weights_path(recipe, cell) if cell.kind == "pretrained" else None
    return checksum(given or folder / WEIGHTS)


def _encoder(recipe: Recipe, cell: Cell, folder: Path, shards: ShardSet, here: Ranks, stop: StopFlag) -> Encode:
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
    if here.is_first and cell.kind == "trained" and isinstance(model, Inpainter):
        _save_reconstructions(folder / RECONSTRUCTIONS, model, cell, shards, here)
    if options.block is not None:
        keep_blocks(model, options.block)
    return lambda wells: embed_wells(model, cell, shards, wells, options, here, precision, stop)


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


def in_parts(wells: Wells, folder: Path, here: Ranks, encode: Encode) -> Features:
    """`encode` the wells part by part, (W, D), writing each part to `folder`; one that is there is read instead."""
    features = []
    for number, first in enumerate(range(0, len(wells), PART_WELLS)):
        path = folder / f"{number:05d}.npy"
        if here.any(not path.exists()):
            part = encode(wells[first : first + PART_WELLS])
            if here.is_first:
                write_whole(path, partial(np.save, arr=part, allow_pickle=False))
        else:
            part = np.load(path, allow_pickle=False)
        features.append(part)
    return np.concatenate(features)


@torch.inference_mode()
def embed_wells(
    model: Network, cell: Cell, shards: ShardSet, wells: Wells, options: Embed, here: Ranks, precision: str,
    stop: StopFlag,
) -> Features:  # fmt: skip
    """Mean embedding of each well's tiles, (W, D), in the order of `wells`; ranks share the work."""
    place = {int(well): i for i, well in enumerate(wells)}
    sums = torch.zeros(len(wells), model.config.embedding_width, dtype=torch.float64, device=here.device)  # (W, D)
    tiles = torch.zeros(len(wells), dtype=torch.float64, device=here.device)  # (W,)
    for part in by_plate(model, shards, wells):
        with adapted(model, cell, shards, part, here, autocast(here.device, precision)):
            for batch in abreast(_tiles(shards, part, model.config.crop, options.batch, here), here, stop):
                with autocast(here.device, precision):
                    found = model.embed(prepare(batch.images, cell, here))  # (T, D)
                rows = torch.tensor([place[int(well)] for well in batch.wells], device=here.device)
                sums.index_add_(0, rows, found.double())
                tiles.index_add_(0, rows, torch.ones(len(rows), dtype=torch.float64, device=here.device))
    mean = here.sum(sums) / here.sum(tiles)[:, None]
    return mean.float().cpu().numpy()


def _tiles(shards: ShardSet, wells: Wells, crop: int, batch: int, here: Ranks) -> Iterator[Any]:
    from tqdm import tqdm

    found = well_tiles(shards, wells, crop=crop, batch=batch, rank=here.rank, world=here.world)
    with tqdm(unit=" tiles", unit_scale=True, desc="embed", mininterval=5, disable=not here.is_first) as bar:
        for part in found:
            yield part
            bar.update(len(part.images))


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
