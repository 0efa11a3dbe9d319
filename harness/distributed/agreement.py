"""Decisions that all ranks take at the same step."""

from __future__ import annotations

import torch
import torch.distributed as dist

from harness.distributed.ranks import Ranks


class Agreement:
    """Flags that all ranks act on at the same step.

    Asking every rank at every step and waiting for the answer would stop the device. So the answer to step n's
    question is read at step n + 1, when it has long arrived: over gloo, between hosts, past the device. One process
    answers itself at once.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._pending: tuple[dist.Work, torch.Tensor] | None = None

    def __call__(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether any rank had raised it by the call before this one. All ranks call it each step."""
        if self._ranks.world == 1:
            return flags
        before, self._pending = self._pending, self._ask(flags)
        if before is None:
            return tuple(False for _ in flags)
        work, votes = before
        work.wait()
        return tuple(bool(vote) for vote in votes.tolist())

    def _ask(self, flags: tuple[bool, ...]) -> tuple[dist.Work, torch.Tensor]:
        votes = torch.tensor(flags, dtype=torch.int32)
        work = dist.all_reduce(votes, dist.ReduceOp.MAX, group=self._ranks.control, async_op=True)
        assert work is not None
        return work, votes

    def close(self) -> None:
        """Wait for the last question's answer; only when all ranks end at this step."""
        if self._pending:
            self._pending[0].wait()
            self._pending = None
