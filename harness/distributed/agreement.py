"""Per-step flags that all ranks act on at the same step, such as a stop signal."""

from __future__ import annotations

import torch
import torch.distributed as dist

from harness.distributed.ranks import Ranks


class Agreement:
    """An asynchronous all-reduce (MAX) of boolean flags, one per step.

    Waiting for the result at every step would stall the device. The all-reduce of step n therefore runs in the
    background, between the hosts over gloo, and its result is read at step n + 1. With one process the flags are
    returned at once.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._pending: tuple[dist.Work, torch.Tensor] | None = None

    def __call__(self, *flags: bool) -> tuple[bool, ...]:
        """Return, for each flag, whether any rank set it in the previous call. All ranks must call it at each step."""
        if self._ranks.world == 1:
            return flags
        previous, self._pending = self._pending, self._start(flags)
        if previous is None:
            return tuple(False for _ in flags)
        work, votes = previous
        work.wait()
        return tuple(bool(vote) for vote in votes.tolist())

    def _start(self, flags: tuple[bool, ...]) -> tuple[dist.Work, torch.Tensor]:
        votes = torch.tensor(flags, dtype=torch.int32)
        work = dist.all_reduce(votes, dist.ReduceOp.MAX, group=self._ranks.control, async_op=True)
        assert work is not None
        return work, votes

    def close(self) -> None:
        """Wait for the last all-reduce; call it only when all ranks end at this step."""
        if self._pending:
            self._pending[0].wait()
            self._pending = None
