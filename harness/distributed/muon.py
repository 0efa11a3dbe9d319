"""Muon for the hidden matrices, AdamW or Lion for all other parameters, as one optimiser.

Muon (Jordan et al. 2024) replaces a matrix's momentum by the nearest orthogonal matrix, by five Newton-Schulz steps in
bfloat16. It is torch's own. The learning rate is adjusted as by Liu et al., "Muon is scalable for LLM training" (2025),
section 2.2: an update's root mean square is 0.2 of the rate, about that of AdamW, so one rate serves both parts.

Newton-Schulz needs whole matrices. Under FSDP each rank keeps its shard of weights and momentum, gathers one updated
momentum at a time, and keeps its own part of the result.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.optim import Muon, Optimizer

ADJUST = "match_rms_adamw"


class WholeMatrixMuon(Muon):
    """torch's Muon, also for sharded matrices (DTensors)."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every matrix. Sharded ones are gathered one by one; all ranks must call it."""
        groups = self.param_groups
        for group in groups:
            for parameter in group["params"]:
                if isinstance(parameter, DTensor) and parameter.grad is not None:
                    self._step_sharded(parameter, group)
        self.param_groups = [{**group, "params": [p for p in group["params"] if _is_whole(p)]} for group in groups]
        try:
            super().step()  # type: ignore[no-untyped-call]
        finally:
            self.param_groups = groups

    def _step_sharded(self, parameter: DTensor, group: dict[str, Any]) -> None:
        gradient, state = cast(DTensor, parameter.grad), self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"]
        momentum.lerp_(gradient, 1 - group["momentum"])
        update = cast(DTensor, gradient.lerp(momentum, group["momentum"]))  # Nesterov's, as torch's Muon computes it
        mesh = parameter.device_mesh
        whole = _orthogonal_step(update.full_tensor(), group)
        step = DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(step.redistribute(mesh, parameter.placements))


def _is_whole(parameter: Tensor) -> bool:
    return not isinstance(parameter, DTensor)


def _orthogonal_step(update: Tensor, group: dict[str, Any]) -> Tensor:
    """The change of a weight by an update whose momentum is applied: torch's Muon on a matrix of zeros."""
    change = nn.Parameter(torch.zeros_like(update))
    change.grad = update
    torch_muon = Muon(
        [change], lr=group["lr"], weight_decay=0.0, momentum=0.0, nesterov=False, eps=group["eps"],
        adjust_lr_fn=ADJUST,
    )  # fmt: skip
    torch_muon.step()  # type: ignore[no-untyped-call]
    return change.detach()


class MuonAndRest(Optimizer):
    """Two optimisers that share one list of parameter groups and one state, which checkpoints save as any other's."""

    def __init__(self, matrices: list[dict[str, Any]], rest: Optimizer, *, peak: float, momentum: float) -> None:
        """`matrices` are the groups of Muon; all groups have their rate and weight decay."""
        muon = WholeMatrixMuon(matrices, lr=peak, momentum=momentum, adjust_lr_fn=ADJUST)
        self._parts: tuple[Optimizer, Optimizer] = (muon, rest)
        self._muon_groups = len(muon.param_groups)
        super().__init__([*muon.param_groups, *rest.param_groups], {})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the matrices, then all other parameters."""
        groups = self.param_groups[: self._muon_groups], self.param_groups[self._muon_groups :]
        for optimiser, part in zip(self._parts, groups, strict=True):
            # Set each time, because loading a state replaces both.
            optimiser.param_groups, optimiser.state = part, self.state
            optimiser.step()
