"""Begin a run with the final training state of another cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.checkpoint.collective import Collective
from harness.checkpoint.facts import CheckpointError, Facts, Progress
from harness.checkpoint.lost import FOLDER, find_saved
from harness.checkpoint.restore import Target, restore, verify


@dataclass(frozen=True)
class Start:
    """Another cell's final training state: weights, moments, and how far it had come.

    Attributes:
        cell: that cell's folder.
        fingerprint: of its training.
        begin: makes the progress that a run begins with from that of the state, once it is loaded; raises ValueError
            where the run cannot go on from there.
    """

    cell: Path
    fingerprint: str
    begin: Callable[[Progress], Progress]


def load_start(start: Start, target: Target, collective: Collective) -> Progress:
    """Load the state into a run that has not begun, and return the progress that it begins with.

    Raises:
        CheckpointError: the state is damaged, lost, or does not fit the run.
    """
    folder = start.cell / FOLDER
    for name in collective.on_first(lambda: find_saved(start.cell)).names[:1]:
        facts, damage = verify(folder / name, start.fingerprint, None, collective)
        if facts is not None:
            restore(folder / name, facts, target, collective)
            return _begin(start, facts)
        raise CheckpointError(
            f"{folder / name}: the state that this cell starts from is damaged: {damage}; remove {start.cell}, "
            f"and the sweep trains {start.cell.name} again"
        )
    raise CheckpointError(f"{folder}: the state that this cell starts from is not there; run {start.cell.name} again")


def _begin(start: Start, facts: Facts) -> Progress:
    try:
        return start.begin(facts.progress)
    except ValueError as error:
        raise CheckpointError(f"{start.cell}: cannot be started from: {error}") from error
