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
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from harness.distributed.engine_choice import EngineName, choose_engine
from harness.distributed.optimiser import build_optimiser, set_learning_rate
from harness.distributed.ranks import Ranks
from harness.distributed.recompute import set_up_blocks
from harness.grid.cells import Cell
from harness.recipe.schema import Recipe
from harness.train.divergence import update

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

    def __init__(self, model: Network, make_optimiser: MakeOptimiser, here: Ranks, options: EngineOptions) -> None:
        self.model, self.here, self.options = model, here, options
        self.prepare()
        self.optimiser = make_optimiser(self.model)

    def prepare(self) -> None:
        """Share the model among the ranks; called before the optimiser is built over its parameters."""

    def autocast(self) -> torch.autocast:
        """Products in bfloat16 where the recipe says so."""
        return autocast(self.here.device, self.options.precision)

    def accumulate(self, crops: Tensor, noise: Tensor, weight: float, *, last: bool) -> Tensor:
        """Add the gradient of `weight` times the loss, and return that weighted loss, detached, on the device.

        Args:
            crops: (B, C, S, S), self-standardised, on the device.
            noise: (B, L), on the device: what comes with each crop (`models.network`).
            weight: of this micro-batch in this rank's loss; gradients are averaged over ranks.
            last: no other micro-batch follows before `step`; ranks exchange gradients only now.
        """
        with self.autocast():
            loss: Tensor = self.model(crops, noise).loss
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
        return {name: value for name, value in found.items() if isinstance(value, Tensor) and self.here.is_first}


class Ddp(Engine):
    """DistributedDataParallel: gradients are averaged while the backward pass still runs."""

    def prepare(self) -> None:
        ids = [self.here.device.index] if self.here.device.type == "cuda" else None
        self._wrapped = nn.parallel.DistributedDataParallel(
            self.model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
        )

    def accumulate(self, crops: Tensor, noise: Tensor, weight: float, *, last: bool) -> Tensor:
        with nullcontext() if last else self._wrapped.no_sync():
            with self.autocast():
                loss: Tensor = self._wrapped(crops, noise).loss
            weighted = loss * weight
            weighted.backward()  # type: ignore[no-untyped-call]
        return weighted.detach()


def engine_of(recipe: Recipe, cell: Cell, model: Network, here: Ranks) -> Engine:
    """The engine that trains a cell as its recipe says, over `model` on this rank's device.

    Raises:
        ValueError, RuntimeError: as `build_engine`.
    """
    assert cell.training is not None
    launch, settings, peak = recipe.launch, cell.training.settings, cell.training.learning_rate
    on_gpu = here.device.type == "cuda"
    shard = launch.shard_gpus or min(here.world, launch.gpus_per_node or here.world)
    memory = torch.cuda.get_device_properties(here.device).total_memory if on_gpu else None
    name = choose_engine(launch.engine, here.world, sum(p.numel() for p in model.parameters()), memory, shard)
    set_up_blocks(model, launch.recompute, compiled=on_gpu if launch.compile is None else launch.compile)
    chosen = settings["optimiser"]

    def make_optimiser(module: nn.Module) -> Optimizer:
        given = {name: value for name, value in chosen.items() if name != "name"}
        return build_optimiser(module, chosen["name"], peak=peak, **given)

    precision = settings["precision"]
    options = EngineOptions(name, precision, shard, launch.zero_stage, precision if on_gpu else "fp32")
    return build_engine(model, make_optimiser, here, options)


def build_engine(model: Network, make_optimiser: MakeOptimiser, here: Ranks, options: EngineOptions) -> Engine:
    """The engine that `options` name, over a model that already lies on this rank's device.

    Raises:
        ValueError: the engine does not fit the number of ranks.
        RuntimeError: DeepSpeed is asked for and not installed.
    """
    if options.name == "single":
        if here.world > 1:
            raise ValueError(f"launch.engine is single, but {here.world} ranks run: ddp, hsdp, fsdp or deepspeed")
        return Engine(model, make_optimiser, here, options)
    if here.world == 1:
        raise ValueError(f"launch.engine is {options.name}, but there is one rank: single, or auto")
    if options.name == "ddp":
        return Ddp(model, make_optimiser, here, options)
    if options.name == "deepspeed":
        from harness.distributed.deepspeed import Zero

        return Zero(model, make_optimiser, here, options)
    from harness.distributed.fsdp import Fsdp

    return Fsdp(model, make_optimiser, here, options)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bfloat16 products where the recipe says so; weights and sums stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
