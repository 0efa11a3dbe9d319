"""Build the optimiser and its parameter groups, set its rates, and step it unless a step is skipped."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from harness.models.layers.parametrisation import UNIT, Multipliers, Scaling, is_hidden_matrix, standard

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

OptimiserName = Literal["lion", "adamw", "sgd", "muon"]
RestName = Literal["adamw", "lion"]
ADAMW_EPSILON, MUON_EPSILON = 1e-8, 1e-7  # torch's
LION_SHARE = 0.2  # of the rate, beside Muon: Lion's update has a root mean square of 1, Muon's of 0.2
Group = dict[str, Any]


def parameter_groups(
    named_parameters: "Iterable[tuple[str, nn.Parameter]]", weight_decay: float, scaling: Scaling = standard
) -> list[Group]:
    """Split parameters into groups: first those with weight decay, then those without (norms, biases, LayerScale,
    tokens), each split again by the multipliers of the parametrisation.

    Only weight matrices and kernels decay. One-dimensional parameters shift or scale single features, and tokens are
    inputs. Pass `module.named_parameters()`, and call it before an engine flattens the parameters. Parameters that
    do not require a gradient are left out. A group's `rate` multiplies the schedule's learning rate (`set_rates`), its
    `epsilon` the optimiser's.
    """
    members: dict[tuple[bool, Multipliers], list[nn.Parameter]] = {(True, UNIT): [], (False, UNIT): []}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            multipliers = replace(scaling(name, tuple(parameter.shape)), init=1.0)
            is_vector = parameter.ndim < 2 or "token" in name
            members.setdefault((not is_vector, multipliers), []).append(parameter)
    return [
        {
            "params": parameters, "weight_decay": weight_decay * multipliers.decay if decays else 0.0,
            "rate": multipliers.rate, "epsilon": multipliers.epsilon,
        }
        for (decays, multipliers), parameters in sorted(members.items(), key=lambda entry: not entry[0][0])
        if parameters or multipliers == UNIT
    ]  # fmt: skip


def build_optimiser(
    module: "nn.Module",
    name: OptimiserName,
    *,
    peak: float,
    betas: tuple[float, float] = (0.9, 0.95),
    momentum: float = 0.9,
    weight_decay: float,
    rest: RestName = "adamw",
    scaling: Scaling = standard,
) -> "Optimizer":
    """Build multi-tensor Lion (lion-pytorch), or torch's AdamW, Muon or SGD with momentum, over `parameter_groups`.

    Args:
        rest: under Muon, the optimiser of all that is not a hidden matrix; Lion at a fifth of the rate.
        scaling: the multipliers of each parameter; they are the optimiser's own (`parametrisation.scaling_of`).

    Raises:
        ValueError: the name is unknown, or the module has no matrix for Muon.
    """
    named = list(module.named_parameters())
    if name != "muon":
        return _optimiser(name, parameter_groups(named, weight_decay, scaling), peak, betas, momentum)
    from harness.distributed.muon import MuonAndRest

    matrices = [(name, p) for name, p in named if is_hidden_matrix(name, tuple(p.shape)) and p.requires_grad]
    if not matrices:
        raise ValueError("muon needs hidden matrices, and this model has none: use adamw, lion or sgd")
    inner = {name for name, _ in matrices}
    parts = matrices, [(name, p) for name, p in named if name not in inner]
    groups, others = (_not_empty(parameter_groups(part, weight_decay, scaling)) for part in parts)
    if rest == "lion":
        for group in others:
            group["rate"], group["weight_decay"] = group["rate"] * LION_SHARE, group["weight_decay"] / LION_SHARE
    for group in groups:
        group["lr"], group["eps"] = peak * group["rate"], MUON_EPSILON * group["epsilon"]
    return MuonAndRest(groups, _optimiser(rest, others, peak, betas, momentum), peak=peak, momentum=momentum)


def _not_empty(groups: list[Group]) -> list[Group]:
    """Leave out groups without parameters: a state is loaded by these, so an empty group would lose its settings."""
    return [group for group in groups if group["params"]]


def _optimiser(
    name: OptimiserName, groups: list[Group], peak: float, betas: tuple[float, float], momentum: float
) -> "Optimizer":
    groups = _not_empty(groups)
    for group in groups:
        group["lr"] = peak * group["rate"]
    if name == "lion":
        from lion_pytorch.foreach import Lion  # a few kernels for all tensors, not eight per tensor

        lion: Optimizer = Lion(groups, lr=peak, betas=betas)
        return lion
    if name == "adamw":
        from torch.optim import AdamW

        for group in groups:
            group["eps"] = ADAMW_EPSILON * group["epsilon"]
        return AdamW(groups, lr=peak, betas=betas)
    if name == "sgd":
        from torch.optim import SGD

        return SGD(groups, lr=peak, momentum=momentum)
    raise ValueError(f"unknown optimiser {name!r}: use lion, adamw, sgd or muon")


def set_rates(optimiser: "Optimizer", learning_rate: float, momentum: float | None = None) -> None:
    """Set the learning rate of all parameter groups, times a group's `rate`, and their momentum or first beta unless
    it is None."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate * group.get("rate", 1.0)
        if momentum is not None and "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        elif momentum is not None:
            group["momentum"] = momentum


def update(optimiser: torch.optim.Optimizer, skip: Tensor) -> None:
    """Step the optimiser unless `skip` is true; then weights, moments and step counts stay unchanged.

    Optimisers that support a GradScaler's `found_inf` (torch's fused ones) decide on the device. For others the host
    reads `skip`, which waits for the device at each step.
    """
    if getattr(optimiser, "_step_supports_amp_scaling", False):
        optimiser.found_inf = skip.float()  # type: ignore[attr-defined]
        optimiser.step()
        del optimiser.found_inf  # type: ignore[attr-defined]
    elif not bool(skip):
        optimiser.step()
