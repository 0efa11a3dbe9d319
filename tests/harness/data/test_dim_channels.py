"""Covers `dim_channels`: channels below half of unit variance are named with their variance, by hand."""

from __future__ import annotations

import torch

from harness.data.dim_channels import dim_channels, warning
from shards.loader.transform import self_standardise


def test_a_channel_of_few_levels_is_named_with_its_variance() -> None:
    """Stripes of ±a levels have variance a²; divided by 65,535, that is a² / (a² + 1e-5 · 65,535²)."""
    stripes = torch.tensor([-1.0, 1.0]).repeat(32).expand(64, 64)
    pixels = torch.stack([1000 + 60 * stripes, 30_000 + 20_000 * stripes]).to(torch.uint16)[None]
    found = dim_channels(self_standardise(pixels), ["DNA", "ER"])
    assert list(found) == ["DNA"]
    assert abs(found["DNA"] - 3600 / (3600 + 1e-5 * 65_535**2)) < 1e-4
    assert "DNA (0.077)" in warning(found)
    assert "set or lower mae.value_range" in warning(found)
    assert dim_channels(self_standardise(pixels, (200.0, 65_535.0)), ["DNA", "ER"]) == {}
