"""Why a cell's stage failed, and whether trying again can help.

A process that raises leaves `failures/<stage>-<attempt>-<rank>.json` beside its cell; one that is killed leaves
nothing, and SLURM's state tells. A reason that passes is tried again; one that would come again is not, unless forced.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from harness.launch.slurm.job_states import JobState
from harness.storage.atomic import write_json

Verdict = Literal["transient", "permanent"]

TRANSIENT = {
    "PREEMPTED": "preempted",
    "NODE_FAIL": "a node failed",
    "BOOT_FAIL": "a node failed to boot",
    "TIMEOUT": "the time limit",
    "DEADLINE": "the deadline",
    "CANCELLED": "cancelled",
    "REVOKED": "revoked",
}
CONSEQUENCES = ("DistBackendError", "DistNetworkError", "DistStoreError")
"""What a rank raises when another has gone: never the first cause where there is another."""


@dataclass(frozen=True)
class Failure:
    """What one rank raised."""

    stage: str
    attempt: int
    rank: int
    job: str
    kind: str
    message: str
    trace: str


@dataclass(frozen=True)
class Cause:
    """Why a stage failed, in a line, and whether another try can help."""

    text: str
    verdict: Verdict


def leave(folder: Path, failure: Failure) -> None:
    """Write what a rank raised beside its cell."""
    name = f"{failure.stage}-{failure.attempt}-{failure.rank}.json"
    write_json(folder / "failures" / name, asdict(failure))


def first_failure(folder: Path, stage: str, attempt: int) -> Failure | None:
    """What the first failing rank of an attempt raised, rather than what that did to the others; None if nothing."""
    paths = sorted(folder.glob(f"failures/{stage}-{attempt}-*.json"), key=lambda path: path.stat().st_mtime_ns)
    found = [Failure(**json.loads(path.read_text(encoding="utf-8"))) for path in paths]
    causes = [failure for failure in found if failure.kind not in CONSEQUENCES]
    return next(iter([*causes, *found]), None)


def cause(state: JobState, failure: Failure | None) -> Cause:
    """Why an attempt that has ended without its result failed."""
    if state.state == "OUT_OF_MEMORY":
        return Cause("out of memory", "permanent")
    if failure is not None and failure.kind not in (*CONSEQUENCES, "Preempted", "Fenced"):
        return Cause(f"{failure.kind}: {failure.message}".splitlines()[0], "permanent")
    if state.state in TRANSIENT:
        return Cause(TRANSIENT[state.state], "transient")
    if state.reason == "DependencyNeverSatisfied":
        return Cause("what it depends on failed", "transient")
    if state.state == "UNKNOWN":
        return Cause("lost: SLURM knows nothing of it", "transient")
    return Cause(f"{state.state.lower()}, and left no reason: killed?", "transient")
