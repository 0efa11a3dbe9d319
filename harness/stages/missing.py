"""One cell from its first missing stage to its last: train → embed → evaluate, each ending in a ledger row.

`todo` says what is missing (fast, no torch); `run_cell` is what a job runs. A stage's fingerprint chains the
settings and data that decide its result, so a row that no longer fits its settings counts as missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.data.shard_sets import Place, manifest_of
from harness.distributed.preemption import Preempted
from harness.grid.cells import Cell, cells, fingerprint
from harness.models.architecture import weights_path
from harness.recipe.models import Profiles
from harness.recipe.schema import Recipe
from harness.storage import fencing as fence
from harness.storage import ledger
from harness.storage.atomic import write_json
from harness.storage.ledger import STAGES, Row, Stage


class StageError(RuntimeError):
    """A stage that cannot run as asked; the text says what would be right."""


@dataclass(frozen=True)
class Work:
    """A cell's stages with their fingerprints, and those that are not done."""

    cell: Cell
    fingerprints: dict[Stage, str]
    missing: tuple[Stage, ...]


def stages_of(recipe: Recipe, cell: Cell) -> tuple[Stage, ...]:
    """The stages that this cell goes through."""
    embedded = recipe.embed is not None and cell.kind != "profiles"
    wanted = {"train": cell.kind in ("trained", "untrained"), "embed": embedded, "evaluate": recipe.evaluate}
    return tuple(stage for stage in STAGES if wanted[stage])


def todo(recipe: Recipe, cell: Cell) -> Work:
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
    return Work(cell, prints, tuple(missing))


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


def shards_digest(recipe: Recipe, place: Place) -> str:
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


WEIGHTS = "model.safetensors"  # of a trained cell, in its folder


def cell_folder(recipe: Recipe, cell: Cell) -> Path:
    """Where a cell keeps its log, checkpoint, weights and embeddings."""
    return recipe.output / "cells" / cell.id


def run_cell(recipe_json: str, cell_id: str) -> list[str]:
    """Run what is missing of one cell, and return the names of the stages run. This is what a job runs.

    Two processes given the same cell never work on it at once: the second waits for the first, then finds it done.
    """
    recipe = Recipe.model_validate_json(recipe_json, strict=False)
    cell = next(c for c in cells(recipe) if c.id == cell_id)
    folder = cell_folder(recipe, cell)
    with _alone(folder):
        work = todo(recipe, cell)
        for stage in work.missing:
            _run(recipe, work, stage)
    return list(work.missing)


def run_stage(recipe: Recipe, cell: Cell, stage: Stage) -> None:
    """Run one stage of a cell unless it is done; for a SLURM job, whose `fence` keeps others from the cell."""
    work = todo(recipe, cell)
    if stage in work.missing:
        _run(recipe, work, stage)


def _run(recipe: Recipe, work: Work, stage: Stage) -> None:
    cell, start = work.cell, time.perf_counter()
    values = _RUN[stage](recipe, cell, cell_folder(recipe, cell), work.fingerprints[stage])
    values |= {"stage_seconds": round(time.perf_counter() - start, 3)}
    if is_first_rank():
        fence.check()
        ledger.record(recipe.output, Row(cell.id, stage, work.fingerprints[stage], values))
        if stage in _DISCARD:
            _DISCARD[stage](cell_folder(recipe, cell))


def run_cells(recipe_json: str, cell_ids: Sequence[str], outcomes: Path) -> None:
    """Run several cells in turn in one process, which imports and warms up once; this is what a local job runs.

    Each cell leaves its outcome in the folder `outcomes`; one that raises does not keep the next from running.
    """
    for cell_id in cell_ids:
        error = None
        try:
            run_cell(recipe_json, cell_id)
        except Preempted:  # the process was told to stop, not this cell
            raise
        except Exception as raised:  # whatever it is, it is this cell's own
            traceback.print_exc()
            error = "".join(traceback.format_exception_only(raised)).strip()
        write_json(_outcome_path(outcomes, cell_id), {"error": error})


def read_outcome(outcomes: Path, cell_id: str) -> dict[str, str | None] | None:
    """What `run_cells` left of a cell, None as long as it has not ended."""
    try:
        found: dict[str, str | None] = json.loads(_outcome_path(outcomes, cell_id).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found


def _outcome_path(outcomes: Path, cell_id: str) -> Path:
    return outcomes / f"{cell_id}.outcome.json"


def is_first_rank() -> bool:
    """Whether this process is the one that speaks for its job."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the cell's lock, which the system frees however its holder dies. The other ranks follow the first."""
    folder.mkdir(parents=True, exist_ok=True)
    if not is_first_rank():
        yield
        return
    with (folder / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _train(recipe: Recipe, cell: Cell, folder: Path, stage_print: str) -> dict[str, Any]:
    from harness.train.loop import train_cell

    return train_cell(recipe, cell, folder, stage_print)


def _embed(recipe: Recipe, cell: Cell, folder: Path, stage_print: str) -> dict[str, Any]:
    from harness.embed.cell import embed_cell

    return embed_cell(recipe, cell, folder, stage_print)


def _evaluate(recipe: Recipe, cell: Cell, folder: Path, stage_print: str) -> dict[str, Any]:
    from harness.evaluate.cell import evaluate_cell

    joined: dict[str, Any] = {}
    if cell.kind == "profiles":
        from harness.evaluate.measured_profiles import join_profiles

        joined = join_profiles(recipe, cell, folder, stage_print)
    return {**joined, **evaluate_cell(recipe, folder)}


_RUN: dict[Stage, Callable[[Recipe, Cell, Path, str], dict[str, Any]]] = {
    "train": _train,
    "embed": _embed,
    "evaluate": _evaluate,
}


def _discard_checkpoints(folder: Path) -> None:
    from harness.checkpoint.checkpoints import discard

    discard(folder)


def _discard_parts(folder: Path) -> None:
    from harness.embed.parts import discard_parts

    discard_parts(folder)


# Only once the row is in the ledger: a run that dies before goes on from them.
_DISCARD: dict[Stage, Callable[[Path], None]] = {"train": _discard_checkpoints, "embed": _discard_parts}
