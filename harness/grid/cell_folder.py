"""The folder of a grid cell, and the names of the files in it."""

from __future__ import annotations

from pathlib import Path

from harness.grid.cell import Cell
from harness.recipe.schema import Recipe

CELLS = "cells"  # in the output
WEIGHTS = "model.safetensors"  # of a trained cell
TRAIN_LOG = "train.jsonl"
EMBEDDINGS = "embeddings.parquet"
RECONSTRUCTIONS = "reconstructions.npz"
CELL_LOCK = "lock"  # held by the process of this machine that runs the cell
PAIR_OUTCOMES = "recall_pairs.npz"  # of an evaluated cell


def cell_folder(recipe: Recipe, cell: Cell) -> Path:
    """The folder of a cell's log, checkpoints, weights and embeddings."""
    return recipe.output / CELLS / cell.id
