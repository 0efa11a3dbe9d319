"""ViT-L/8 over 256 ranks that exist in name alone: weights are sharded without padding that matters."""

from __future__ import annotations

import pytest

from harness.distributed.fsdp import shard_dimension
from harness.memory import MIB, main
from harness.plan.memory_tracker import model_named, rank_memory


@pytest.mark.slow
def test_vit_l8_over_256_ranks_holds_its_256th() -> None:
    """A token of shape (1, 1, 1024) padded along its first dimension would alone hold 4 KiB on every rank instead of
    16 bytes, and positions of shape (1, 1025, 1024), were they parameters, 4 MiB."""
    import torch

    from harness.models.mae import MaskedAutoencoder

    with torch.device("meta"):
        parameters = sum(p.numel() for p in MaskedAutoencoder(model_named("vit_l8")).parameters())
    found = rank_memory(model_named("vit_l8"), world=256, crops=1)
    share = 4 * parameters / 256
    assert share <= found.at_peak["Sharded Param"] <= 1.01 * share
    assert found.at_peak["OptState"] == found.at_peak["Sharded Param"]  # Lion keeps one moment
    assert sum(found.at_peak.values()) == found.peak < 1024 * MIB


@pytest.mark.parametrize(
    ("shape", "shards", "dimension"),
    [
        ((1, 1, 1024), 256, 2),  # a token
        ((1, 785, 1024), 256, 2),  # a table of positions: 785 does not divide
        ((1, 512, 512), 256, 1),
        ((1024, 6, 8, 8), 256, 0),
        ((3, 5), 2, 0),  # padding of one row in four
        ((1, 7), 2, 0),  # nothing divides
        ((64,), 256, 0),
    ],
)
def test_a_parameter_is_cut_where_it_is_long_enough(shape: tuple[int, ...], shards: int, dimension: int) -> None:
    assert shard_dimension(shape, shards) == dimension


def test_shards_that_do_not_fill_the_world_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--model", "vit_s16", "--world", "8", "--shard", "3"])
    assert "does not divide 8 ranks" in capsys.readouterr().err
    with pytest.raises(ValueError, match="no model 'vit_h14'"):
        model_named("vit_h14")
