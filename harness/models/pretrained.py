"""Load timm weights from a local file, adapted to any number of channels and crop size. Nothing is downloaded.

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
    """Load ImageNet weights with timm's names into a trunk, from a file in safetensors' or torch's format.

    The head is ignored. The first convolution is adapted to `channels` as in timm: repeated over them and rescaled, so
    that an image with identical channels gives the published features of a grey image. Learned positions of a
    different grid are interpolated, also as in timm.

    Raises:
        EncoderFileError: the file cannot be read safely, does not match the trunk, or holds NaN.
    """
    weights, expected = dict(read_weights(path)), trunk.state_dict()
    for name in [name for name in weights if name not in expected]:
        if not name.startswith(HEADS) and not name.endswith("num_batches_tracked"):
            raise EncoderFileError(f"{path}: has {name!r}, which this trunk does not have")
        del weights[name]
    for name in expected:
        if name not in weights:
            raise EncoderFileError(f"{path}: lacks {name!r}")
        stored_shape = tuple(weights[name].shape)
        if weights[name].is_floating_point() != expected[name].is_floating_point():
            raise EncoderFileError(f"{path}: {name} is {weights[name].dtype}, this trunk's is {expected[name].dtype}")
        weights[name] = _adapted(name, weights[name], expected[name], channels)
        if weights[name].shape != expected[name].shape:
            trunk_shape = tuple(expected[name].shape)
            raise EncoderFileError(f"{path}: {name} has shape {stored_shape}, this trunk's has {trunk_shape}")
        if not torch.isfinite(weights[name]).all():
            raise EncoderFileError(f"{path}: {name} holds NaN or infinity")
    trunk.load_state_dict(weights)


def _adapted(name: str, value: Tensor, expected: Tensor, channels: int) -> Tensor:
    """Adapt a first convolution to the number of channels, or positions (1, 1 + L, D) to the grid."""
    if value.ndim != expected.ndim or value.shape == expected.shape:
        return value
    if value.ndim == 4 and value.shape[1] == RGB and expected.shape[1] == channels:
        convolution: Tensor = import_timm().models.adapt_input_conv(channels, value)
        return convolution
    if (
        name == POSITIONS
        and value.shape[1] > 1
        and value.shape[2] == expected.shape[2]
        and math.isqrt(value.shape[1] - 1) ** 2 + 1 == value.shape[1]
    ):
        side = math.isqrt(expected.shape[1] - 1)
        resampled: Tensor = import_timm().layers.resample_abs_pos_embed(value, [side, side], num_prefix_tokens=1)
        return resampled
    return value
