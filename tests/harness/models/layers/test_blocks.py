"""Patches, positions and masks: the parts that every masked autoencoder stands on."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.models.layers.blocks import PatchEmbedding, encoder_blocks, patchify, sincos_positions, unpatchify
from harness.models.layers.masking import masking_noise, place_tokens, random_masking, take_tokens


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
    """Width 8 has two wavelengths, 1 and 1/100 radians a patch; grid place (row 1, column 2) is token 1·3 + 2."""
    positions = sincos_positions(3, 8)
    assert positions.shape == (1, 10, 8)
    assert torch.equal(positions[0, 0], torch.zeros(8))
    angles = [1.0, 0.01, 2.0, 0.02]  # row then column, each at both wavelengths
    expected = [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
    torch.testing.assert_close(positions[0, 1 + 5], torch.tensor(expected))


def test_stochastic_depth_rises_linearly_to_the_last_block() -> None:
    blocks = encoder_blocks(8, 4, 2, drop_path=0.3, layer_scale=None, qk_norm=True)
    assert [block.drop_path.rate for block in blocks] == pytest.approx([0, 0.1, 0.2, 0.3])


@given(tokens=st.integers(2, 64), share=st.floats(0.01, 0.99))
@settings(max_examples=50)
def test_masking_keeps_exactly_as_many_as_asked(tokens: int, share: float) -> None:
    visible = max(1, min(tokens - 1, round(tokens * share)))
    masking = random_masking(torch.rand(3, tokens), visible)
    assert masking.mask.sum(dim=1).tolist() == [tokens - visible] * 3
    assert not masking.mask.gather(1, masking.visible).any()
    assert all(len(set(row)) == visible for row in masking.visible.tolist())


def test_masking_hides_the_patches_with_the_most_noise() -> None:
    masking = random_masking(torch.tensor([[0.4, 0.1, 0.9, 0.2]]), 2)
    assert masking.visible.tolist() == [[1, 3]]
    assert masking.mask.tolist() == [[True, False, True, False]]


def test_place_tokens_lays_them_over_the_background() -> None:
    tokens, background = torch.tensor([[[1, 2], [3, 4]]]), torch.tensor([[[9, 8]]]).expand(1, 4, 2)
    assert place_tokens(tokens, torch.tensor([[3, 1]]), background).tolist() == [[[9, 8], [3, 4], [9, 8], [1, 2]]]


def test_take_tokens_picks_whole_tokens() -> None:
    tokens = torch.tensor([[[1, 2], [3, 4], [5, 6]]])
    assert take_tokens(tokens, torch.tensor([[2, 0]])).tolist() == [[[5, 6], [1, 2]]]


@given(seed=st.integers(0, 2**63), first=st.integers(0, 2**40), size=st.integers(1, 6))
@settings(max_examples=25)
def test_noise_belongs_to_the_sample_not_to_the_batch(seed: int, first: int, size: int) -> None:
    """Two ranks that share a batch draw what one rank draws for all of it."""
    positions = range(first, first + size)
    together = masking_noise(seed, positions, 9)
    ranks = [masking_noise(seed, positions[rank::2], 9) for rank in range(min(2, size))]
    for rank, part in enumerate(ranks):
        assert torch.equal(together[rank::2], part)


def test_noise_is_uniform_and_differs_between_samples_and_seeds() -> None:
    noise = masking_noise(0, range(1000), 64)
    assert noise.unique(dim=0).shape == noise.shape
    assert not torch.equal(noise, masking_noise(1, range(1000), 64))
    shares = random_masking(noise, 16).mask.float().mean(dim=0)  # of 64 places, each masked with chance .75
    assert shares.sub(0.75).abs().max() < 5 * math.sqrt(0.75 * 0.25 / 1000)
