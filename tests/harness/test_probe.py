"""A block's features equal those of the encoder cut after it, and the best block is exported. Covers `probe`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from harness.embed.cell import embed_cell
from harness.embed.parts import open_embedding
from harness.grid.cell import Cell
from harness.grid.cell_folder import EMBEDDINGS, WEIGHTS, cell_folder
from harness.grid.cells import cells
from harness.grid.stage_run import StageRun
from harness.models.encoder_file import load_encoder
from harness.probe import block_features, main
from harness.recipe.schema import Recipe
from harness.storage import ledger
from harness.storage.embeddings import read_embeddings
from harness.storage.ledger import LedgerRow
from harness.train.loop import train_cell


@pytest.fixture
def cell(tiny_recipe: Recipe) -> Cell:
    """A cell of two blocks that both change the features."""
    cell = next(c for c in cells(tiny_recipe) if c.kind == "untrained" and "vit_b8" in c.model)
    folder = cell_folder(tiny_recipe, cell)
    values = train_cell(StageRun(tiny_recipe, cell, folder, "print"))
    weights = load_file(folder / WEIGHTS)
    weights |= {name: value.fill_(1) for name, value in weights.items() if name.endswith("ls.gamma")}
    save_file(weights, folder / WEIGHTS)
    ledger.record(tiny_recipe.output, LedgerRow(cell.id, "train", "print", values))
    return cell


@pytest.mark.parametrize("pool", ["mean", "mean_std"])
def test_a_block_s_features_equal_those_of_the_encoder_cut_after_it(tiny_recipe: Recipe, cell: Cell, pool: str) -> None:
    assert tiny_recipe.embed is not None
    folder = cell_folder(tiny_recipe, cell)
    pooled_recipe = tiny_recipe.model_copy(update={"embed": tiny_recipe.embed.model_copy(update={"pool": pool})})
    wells, features = block_features(pooled_recipe, cell)
    assert features.shape == (2, len(wells), 24 * (1 + (pool == "mean_std")))
    for block in (1, 2):
        options = tiny_recipe.embed.model_copy(update={"block": block, "pool": pool})
        embed_cell(
            open_embedding(StageRun(tiny_recipe.model_copy(update={"embed": options}), cell, folder, f"block {block}"))
        )
        np.testing.assert_allclose(features[block - 1], read_embeddings(folder / EMBEDDINGS)[1], atol=1e-5)
    assert np.abs(features[0] - features[1]).max() > 1e-2


def test_the_best_block_is_found_and_exported(
    tiny_recipe: Recipe, tiny_recipe_file: Path, cell: Cell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tiny wells differ in the period of their stripes, with four genes per period; the probe separates these."""
    arguments = [str(tiny_recipe_file), cell.id, "--profile", "laptop", "--test", "gene-003"]
    assert main([*arguments, "--json", "--export", str(tmp_path / "out")]) == 0
    probes = json.loads(capsys.readouterr().out)
    assert [probe["block"] for probe in probes] == [1, 2]
    assert {probe["classes"] for probe in probes} == {12}
    best = max(probes, key=lambda probe: (probe["balanced_accuracy"], -probe["block"]))["block"]
    assert len(load_encoder(tmp_path / "out" / "encoder.safetensors").blocks) == best
    assert main(arguments) == 0
    assert f"{best:>5}" in next(line for line in capsys.readouterr().out.splitlines() if line.endswith("best"))
    assert main([*arguments, "--label", "colour"]) == 2
    assert "no such column; the wells have key" in capsys.readouterr().err
    assert main([*arguments[:1], "pixel", *arguments[2:]]) == 2
