"""An exported cell can be loaded without its recipe, and its model card has its results. Covers `export`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.embed.cell import embed_cell
from harness.embed.parts import open_embedding
from harness.export import ExportError, export_cell, main
from harness.grid.cell import Cell
from harness.grid.cell_folder import EMBEDDINGS, WEIGHTS, cell_folder
from harness.grid.cells import cells, find_cell
from harness.grid.stage_run import StageRun
from harness.models.architecture import configure
from harness.models.config import MaeConfig
from harness.models.encoder_file import EncoderFileError, load_encoder, load_transform
from harness.models.mae import MaskedAutoencoder
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.storage import ledger
from harness.storage.embeddings import read_embeddings
from harness.storage.ledger import LedgerRow
from harness.train.loop import train_cell
from shards.reader.shard_set import ShardSet

RECALL = {"recall": 0.61, "recall_low": 0.55, "recall_high": 0.67, "chance": 0.1, "pairs": 18, "unknown_pairs": 0}


def cell_of(recipe: Recipe, kind: str, model: str = "") -> Cell:
    return next(cell for cell in cells(recipe) if cell.kind == kind and model in str(cell.model))


@pytest.fixture
def finished(tiny_recipe: Recipe) -> Recipe:
    """The tiny study with one cell trained and one evaluation in the ledger."""
    cell = cell_of(tiny_recipe, "trained")
    values = train_cell(StageRun(tiny_recipe, cell, cell_folder(tiny_recipe, cell), "print"))
    ledger.record(tiny_recipe.output, LedgerRow(cell.id, "train", "print", values))
    protocol = {"protocol": "relationship_recall/current", "correction": "tvn", "genes": 12}
    ledger.record(tiny_recipe.output, LedgerRow(cell.id, "evaluate", "e", protocol | {"recall": {"a|b": RECALL}}))
    return tiny_recipe


@pytest.fixture
def deep(tiny_recipe: Recipe) -> Recipe:
    """The tiny study with a cell of two blocks that change the features visibly, and an evaluation in the ledger."""
    cell = cell_of(tiny_recipe, "untrained", "vit_b8")
    folder = cell_folder(tiny_recipe, cell)
    values = train_cell(StageRun(tiny_recipe, cell, folder, "print"))
    weights = load_file(folder / WEIGHTS)
    for name in weights:
        if name.endswith("ls.gamma"):
            weights[name] = torch.ones_like(weights[name])  # initialised to 1e-4, which adds almost nothing
    save_file(weights, folder / WEIGHTS)
    ledger.record(tiny_recipe.output, LedgerRow(cell.id, "train", "print", values))
    protocol = {"protocol": "relationship_recall/current", "correction": "tvn", "genes": 12}
    ledger.record(tiny_recipe.output, LedgerRow(cell.id, "evaluate", "e", protocol | {"recall": {"a": RECALL}}))
    return tiny_recipe


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_a_row_that_cannot_be_used_is_an_error_in_one_line(
    finished: Recipe, tiny_recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    cell = cell_of(finished, "trained")
    ledger.record(finished.output, LedgerRow(cell.id, stage, "e", {}))
    command = [str(tiny_recipe_file), cell.id, "--profile", "laptop", "--output", str(tmp_path / "export")]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{cell.id}/{stage}.json: values." in line
    assert not (tmp_path / "export").exists()


def test_an_exported_cell_needs_no_recipe(finished: Recipe, tmp_path: Path) -> None:
    cell = cell_of(finished, "trained")
    paths = export_cell(finished, cell, tmp_path / "out")
    assert [path.name for path in paths] == ["encoder.safetensors", "recipe.yaml", "README.md"]
    model = MaskedAutoencoder(configure(MaeConfig, cell.architecture))
    model.load_state_dict(load_file(cell_folder(finished, cell) / "model.safetensors"))
    well = torch.from_numpy(ShardSet.open(finished.datasets["one"].shards).read_well(0)[None, :, :32, :32].copy())
    standardised = load_transform(paths[0])(well)
    with torch.no_grad():
        vector = load_encoder(paths[0])(standardised)
        torch.testing.assert_close(vector, model.eval().embed(standardised), atol=1e-6, rtol=0)
    assert load_encoder(paths[0]).pretrained_cfg["cell"] == cell.id


@pytest.mark.parametrize("cut_by", ["--block", "embed.block"])
def test_an_encoder_cut_after_a_block_gives_the_features_of_that_block(
    deep: Recipe, tmp_path: Path, cut_by: str
) -> None:
    """The encoder that `embed.block` evaluates is the one that is exported and that `load_encoder` loads."""
    cell = cell_of(deep, "untrained", "vit_b8")
    cut = deep.model_copy(update={"embed": deep.embed.model_copy(update={"block": 1})})
    folder = cell_folder(deep, cell)
    if cut_by == "--block":
        paths = export_cell(deep, cell, tmp_path / "out", block=1)
    else:
        paths = export_cell(cut, cell, tmp_path / "out")
    embed_cell(open_embedding(StageRun(cut, cell, folder, "print")))
    _, features = read_embeddings(folder / EMBEDDINGS)
    encoder, standardise = load_encoder(paths[0]), load_transform(paths[0])
    assert len(encoder.blocks) == 1
    crops = torch.from_numpy(np.stack([ShardSet.open(deep.embed.shards).read_crop(n, 0, 0, 32) for n in range(48)]))
    with torch.no_grad():
        vectors = encoder(standardise(crops)).numpy()
    np.testing.assert_allclose(vectors, features, atol=1e-5)  # one tile per well
    uncut = load_encoder(export_cell(deep, cell, tmp_path / "uncut")[0])
    with torch.no_grad():
        assert np.abs(uncut(standardise(crops)).numpy() - vectors).max() > 1e-3
    card = paths[2].read_text()
    assert "depth 1, cut from 2 (the final norm stays)" in card
    assert encoder.pretrained_cfg["blocks"] == "1 of 2"
    assert ("0.610" in card) == (cut_by == "embed.block"), "the ledger's numbers belong to the evaluated encoder"
    with pytest.raises(EncoderFileError, match="an encoder of 2 blocks cannot be cut after block 3"):
        export_cell(deep, cell, tmp_path / "out", block=3)


def test_the_card_has_the_numbers_of_the_ledger(finished: Recipe, tmp_path: Path) -> None:
    cell = cell_of(finished, "trained")
    export_cell(finished, cell, tmp_path)
    card = (tmp_path / "README.md").read_text()
    trained = ledger.read(finished.output, cell.id, "train")
    assert trained is not None
    assert f"| validation loss | {trained.values['validation_loss']:.4f} |" in card
    assert f"| crops seen | {trained.values['crops']:,} in {trained.values['steps']:,} steps |" in card
    assert "| a\\|b | 0.610 | 0.550 to 0.670 | 0.10 | 18 |" in card  # a pipe in a name does not break the table
    assert f"`{cell.id}`" in card
    channels = ", ".join(ShardSet.open(finished.datasets["one"].shards).manifest.channels)
    assert f"| channels, in order | {channels} |" in card
    assert "license_name: not-chosen-yet" in card
    assert "None has been chosen" in card


def test_the_exported_recipe_is_the_study_s(finished: Recipe, tmp_path: Path) -> None:
    export_cell(finished, cell_of(finished, "trained"), tmp_path)
    text = (tmp_path / "recipe.yaml").read_text() + "profiles: {laptop: {}}\n"
    (tmp_path / "again.yaml").write_text(text)
    assert load(tmp_path / "again.yaml", "laptop") == finished


def test_the_exported_recipe_of_a_cell_on_an_axis_is_that_of_its_point(finished: Recipe, tmp_path: Path) -> None:
    """The study's own mask ratio is another one: of it, the cell would have another id."""
    cell = cell_of(finished, "trained")
    axes = {"grid": finished.grid.model_copy(update={"axes": {"mae.mask_ratio": [finished.mae.mask_ratio]}})}
    study = finished.model_copy(update=axes | {"mae": finished.mae.model_copy(update={"mask_ratio": 0.5})})
    export_cell(study, find_cell(study, cell.id), tmp_path)
    (tmp_path / "again.yaml").write_text((tmp_path / "recipe.yaml").read_text() + "profiles: {laptop: {}}\n")
    again = load(tmp_path / "again.yaml", "laptop")
    assert (again.mae.mask_ratio, again.grid.axes) == (finished.mae.mask_ratio, {})
    assert find_cell(again, cell.id) == cell


def test_an_untrained_cell_is_refused(tiny_recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is not trained yet"):
        export_cell(tiny_recipe, cell_of(tiny_recipe, "trained"), tmp_path / "out")
    with pytest.raises(ExportError, match=r"pixel_statistics-.* has no network"):
        export_cell(tiny_recipe, cell_of(tiny_recipe, "pixel_statistics"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command(
    finished: Recipe, tiny_recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell, common = cell_of(finished, "trained"), ["--profile", "laptop", "--output", str(tmp_path / "out")]
    assert main([str(tiny_recipe_file), cell.id[:-2], *common]) == 0
    assert "wrote" in capsys.readouterr().out
    assert main([str(tiny_recipe_file), "vit", *common]) == 2
    assert "'vit' names" in capsys.readouterr().err
    assert main([str(tmp_path / "no.yaml"), cell.id, *common]) == 2
    assert "no.yaml: cannot be read" in capsys.readouterr().err
