"""The engine interface, and the `single` engine. Engines differ in memory and traffic, not in results.

    single     one process
    ddp        a complete copy on every rank; gradients are averaged
    hsdp       a copy sharded over a group of ranks (a node's); gradients are averaged over copies
    fsdp       one copy, sharded over all ranks
    deepspeed  ZeRO 1, 2 or 3 (`deepspeed.py`)

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

from harness.distributed.engine_choice import EngineName, ReduceAt
from harness.distributed.optimiser import set_rates, update
from harness.distributed.ranks import Ranks
from harness.models.layers.initial_values import InitialValues, materialise

if TYPE_CHECKING:
    from harness.distributed.stalls.slow_ranks import Timer
    from harness.models.interface import Network

State = dict[str, Any]
MakeOptimiser = Callable[[nn.Module], Optimizer]


@dataclass(frozen=True)
class EngineOptions:
    """The recipe's engine settings, resolved for this machine.

    Attributes:
        precision: of matrix products; weights, gradient sums and optimiser state stay in float32.
        shard: under hsdp, the number of ranks that share one copy of the model.
        zero_stage: the ZeRO stage of DeepSpeed.
        gather: the type in which hsdp and fsdp gather weights. On a GPU under autocast bf16 halves the traffic. On a
            CPU, LayerNorm requires weights of the same type as its input.
        ddp_gradients: the type in which ddp averages gradients over ranks.
        reduce_at: under hsdp and fsdp, whether ranks reduce gradients once a step, or at each of its passes.
    """

    name: EngineName
    precision: Literal["fp32", "bf16"] = "fp32"
    shard: int = 1
    zero_stage: Literal[1, 2, 3] = 2
    gather: Literal["fp32", "bf16"] = "fp32"
    reduce_at: ReduceAt = "step"
    ddp_gradients: Literal["fp32", "bf16"] = "fp32"


class Engine:
    """A model and its optimiser on this rank. This class is the `single` engine; subclasses override what differs.

    A training step calls `accumulate` once per micro-batch, then `step`. For validation, call `model` directly
    (forward, `embed`, `reconstruct`, under `autocast`); with shards, all ranks must call it the same number of times.

    Attributes:
        model: the network. Its parameters may be shards; their names are those of the unwrapped network.
        optimiser: the optimiser of those parameters.
        timer: of a piece of the model that computes alone (`slow_ranks`).
    """

    def __init__(
        self, model: Network, make_optimiser: MakeOptimiser, ranks: Ranks, options: EngineOptions,
        initial: InitialValues | None = None,
    ) -> None:  # fmt: skip
        self.model, self.ranks, self.options = model, ranks, options
        self.timer: Timer | None = None
        self.prepare(initial)
        self.optimiser = make_optimiser(self.model)

    def prepare(self, initial: InitialValues | None) -> None:
        """Replicate or shard the model over the ranks, and give it its initial values if it was built without them.

        Called before the optimiser is built.
        """
        materialise(self.model, self.ranks.device, initial)

    def autocast(self) -> torch.autocast:
        """Return a context that computes matrix products in bfloat16 if the recipe sets it."""
        return autocast(self.ranks.device, self.options.precision)

    def accumulate(
        self, crops: Tensor, noise: Tensor, weight: float, *, last: bool, labels: Tensor | None = None
    ) -> Tensor:
        """Add the gradient of `weight` times the loss; return the weighted loss, detached, on the device.

        Args:
            crops: (B, C, S, S), self-standardised, on the device.
            noise: (B, L), on the device.
            weight: the weight of this micro-batch in this rank's loss; gradients are averaged over ranks.
            last: whether this is the last micro-batch before `step`; ranks exchange gradients only then, unless the
                options say otherwise.
            labels: (B,), on the device: class numbers, for a classifier.
        """
        with self.autocast():
            loss: Tensor = self.model(crops, noise, labels).loss
        weighted = loss * weight
        weighted.backward()  # type: ignore[no-untyped-call]
        return weighted.detach()

    def gradient_squares(self) -> Tensor | None:
        """Return this rank's part of the squared gradient norm of each trained parameter: (P,), float64.

        Gradients are those averaged over ranks. None if they are in `parameter.grad`, as in all engines but DeepSpeed.
        """
        return None

    def step(self, learning_rate: float, skip: Tensor | None = None, momentum: float | None = None) -> None:
        """Update the weights unless `skip` (a bool scalar on the device) is true, then clear the gradient.

        `momentum` replaces the optimiser's, or its first beta, from this step on; None leaves it.
        """
        set_rates(self.optimiser, learning_rate, momentum)
        if skip is None:
            self.optimiser.step()
        else:
            update(self.optimiser, skip)
        self.forget_gradient()

    def forget_gradient(self) -> None:
        self.optimiser.zero_grad(set_to_none=True)

    def state(self) -> State:
        """Return weights and optimiser state by name, full or sharded, for `torch.distributed.checkpoint`.

        The names are the same under every engine and number of ranks. All ranks must call it. Before the first step
        the result is a template to load into, not a state to save: this call creates the optimiser's lazy state.
        """
        from torch.distributed.checkpoint.state_dict import get_state_dict

        model, optimiser = get_state_dict(self.model, self.optimiser)
        return {"model": model, "optimiser": optimiser}

    def load(self, state: State) -> None:
        """Restore a `state()` into which a checkpoint was loaded. All ranks must call it."""
        from torch.distributed.checkpoint.state_dict import set_state_dict

        set_state_dict(
            self.model,
            self.optimiser,
            model_state_dict=state["model"],
            optim_state_dict=state["optimiser"],
        )

    def weights(self) -> dict[str, Tensor]:
        """Return the full state_dict on the CPU of the first rank; empty on the others. All ranks must call it."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(self.model, options=options)
        return {name: value for name, value in weights.items() if isinstance(value, Tensor) and self.ranks.is_first}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return an autocast context: bfloat16 products if `precision` is bf16; weights and sums stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
