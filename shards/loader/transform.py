"""Self-standardisation: bring every image and channel to mean 0 and variance 1, as models expect.

Shapes: B batch, C channels, H height, W width.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import instance_norm

TYPE_RANGE = {torch.uint8: 255.0, torch.uint16: 65535.0}
EPSILON = 1e-5


def self_standardise(images: Tensor, value_range: float | Sequence[float] | None = None) -> Tensor:
    """(B, C, H, W) → (B, C, H, W). Divide by the pixel type's range, then bring every image and channel to mean 0 and
    variance 1, in float32.

    The variance is the biased one and gains 1e-5 before the root is taken, so a channel that is dim for its bit depth
    stays below unit variance (instance normalisation without affine terms, as the paper's models were trained).
    `value_range`, one or one for each channel, replaces the type's own; floating point images, which have none, need
    it. Raises ValueError for other pixel types.
    """
    value_range = value_range or TYPE_RANGE.get(images.dtype)
    if value_range is None:
        raise ValueError(f"images are {images.dtype}: give value_range, only uint8 and uint16 have one of their own")
    if isinstance(value_range, Sequence):
        by_channel = _on(images.device, tuple(value_range))[:, None, None]  # (C, 1, 1)
        return instance_norm(images.to(torch.float32) / by_channel, eps=EPSILON)
    return instance_norm(images.to(torch.float32) / value_range, eps=EPSILON)


@lru_cache(maxsize=16)  # making it anew would have the host wait for the device at each batch
def _on(device: torch.device, values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)
