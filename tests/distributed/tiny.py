"""The trained grid cell of the tiny study, and its logs and weights after a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from harness.grid.cells import cells
from harness.recipe.load import load
from harness.recipe.schema import Recipe
from harness.storage.train_log import read_log

TIMED = {"crops_per_second", "step_seconds", "seconds_left", "data_wait", "peak_memory_gb", "mfu"}


def tiny(write: Callable[[Path], Path], folder: Path, *overrides: str) -> tuple[Recipe, str]:
    """Load the study, build its shards, and return the recipe and the id of its trained S/16 cell."""
    from harness.data.prepare import prepare

    recipe = load(write(folder), "laptop", ["launch.shard_gpus=2", *overrides])
    prepare(recipe)
    return recipe, next(c.id for c in cells(recipe) if (c.model, c.dataset) == ("vit_s16", "two"))


def launched(recipe: Recipe, **changes: object) -> str:
    """Return the recipe with changed `launch` fields, as JSON for a process."""
    return recipe.model_copy(update={"launch": recipe.launch.model_copy(update=changes)}).model_dump_json()


def rows(folder: Path, *kinds: str) -> list[dict[str, Any]]:
    """Return the log's rows of the given kinds, without the fields that depend on timing."""
    log = read_log(folder / "train.jsonl")
    return [{k: v for k, v in row.items() if k not in TIMED} for row in log if row["kind"] in kinds]


def same_weights(first: Path, second: Path) -> bool:
    a, b = (load_file(folder / "model.safetensors") for folder in (first, second))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
