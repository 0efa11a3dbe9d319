"""The `deepspeed` engine: ZeRO stage 1 shards optimiser state, stage 2 also gradients, stage 3 also weights.

DeepSpeed keeps parameters in flat buffers. States and weights leave this engine under the model's parameter names and
with their full shapes: a state saved here loads under every other engine and number of ranks, and vice versa. The cost
is that each parameter is gathered when it is saved. DeepSpeed's own step reads the gradient norm from the device each
time, which waits for the device.
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
from harness.distributed.optimiser import set_rates
from harness.distributed.ranks import Ranks
from harness.models.layers.initial_values import InitialValues
from harness.recipe.optimiser import NO_MUON_ON_DEEPSPEED

if TYPE_CHECKING:
    from harness.models.interface import Network


MOMENTS = {
    "Lion": ("exp_avg",),
    "AdamW": ("exp_avg", "exp_avg_sq"),
    "SGD": ("momentum_buffer",),
}  # the state tensors that each optimiser keeps per weight


class Zero(Engine):
    """ZeRO without DeepSpeed's initialisation, optimisers and schedules, so that results equal the other engines'.

    Raises:
        ValueError: the optimiser needs whole matrices (Muon), and ZeRO keeps flat parts of them.
    """

    def __init__(
        self, model: Network, make_optimiser: MakeOptimiser, ranks: Ranks, options: EngineOptions,
        initial: InitialValues | None = None,
    ) -> None:  # fmt: skip
        super().__init__(model, make_optimiser, ranks, options, initial)
        if type(self.optimiser).__name__ not in MOMENTS:
            raise ValueError(NO_MUON_ON_DEEPSPEED)
        self._groups = _named_groups(model, self.optimiser)
        if options.zero_stage == 3:
            _skip_empty_groups(self.optimiser)
        self._api = import_deepspeed(ranks.device)
        if options.zero_stage == 3 and initial is not None:
            self._partition(initial)
        self._zero, *_ = self._api.initialize(
            model=model, optimizer=self.optimiser, config=zero_config(options, ranks), dist_init_required=False
        )
        self._stage3 = options.zero_stage == 3
        self._moments = MOMENTS[type(self.optimiser).__name__]
        self._counts_steps = isinstance(self.optimiser, torch.optim.AdamW)
        self._make_moments()

    def prepare(self, initial: InitialValues | None) -> None:
        """Stage 3 makes the values later: once DeepSpeed has partitioned a parameter its shape is gone, and the groups
        of the optimiser follow from shapes."""
        if self.options.zero_stage < 3:
            super().prepare(initial)

    @torch.no_grad()
    def _partition(self, initial: InitialValues) -> None:
        """Make each parameter's initial value and partition it before the next one, in the same Parameter object."""
        config = zero_config(self.options, self.ranks)
        for prefix, module in self.model.named_modules():
            names = [name for name, _ in module.named_parameters(recurse=False)]
            for name in names:
                value = initial.value(f"{prefix}.{name}" if prefix else name).to(self.ranks.device)
                parameter = module.get_parameter(name)
                torch.utils.swap_tensors(parameter, nn.Parameter(value, parameter.requires_grad))  # type: ignore[no-untyped-call]
            if names:
                self._api.zero.Init(module=_OwnParameters(module), config_dict_or_path=config)
        self.model.to(self.ranks.device)  # buffers; the parameters are there

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
        """Stages 1 and 2: the averaged gradients in this rank's partition of each group, in the partition's order."""
        averaged: dict[int, list[Tensor]] = self._zero.optimizer.averaged_gradients
        return averaged

    def _gradient(self, parameter: Any, flat: dict[int, Tensor]) -> Tensor | None:  # noqa: ANN401  (DeepSpeed adds attributes)
        """Return this rank's part of a parameter's averaged gradient, flattened; None if the rank holds no part."""
        if self._stage3:
            part: Tensor = self._api.utils.safe_get_local_grad(parameter)
            return part
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        fragment = mapping.hp_fragment_address
        return flat[mapping.param_group_index].narrow(0, fragment.start, fragment.numel)

    def step(self, learning_rate: float, skip: Tensor | None = None, momentum: float | None = None) -> None:
        set_rates(self.optimiser, learning_rate, momentum)
        if skip is not None and bool(skip):  # bool() waits for the device, as DeepSpeed's own step does
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
            # The copy used in forward and backward passes is separate from the optimiser's float32 copy.
            with self._api.zero.GatheredParameters([parameter], modifier_rank=0, enabled=self._stage3):
                parameter.copy_(state["model"][name])
            for key in self._moments:
                fragments.safe_set_full_optimizer_state(parameter, saved[name][key], key)
        if self._counts_steps:
            count = next(iter(saved.values()))["step"]
            for moments in self.optimiser.state.values():
                moments["step"].copy_(count)

    def weights(self) -> dict[str, Tensor]:
        model = self.state()["model"]
        return {name: value.detach().cpu() for name, value in model.items() if self.ranks.is_first}

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, value) for name, value in self.model.named_parameters() if value.requires_grad)

    def _make_moments(self) -> None:
        """Create the optimiser's moments as zeros now, not at the first step, so that a state can be loaded."""
        zero = self._zero.optimizer
        flat = zero.fp32_partitioned_groups_flat if self._stage3 else zero.single_partition_of_fp32_groups
        for part in flat:
            self.optimiser.state[part] = {key: torch.zeros_like(part) for key in self._moments}
            if self._counts_steps:
                self.optimiser.state[part]["step"] = torch.zeros(())
        if not self._stage3:  # stages 1 and 2 need this call to map each parameter to its part of the moments
            zero._lazy_init_hp_params_optimizer_state()


def _skip_empty_groups(optimiser: torch.optim.Optimizer) -> None:
    """Hide empty groups from `step`: stage 3 steps one group at a time, and multi-tensor Lion expects none empty."""
    step = optimiser.step

    def step_with_weights() -> None:
        groups = optimiser.param_groups
        optimiser.param_groups = [group for group in groups if group["params"]]
        try:
            step()
        finally:
            optimiser.param_groups = groups

    optimiser.step = step_with_weights  # type: ignore[assignment,method-assign]


class _OwnParameters(nn.Module):
    """A module's own parameters, without those of the modules in it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        for name, parameter in module.named_parameters(recurse=False):
            self.register_parameter(name, parameter)


def _flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


def _named_groups(model: nn.Module, optimiser: torch.optim.Optimizer) -> list[list[str]]:
    """Return the parameter names of each optimiser group, before DeepSpeed replaces parameters with flat buffers."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [[names[parameter] for parameter in group["params"]] for group in optimiser.param_groups]


def zero_config(options: EngineOptions, ranks: Ranks) -> dict[str, Any]:
    """Return DeepSpeed's configuration. The engine's caller counts micro-batches; DeepSpeed is set to one."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,
        "zero_optimization": {"stage": options.zero_stage, "overlap_comm": ranks.device.type == "cuda"},
        "zero_allow_untested_optimizer": True,
        "torch_autocast": {
            "enabled": options.precision == "bf16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],  # empty: gradients are summed in float32
        },
        "steps_per_print": sys.maxsize,
    }


def import_deepspeed(device: torch.device) -> ModuleType:
    """Import DeepSpeed. On a CPU, set the device explicitly and skip a C++ compilation of half a minute.

    Raises:
        RuntimeError: DeepSpeed is not installed.
    """
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # If ranks of several runs compile into one folder, they block or break one another.
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(tempfile.gettempdir()) / f"torch_extensions_{os.getpid()}"))
    try:
        import deepspeed
    except ImportError as error:
        raise RuntimeError(
            f"launch.engine is deepspeed, but deepspeed cannot be imported ({error}): "
            "run pip install 'microscopy-scaling[deepspeed]', or use another engine"
        ) from error
    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    module: ModuleType = deepspeed
    return module
