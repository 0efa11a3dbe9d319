"""Build the optimiser and its parameter groups, set its rates, and step it unless a step is skipped."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

OptimiserName = Literal["lion", "adamw", "sgd"]


def parameter_groups(
    named_parameters: "Iterable[tuple[str, nn.Parameter]]", weight_decay: float
) -> list[dict[str, Any]]:
    """Split parameters into two groups: with weight decay, and without (norms, biases, LayerScale, tokens).

    Only weight matrices and kernels decay. One-dimensional parameters shift or scale single features, and tokens are
    inputs. Pass `module.named_parameters()`, and call it before an engine flattens the parameters. Parameters that
    do not require a gradient are left out.
    """
    decayed: list[nn.Parameter] = []
    not_decayed: list[nn.Parameter] = []
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            is_vector = parameter.ndim < 2 or "token" in name
            (not_decayed if is_vector else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": not_decayed, "weight_decay": 0.0}]


def build_optimiser(
    module: "nn.Module",
    name: OptimiserName,
    *,
    peak: float,
    betas: tuple[float, float] = (0.9, 0.95),
    momentum: float = 0.9,
    weight_decay: float,
) -> "Optimizer":
    """Build multi-tensor Lion (lion-pytorch), torch's AdamW, or torch's SGD with momentum, over `parameter_groups`.

    Raises:
        ValueError: the name is unknown.
    """
    groups = parameter_groups(module.named_parameters(), weight_decay)
    if name == "lion":
        from lion_pytorch.foreach import Lion  # a few kernels for all tensors, not eight per tensor

        lion: Optimizer = Lion([group for group in groups if group["params"]], lr=peak, betas=betas)
        return lion
    if name == "adamw":
        from torch.optim import AdamW

        return AdamW(groups, lr=peak, betas=betas)
    if name == "sgd":
        from torch.optim import SGD

        return SGD(groups, lr=peak, momentum=momentum)
    raise ValueError(f"unknown optimiser {name!r}: use lion, adamw or sgd")


def set_rates(optimiser: "Optimizer", learning_rate: float, momentum: float | None = None) -> None:
    """Set the learning rate of all parameter groups, and their momentum or first beta unless it is None."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate
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
