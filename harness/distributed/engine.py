"""Engines: how the ranks of a cell share its model. They differ in memory and traffic, never in the numbers.

    single     one process
    ddp        a whole copy on every rank; gradients averaged
    hsdp       a copy on every few ranks (a node's), each holding a part; gradients averaged over copies
    fsdp       one copy, spread over all ranks
    deepspeed  ZeRO 1, 2 or 3 (`zero.py`)

In float32 all of them take the same steps, up to rounding. `docs/engines.md` says when to use which.

Shapes: B crops of one micro-batch, C channels, S crop side, L tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.distributed.engine_choice import EngineName
from harness.distributed.optimiser import set_learning_rate, update
from harness.distributed.ranks import Ranks

if TYPE_CHECKING:
    from harness.models.interface import Network

State = dict[str, Any]
MakeOptimiser = Callable[[nn.Module], Optimizer]


@dataclass(frozen=True)
class EngineOptions:
    """What the recipe says of engines, resolved for this machine.

    Attributes:
        precision: of the products; weights, gradients' sums and the optimiser stay in float32.
        shard: ranks that hold one copy of the model together, under hsdp.
        zero_stage: of DeepSpeed.
        gather: how hsdp and fsdp send weights to one another. A GPU under autocast takes bf16, half of the traffic; a
            CPU's LayerNorm takes no weights of another type than its input.
    """

    name: EngineName
    precision: Literal["fp32", "bf16"] = "fp32"
    shard: int = 1
    zero_stage: Literal[1, 2, 3] = 2
    gather: Literal["fp32", "bf16"] = "fp32"


class Engine:
    """A model and its optimiser on this rank. This class is the `single` engine; the others override what differs.

    A step is `accumulate` once per micro-batch, then `step`. `model` computes as usual (forward, `embed`,
    `reconstruct`, under `autocast`) for validation; with shards, all ranks must then call it equally often.

    Attributes:
        model: the network, its parameters perhaps shards. Its names are those of a bare one.
        optimiser: over those parameters.
    """

    def __init__(self, model: Network, make_optimiser: MakeOptimiser, ranks: Ranks, options: EngineOptions) -> None:
        self.model, self.ranks, self.options = model, ranks, options
        self.prepare()
        self.optimiser = make_optimiser(self.model)

    def prepare(self) -> None:
        """Share the model among the ranks; called before the optimiser is built over its parameters."""

    def autocast(self) -> torch.autocast:
        """Products in bfloat16 where the recipe says so."""
        return autocast(self.ranks.device, self.options.precision)

    def accumulate(
        self, crops: Tensor, noise: Tensor, weight: float, *, last: bool, labels: Tensor | None = None
    ) -> Tensor:
        """Add the gradient of `weight` times the loss, and return that weighted loss, detached, on the device.

        Args:
            crops: (B, C, S, S), self-standardised, on the device.
            noise: (B, L), on the device.
            weight: of this micro-batch in this rank's loss; gradients are averaged over ranks.
            last: no other micro-batch follows before `step`; ranks exchange gradients only now.
            labels: (B,), on the device: class numbers, for a classifier.
        """
        with self.autocast():
            loss: Tensor = self.model(crops, noise, labels).loss
        weighted = loss * weight
        weighted.backward()  # type: ignore[no-untyped-call]
        return weighted.detach()

    def gradient_squares(self) -> Tensor | None:
        """This rank's part of the squared norm of each trained parameter's averaged gradient: (P,), float64.

        None where the gradients lie in the parameters themselves, as everywhere but in DeepSpeed.
        """
        return None

    def step(self, learning_rate: float, skip: Tensor | None = None) -> None:
        """Move the weights, unless `skip`, a bool scalar on the device, says otherwise; and forget the gradient."""
        set_learning_rate(self.optimiser, learning_rate)
        if skip is None:
            self.optimiser.step()
        else:
            update(self.optimiser, skip)
        self.forget_gradient()

    def forget_gradient(self) -> None:
        self.optimiser.zero_grad(set_to_none=True)

    def state(self) -> State:
        """Weights and optimiser as `torch.distributed.checkpoint` saves and loads them: by name, whole or in shards.

        The names are the same under every engine and number of ranks. All ranks must call it. Before the first step it
        is a template to load into, not a state to save: what the optimiser makes lazily is made here.
        """
        from torch.distributed.checkpoint.state_dict import get_state_dict

        model, optimiser = get_state_dict(self.model, self.optimiser)
        return {"model": model, "optimiser": optimiser}

    def load(self, state: State) -> None:
        """Take over a `state()` into which a checkpoint was loaded. All ranks must call it."""
        from torch.distributed.checkpoint.state_dict import set_state_dict

        set_state_dict(
            self.model,
            self.optimiser,
            model_state_dict=state["model"],
            optim_state_dict=state["optimiser"],
        )

    def weights(self) -> dict[str, Tensor]:
        """The whole model's state_dict on the CPU of the first rank; empty on the others. All ranks must call it."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        found = get_model_state_dict(self.model, options=options)
        return {name: value for name, value in found.items() if isinstance(value, Tensor) and self.ranks.is_first}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bfloat16 products where the recipe says so; weights and sums stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
