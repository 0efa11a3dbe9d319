"""What moves the weights: parameter groups, the optimiser, and the learning rate as a function of the step."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

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


def learning_rate(
    step: int,
    total_steps: int,
    peak: float,
    *,
    warmup_fraction: float = 0.1,
    initial_fraction: float = 1 / 25,
    final_fraction: float = 1 / 25e4,
) -> float:
    """One-cycle cosine (Smith & Topin 2018): up from `initial_fraction · peak`, then down to `final_fraction · peak`.

    The numbers are torch's `OneCycleLR(cycle_momentum=False)`: its `pct_start` is `warmup_fraction`, `div_factor` is
    1 / `initial_fraction`, `final_div_factor` is `initial_fraction` / `final_fraction`. The peak falls on step
    `warmup_fraction · total_steps - 1`, which need not be whole; a run too short to warm up starts at the peak.
    No beta cycles with it: Lion's betas stay as they are given.

    Args:
        step: from 0 to `total_steps` - 1.

    Raises:
        ValueError: a step outside the run.
    """
    if not 0 <= step < total_steps:
        raise ValueError(f"step {step} is outside the run: it has steps 0 to {total_steps - 1}")
    top, last = max(0.0, warmup_fraction * total_steps - 1), total_steps - 1
    if step < top:
        return _cosine(initial_fraction * peak, peak, step / top)
    return _cosine(peak, final_fraction * peak, (step - top) / (last - top) if last > top else 0.0)


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
