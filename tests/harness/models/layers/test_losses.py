"""Covers `losses`: each loss against values computed by hand or with NumPy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.models.layers import losses
from harness.models.layers.blocks import patchify

PATCH, CHANNELS = 4, 3
B, L, N = 2, 4, CHANNELS * PATCH**2


@pytest.fixture
def target() -> Tensor:
    """Patches (B, L, N), positive so that adding a constant changes no sign."""
    return torch.rand(B, L, N, generator=torch.Generator().manual_seed(0)) + 1


@pytest.fixture
def mask() -> Tensor:
    return torch.tensor([[True, False, True, True], [False, True, True, True]])


def test_mse_is_the_mean_of_masked_patches(target: Tensor, mask: Tensor) -> None:
    prediction = target + torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None]  # patch l is off by l + 1 everywhere
    # masked: patches 0, 2, 3 of the first and 1, 2, 3 of the second sample
    expected = (1 + 9 + 16 + 4 + 9 + 16) / 6
    assert losses.masked_mse(prediction, target, mask).item() == pytest.approx(expected, rel=1e-5)


def test_visible_patches_do_not_count(target: Tensor, mask: Tensor) -> None:
    noise = torch.randn(B, L, N, generator=torch.Generator().manual_seed(1))
    changed = target + torch.where(mask.unsqueeze(-1), 0.0, noise)
    assert losses.masked_mse(changed, target, mask) == 0
    assert losses.patch_fourier_loss(changed, target, mask, PATCH) == 0
    assert losses.image_fourier_loss(changed, target, mask, PATCH) == 0


@pytest.mark.parametrize(("norm", "dc"), [("backward", 16), ("ortho", 4)])
def test_a_constant_difference_changes_only_the_dc_magnitude(
    target: Tensor, mask: Tensor, norm: str, dc: float
) -> None:
    difference = 0.5
    # unnormalised, the DC bin is the sum over the P² = 16 pixels; orthonormal, that over P = 4. One bin of 16 differs.
    loss = losses.patch_fourier_loss(target + difference, target, mask, PATCH, norm)
    assert loss.item() == pytest.approx(dc * difference / 16, rel=1e-4)


def test_magnitudes_are_invariant_to_a_circular_shift(target: Tensor, mask: Tensor) -> None:
    shifted = target.reshape(B, L, CHANNELS, PATCH, PATCH).roll((1, 2), dims=(3, 4)).reshape(B, L, N)
    assert losses.patch_fourier_loss(shifted, target, mask, PATCH).item() == pytest.approx(0, abs=1e-6)
    assert losses.masked_mse(shifted, target, mask) > 0.01


def test_a_wave_of_one_frequency_by_hand() -> None:
    # cos(2π x / 4) along a row: magnitude P²/2 = 8 at ±1 cycle, so 2 bins of 16 differ from nothing by 8
    wave = torch.cos(2 * torch.pi * torch.arange(PATCH) / PATCH).expand(PATCH, PATCH).reshape(1, 1, -1)
    loss = losses.patch_fourier_loss(wave, torch.zeros_like(wave), torch.tensor([[True]]), PATCH, "backward")
    assert loss.item() == pytest.approx(2 * 8 / 16, rel=1e-5)


def test_channels_are_not_mixed(target: Tensor, mask: Tensor) -> None:
    """Each channel's term equals the loss of a one-channel image, and the loss is the average over channels."""
    prediction = target + torch.randn(B, L, N, generator=torch.Generator().manual_seed(2))

    def of_channel(patches: Tensor, c: int) -> Tensor:
        return patches[..., c * PATCH**2 : (c + 1) * PATCH**2]

    by_channel = [
        losses.patch_fourier_loss(of_channel(prediction, c), of_channel(target, c), mask, PATCH)
        for c in range(CHANNELS)
    ]
    together = losses.patch_fourier_loss(prediction, target, mask, PATCH)
    assert together.item() == pytest.approx(torch.stack(by_channel).mean().item(), rel=1e-5)

    changed = prediction.clone()
    of_channel(changed, 2).add_(5.0)
    difference = losses.patch_fourier_loss(changed, target, mask, PATCH) - together
    last = losses.patch_fourier_loss(of_channel(changed, 2), of_channel(target, 2), mask, PATCH) - by_channel[2]
    assert difference.item() == pytest.approx(last.item() / CHANNELS, rel=1e-4)


def test_orthonormal_loss_has_the_same_scale_for_every_patch_side() -> None:
    """Independent unit noise gives the same loss at /8 and /16 (and one twice as large unnormalised)."""
    images = torch.randn(2, 8, 1, 64, 64, generator=torch.Generator().manual_seed(3))

    def loss(patch: int, norm: str) -> float:
        prediction, target = (patchify(image, patch) for image in images)
        all_masked = torch.ones(prediction.shape[:2], dtype=torch.bool)
        return losses.patch_fourier_loss(prediction, target, all_masked, patch, norm).item()

    assert loss(16, "ortho") == pytest.approx(loss(8, "ortho"), rel=0.03)
    assert loss(16, "backward") == pytest.approx(2 * loss(8, "backward"), rel=0.03)


def test_image_mode_transforms_the_pasted_image() -> None:
    """Against NumPy: the masked quarter of an 8 × 8 image is predicted, the rest is the original."""
    generator = np.random.default_rng(0)
    original, predicted = generator.normal(size=(2, 8, 8)).astype(np.float32)
    pasted = original.copy()
    pasted[:4, 4:] = predicted[:4, 4:]
    expected = np.abs(np.abs(np.fft.fft2(pasted)) - np.abs(np.fft.fft2(original))).mean() / 8  # orthonormal: 8 × 8

    prediction, target = (patchify(torch.from_numpy(image)[None, None], PATCH) for image in (predicted, original))
    mask = torch.tensor([[False, True, False, False]])
    assert losses.image_fourier_loss(prediction, target, mask, PATCH).item() == pytest.approx(expected, rel=1e-5)


def test_the_fourier_weight_splits_between_the_two_losses() -> None:
    loss = losses.combined_loss(torch.tensor(2.0), torch.tensor(10.0), 0.01)
    assert loss.item() == pytest.approx(0.99 * 2 + 0.01 * 10)


def test_a_perfect_prediction_has_a_finite_gradient(target: Tensor, mask: Tensor) -> None:
    """Magnitudes are not differentiable at 0, their value for a blank patch; torch's subgradient is 0, not NaN."""
    blank = torch.zeros_like(target, requires_grad=True)
    losses.patch_fourier_loss(blank, torch.zeros_like(target), mask, PATCH).backward()
    assert blank.grad is not None
    assert torch.isfinite(blank.grad).all()


@pytest.mark.parametrize("patch", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("norm", ["ortho", "backward"])
def test_half_the_spectrum_gives_the_loss_of_the_full_one(patch: int, norm: str) -> None:
    """Against NumPy's full transform, for even and odd sides, whose mirrored columns differ."""
    generator = np.random.default_rng(patch)
    prediction, target = generator.normal(size=(2, 2, 5, 3, patch, patch))
    magnitudes = [np.abs(np.fft.fft2(patches, norm=norm)) for patches in (prediction, target)]
    expected = np.abs(magnitudes[0] - magnitudes[1]).mean()
    flat = [torch.from_numpy(patches.reshape(2, 5, -1)) for patches in (prediction, target)]
    all_masked = torch.ones(2, 5, dtype=torch.bool)
    loss = losses.patch_fourier_loss(*flat, all_masked, patch, norm)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
