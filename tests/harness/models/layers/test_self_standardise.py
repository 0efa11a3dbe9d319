"""Covers `self_standardise`: raw crops to mean 0 and variance 1, with their channels in the encoder's order."""

import pytest
import torch

from harness.models.layers.self_standardise import SelfStandardise
from shards.loader.transform import self_standardise


def test_channels_are_reordered_and_standardised() -> None:
    crops = torch.randint(0, 255, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    expected = self_standardise(crops[:, [2, 0, 1]], None)
    assert torch.equal(SelfStandardise(None, [2, 0, 1])(crops), expected)
    assert torch.equal(SelfStandardise(None, [2, 0, 1])(crops[1]), expected[1])


def test_floating_point_pixels_need_a_value_range() -> None:
    with pytest.raises(ValueError, match="give value_range"):
        SelfStandardise()(torch.zeros(1, 3, 8, 8))
