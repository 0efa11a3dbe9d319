"""Cells that begin where another ends: the trunk's segments and branches, snapshots, and continued training.

A run passes through states. Where several cells go on from one, or where it is evaluated (a snapshot), the run is cut:
the part before is a cell of its own, a segment, and what follows starts from its final training state. A cell's id says
what it trained and not where it began, so a run that is cut has the id of one that trained straight through. Pure
functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from harness.grid.cell import Cell, Kind, Training, fingerprint
from harness.recipe.schedules import Schedule, WarmupStableDecay


def trajectory(run: Cell, ends: Sequence[float], snapshots: Sequence[float]) -> list[Cell]:
    """The cells of a run with the given ends and snapshots, each after the one that it starts from.

    Args:
        run: the whole run, as a cell.
        ends: shares of the run at which branches end; 1.0 alone for a schedule without branches.
        snapshots: shares of the run at which its state is evaluated.
    """
    assert run.training is not None
    schedule = run.training.settings.schedule
    forks = {end: _fork(schedule, end) for end in ends}
    last = max(forks.values(), default=0.0)
    shared = {fork for fork in forks.values() if fork < last}
    segments: list[Cell] = []
    for share in sorted(shared | {share for share in snapshots if share <= last}):
        start = segments[-1] if segments else run.start
        segments.append(_part(run, start, until=share, is_snapshot=share in snapshots))
    branches = [_part(run, _last_before(segments, fork) or run.start, end=end) for end, fork in forks.items()]
    return segments + branches


def _fork(schedule: Schedule, end: float) -> float:
    """The share of the run up to which a run to `end` is the trunk; without a trunk, all of it."""
    return schedule.stable_until(end) if isinstance(schedule, WarmupStableDecay) else end


def _last_before(segments: Sequence[Cell], fork: float) -> Cell | None:
    return next((segment for segment in reversed(segments) if _until(segment) <= fork), None)


def _until(segment: Cell) -> float:
    assert segment.training is not None
    assert segment.training.until is not None
    return segment.training.until


def _part(
    run: Cell, start: Cell | None, *, until: float | None = None, end: float = 1.0, is_snapshot: bool = False
) -> Cell:
    assert run.training is not None
    if until is None and end == run.training.end and start is run.start:
        return run
    training = replace(run.training, until=until, end=end)
    kind: Kind = "trained" if until is None else "segment"
    return replace(run, kind=kind, training=training, start=start, is_snapshot=is_snapshot)


def starts_first(grid: Sequence[Cell]) -> list[Cell]:
    """The same cells in their order, but for those that would come before the one that they start from."""
    if all(cell.start is None for cell in grid):
        return list(grid)
    by_id, ordered = {cell.id: cell for cell in grid}, dict[str, Cell]()
    for cell in grid:
        chain = [cell]
        while (start := chain[-1].start) is not None and start.id not in ordered:
            chain.append(by_id[start.id])
        ordered |= {each.id: each for each in reversed(chain)}
    return list(ordered.values())


def with_shared_trunks(grid: Sequence[Cell]) -> list[Cell]:
    """The same cells, each starting from the last segment of its trunk before it, at whatever point of the axes that
    is, and after it in order. Points may differ in what does not change the trunk: its ends, length and shape of decay.
    """
    if not any(cell.kind == "segment" for cell in grid):
        return list(grid)
    known = {cell.id: cell for cell in grid}
    segments: dict[str, list[Cell]] = {}
    for cell in grid:
        if cell.kind == "segment":
            segments.setdefault(_trunk(cell), []).append(cell)

    @cache
    def started(cell_id: str) -> Cell:
        cell = root = known[cell_id]
        if cell.training is None:
            return cell
        while root.start is not None and not root.begins_run:
            root = root.start
        limit = _fork_of(cell)
        before = [
            other for other in segments.get(_trunk(cell), ())
            if _until(other) < limit or (_until(other) == limit and cell.kind == "trained")
        ]  # fmt: skip
        start = max(before, key=_until) if before else root.start
        return cell.linked(start=None if start is None else started(start.id))

    return starts_first([started(cell.id) for cell in grid])


def _trunk(cell: Cell) -> str:
    """What decides the states that a cell's run passes before its decay."""
    assert cell.training is not None
    whole = replace(cell, kind="segment", training=replace(cell.training, until=1.0, end=1.0))
    return fingerprint(whole.identity())


def _fork_of(cell: Cell) -> float:
    """The share of its run up to which a cell is the trunk."""
    assert cell.training is not None
    training = cell.training
    return training.share if training.until is not None else _fork(training.settings.schedule, training.end)


def with_heirs(grid: Sequence[Cell]) -> list[Cell]:
    """The same cells, each with those that start from it, and those in turn with theirs."""
    if all(cell.start is None for cell in grid):
        return list(grid)
    by_start: dict[str, list[Cell]] = {}
    for cell in grid:
        if cell.start is not None:
            by_start.setdefault(cell.start.id, []).append(cell)

    @cache
    def complete(cell_id: str) -> tuple[Cell, ...]:
        return tuple(heir.linked(heirs=complete(heir.id)) for heir in by_start.get(cell_id, ()))

    return [cell.linked(heirs=complete(cell.id)) for cell in grid]


def planned_steps(cell: Cell, images: int) -> int:
    """Steps of a cell's whole run on a dataset of so many images.

    Raises:
        ValueError: they do not fill one batch.
    """
    assert cell.training is not None
    epochs, batch = cell.training.epochs, cell.training.batch
    if epochs * images < batch:
        raise ValueError(
            f"dataset {cell.dataset} has {images:,} images: {epochs} epochs of them do not fill one batch of {batch}; "
            f"train.batch may be at most {epochs * images:,}, or train for more epochs"
        )
    return epochs * images // batch


def steps_at(share: float, planned: int) -> int:
    """The step at a share of a run of `planned` steps, rounded to the nearest, and at least 1."""
    return max(1, int(share * planned + 0.5))


def last_step(training: Training, planned: int) -> int:
    """The step after which a cell ends, of a whole run of `planned` steps."""
    return steps_at(training.share, planned)


def decay_from(training: Training, planned: int) -> int | None:
    """The step at which a branch's decay begins; None for a segment, and where the rate has no trunk.

    Raises:
        ValueError: the run is too short to have a decay.
    """
    schedule = training.settings.schedule
    if not isinstance(schedule, WarmupStableDecay) or training.until is not None:
        return None
    begin, end = steps_at(schedule.stable_until(training.end), planned), steps_at(training.end, planned)
    if begin >= end:
        raise ValueError(f"train.schedule: the run to {training.end:g} has {end} steps: too few for a decay")
    return begin
