"""Covers `blocks`: patches, positions and stochastic depth."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.models.layers.blocks import PatchEmbedding, encoder_blocks, patchify, sincos_positions, unpatchify


def test_patches_are_cut_row_by_row_and_hold_channel_after_channel() -> None:
    image = torch.arange(2 * 4 * 6).reshape(1, 2, 4, 6)  # pixel (c, y, x) is 24c + 6y + x
    patches = patchify(image, 2)
    assert patches.shape == (1, 6, 8)
    assert patches[0, 0].tolist() == [0, 1, 6, 7, 24, 25, 30, 31]
    assert patches[0, 4].tolist() == [14, 15, 20, 21, 38, 39, 44, 45]  # second row of patches, second column


@given(C=st.integers(1, 4), patch=st.integers(1, 5), grid=st.integers(1, 4))
@settings(max_examples=25)
def test_unpatchify_undoes_patchify(C: int, patch: int, grid: int) -> None:
    images = torch.randn(2, C, grid * patch, grid * patch)
    assert torch.equal(unpatchify(patchify(images, patch), patch), images)


def test_patch_embedding_is_the_patch_convolution() -> None:
    torch.manual_seed(0)
    embedding, images = PatchEmbedding(3, 4, 5), torch.randn(2, 3, 8, 8)
    convolved = embedding.proj(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embedding(patchify(images, 4)), convolved)


def test_positions_by_hand() -> None:
    """Width 8 has two wavelengths, 1 and 1/100 radians per patch; grid position (row 1, column 2) is token 1·3 + 2."""
    positions = sincos_positions(3, 8)
    assert positions.shape == (1, 10, 8)
    assert torch.equal(positions[0, 0], torch.zeros(8))
    angles = [1.0, 0.01, 2.0, 0.02]  # row then column, each at both wavelengths
    expected = [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
    torch.testing.assert_close(positions[0, 1 + 5], torch.tensor(expected))


def test_stochastic_depth_rises_linearly_to_the_last_block() -> None:
    blocks = encoder_blocks(8, 4, 2, drop_path=0.3, layer_scale=None, qk_norm=True)
    assert [block.drop_path.rate for block in blocks] == pytest.approx([0, 0.1, 0.2, 0.3])
