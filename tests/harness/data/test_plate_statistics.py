"""Covers `plate_statistics`: wells are grouped by plate, and its statistics apply only within the context."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.data.channels import ChannelOrder
from harness.data.plate_statistics import adapted, by_plate
from harness.data.shard_sets import open_shards
from harness.distributed.ranks import Ranks
from harness.grid.cell import Cell
from harness.grid.cells import cells
from harness.models.architecture import build
from harness.models.interface import Network
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from shards.reader.shard_set import ShardSet

DENSE = "models.net={kind: densenet, group: 4, embedding: 8, growth: 4, layers: [2, 2, 2], adaptive: %s}"
ONE_RANK = Ranks(0, 1, torch.device("cpu"))
AS_STORED = ChannelOrder(tuple("123456"))


def network(file: Path, adaptive: bool) -> tuple[Network, Cell, ShardSet]:
    """A network in eval mode, its cell, and the shards of the tiny study."""
    recipe = load(file, "laptop", ["grid.models=[net]", DENSE % str(adaptive).lower()])
    cell = next(cell for cell in cells(recipe) if cell.kind == "untrained")
    assert cell.architecture is not None
    assert recipe.embed is not None
    torch.manual_seed(0)
    return build(cell.architecture).eval(), cell, open_shards(recipe, recipe.embed.shards)


@pytest.mark.parametrize(("adaptive", "sizes"), [(True, [16, 16, 16]), (False, [48])])
def test_wells_are_grouped_by_plate_for_adaptive_networks(
    tiny_recipe: Recipe, tiny_recipe_file: Path, adaptive: bool, sizes: list[int]
) -> None:
    net, _, shards = network(tiny_recipe_file, adaptive)
    groups = by_plate(net, shards, shards.wells.index.to_numpy())
    assert [len(group) for group in groups] == sizes
    if adaptive:
        assert all(shards.wells.loc[group, "experiment"].nunique() == 1 for group in groups)


@torch.no_grad()
def test_plate_statistics_apply_only_within_the_context(tiny_recipe: Recipe, tiny_recipe_file: Path) -> None:
    net, cell, shards = network(tiny_recipe_file, adaptive=True)
    plate = by_plate(net, shards, shards.wells.index.to_numpy())[0]
    crop = torch.randn(1, 6, 32, 32)
    before = net.embed(crop)
    embeddings = []
    for wells in (plate, plate[:1]):
        with adapted(net, cell, shards, wells, AS_STORED, ONE_RANK, torch.autocast("cpu", enabled=False)):
            embeddings.append(net.embed(crop))
    assert not torch.allclose(embeddings[0], before)
    torch.testing.assert_close(embeddings[1], embeddings[0])  # the complete plate counts, not only the wells
    torch.testing.assert_close(net.embed(crop), before)


@torch.no_grad()
def test_other_networks_are_not_adapted(tiny_recipe: Recipe, tiny_recipe_file: Path) -> None:
    net, cell, shards = network(tiny_recipe_file, adaptive=False)
    crop = torch.randn(1, 6, 32, 32)
    before = net.embed(crop)
    with adapted(
        net, cell, shards, shards.wells.index.to_numpy(), AS_STORED, ONE_RANK, torch.autocast("cpu", enabled=False)
    ):
        torch.testing.assert_close(net.embed(crop), before, rtol=0, atol=0)
