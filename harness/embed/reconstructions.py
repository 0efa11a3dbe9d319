"""Save crops of unseen experiments with their reconstructions, for a figure like the paper's Figure 7."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from harness.data.channels import ChannelOrder, learned_channels
from harness.data.to_device import to_model_input
from harness.data.wells import VALIDATION_SEED, validation_wells
from harness.distributed.ranks import Ranks
from harness.embed.parts import Embedding
from harness.models.channel_agnostic import ChannelAgnosticMae
from harness.models.layers.masking import masking_noise
from harness.models.mae import MaskedAutoencoder
from harness.models.mu_net import MuNet
from harness.storage.atomic import write_atomic
from shards.loader.batches import well_tiles

log = logging.getLogger(__name__)
RECONSTRUCTED_CROPS = 6
Inpainter = MaskedAutoencoder | MuNet | ChannelAgnosticMae  # networks that can reconstruct


@torch.inference_mode()
def save_reconstructions(path: Path, model: Inpainter, embedding: Embedding, ranks: Ranks) -> None:
    """Write crops of unseen experiments, original and reconstructed, to a .npz file.

    A channel-agnostic network reconstructs the channels that it was trained with; if the shards lack one, none are.
    """
    cell, shards = embedding.stage.cell, embedding.shards
    channels = _reconstructed_channels(model, embedding)
    if channels is None:
        log.warning("%s: no reconstructions: %s lacks channels that it was trained on", cell.id, shards.folder)
        return
    wells = validation_wells(shards, RECONSTRUCTED_CROPS)
    tiles = [*well_tiles(shards, wells, crop=model.config.crop, batch=RECONSTRUCTED_CROPS)]
    images, origin = torch.cat([part.images for part in tiles]), torch.cat([part.wells for part in tiles])
    picked = np.linspace(0, len(images) - 1, RECONSTRUCTED_CROPS + 2).round().astype(int)[1:-1]
    crops = to_model_input(images[picked], cell, ranks, channels)
    noise = masking_noise(VALIDATION_SEED, range(len(crops)), model.config.mask_values).to(ranks.device)
    reconstruction = model.reconstruct(crops, noise)
    arrays = {
        "original": crops.cpu().numpy(),
        "reconstruction": reconstruction.image.float().cpu().numpy(),
        "mask": reconstruction.mask.cpu().numpy(),
        "channels": np.array(channels.names),
        "wells": shards.rows(origin[picked].numpy(), ["key"])["key"].to_numpy(str),
    }
    write_atomic(path, lambda file: np.savez_compressed(file, allow_pickle=False, **arrays))


def _reconstructed_channels(model: Inpainter, embedding: Embedding) -> ChannelOrder | None:
    """The channels that the network's decoder knows, in its order; None if the shards lack one."""
    learned = learned_channels(embedding.stage.recipe, embedding.stage.cell, embedding.stage.folder)
    if learned is None or not isinstance(model, ChannelAgnosticMae):
        return embedding.channels
    stored = embedding.channels.names
    if not set(learned) <= set(stored):
        return None
    return ChannelOrder(learned, tuple(stored.index(name) for name in learned))
