"""What a masked autoencoder is scored by: pixels, and the strength of each spatial frequency.

Shapes: B batch, L tokens (patches), C channels, P patch side, N = C·P·P numbers in a patch.
Patches are laid out as `blocks.patchify` cuts them: channel after channel.
"""

import torch
from torch import Tensor

from harness.models.layers.blocks import patchify, unpatchify
from harness.recipe.models import FourierNorm


def at_least_single(tensor: Tensor) -> Tensor:
    """In float32, that bfloat16 products do not round a loss; float64 stays."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """L_MAE: squared error per patch (B, L, N), averaged over the masked patches. A scalar."""
    return _masked_mean((at_least_single(prediction) - at_least_single(target)).square().mean(dim=-1), mask)


def mean_predictor_loss(images: Tensor, mask: Tensor, patch: int) -> Tensor:
    """L_MAE of a model that predicts 0, the channel's mean, everywhere: images (B, C, H, W), mask (B, L)."""
    return _masked_mean(patchify(images, patch).square().mean(dim=-1), mask)


def patch_fourier_loss(
    prediction: Tensor, target: Tensor, mask: Tensor, patch: int, norm: FourierNorm = "ortho"
) -> Tensor:
    """L_FT of each patch and channel: L1 distance of 2-D Fourier magnitudes, averaged over the masked patches.

    With norm "ortho" the transform is divided by P, so that by Parseval a magnitude has the size of a pixel and one
    alpha means the same for /8 and /16. With "backward" it is not, and the loss is P times as large.

    Args:
        prediction, target: (B, L, N).
        mask: (B, L), True where masked.
        patch: P, pixels.
        norm: torch's name of the transform's scale.
    """
    grid = (*prediction.shape[:2], -1, patch, patch)  # (B, L, C, P, P)
    ours, theirs = (at_least_single(patches).reshape(grid) for patches in (prediction, target))
    return _masked_mean(_magnitude_distance(ours, theirs, norm), mask)


def image_fourier_loss(
    prediction: Tensor, target: Tensor, mask: Tensor, patch: int, norm: FourierNorm = "ortho"
) -> Tensor:
    """L_FT of the whole image: as `patch_fourier_loss`, but of each channel's full image, where visible patches are
    taken from the target. Averaged over all frequencies."""
    target = at_least_single(target)
    pasted = torch.where(mask.unsqueeze(-1), at_least_single(prediction), target)
    return _magnitude_distance(unpatchify(pasted, patch), unpatchify(target, patch), norm).mean()


def combined_loss(reconstruction: Tensor, fourier: Tensor, weight: float) -> Tensor:
    """(1 - alpha) L_MAE + alpha L_FT (paper, equation 3)."""
    return (1 - weight) * reconstruction + weight * fourier


def _magnitude_distance(prediction: Tensor, target: Tensor, norm: FourierNorm) -> Tensor:
    """Mean over channels (last but two) and all frequencies of the last two dimensions.

    A real image's spectrum mirrors itself, so half of it is transformed and the mirrored columns count twice: the
    numbers of the whole `fft2` at half of its cost.
    """
    distance = (torch.fft.rfft2(prediction, norm=norm).abs() - torch.fft.rfft2(target, norm=norm).abs()).abs()
    side = prediction.shape[-1]
    by_column = distance.mean(dim=(-3, -2))  # side // 2 + 1 columns
    alone = by_column[..., 0] + (by_column[..., -1] if side % 2 == 0 else 0)
    mean: Tensor = (2 * by_column.sum(dim=-1) - alone) / side
    return mean


def _masked_mean(per_patch: Tensor, mask: Tensor) -> Tensor:
    return (per_patch * mask).sum() / mask.sum()
