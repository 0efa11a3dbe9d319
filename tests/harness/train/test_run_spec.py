"""A recipe's order reaches the loader: which crops a cell trains on, and nothing else about it."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from shard_files import Recorded, reseal_manifest

from harness.grid.cell import Cell
from harness.grid.cells import cells
from harness.grid.stage_run import StageRun
from harness.recipe.data import Stream
from harness.recipe.schema import Recipe
from harness.train import run_spec as run_spec
from harness.train.loop import train_cell
from harness.train.run_spec import build_run_spec
from shards.order.random_order import RandomOrder, placed
from shards.order.stream_order import StreamOrder
from shards.reader.shard_set import ShardSet


def streaming(recipe: Recipe) -> tuple[Recipe, Cell]:
    """The tiny study with dataset `two` streamed: 8 crops a batch from 4 lanes, 3 crops of each of its 32 images."""
    chosen = {"order": "stream", "stream": Stream(lanes=4, crops=3, block=5)}
    datasets = {**recipe.datasets, "two": recipe.datasets["two"].model_copy(update=chosen)}
    changed = recipe.model_copy(update={"datasets": datasets})
    return changed, next(cell for cell in cells(changed) if (cell.model, cell.dataset) == ("vit_s16", "two"))


def test_a_streamed_cell_has_the_order_of_its_recipe(tiny_recipe: Recipe) -> None:
    recipe, cell = streaming(tiny_recipe)
    spec = build_run_spec(recipe, cell)
    assert isinstance(spec.order, StreamOrder)
    assert (spec.order.seed, spec.order.batch, spec.order.lanes) == (0, 8, 4)
    assert (spec.order.crops, spec.order.block, spec.order.count) == (3, 5, len(spec.wells))
    assert spec.steps == 12 * 32 // 8  # an epoch is a crop per image, whatever a pass is
    plain = next(cell for cell in cells(tiny_recipe) if cell.dataset == "two")
    assert build_run_spec(tiny_recipe, plain).order == RandomOrder(0, 32)


def test_training_sees_each_image_as_often_as_the_stream_says(
    tiny_recipe: Recipe, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, cell = streaming(tiny_recipe)
    seen, real = [], run_spec.training_batches

    def watched(*arguments, **options):
        for batch in real(*arguments, **options):
            seen.append(batch.wells.numpy().copy())
            yield batch

    monkeypatch.setattr(run_spec, "training_batches", watched)
    train_cell(StageRun(recipe, cell, tmp_path / "cell", "print"))
    spec = build_run_spec(recipe, cell)
    drawn = spec.wells[spec.order.wells(0, 12 * 32)]
    assert np.array_equal(np.concatenate(seen)[: len(drawn)], drawn)
    counts = np.bincount(np.concatenate(seen)[:96])[spec.wells]
    assert set(counts) == {3}  # a pass: 32 images, 3 crops of each


def test_crops_are_named_from_the_row_groups_of_their_wells(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """The report of a bad step names a few crops of a table that may have millions of rows."""
    spec = build_run_spec(tiny_recipe, next(cell for cell in cells(tiny_recipe) if cell.dataset == "two"))
    folder = Path(shutil.copytree(spec.shards.folder, tmp_path / "set"))
    table = parquet.read_table(folder / "wells.parquet")
    parquet.write_table(table, folder / "wells.parquet", row_group_size=6)
    digest = hashlib.sha256((folder / "wells.parquet").read_bytes()).hexdigest()
    reseal_manifest(folder, lambda manifest: manifest.update(wells_sha256=digest))
    shards = ShardSet.open(Recorded(folder))
    shards.source.read.clear()
    names = replace(spec, shards=shards).crops(seed=0, first=5, count=3, crop=32)
    wells = spec.wells[spec.order.wells(5, 3)]
    drawn = placed(0, 5, wells, spec.shards.shapes[wells], 32)
    keys = table["key"].to_pylist()
    assert names == [f"{keys[w]}@{y},{x}" for w, y, x in zip(wells, drawn.top, drawn.left, strict=True)]
    groups = sorted({int(well) // 6 for well in wells})
    assert len(groups) < len(table) // 6
    footer = parquet.read_metadata(folder / "wells.parquet")
    begins = [footer.row_group(number).column(0).dictionary_page_offset for number in groups]
    assert [begin for _, begin, _ in shards.source.read] == begins
    assert "wells" not in vars(shards)  # the complete table
