"""Find the missing stages of a grid cell (train → embed → evaluate) from its rows in the ledger. No torch.

A stage's fingerprint covers the settings and data that determine its result and the stages before it, so a row of other
settings counts as missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness.checkpoint.final_state import has_final_state
from harness.data.channels import embedding_channels, set_channels, training_channels
from harness.data.shard_sets import ShardLocation, manifest_of
from harness.grid.cell import Cell, fingerprint_of
from harness.grid.cell_folder import cell_folder
from harness.grid.cells import weights_path
from harness.grid.stage_run import StageRun
from harness.recipe.fields import canonical_json
from harness.recipe.models import ProfilesSection
from harness.recipe.schema import Recipe
from harness.storage import ledger
from harness.storage.ledger import RECALL_PROTOCOL, STAGES, LedgerRow, Stage


class StageError(RuntimeError):
    """A stage cannot run; the text says what to change."""


@dataclass(frozen=True)
class CellWork:
    """A grid cell's stages with their fingerprints, and those that are not done."""

    cell: Cell
    fingerprints: dict[Stage, str]
    missing: tuple[Stage, ...]

    def stage_run(self, recipe: Recipe, stage: Stage) -> StageRun:
        """The arguments of running one of the stages.

        Raises:
            StageError: the cell's training begins with a state that is not there.
        """
        start = start_row(recipe, self.cell) if stage == "train" else None
        folder = cell_folder(recipe, self.cell)
        return StageRun(self.cell.recipe(recipe), self.cell, folder, self.fingerprints[stage], start, recipe)


def stages_of(recipe: Recipe, cell: Cell) -> tuple[Stage, ...]:
    """The stages that this cell goes through."""
    evaluated = cell.kind != "segment" or cell.is_snapshot
    embedded = recipe.embed is not None and cell.kind != "profiles" and evaluated
    trained = cell.training is not None or cell.kind == "untrained"
    applies = {"train": trained, "embed": embedded, "evaluate": recipe.evaluate and evaluated}
    return tuple(stage for stage in STAGES if applies[stage])


Shared = dict[tuple[object, ...], str | None]
"""What cells of a study have in common, by what it depends on; recipes are told apart by `id`: the cells hold them."""


def missing_of_all(recipe: Recipe, grid: Sequence[Cell]) -> list[CellWork]:
    """Find the missing stages of every cell; what cells have in common is found once.

    Raises:
        StageError, ChannelError: see `missing_stages`.
    """
    shared: Shared = {}
    return [missing_stages(recipe, cell, shared) for cell in grid]


def missing_stages(recipe: Recipe, cell: Cell, shared: Shared | None = None) -> CellWork:
    """Find the missing stages of a cell.

    Args:
        recipe: the study.
        cell: one of its cells.
        shared: filled with, and used for, what the cell has in common with others.

    Raises:
        StageError: shards or a relationship list are missing, or the shards are not those the cell trained on.
        ChannelError: the channels to train on or to embed are not those of the cell's network.
    """
    recipe = cell.recipe(recipe)
    shared = {} if shared is None else shared
    fingerprints = _fingerprints(recipe, cell, shared)
    missing: list[Stage] = []
    trained = _train_row(recipe, cell)
    stopped = _is_stopped(recipe, trained)
    for stage, current in fingerprints.items():
        if stage == "train":
            if trained is not None and trained.fingerprint != current:
                raise StageError(_changed_data(recipe, cell))
            missing += ["train"] if _lacks_training(recipe, cell, trained) else []
        elif not stopped:
            row = ledger.read(recipe.output, cell.id, stage)
            missing += [stage] if row is None or row.fingerprint != current else []
    alike = (id(recipe), cell.model, cell.dataset, cell.kind, *missing)
    if cell.start is not None or alike not in shared:
        _check_channels(recipe, cell, missing)
        shared[alike] = None
    if "train" in missing:
        _check_classes(recipe, cell)
    if "train" in missing and cell.start is not None and cell.start.kind == "trained":
        _check_start(recipe, cell.start, cell)
    return CellWork(cell, fingerprints, tuple(missing))


def lacks_training(recipe: Recipe, cell: Cell) -> bool:
    """Whether a cell is to be trained: it has no row, or its final state is gone and a cell that starts from it needs
    it, or a policy that does not hold any more ended it. A segment that is not evaluated is trained only where it is
    needed.
    """
    return _lacks_training(recipe, cell, _train_row(recipe, cell))


def _train_row(recipe: Recipe, cell: Cell) -> LedgerRow | None:
    return ledger.read(recipe.output, cell.id, "train")


def _lacks_training(recipe: Recipe, cell: Cell, row: LedgerRow | None) -> bool:
    if row is not None and row.stopped is not None:
        return not _is_stopped(recipe, row)
    if row is not None:
        return cell.kind == "segment" and is_state_needed(recipe, cell) and not _has_state(recipe, cell, row)
    return cell.kind != "segment" or cell.is_snapshot or is_state_needed(recipe, cell)


def is_stopped(recipe: Recipe, cell: Cell) -> bool:
    """Whether a cell's training was ended by `launch.stop_when`, and still would be.

    Without that policy, or with one that asks for a higher probability, the run is incomplete, and goes on.
    """
    return _is_stopped(recipe, _train_row(recipe, cell))


def _is_stopped(recipe: Recipe, row: LedgerRow | None) -> bool:
    policy = recipe.launch.stop_when
    return row is not None and row.stopped is not None and policy is not None and row.stopped >= policy.below_frontier


def is_state_needed(recipe: Recipe, cell: Cell) -> bool:
    """Whether a cell that starts from this one's final training state is still to be trained."""
    return any(lacks_training(recipe, heir) for heir in cell.heirs)


def start_row(recipe: Recipe, cell: Cell) -> LedgerRow | None:
    """The row of the training that a cell's own begins with; None where it begins at step 0.

    Raises:
        StageError: that training is not done, or its final state is not there.
    """
    if cell.start is None:
        return None
    row = _check_start(recipe, cell.start, cell)
    if row is None:
        raise StageError(f"cell {cell.id} starts from {cell.start.id}, which is not trained yet")
    return row


def _check_start(recipe: Recipe, start: Cell, cell: Cell) -> LedgerRow | None:
    """The row of the training that a cell's own begins with; None while that is not done.

    Raises:
        StageError: it is done, and its final state is not there.
    """
    row = ledger.read(recipe.output, start.id, "train")
    if row is not None and not _has_state(recipe, start, row):
        raise StageError(
            f"cell {cell.id} starts from the training state of {start.id}, which was not kept: remove "
            f"{ledger.row_path(recipe.output, start.id, 'train')} to train that again (launch.keep_states=true keeps "
            "the state of every cell)"
        )
    return row


def _has_state(recipe: Recipe, cell: Cell, row: LedgerRow) -> bool:
    return has_final_state(cell_folder(recipe, cell), row.values.get("steps"))


def _check_channels(recipe: Recipe, cell: Cell, missing: Sequence[Stage]) -> None:
    """Refuse sets whose channels are not the network's before the cell trains, not after days of training.

    A cell that is trained is left to its embedding, so that one with damaged weights does not stop the others.
    """
    if "train" in missing and cell.dataset is not None:
        training_channels(recipe, cell, set_channels(recipe, recipe.datasets[cell.dataset]))
    if "embed" in missing and ("train" in missing or cell.kind == "pretrained"):
        assert recipe.embed is not None
        embedding_channels(recipe, cell, None, set_channels(recipe, recipe.embed))


def _check_classes(recipe: Recipe, cell: Cell) -> None:
    """Refuse a classifier that continues one of other classes, before that trains: its head's outputs are those."""
    before = cell.continued
    if before is None or not cell.is_classifier:
        return
    from harness.data.labels import class_names

    ours, theirs = class_names(recipe, cell), class_names(recipe, before)
    if ours != theirs:
        other = next(iter({*ours} ^ {*theirs}))
        raise StageError(
            f"train.start_from.{cell.dataset}: {cell.model} has {len(ours)} classes there and {len(theirs)} on "
            f"{before.dataset} ({other!r} is one of only one of them): a classifier continues one of the same classes"
        )


def _changed_data(recipe: Recipe, cell: Cell) -> str:
    shards = recipe.datasets[cell.dataset].shards if cell.dataset else "?"
    return (
        f"cell {cell.id} was trained on other shards than those at {shards} now: restore them, "
        f"give the changed data a dataset name of its own, or remove {ledger.row_path(recipe.output, cell.id, 'train')}"
    )


def _fingerprints(recipe: Recipe, cell: Cell, shared: Shared) -> dict[Stage, str]:
    """The fingerprint of each stage: of its name, that of the stage before (first: the cell's id), and its identity."""
    fingerprints: dict[Stage, str] = {}
    chained = cell.id
    for stage in stages_of(recipe, cell):
        alike = (id(recipe), stage, cell.model, cell.dataset, cell.kind)
        if alike not in shared:
            shared[alike] = _IDENTITY[stage](recipe, cell)
        chained = fingerprints[stage] = fingerprint_of(f'["{stage}","{chained}",{shared[alike]}]')
    return fingerprints


def _train_identity(recipe: Recipe, cell: Cell) -> str:
    """What the stage depends on besides the cell, as canonical JSON; so are the next two."""
    shards = shards_digest(recipe, recipe.datasets[cell.dataset].shards) if cell.dataset else None
    weights = weights_path(recipe, cell)
    return canonical_json(shards if weights is None else [shards, _file_digest(weights)])


def _embed_identity(recipe: Recipe, cell: Cell) -> str:
    assert recipe.embed is not None
    options = recipe.embed
    identity: list[Any] = [options.experiments, options.pool, recipe.mae.crop, shards_digest(recipe, options.shards)]
    if options.block is not None:
        identity.append(options.block)
    if options.channels:
        identity.append({"channels": options.channels})
    weights = weights_path(recipe, cell) if cell.kind == "pretrained" else None
    return canonical_json([*identity, {"weights": _file_digest(weights)}] if weights else identity)


def _evaluate_identity(recipe: Recipe, cell: Cell) -> str:
    evaluate = recipe.evaluate
    assert evaluate is not None
    lists = {name: _file_digest(path) for name, path in evaluate.relationships.items()}
    identity = [RECALL_PROTOCOL, evaluate.model_dump(mode="json", exclude={"relationships", "bootstrap"}), lists]
    model = recipe.models.get(cell.model)
    if not isinstance(model, ProfilesSection):
        return canonical_json(identity)
    assert recipe.embed is not None  # which wells; for other kinds, the fingerprint of `embed` covers them
    tables = [_file_digest(path) for path in model.tables]
    return canonical_json([*identity, tables, recipe.embed.experiments, shards_digest(recipe, recipe.embed.shards)])


_IDENTITY: dict[Stage, Callable[[Recipe, Cell], str]] = {
    "train": _train_identity,
    "embed": _embed_identity,
    "evaluate": _evaluate_identity,
}


def shards_digest(recipe: Recipe, location: ShardLocation) -> str:
    """Digest of the shards at `location`: the SHA-256 of their checksums, from the manifest.

    Raises:
        StageError: there is no manifest.
    """
    try:
        digest = manifest_of(recipe, location).digest
    except FileNotFoundError:
        raise StageError(
            f"{location}: no shards here (no manifest.json); build them with python -m shards.build"
        ) from None
    except OSError as error:
        raise StageError(f"{location}: {error}") from error
    except ValueError as error:
        raise StageError(f"{location}/manifest.json: not a shard manifest ({error})") from error
    if digest is None:
        raise StageError(f"{location}/manifest.json: not a shard manifest (its shards have no checksums)")
    return digest


@cache
def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StageError(f"{path}: cannot be read: {error.strerror}") from error
