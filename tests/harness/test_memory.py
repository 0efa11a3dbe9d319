"""Sharding ViT-L/8 over 256 fake ranks adds almost no padding. Covers `memory`."""

from __future__ import annotations

import pytest

from harness.distributed.fsdp import shard_dimension
from harness.memory import MIB, main
from harness.plan.memory_tracker import model_named, rank_memory


@pytest.mark.slow
def test_a_rank_of_256_holds_a_256th_of_vit_l8() -> None:
    """A token of shape (1, 1, 1024) padded along its first dimension would take 4 KiB on every rank instead of 16
    bytes, and positions of shape (1, 1025, 1024), if they were parameters, 4 MiB."""
    import torch

    from harness.models.mae import MaskedAutoencoder

    with torch.device("meta"):
        parameters = sum(p.numel() for p in MaskedAutoencoder(model_named("vit_l8")).parameters())
    memory = rank_memory(model_named("vit_l8"), world=256, crops=1)
    share = 4 * parameters / 256
    assert share <= memory.at_peak["Sharded Param"] <= 1.01 * share
    assert memory.at_peak["OptState"] == memory.at_peak["Sharded Param"]  # Lion keeps one moment
    assert sum(memory.at_peak.values()) == memory.peak < 1024 * MIB


@pytest.mark.parametrize(
    ("shape", "shards", "dimension"),
    [
        ((1, 1, 1024), 256, 2),  # a token
        ((1, 785, 1024), 256, 2),  # a table of positions: 785 is not divisible
        ((1, 512, 512), 256, 1),
        ((1024, 6, 8, 8), 256, 0),
        ((3, 5), 2, 0),  # one row of four is padding
        ((1, 7), 2, 0),  # no dimension is divisible
        ((64,), 256, 0),
    ],
)
def test_a_parameter_is_sharded_along_a_divisible_dimension(
    shape: tuple[int, ...], shards: int, dimension: int
) -> None:
    assert shard_dimension(shape, shards) == dimension


def test_a_shard_size_that_does_not_divide_the_world_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--model", "vit_s16", "--world", "8", "--shard", "3"])
    assert "does not divide 8 ranks" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no model 'vit_h14'"):
        model_named("vit_h14")
