"""Plan a save once: which rank writes which part of which tensor stays the same from one save of a run to the next.

torch gathers every rank's plan on the first rank, which joins and checks them. With a cache a rank whose plan is that
of the save before sends nothing, and the first rank has nothing to join. torch keeps the cache by class name, for all
runs of a process; here each run has its own.
"""

from __future__ import annotations

import itertools

from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.planner import SavePlanner

_RUNS = itertools.count()


class PlanCache:
    """The plans of one run. It is never emptied between saves: all ranks must remember the same ones."""

    def __init__(self) -> None:
        self._key = f"run {next(_RUNS)}"

    def planner(self) -> DefaultSavePlanner:
        """A planner for one save, which keeps that save's tensors alive."""
        return _CachedPlanner(self._key)

    def close(self) -> None:
        """Forget the plans, after the last save."""
        for plans in (
            SavePlanner._cached_save_plan, SavePlanner._cached_final_save_plan, SavePlanner._cached_all_plans,
            SavePlanner._cached_global_plan, SavePlanner._cached_metadata,
        ):  # fmt: skip
            plans.pop(self._key, None)


class _CachedPlanner(DefaultSavePlanner):
    def __init__(self, key: str) -> None:
        super().__init__(enable_plan_caching=True)
        self._cached_plans_key = key
