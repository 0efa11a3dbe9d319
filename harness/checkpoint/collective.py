"""Collective calls: work on every rank, or on the first, of which all ranks get the result or all raise the error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist

from harness.checkpoint.facts import CheckpointError
from harness.distributed.ranks import Ranks

Result = TypeVar("Result")


@dataclass(frozen=True)
class Collective:
    """The ranks that make calls together; `group` carries their messages, None with one process."""

    ranks: Ranks
    group: dist.ProcessGroup | None

    def on_all(self, work: Callable[[], Result]) -> list[Result]:
        """Call `work` on every rank and return all results on all ranks.

        Raises:
            CheckpointError: on all ranks alike, what failed on the first of the ranks where it did.
        """
        result: Any = None
        failure: CheckpointError | None = None
        try:
            result = work()
        except CheckpointError as error:
            failure = type(error)(str(error))
        except Exception as error:  # any error must reach the other ranks
            failure = CheckpointError(f"rank {self.ranks.rank}: {type(error).__name__}: {error}")
        outcomes = self._gather((result, failure))
        for _, failure in outcomes:
            if failure is not None:
                raise failure
        return [result for result, _ in outcomes]

    def on_first(self, work: Callable[[], Result]) -> Result:
        """Call `work` on the first rank, and return its result on all ranks.

        Raises:
            CheckpointError: on all ranks alike, what failed on the first.
        """
        results: list[Any] = self.on_all(lambda: work() if self.ranks.is_first else None)
        result: Result = results[0]
        return result

    def _gather(self, value: Any) -> list[Any]:  # noqa: ANN401  (any picklable value)
        values: list[Any] = [value] * self.ranks.world
        if self.group is not None:
            dist.all_gather_object(values, value, group=self.group)
        return values
