"""What a study saves because its runs share their beginnings: the same points, each trained from its first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.plan.cost import CellPlan


@dataclass(frozen=True)
class SharedWork:
    """Training with shared beginnings, and as runs apart.

    Attributes:
        points: runs that end in an evaluated, decayed state; snapshots are states of those, not runs.
        crops: to train on, and `gpu_hours`, with shared beginnings.
        crops_apart: to train on, and `gpu_hours_apart`, if each point were a run of its own.
    """

    points: int
    crops: int
    crops_apart: int
    gpu_hours: float
    gpu_hours_apart: float

    @property
    def share(self) -> float:
        """The part of the crops that is saved."""
        return 1 - self.crops / self.crops_apart


def shared_work(plans: Sequence[CellPlan]) -> SharedWork | None:
    """What is trained, and what would be apart; None where every run has its own beginning."""
    trained = [plan for plan in plans if plan.crops]
    finals = [plan for plan in trained if plan.cell.kind == "trained"]
    if all(plan.cell.start is None for plan in finals):
        return None
    hours_apart = sum(plan.gpu_hours * (plan.crops + plan.crops_before) / plan.crops for plan in finals)
    return SharedWork(
        len(finals),
        sum(plan.crops for plan in trained),
        sum(plan.crops + plan.crops_before for plan in finals),
        sum(plan.gpu_hours for plan in trained),
        hours_apart,
    )
