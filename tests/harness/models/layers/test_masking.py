"""Covers `masking`: random masks, and noise that depends only on the seed and a sample's position."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.models.layers.masking import masking_noise, place_tokens, random_masking, take_tokens


@given(tokens=st.integers(2, 64), fraction=st.floats(0.01, 0.99))
@settings(max_examples=50)
def test_masking_keeps_exactly_the_requested_number(tokens: int, fraction: float) -> None:
    visible = max(1, min(tokens - 1, round(tokens * fraction)))
    masking = random_masking(torch.rand(3, tokens), visible)
    assert masking.mask.sum(dim=1).tolist() == [tokens - visible] * 3
    assert not masking.mask.gather(1, masking.visible).any()
    assert all(len(set(row)) == visible for row in masking.visible.tolist())


def test_the_patches_with_the_most_noise_are_masked() -> None:
    masking = random_masking(torch.tensor([[0.4, 0.1, 0.9, 0.2]]), 2)
    assert masking.visible.tolist() == [[1, 3]]
    assert masking.mask.tolist() == [[True, False, True, False]]


def test_place_tokens_scatters_over_the_background() -> None:
    tokens, background = torch.tensor([[[1, 2], [3, 4]]]), torch.tensor([[[9, 8]]]).expand(1, 4, 2)
    assert place_tokens(tokens, torch.tensor([[3, 1]]), background).tolist() == [[[9, 8], [3, 4], [9, 8], [1, 2]]]


def test_take_tokens_gathers_complete_tokens() -> None:
    tokens = torch.tensor([[[1, 2], [3, 4], [5, 6]]])
    assert take_tokens(tokens, torch.tensor([[2, 0]])).tolist() == [[[5, 6], [1, 2]]]


@given(seed=st.integers(0, 2**63), first=st.integers(0, 2**40), size=st.integers(1, 6))
@settings(max_examples=25)
def test_noise_depends_on_the_sample_and_not_on_the_batch(seed: int, first: int, size: int) -> None:
    """Two ranks that split a batch draw the same noise as one rank with the complete batch."""
    positions = range(first, first + size)
    together = masking_noise(seed, positions, 9)
    ranks = [masking_noise(seed, positions[rank::2], 9) for rank in range(min(2, size))]
    for rank, part in enumerate(ranks):
        assert torch.equal(together[rank::2], part)


def test_noise_is_uniform_and_differs_between_samples_and_seeds() -> None:
    noise = masking_noise(0, range(1000), 64)
    assert noise.unique(dim=0).shape == noise.shape
    assert not torch.equal(noise, masking_noise(1, range(1000), 64))
    masked_fraction = random_masking(noise, 16).mask.float().mean(dim=0)  # each of 64 patches at probability 0.75
    assert masked_fraction.sub(0.75).abs().max() < 5 * math.sqrt(0.75 * 0.25 / 1000)
