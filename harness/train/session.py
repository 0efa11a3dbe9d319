"""One start of a cell's training: when it saves, and what its hours are spent on. The first rank decides and writes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.checkpoint.checkpoints import RETRY_SECONDS
from harness.checkpoint.spacing import UNSEEN, Spacing
from harness.distributed.ranks import Ranks
from harness.grid.cell_folder import CELLS, TRAIN_LOG
from harness.recipe.schema import Recipe
from harness.storage.health.sessions import (
    SESSIONS,
    End,
    Session,
    SessionLog,
    failure_rate,
    last_sign,
    read_sessions,
    spent,
)

MINUTE = 60.0


@dataclass(frozen=True)
class Begun:
    """When a session began, and when the one before it last gave a sign of life, in seconds since the epoch."""

    began: float
    alive: float

    @classmethod
    def now(cls, folder: Path) -> Begun:
        """Call it before anything is written to the cell's folder."""
        return cls(time.time(), last_sign(folder, [TRAIN_LOG]))


class RunSession:
    """The session of this process; without a log and spacing on all ranks but the first."""

    def __init__(self, log: SessionLog | None = None, spacing: Spacing | None = None) -> None:
        self._log, self._spacing = log, spacing
        self._saved = time.monotonic()

    @classmethod
    def begin(cls, recipe: Recipe, folder: Path, ranks: Ranks, step: int, begun: Begun) -> RunSession:
        """Begin the session of a run that goes on at a step."""
        if not ranks.is_first:
            return cls()
        nodes, minutes = int(os.environ.get("SLURM_NNODES", "1")), recipe.launch.checkpoint_minutes
        log = SessionLog(folder, Session(begun.began, step, ranks.world, nodes), begun.alive)
        if minutes != "auto":
            return cls(log, Spacing(MINUTE * minutes, UNSEEN, nodes))
        seen = [read_sessions(path.parent) for path in recipe.output.glob(f"{CELLS}/*/{SESSIONS}")]  # with this one
        return cls(log, Spacing(None, failure_rate(seen), nodes))

    def is_due(self, *, failed: bool) -> bool:
        """Whether the first rank asks for a save; sooner if the last one has failed."""
        if self._spacing is None:
            return False
        spacing = min(self._spacing.seconds, RETRY_SECONDS) if failed else self._spacing.seconds
        return time.monotonic() - self._saved > spacing

    def ready(self) -> None:
        """The first batch is there."""
        if self._log:
            self._log.ready()

    @contextmanager
    def saving(self, step: int, *, now: bool) -> Iterator[None]:
        """Count the time that training waits for a save; how far apart saves are depends on those in the background.

        Args:
            step: that is saved.
            now: whether training waits until the save is complete.
        """
        start = time.monotonic()
        yield
        self._saved = time.monotonic()
        if self._log and self._spacing:
            self._log.saved(step, self._saved - start)
            if not now:
                self._spacing.saved(self._saved - start)

    def ended(self, how: End) -> None:
        """All steps are done, or the run was told to stop and has saved."""
        if self._log:
            self._log.ended(how)


def spent_values(folder: Path) -> dict[str, dict[str, float]]:
    """What the hours of a finished training were spent on, for the ledger."""
    hours = spent(read_sessions(folder))
    return {"spent": {name: round(value, 6) for name, value in asdict(hours).items()}}
