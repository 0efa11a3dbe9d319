"""Embedding wells: every well is tiled, each tile goes through the encoder, and the tiles' embeddings are averaged.

The paper tiles a 2048 × 2048 well into 64 crops of 256 (supplement A.3). The pixel-statistics baseline takes the mean
and standard deviation of each channel instead. One Parquet file per cell, with the wells' metadata.

Shapes: T tiles in a forward pass, W wells, C channels, S crop side, D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.checkpoint import load_weights
from harness.course import config_of
from harness.crops import prepare
from harness.data import Wells, evaluation_wells, validation_wells
from harness.embeddings import EMBEDDINGS, RECONSTRUCTIONS, write_embeddings
from harness.engines import autocast
from harness.files import write_whole
from harness.grid import Cell
from harness.models.mae import MaskedAutoencoder
from harness.models.masking import masking_noise
from harness.parallel import Ranks, ranks
from harness.recipe import Embed, Recipe
from harness.train import WEIGHTS
from harness.validate import VALIDATION_SEED
from shards.format import ShardSet
from shards.loader import well_tiles

RECONSTRUCTED_CROPS = 6


def embed_cell(recipe: Recipe, cell: Cell, folder: Path) -> dict[str, Any]:
    """Embed every well of `recipe.embed` with a cell's model, and return the ledger's values.

    Raises:
        CheckpointError: the weights are missing or damaged.
        ValueError: the wells do not fit the model.
    """
    assert recipe.embed is not None
    with ranks(recipe.launch.device) as here:
        shards, wells = evaluation_wells(recipe.embed.shards, recipe.embed.experiments)
        if cell.kind == "pixel_statistics":
            features = pixel_statistics(shards, wells)
        else:
            features = _encode(recipe, cell, folder, shards, wells, here)
        if here.is_first:
            write_embeddings(folder / EMBEDDINGS, shards.wells.loc[wells], features)
        here.wait()
    return {"kind": cell.kind, "wells": len(wells), "width": int(features.shape[1])}


def _encode(
    recipe: Recipe, cell: Cell, folder: Path, shards: ShardSet, wells: Wells, here: Ranks
) -> NDArray[np.float32]:
    assert recipe.embed is not None
    model = MaskedAutoencoder(config_of(cell, recipe.embed.pool)).to(here.device)
    load_weights(folder / WEIGHTS, model)
    model.eval()
    features = embed_wells(model, cell, shards, wells, recipe.embed, here, recipe.train.precision)
    if here.is_first and cell.kind == "trained":
        _save_reconstructions(folder / RECONSTRUCTIONS, model, cell, shards, here)
    return features


@torch.inference_mode()
def embed_wells(
    model: MaskedAutoencoder, cell: Cell, shards: ShardSet, wells: Wells, options: Embed, here: Ranks, precision: str
) -> NDArray[np.float32]:
    """Mean embedding of each well's tiles, (W, D), in the order of `wells`; ranks share the work."""
    place = {int(well): i for i, well in enumerate(wells)}
    sums = torch.zeros(len(wells), model.config.embedding_width, dtype=torch.float64, device=here.device)  # (W, D)
    tiles = torch.zeros(len(wells), dtype=torch.float64, device=here.device)  # (W,)
    for batch in _tiles(shards, wells, model.config.crop, options.batch, here):
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


def pixel_statistics(shards: ShardSet, wells: Wells) -> NDArray[np.float32]:
    """Mean and standard deviation of each channel of each raw well: (W, 2 C)."""
    rows = []
    for well in wells:
        pixels = shards.read_well(int(well)).astype(np.float64)  # (C, H, W)
        rows.append(np.concatenate([pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2))]))
    return np.stack(rows).astype(np.float32)


@torch.inference_mode()
def _save_reconstructions(path: Path, model: MaskedAutoencoder, cell: Cell, shards: ShardSet, here: Ranks) -> None:
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
