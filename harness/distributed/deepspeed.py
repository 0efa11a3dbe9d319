"""DeepSpeed's ZeRO behind the engine's interface: stage 1 shards the optimiser, 2 gradients too, 3 weights too.

DeepSpeed keeps flat buffers of its own. What leaves this room has the names and shapes of the model, whole: a state
saved here loads under every other engine and number of ranks, and the other way round, at the price of gathering
each parameter when it is saved. Its step asks the device for the gradient's norm each time; that is its own doing.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from harness.distributed.engine import Engine, EngineOptions, MakeOptimiser, State
from harness.distributed.optimiser import set_learning_rate
from harness.distributed.ranks import Ranks

if TYPE_CHECKING:
    from harness.models.interface import Network


MOMENTS = {
    "Lion": ("exp_avg",),
    "AdamW": ("exp_avg", "exp_avg_sq"),
    "SGD": ("momentum_buffer",),
}  # what each optimiser keeps for each weight


class Zero(Engine):
    """ZeRO without its initialisation, its optimisers or its schedules, so that numbers stay those of the others."""

    def __init__(self, model: Network, make_optimiser: MakeOptimiser, ranks: Ranks, options: EngineOptions) -> None:
        super().__init__(model, make_optimiser, ranks, options)
        self._groups = _named_groups(model, self.optimiser)
        if options.zero_stage == 3:
            _pass_over_empty_groups(self.optimiser)
        self._api = import_deepspeed(ranks.device)
        self._zero, *_ = self._api.initialize(
            model=model, optimizer=self.optimiser, config=zero_config(options, ranks), dist_init_required=False
        )
        self._stage3 = options.zero_stage == 3
        self._moments = MOMENTS[type(self.optimiser).__name__]
        self._counts_steps = isinstance(self.optimiser, torch.optim.AdamW)
        self._make_moments()

    def accumulate(
        self, crops: Tensor, noise: Tensor, weight: float, *, last: bool, labels: Tensor | None = None
    ) -> Tensor:
        self._zero.set_gradient_accumulation_boundary(last)
        loss: Tensor = self._zero(crops, noise, labels).loss
        weighted = loss * weight
        self._zero.backward(weighted, scale_wrt_gas=False)
        return weighted.detach()

    def gradient_squares(self) -> Tensor:
        zero = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        flat = {} if self._stage3 else {group: _flat(parts) for group, parts in self._averaged().items()}
        parts = [self._gradient(parameter, flat) for _, parameter in self._parameters()]
        return torch.stack([zero if part is None else part.double().square().sum() for part in parts])

    def _averaged(self) -> dict[int, list[Tensor]]:
        """Stages 1 and 2: the averaged gradients in this rank's partition of each group, in its order."""
        found: dict[int, list[Tensor]] = self._zero.optimizer.averaged_gradients
        return found

    def _gradient(self, parameter: Any, flat: dict[int, Tensor]) -> Tensor | None:  # noqa: ANN401  (their attributes)
        """This rank's part of a parameter's averaged gradient, flat; None where it has none."""
        if self._stage3:
            part: Tensor = self._api.utils.safe_get_local_grad(parameter)
            return part
        held = parameter._hp_mapping
        if held is None:
            return None
        place = held.hp_fragment_address
        return flat[held.param_group_index].narrow(0, place.start, place.numel)

    def step(self, learning_rate: float, skip: Tensor | None = None) -> None:
        set_learning_rate(self.optimiser, learning_rate)
        if skip is not None and bool(skip):  # it waits for the device, as DeepSpeed's own step does
            self.forget_gradient()
        else:
            self._zero.step()

    def forget_gradient(self) -> None:
        zero = self._zero.optimizer
        zero.zero_grad()
        zero.averaged_gradients = {} if self._stage3 else dict.fromkeys(self._averaged())
        zero.micro_step_id = 0 if self._stage3 else -1

    def state(self) -> State:
        model: dict[str, Any] = dict(self.model.named_buffers())
        moments: dict[str, dict[str, Tensor]] = {}
        fragments = self._api.utils
        for name, parameter in self._parameters():
            model[name] = fragments.safe_get_full_fp32_param(parameter)
            moments[name] = {key: fragments.safe_get_full_optimizer_state(parameter, key) for key in self._moments}
            if self._counts_steps:
                moments[name]["step"] = next(iter(self.optimiser.state.values()))["step"].clone()
        groups = [
            {**{key: value for key, value in group.items() if key != "params"}, "params": names}
            for names, group in zip(self._groups, self.optimiser.param_groups, strict=True)
        ]
        return {"model": model, "optimiser": {"state": moments, "param_groups": groups}}

    @torch.no_grad()
    def load(self, state: State) -> None:
        fragments, saved = self._api.utils, state["optimiser"]["state"]
        for name, buffer in self.model.named_buffers():
            buffer.copy_(state["model"][name])
        for name, parameter in self._parameters():
            fragments.safe_set_full_fp32_param(parameter, state["model"][name])
            # The copy that computes is another than the one that the optimiser moves.
            gathered = self._api.zero.GatheredParameters([parameter], modifier_rank=0, enabled=self._stage3)
            with gathered:
                parameter.copy_(state["model"][name])
            for key in self._moments:
                fragments.safe_set_full_optimizer_state(parameter, saved[name][key], key)
        if self._counts_steps:
            count = next(iter(saved.values()))["step"]
            for kept in self.optimiser.state.values():
                kept["step"].copy_(count)

    def weights(self) -> dict[str, Tensor]:
        found = self.state()["model"]
        return {name: value.detach().cpu() for name, value in found.items() if self.ranks.is_first}

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, value) for name, value in self.model.named_parameters() if value.requires_grad)

    def _make_moments(self) -> None:
        """Begin the optimiser's moments at zero now rather than at the first step, so that a state can be loaded."""
        zero = self._zero.optimizer
        flat = zero.fp32_partitioned_groups_flat if self._stage3 else zero.single_partition_of_fp32_groups
        for part in flat:
            self.optimiser.state[part] = {key: torch.zeros_like(part) for key in self._moments}
            if self._counts_steps:
                self.optimiser.state[part]["step"] = torch.zeros(())
        if not self._stage3:  # which find each parameter's part of the moments when told to
            zero._lazy_init_hp_params_optimizer_state()


def _pass_over_empty_groups(optimiser: torch.optim.Optimizer) -> None:
    """Stage 3 steps one group at a time while the others are empty, which multi-tensor Lion does not expect."""
    step = optimiser.step

    def step_with_weights() -> None:
        groups = optimiser.param_groups
        optimiser.param_groups = [group for group in groups if group["params"]]
        try:
            step()
        finally:
            optimiser.param_groups = groups

    optimiser.step = step_with_weights  # type: ignore[assignment,method-assign]


def _flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


def _named_groups(model: nn.Module, optimiser: torch.optim.Optimizer) -> list[list[str]]:
    """The names in each of the optimiser's groups, before DeepSpeed replaces them by flat buffers."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [[names[parameter] for parameter in group["params"]] for group in optimiser.param_groups]


def zero_config(options: EngineOptions, ranks: Ranks) -> dict[str, Any]:
    """DeepSpeed's configuration. Micro-batches are counted by the engine's caller, so it is told of one."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "zero_optimization": {"stage": options.zero_stage, "overlap_comm": ranks.device.type == "cuda"},
        "zero_allow_untested_optimizer": True,
        "torch_autocast": {
            "enabled": options.precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],  # none: gradients are summed in float32
        },
        "steps_per_print": sys.maxsize,
    }


def import_deepspeed(device: torch.device) -> ModuleType:
    """DeepSpeed, kept from guessing the device and from compiling C++ for half a minute on a CPU.

    Raises:
        RuntimeError: it is not installed.
    """
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # Ranks of several runs that compile into one folder wait for, or break, one another.
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(tempfile.gettempdir()) / f"torch_extensions_{os.getpid()}"))
    try:
        import deepspeed
    except ImportError as error:
        raise RuntimeError(
            f"launch.engine is deepspeed, but deepspeed cannot be imported ({error}): "
            "pip install 'microscopy-scaling[deepspeed]', or another engine"
        ) from error
    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    module: ModuleType = deepspeed
    return module
