"""Self-standardisation equals its formula and torch's instance normalisation, for every pixel type."""

import numpy as np
import pytest
import torch

from shards.loader.transform import self_standardise


def pixels(dtype: str, low: int = 0, high: int | None = None) -> np.ndarray:
    return np.random.default_rng(1).integers(low, high or np.iinfo(dtype).max, (3, 6, 20, 24), dtype=dtype)


@pytest.mark.parametrize(("dtype", "value_range"), [("uint8", 255), ("uint16", 65535)])
def test_self_standardise_equals_instance_norm_and_its_formula(dtype, value_range):
    images = pixels(dtype)
    images[0, 0] = 3  # a constant channel
    ours = self_standardise(torch.from_numpy(images))
    assert ours.dtype == torch.float32
    scaled = images.astype(np.float64) / value_range
    mean, variance = scaled.mean((2, 3), keepdims=True), scaled.var((2, 3), keepdims=True)
    np.testing.assert_allclose(ours.numpy(), (scaled - mean) / np.sqrt(variance + 1e-5), atol=2e-5)
    peer = torch.nn.InstanceNorm2d(6)(torch.from_numpy(scaled).float())
    torch.testing.assert_close(ours, peer)


def test_bit_depth_matters_for_dim_channels():
    """Values 0..15 as uint16 have variance 5e-9 after division: far below the 1e-5 added to it."""
    dim = pixels("uint16", 0, 16)
    assert self_standardise(torch.from_numpy(dim)).std() < 0.05
    assert self_standardise(torch.from_numpy(dim.astype(np.uint8))).std() > 0.9


def test_floats_need_a_range():
    images = torch.rand(1, 1, 8, 8)
    with pytest.raises(ValueError, match=r"torch.float32: give value_range"):
        self_standardise(images)
    torch.testing.assert_close(self_standardise(images, 1.0), torch.nn.InstanceNorm2d(1)(images))


def test_a_range_of_each_channel_is_the_same_as_one_channel_after_another():
    images = torch.from_numpy(np.random.default_rng(2).integers(0, 900, (3, 2, 16, 16), dtype="uint16"))
    both = self_standardise(images, (500.0, 4095.0))
    for channel, value_range in enumerate((500.0, 4095.0)):
        assert torch.equal(both[:, channel], self_standardise(images[:, [channel]], value_range)[:, 0])
