"""A well's embedding is the mean over its tiles, its metadata stays with it, and parts survive a stop.

Covers `cell`, `wells`, `parts` and `reconstructions`; parts that several jobs share are tested in
tests/harness/stages/test_shared_embedding.py.
"""

import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from harness.data.channels import ChannelOrder
from harness.data.to_device import to_model_input
from harness.distributed.preemption import Preempted
from harness.embed.cell import embed_cell
from harness.embed.parts import discard_parts, open_embedding
from harness.embed.pixel_statistics import pixel_statistics
from harness.evaluate.cell import evaluate_cell
from harness.grid.cell_folder import EMBEDDINGS, RECONSTRUCTIONS
from harness.grid.cells import cells
from harness.grid.stage_run import StageRun
from harness.models.architecture import configure
from harness.models.config import MaeConfig
from harness.models.mae import MaskedAutoencoder
from harness.recipe.schema import Recipe
from harness.storage.embeddings import read_embeddings, read_provenance, write_embeddings
from harness.train.loop import train_cell
from shards.reader.shard_set import ShardSet


def in_parts_of(wells: int, recipe: Recipe, **launch: object) -> Recipe:
    launched = recipe.launch.model_copy(update={"embed_part_wells": wells, **launch})
    return recipe.model_copy(update={"launch": launched})


def test_a_well_is_the_mean_of_its_tiles(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """48-pixel wells and 32-pixel crops: one tile in the corner, so the embedding is that crop's own."""
    cell = next(c for c in cells(tiny_recipe) if c.kind == "untrained")
    train_cell(StageRun(tiny_recipe, cell, tmp_path, "print"))
    values = embed_cell(open_embedding(StageRun(tiny_recipe, cell, tmp_path, "print")))
    wells, features = read_embeddings(tmp_path / EMBEDDINGS)
    assert values["wells"] == len(wells) == 48
    assert features.shape == (48, 16)
    shards = ShardSet.open(tiny_recipe.embed.shards)
    torch.manual_seed(cell.seed)
    model = MaskedAutoencoder(configure(MaeConfig, cell.architecture)).eval()
    crop = torch.from_numpy(shards.read_crop(7, 0, 0, 32))[None]
    from harness.distributed.ranks import Ranks

    expected = model.embed(
        to_model_input(crop, cell, Ranks(0, 1, torch.device("cpu")), ChannelOrder(shards.manifest.channels))
    )[0]
    row = wells.index[wells["key"] == shards.wells.loc[7, "key"]][0]
    np.testing.assert_allclose(features[row], expected.detach().numpy(), atol=1e-5)


def test_a_trained_cell_leaves_reconstructions_of_unseen_wells(tiny_recipe: Recipe, tmp_path: Path) -> None:
    cell = next(c for c in cells(tiny_recipe) if c.kind == "trained")
    train_cell(StageRun(tiny_recipe, cell, tmp_path, "print"))
    embed_cell(open_embedding(StageRun(tiny_recipe, cell, tmp_path, "print")))
    shards = ShardSet.open(tiny_recipe.embed.shards)
    unseen = set(shards.wells.loc[shards.wells["split"] == "validation", "key"])
    with np.load(tmp_path / RECONSTRUCTIONS, allow_pickle=False) as arrays:
        assert set(arrays["wells"]) <= unseen
        visible = ~np.broadcast_to(arrays["mask"], arrays["original"].shape)
        np.testing.assert_array_equal(arrays["original"][visible], arrays["reconstruction"][visible])
        assert visible.mean() == pytest.approx(0.25)


@pytest.mark.parametrize("kind", ["trained", "pixel_statistics"])
def test_a_stop_while_embedding_keeps_the_parts_that_are_done(
    tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    cell = next(c for c in cells(tiny_recipe) if c.kind == kind)
    if kind == "trained":
        train_cell(StageRun(tiny_recipe, cell, tmp_path, "print"))
    tiny_recipe = in_parts_of(10, tiny_recipe)
    embed_cell(open_embedding(StageRun(tiny_recipe, cell, tmp_path, "print")))
    calm = read_embeddings(tmp_path / EMBEDDINGS)
    discard_parts(tmp_path)
    read, asked = ShardSet.read_well, []

    def signal_at_the_25th(shards: ShardSet, index: int, **into: np.ndarray) -> np.ndarray:
        asked.append(index)
        if len(asked) == 25:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(shards, index, **into)

    monkeypatch.setattr(ShardSet, "read_well", signal_at_the_25th)
    (tmp_path / EMBEDDINGS).unlink()
    with pytest.raises(Preempted, match="SIGTERM"):
        embed_cell(open_embedding(StageRun(tiny_recipe, cell, tmp_path, "print")))
    (parts,) = tmp_path.glob("embedding-*")
    done = len(list(parts.glob("*.parquet")))
    assert 1 <= done <= 2
    assert not (tmp_path / EMBEDDINGS).exists()
    asked.clear()
    monkeypatch.setattr(
        ShardSet, "read_well", lambda shards, index, **into: (asked.append(index), read(shards, index, **into))[1]
    )
    embed_cell(open_embedding(StageRun(tiny_recipe, cell, tmp_path, "print")))
    assert len(set(asked) - set(range(10 * done))) == 48 - 10 * done
    np.testing.assert_array_equal(read_embeddings(tmp_path / EMBEDDINGS)[1], calm[1])


def test_pixel_statistics_are_mean_and_deviation_per_channel(tiny_recipe: Recipe) -> None:
    shards = ShardSet.open(tiny_recipe.embed.shards)
    found = pixel_statistics(shards, np.array([3]))[0]
    pixels = shards.read_well(3).reshape(6, -1)
    expected = [*(float(channel.mean()) for channel in pixels), *(float(channel.std()) for channel in pixels)]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)


def planted(folder: Path) -> None:
    """Two genes alike, two others alike and opposite, and controls around zero, in two experiments."""
    rng = np.random.default_rng(0)
    directions = {"A": [9, 0, 0], "B": [9, 1, 0], "C": [0, 0, 9], "D": [0, 1, 9]}
    directions |= {f"X{i}": rng.normal(0, 3, 3).tolist() for i in range(9)}
    rows, features = [], []
    for experiment in ("e1", "e2"):
        for gene, direction in directions.items():
            names = {"gene": gene, "treatment": f"{gene}_1"}
            rows.append({"key": f"{experiment}-{gene}", "experiment": experiment, **names})
            features.append(np.array(direction) + rng.normal(0, 0.1, 3))
        for i in range(20):
            names = {"gene": "", "treatment": "EMPTY_control"}
            rows.append({"key": f"{experiment}-{i}", "experiment": experiment, **names})
            features.append(rng.normal(0, 1, 3))
    write_embeddings(folder / EMBEDDINGS, pd.DataFrame(rows), np.array(features, np.float32))
    (folder / "pairs.csv").write_text("entity1,entity2\nA,B\nD,C\nA,A\nA,UNKNOWN\n")


def evaluating(recipe: Recipe, folder: Path, **changes: object) -> Recipe:
    evaluate = recipe.evaluate.model_copy(update={"relationships": {"planted": folder / "pairs.csv"}, **changes})
    return recipe.model_copy(update={"evaluate": evaluate})


def test_planted_relationships_are_recalled(tiny_recipe: Recipe, tmp_path: Path) -> None:
    planted(tmp_path)
    for correction in ("tvn", "centre_scale", "none"):
        values = evaluate_cell(evaluating(tiny_recipe, tmp_path, correction=correction), tmp_path)
        assert values["genes"] == 13
        found = values["recall"]["planted"]
        assert (found["recall"], found["pairs"], found["unknown_pairs"]) == (1.0, 2, 1)
        assert found["chance"] == pytest.approx(0.1)


def test_a_missing_column_is_named_with_those_there_are(tiny_recipe: Recipe, tmp_path: Path) -> None:
    planted(tmp_path)
    with pytest.raises(ValueError, match=r"no column 'batch'; it has key, experiment"):
        evaluate_cell(evaluating(tiny_recipe, tmp_path, batch_column="batch"), tmp_path)


def test_files_that_hold_no_embeddings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_embeddings(tmp_path / "missing.parquet")
    pd.DataFrame({"key": ["a"]}).to_parquet(tmp_path / "bare.parquet")
    with pytest.raises(ValueError, match="no columns named feature_0"):
        read_embeddings(tmp_path / "bare.parquet")


def test_a_block_s_features_are_those_of_the_encoder_cut_after_it(tiny_recipe: Recipe, tmp_path: Path) -> None:
    cell = next(c for c in cells(tiny_recipe) if c.kind == "untrained" and "vit_b8" in str(c.model))
    train_cell(StageRun(tiny_recipe, cell, tmp_path, "print"))

    def embedded(block: int | None) -> np.ndarray:
        options = tiny_recipe.embed.model_copy(update={"block": block})
        embed_cell(
            open_embedding(
                StageRun(tiny_recipe.model_copy(update={"embed": options}), cell, tmp_path, f"block {block}")
            )
        )
        return read_embeddings(tmp_path / EMBEDDINGS)[1]

    last, first = embedded(None), embedded(1)
    np.testing.assert_array_equal(embedded(2), last)  # this one has two blocks
    assert np.abs(first - last).max() > 1e-6  # LayerScale starts at 1e-4: a block hardly adds before it has trained
    with pytest.raises(ValueError, match=r"embed.block is 3, but the encoder has 2 blocks"):
        embedded(3)


def test_embeddings_say_what_made_them(tiny_recipe: Recipe, tmp_path: Path) -> None:
    cell = next(c for c in cells(tiny_recipe) if c.kind == "untrained")
    train_cell(StageRun(tiny_recipe, cell, tmp_path, "print"))
    values = embed_cell(open_embedding(StageRun(tiny_recipe, cell, tmp_path, "print")))
    said = read_provenance(tmp_path / EMBEDDINGS)
    assert (said["cell"], said["pool"], said["stage_fingerprint"]) == (cell.id, "mean", "print")
    assert len(said["weights_sha256"]) == 64
    assert values["crops"] == 48  # one tile in each well
    assert values["crops_per_second"] > 0


@pytest.mark.slow
def test_baselines_and_consistency_stand_in_the_row(tiny_recipe: Recipe, tmp_path: Path) -> None:
    planted(tmp_path)
    row = evaluate_cell(evaluating(tiny_recipe, tmp_path), tmp_path)
    assert row["protocol"] == "relationship_recall/3/current/2"
    assert row["recall"]["planted"]["recall"] == 1
    assert row["placebos"]["random_features"]["planted"]["recall"] < 1
    assert row["consistency"]["protocol"] == "replicate_consistency/1"
    assert row["consistency"]["ks"] > 0.5
    legacy = evaluate_cell(evaluating(tiny_recipe, tmp_path, protocol="legacy"), tmp_path)
    assert legacy["protocol"] == "relationship_recall/3/legacy/1"
