"""One cell from its first missing stage to its last: train → embed → evaluate, each ending in a ledger row.

`missing_stages` says what is missing (fast, no torch); `run_cell` is what a job runs. A stage's fingerprint chains the
settings and data that decide its result, so a row that no longer fits its settings counts as missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.data.shard_sets import ShardLocation, manifest_of
from harness.grid.cells import Cell, fingerprint, weights_path
from harness.recipe.models import Profiles
from harness.recipe.schema import Recipe
from harness.storage import ledger
from harness.storage.ledger import STAGES, Stage


class StageError(RuntimeError):
    """A stage that cannot run as asked; the text says what would be right."""


@dataclass(frozen=True)
class CellWork:
    """A cell's stages with their fingerprints, and those that are not done."""

    cell: Cell
    fingerprints: dict[Stage, str]
    missing: tuple[Stage, ...]


def stages_of(recipe: Recipe, cell: Cell) -> tuple[Stage, ...]:
    """The stages that this cell goes through."""
    embedded = recipe.embed is not None and cell.kind != "profiles"
    wanted = {"train": cell.kind in ("trained", "untrained"), "embed": embedded, "evaluate": recipe.evaluate}
    return tuple(stage for stage in STAGES if wanted[stage])


def missing_stages(recipe: Recipe, cell: Cell) -> CellWork:
    """What is missing of a cell.

    Raises:
        StageError: shards or a relationship list are missing, or the shards are not those the cell trained on.
    """
    prints = _fingerprints(recipe, cell)
    missing: list[Stage] = []
    for stage, wanted in prints.items():
        row = ledger.read(recipe.output, cell.id, stage)
        if row is not None and stage == "train" and row.fingerprint != wanted:
            raise StageError(_changed_data(recipe, cell))
        if row is None or row.fingerprint != wanted:
            missing.append(stage)
    return CellWork(cell, prints, tuple(missing))


def _changed_data(recipe: Recipe, cell: Cell) -> str:
    shards = recipe.datasets[cell.dataset].shards if cell.dataset else "?"
    return (
        f"cell {cell.id} was trained on other shards than those at {shards} now: restore them, "
        f"give the changed data a dataset name of its own, or remove {ledger.row_path(recipe.output, cell.id, 'train')}"
    )


def _fingerprints(recipe: Recipe, cell: Cell) -> dict[Stage, str]:
    wanted = stages_of(recipe, cell)
    prints: dict[Stage, str] = {}
    science: dict[Stage, Callable[[], Any]] = {
        "train": lambda: _train_science(recipe, cell),
        "embed": lambda: _embed_science(recipe, cell),
        "evaluate": lambda: _evaluate_science(recipe, cell),
    }
    chained = cell.id
    for stage in wanted:
        chained = prints[stage] = fingerprint([stage, chained, science[stage]()])
    return prints


def _train_science(recipe: Recipe, cell: Cell) -> Any:  # noqa: ANN401  (JSON)
    shards = shards_digest(recipe, recipe.datasets[cell.dataset].shards) if cell.dataset else None
    weights = weights_path(recipe, cell)
    return shards if weights is None else [shards, _file_digest(weights)]


def _embed_science(recipe: Recipe, cell: Cell) -> Any:  # noqa: ANN401  (JSON)
    assert recipe.embed is not None
    options = recipe.embed
    science: list[Any] = [options.experiments, options.pool, recipe.mae.crop, shards_digest(recipe, options.shards)]
    if options.block is not None:
        science.append(options.block)
    weights = weights_path(recipe, cell)
    return [*science, {"weights": _file_digest(weights)}] if cell.kind == "pretrained" and weights else science


def _evaluate_science(recipe: Recipe, cell: Cell) -> Any:  # noqa: ANN401  (JSON)
    evaluate = recipe.evaluate
    assert evaluate is not None
    lists = {name: _file_digest(path) for name, path in evaluate.relationships.items()}
    science = [evaluate.model_dump(mode="json", exclude={"relationships"}), lists]
    model = recipe.models.get(cell.model)
    if not isinstance(model, Profiles):
        return science
    assert recipe.embed is not None  # which wells: for others, the stage before says so
    tables = [_file_digest(path) for path in model.tables]
    return [*science, tables, recipe.embed.experiments, shards_digest(recipe, recipe.embed.shards)]


def shards_digest(recipe: Recipe, place: ShardLocation) -> str:
    """What the shards at `place` hold: the SHA-256 of their checksums, from the manifest.

    Raises:
        StageError: there is no manifest.
    """
    try:
        return fingerprint(sorted(shard["sha256"] for shard in manifest_of(recipe, place)["shards"]))
    except FileNotFoundError:
        raise StageError(
            f"{place}: no shards here (no manifest.json); build them with python -m shards.build"
        ) from None
    except OSError as error:
        raise StageError(f"{place}: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StageError(f"{place}/manifest.json: not a shard manifest ({error})") from error


@cache
def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StageError(f"{path}: cannot be read: {error.strerror}") from error
