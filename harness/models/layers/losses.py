"""Losses of the masked autoencoders: squared pixel error, and distance of Fourier magnitudes.

Shapes: B batch, L tokens (patches), C channels, P patch side, N = C·P·P numbers in a patch.
Patches have the layout of `blocks.patchify`.
"""

import torch
from torch import Tensor

from harness.models.layers.blocks import patchify, unpatchify
from harness.recipe.models import FourierNorm


def at_least_single(tensor: Tensor) -> Tensor:
    """Cast to float32, so that a loss is not rounded to bfloat16; float64 is kept."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Compute L_MAE: squared error per patch (B, L, N), averaged over the masked patches. A scalar."""
    return _masked_mean((at_least_single(prediction) - at_least_single(target)).square().mean(dim=-1), mask)


def mean_predictor_loss(images: Tensor, mask: Tensor, patch: int) -> Tensor:
    """Compute L_MAE of a model that predicts 0, the channel's mean: images (B, C, H, W), mask (B, L)."""
    return _masked_mean(patchify(images, patch).square().mean(dim=-1), mask)


def patch_fourier_loss(
    prediction: Tensor, target: Tensor, mask: Tensor, patch: int, norm: FourierNorm = "ortho"
) -> Tensor:
    """Compute L_FT per patch and channel: L1 distance of 2-D Fourier magnitudes, averaged over the masked patches.

    With norm "ortho" the transform is divided by P, so that by Parseval's theorem magnitudes are on the scale of pixels
    and the same alpha has the same effect for /8 and /16. With "backward" it is not, and the loss is P times as large.

    Args:
        prediction, target: (B, L, N).
        mask: (B, L), True where masked.
        patch: P, pixels.
        norm: `torch.fft` normalisation mode.
    """
    grid = (*prediction.shape[:2], -1, patch, patch)  # (B, L, C, P, P)
    predicted, expected = (at_least_single(patches).reshape(grid) for patches in (prediction, target))
    return _masked_mean(_magnitude_distance(predicted, expected, norm), mask)


def image_fourier_loss(
    prediction: Tensor, target: Tensor, mask: Tensor, patch: int, norm: FourierNorm = "ortho"
) -> Tensor:
    """Compute L_FT of the complete image: as `patch_fourier_loss`, but over each channel's full image, with the visible
    patches taken from the target. Averaged over all frequencies."""
    target = at_least_single(target)
    pasted = torch.where(mask.unsqueeze(-1), at_least_single(prediction), target)
    return _magnitude_distance(unpatchify(pasted, patch), unpatchify(target, patch), norm).mean()


def combined_loss(reconstruction: Tensor, fourier: Tensor, weight: float) -> Tensor:
    """Compute (1 - alpha) L_MAE + alpha L_FT (paper, equation 3)."""
    return (1 - weight) * reconstruction + weight * fourier


def _magnitude_distance(prediction: Tensor, target: Tensor, norm: FourierNorm) -> Tensor:
    """Average over channels (dimension -3) and all frequencies of the last two dimensions.

    The spectrum of a real image is symmetric, so `rfft2` computes half of it and the mirrored columns count twice. The
    result equals that of the full `fft2` at half the cost.
    """
    distance = (torch.fft.rfft2(prediction, norm=norm).abs() - torch.fft.rfft2(target, norm=norm).abs()).abs()
    side = prediction.shape[-1]
    by_column = distance.mean(dim=(-3, -2))  # side // 2 + 1 columns
    unpaired = by_column[..., 0] + (by_column[..., -1] if side % 2 == 0 else 0)
    mean: Tensor = (2 * by_column.sum(dim=-1) - unpaired) / side
    return mean


def _masked_mean(per_patch: Tensor, mask: Tensor) -> Tensor:
    return (per_patch * mask).sum() / mask.sum()
