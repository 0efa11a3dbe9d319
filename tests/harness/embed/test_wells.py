"""One pipeline embeds all parts, each as if it were alone, and the host reads nothing before a part is complete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.data.channels import ChannelOrder
from harness.distributed.preemption import StopFlag
from harness.distributed.ranks import Ranks
from harness.embed import cell as cell_module
from harness.embed import wells as wells_module
from harness.embed.cell import embed_cell
from harness.embed.parts import discard_parts, open_embedding
from harness.embed.wells import TileReading, embed_parts
from harness.grid.cell_folder import EMBEDDINGS
from harness.grid.cells import cells
from harness.grid.stage_run import StageRun
from harness.models.architecture import build
from harness.models.layers.attention import AttentionError
from harness.recipe.schema import Recipe
from harness.storage.embeddings import read_embeddings
from harness.train.loop import train_cell
from shards.loader import batches as loader
from shards.reader.shard_set import ShardSet

CPU = torch.device("cpu")


def launched(recipe: Recipe, **launch: object) -> Recipe:
    return recipe.model_copy(update={"launch": recipe.launch.model_copy(update=launch)})


def untrained(recipe: Recipe) -> Any:
    return next(cell for cell in cells(recipe) if cell.kind == "untrained")


def embedded(
    recipe: Recipe, parts: list[np.ndarray], device: torch.device = CPU, world: int = 1
) -> Iterator[np.ndarray]:
    """The embeddings of parts by an untrained network, in batches of 5 tiles."""
    assert recipe.embed is not None
    cell, shards = untrained(recipe), ShardSet.open(recipe.embed.shards)
    torch.manual_seed(0)
    model = build(cell.architecture).to(device).eval()
    ranks = Ranks(0, 1, device)
    channels = ChannelOrder(shards.manifest.channels)
    return embed_parts(model, cell, shards, parts, channels, TileReading(5, 1), ranks, "fp32", StopFlag())


def test_parts_of_one_pipeline_are_bit_for_bit_those_embedded_alone(
    tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12, 1 and 11 wells: the batches of 5 tiles end with the part, so a part's last one has 2, 1 and 1."""
    pipelines, real = list[int](), loader.read_ahead
    monkeypatch.setattr(loader, "read_ahead", lambda work, workers: pipelines.append(1) or real(work, workers))
    parts = [np.arange(30, 18, -1), np.array([3]), np.arange(37, 48)]
    alone = [next(embedded(tiny_recipe, [part])) for part in parts]
    pipelines.clear()
    together = list(embedded(tiny_recipe, parts))
    assert pipelines == [1]
    assert [features.shape for features in together] == [(12, 16), (1, 16), (11, 16)]
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))


def test_the_host_reads_nothing_before_a_part_is_complete(tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, which has no numbers, the first thing that fails is the copy of a part's embeddings."""
    seen, real = list[torch.Tensor](), wells_module.in_lockstep

    def watched(items: Iterator[Any], ranks: Ranks, stop: StopFlag) -> Iterator[Any]:
        for batch in real(items, ranks, stop):
            yield batch
            seen.append(batch)

    monkeypatch.setattr(wells_module, "in_lockstep", watched)
    monkeypatch.setattr(wells_module, "autocast", lambda device, precision: torch.autocast("cpu", enabled=False))
    parts = embedded(tiny_recipe, [np.arange(12), np.arange(12, 20)], torch.device("meta"))
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        next(parts)
    assert [len(batch.wells) for batch in seen] == [5, 5, 2]
    assert {batch.images.device.type for batch in seen} == {"meta"}
    assert {batch.wells.device.type for batch in seen} == {"cpu"}


@pytest.mark.parametrize(
    ("chosen", "used"), [(None, "none"), ("none", "none"), ("blocks", "blocks"), ("whole", "blocks")]
)
def test_the_launch_sections_compilation_is_used(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str | None, used: str
) -> None:
    """Null is none without a GPU. The whole network is not called here, so its blocks are compiled."""
    asked = []
    monkeypatch.setattr(cell_module, "set_up_blocks", lambda model, recompute, compiled: asked.append(compiled))
    recipe = launched(tiny_recipe, compile=chosen)
    stage = StageRun(recipe, untrained(recipe), tmp_path, "print")
    train_cell(stage)
    embed_cell(open_embedding(stage))
    assert asked == [used]


def test_the_launch_sections_attention_is_used(tiny_recipe: Recipe, tmp_path: Path) -> None:
    stage = StageRun(tiny_recipe, untrained(tiny_recipe), tmp_path, "print")
    train_cell(stage)
    recipe = launched(tiny_recipe, attention="flash")
    with pytest.raises(AttentionError, match="this run is on cpu"):
        embed_cell(open_embedding(StageRun(recipe, stage.cell, tmp_path, "print")))


@pytest.mark.slow
def test_compiled_embeddings_are_those_of_eager_mode(tiny_recipe: Recipe, tmp_path: Path) -> None:
    found = []
    for compiled in ("none", "blocks"):
        recipe = launched(tiny_recipe, compile=compiled)
        stage = StageRun(recipe, untrained(recipe), tmp_path, "print")
        if compiled == "none":
            train_cell(stage)
        embed_cell(open_embedding(stage))
        discard_parts(tmp_path)
        found.append(read_embeddings(tmp_path / EMBEDDINGS)[1])
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
