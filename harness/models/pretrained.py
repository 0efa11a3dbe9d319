"""Weights under timm's names from a file of the user's: fitted to any channels and crop. Nothing is ever downloaded.

Shapes: C channels, L tokens (patches), D width.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.models.encoder_file import EncoderFileError
from harness.models.layers.timm_import import import_timm
from harness.models.openphenom import read_weights

HEADS = ("classifier.", "head.")
POSITIONS = "pos_embed"
RGB = 3


def load_pretrained(trunk: nn.Module, path: Path, channels: int) -> None:
    """Fill a trunk from a file of ImageNet weights under timm's names: safetensors, or torch's format.

    The head is left out. The first convolution is fitted to `channels` as timm does: repeated over them and rescaled,
    so that an image whose channels are all alike gets the published answer to a grey one. Learnt positions of another
    grid are interpolated, as timm does too.

    Raises:
        EncoderFileError: the file cannot be read safely, does not fit, or holds NaN.
    """
    found, wanted = dict(read_weights(path)), trunk.state_dict()
    for name in [name for name in found if name not in wanted]:
        if not name.startswith(HEADS) and not name.endswith("num_batches_tracked"):
            raise EncoderFileError(f"{path}: has {name!r}, which this trunk has not")
        del found[name]
    for name in wanted:
        if name not in found:
            raise EncoderFileError(f"{path}: lacks {name!r}")
        given = tuple(found[name].shape)
        found[name] = _fitted(name, found[name], wanted[name], channels)
        if found[name].shape != wanted[name].shape:
            wants = tuple(wanted[name].shape)
            raise EncoderFileError(f"{path}: {name} has shape {given}, this trunk's has {wants}")
        if not torch.isfinite(found[name]).all():
            raise EncoderFileError(f"{path}: {name} holds NaN or infinity")
    trunk.load_state_dict(found)


def _fitted(name: str, value: Tensor, wanted: Tensor, channels: int) -> Tensor:
    """A first convolution for another number of channels, or positions (1, 1 + L, D) of another grid."""
    if value.ndim != wanted.ndim or value.shape == wanted.shape:
        return value
    if value.ndim == 4 and value.shape[1] == RGB and wanted.shape[1] == channels:
        fitted: Tensor = import_timm().models.adapt_input_conv(channels, value)
        return fitted
    if (
        name == POSITIONS
        and value.shape[2] == wanted.shape[2]
        and math.isqrt(value.shape[1] - 1) ** 2 + 1 == value.shape[1]
    ):
        side = math.isqrt(wanted.shape[1] - 1)
        resampled: Tensor = import_timm().layers.resample_abs_pos_embed(value, [side, side], num_prefix_tokens=1)
        return resampled
    return value
