"""What moves the weights: parameter groups, the optimiser, and the learning rate as a function of the step."""

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
    """Two groups: weights that decay, and those that do not (norms, biases, LayerScale, tokens).

    Decay belongs to what multiplies features by one another. One-dimensional parameters shift or scale single
    features, tokens are inputs. Call it before an engine flattens the parameters, and give it
    `module.named_parameters()`. Parameters that take no gradient are left out.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            is_vector = parameter.ndim < 2 or "token" in name
            (kept if is_vector else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]


def build_optimiser(
    module: "nn.Module",
    name: OptimiserName,
    *,
    peak: float,
    betas: tuple[float, float] = (0.9, 0.95),
    momentum: float = 0.9,
    weight_decay: float,
) -> "Optimizer":
    """Lion (lion-pytorch's multi-tensor one), torch's AdamW, or torch's SGD with momentum, over `parameter_groups`.

    Raises:
        ValueError: no such optimiser.
    """
    groups = parameter_groups(module.named_parameters(), weight_decay)
    if name == "lion":
        from lion_pytorch.foreach import Lion  # a handful of kernels for all tensors, not eight for each

        lion: Optimizer = Lion([group for group in groups if group["params"]], lr=peak, betas=betas)
        return lion
    if name == "adamw":
        from torch.optim import AdamW

        return AdamW(groups, lr=peak, betas=betas)
    if name == "sgd":
        from torch.optim import SGD

        return SGD(groups, lr=peak, momentum=momentum)
    raise ValueError(f"no optimiser {name!r}: lion, adamw or sgd")


def set_learning_rate(optimiser: "Optimizer", value: float) -> None:
    """Give every group the same learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = value


def update(optimiser: torch.optim.Optimizer, skip: Tensor) -> None:
    """Let the optimiser move the weights unless `skip`: then weights, moments and step counts stay as they are.

    Optimisers that know a GradScaler's `found_inf` (torch's fused ones) decide on the device. For others the host asks,
    which costs a wait for the device at each step.
    """
    if getattr(optimiser, "_step_supports_amp_scaling", False):
        optimiser.found_inf = skip.float()  # type: ignore[attr-defined]
        optimiser.step()
        del optimiser.found_inf  # type: ignore[attr-defined]
    elif not bool(skip):
        optimiser.step()
